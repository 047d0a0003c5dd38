//! Leases end by what concerns them: a local pod, a borrowed address, the path to a node. Those of other
//! flows go on, and netfilter is not asked about them.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
};

use dataplane_common::Reason;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Netns, Pod,
    service::Protocol,
    traffic::{conversation::Conversation, udp},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup,
    leased::{leases, wait_leased_at_client, wait_leased_at_server},
    until,
};

/// So long that none is over while a test goes on, unless the machine is very slow; what is counted as
/// outdated is so whether it is over or not.
const LONG: &str = "leases: {seconds: 9}\n";
const PORT: u16 = 7000;
/// The client's port of the flow that a change concerns.
const CLIENT: u16 = 40_000;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Packets that met a lease which had ended by a change, by direction.
fn outdated(before: &Counters, daemon: &Daemon) -> [u64; 2] {
    let moved = before.moved(daemon);
    [Reason::PodLeaseOutdated, Reason::DecapLeaseOutdatedToStack]
        .map(|reason| moved.get(&reason).copied().unwrap_or(0))
}

/// One datagram there and one back.
fn exchange(client: &Pod, source_port: u16, server: &Pod) {
    let to = SocketAddrV4::new(server.ip, PORT);
    let options = udp::Options { source_port, ..Default::default() };
    udp::exchange(&client.netns, to, &server.netns, PORT, &options).unwrap();
}

/// Has both directions leased by this node, one datagram after the other.
fn lease(daemon: &Daemon, client: &Pod, source_port: u16, server: &Pod) {
    let (from, to) =
        (SocketAddrV4::new(client.ip, source_port), SocketAddrV4::new(server.ip, PORT));
    until(&format!("{from} and {to} are leased"), SOON, || {
        exchange(client, source_port, server);
        let leases = leases(daemon);
        [(from, to), (to, from)]
            .iter()
            .all(|(from, to)| leases.iter().any(|lease| lease.is(*from, *to)))
            .then_some(())
    });
}

fn wait_unleased(daemon: &Daemon, address: Ipv4Addr) {
    until(&format!("no lease of {address} is good"), SOON, || {
        leases(daemon).iter().all(|lease| !lease.touches(address)).then_some(())
    });
}

/// One datagram to a pod that has gone.
fn send(client: &Netns, source_port: u16, to: SocketAddrV4) {
    let socket = client.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source_port))?)).unwrap();
    assert_eq!(socket.send_to(&[1; 64], to).unwrap(), 64);
}

/// The pods share a block. One comes and goes; of each time, one packet finds that its lease has ended.
#[test]
fn a_pod_that_goes_ends_its_own_leases_and_no_others() {
    for setup in Setup::BOTH_VERIFIED {
        // Of a flow of its own each time: what has ended stays in the map.
        let ports = Cell::new(CLIENT);
        Scene::with(lab(), setup, LONG, &[]).case(|scene| {
            scene.warm_up();
            let (node2, sit) = (&scene.lab.node2, scene.lab.sit());
            node2.netns.ip(&format!("route add blackhole {}", node2.block)).unwrap();
            let others: Vec<Pod> = [41, 42, 43]
                .map(|n| node2.add_pod(&format!("other{n}"), Lab::pod_ip(node2, n)).unwrap())
                .into();
            let mut talks = Vec::new();
            for (number, other) in others.iter().chain([scene.lab.perf()]).enumerate() {
                let port = PORT + 1 + number as u16;
                for (client, server) in [(sit, other), (other, sit)] {
                    let to = SocketAddrV4::new(server.ip, port);
                    let (client, server) = (&client.netns, &server.netns);
                    talks.push((
                        Conversation::start(Protocol::Udp, client, to, server, port).unwrap(),
                        to,
                    ));
                }
            }
            for (talk, to) in &talks {
                if to.ip() == &sit.ip {
                    wait_leased_at_client(&scene.daemon2, talk.client, *to);
                } else {
                    wait_leased_at_server(&scene.daemon2, talk.client, *to);
                }
            }
            let before = [&scene.daemon1, &scene.daemon2].map(Counters::of);
            let times = 5;
            for _ in 0..times {
                let port = ports.replace(ports.get() + 1);
                let pod = node2.add_pod("coming", Lab::pod_ip(node2, 40)).unwrap();
                lease(&scene.daemon2, sit, port, &pod);
                node2.remove_pod(&pod).unwrap();
                wait_unleased(&scene.daemon2, pod.ip);
                send(&sit.netns, port, SocketAddrV4::new(pod.ip, PORT));
            }
            assert!(talks.iter().all(|(talk, _)| talk.wait_for(100, SOON)));
            assert_eq!(outdated(&before[1], &scene.daemon2), [0, times]);
            assert_eq!(outdated(&before[0], &scene.daemon1), [0, 0]);
            before[1].assert_nothing_dropped(&scene.daemon2);
            drop(talks);
            scene.assert_nothing_plain();
            node2.remove_pods(&others).unwrap();
            node2.netns.ip(&format!("route del blackhole {}", node2.block)).unwrap();
        });
    }
}

/// An address that node1 has borrowed from node3's block comes home, and the path to node3 becomes
/// narrower: what node2 has leased for node1's own pods goes on.
#[test]
fn a_route_and_the_path_to_a_node_end_the_leases_behind_them() {
    let setup = Setup::VERIFIED;
    let lab = lab().third_node(true).build().unwrap();
    let node3 = lab.node3.clone().unwrap();
    let lent = Lab::pod_ip(&node3, 9);
    let of_lent = format!("{lent}/32");
    let routes =
        |node| [(lab.node1.block, lab.node1.ip), (node3.block, node3.ip), (&of_lent, node)];
    let config = |node| setup.config_with(&lab.node2, &routes(node), LONG);
    let (away, home) = (config(lab.node1.ip), config(node3.ip));
    let others = [(lab.node1.block, lab.node1.ip), (lab.node2.block, lab.node2.ip)];
    let config3 = setup.config_with(&node3, &others, LONG);
    let daemon3 = Daemon::start(&node3, &config3).unwrap();
    let config1 = setup.config(&lab.node1, &lab.node2, LONG);
    let daemon1 = Daemon::start(&lab.node1, &config1).unwrap();
    let daemon2 = Daemon::start(&lab.node2, &away).unwrap();
    let mut scene = Scene { daemon1, daemon2, lab, setup };
    scene.twice(|scene| {
        let (perf, sit) = scene.pods();
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (talk, to) = {
            let to = SocketAddrV4::new(sit.ip, PORT + 1);
            let (client, server) = (&perf.netns, &sit.netns);
            (Conversation::start(Protocol::Udp, client, to, server, PORT + 1).unwrap(), to)
        };
        wait_leased_at_client(&scene.daemon2, talk.client, to);
        let borrower = node1.add_pod("borrower", lent).unwrap();
        lease(&scene.daemon2, perf, CLIENT, &borrower);
        let before = Counters::of(&scene.daemon2);

        node1.remove_pod(&borrower).unwrap();
        let owner = node3.add_pod("owner", lent).unwrap();
        scene.daemon2.rewrite_config(&home).unwrap();
        wait_unleased(&scene.daemon2, lent);
        assert_eq!(outdated(&before, &scene.daemon2), [0, 0], "nothing has asked yet");
        exchange(perf, CLIENT, &owner);
        assert_eq!(outdated(&before, &scene.daemon2), [1, 1], "a packet each way");

        lease(&scene.daemon2, perf, CLIENT, &owner);
        let (node, gateway) = (node3.ip, node2.gateway);
        node2.netns.ip(&format!("route add {node}/32 via {gateway} mtu 1400")).unwrap();
        wait_unleased(&scene.daemon2, lent);
        exchange(perf, CLIENT, &owner);
        assert_eq!(outdated(&before, &scene.daemon2), [2, 2], "a packet each way");
        assert!(talk.wait_for(100, SOON));
        assert_eq!(outdated(&before, &scene.daemon2), [2, 2], "and of no other flow");
        before.assert_nothing_dropped(&scene.daemon2);

        node2.netns.ip(&format!("route del {node}/32 via {gateway}")).unwrap();
        until("the path is as before", 2 * SOON, || {
            let nodes = scene.daemon2.cli_json(&["nodes", "list"]).unwrap();
            let all = nodes["items"].as_array().unwrap();
            all.iter().all(|node| node["mtu"] == 1500).then_some(())
        });
        scene.daemon2.rewrite_config(&away).unwrap();
        node3.remove_pod(&owner).unwrap();
        drop(talk);
        scene.assert_nothing_plain();
    });
    daemon3.finish().unwrap();
    scene.finish();
}
