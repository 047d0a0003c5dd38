//! Leases of flows that conntrack translates for a Service, on the node of the client.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder, Netns, conntrack,
    felix::Allow,
    service::{
        Affinity, Protocol, Service, kube_proxy, kube_proxy_nft, kube_proxy_nft_with,
        kube_proxy_with,
    },
    traffic::{conversation::Conversation, udp},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup,
    leased::{
        Side, assert_unleased, leases, wait_leased_at_client, wait_leased_at_server,
        wait_leased_by_service,
    },
    until,
};

const PORT: u16 = 7000;
const BOTH: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];
/// Of the Service; its port is another than the pods'.
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 7), 53);
const SERVICES: &str = "leases: {services: true, seconds: 1}\n";

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn scene(setup: Setup) -> Scene {
    Scene::with(lab(), setup, SERVICES, &[])
}

fn service(protocol: Protocol, address: SocketAddrV4, endpoints: &[SocketAddrV4]) -> Service {
    let name = format!("default/{protocol:?}-{address}").to_lowercase();
    Service { name, protocol, address, endpoints: endpoints.to_vec() }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else { unreachable!("no IPv6 here") };
    address
}

type KubeProxy = fn(&Netns, &[Service]);

/// In both of kube-proxy's modes, from pods of both nodes.
#[test]
fn the_node_that_translates_leases_what_it_translates() {
    for (setup, proxy) in [
        (Setup::VERIFIED, (|node, services| kube_proxy(node, services).unwrap()) as KubeProxy),
        (Setup::VERIFIED_XDP, |node, services| kube_proxy_nft(node, services).unwrap()),
    ] {
        scene(setup).case(|scene| {
            scene.police(&[Allow::ALL]);
            for side in Side::both(scene) {
                leased_both_ways(&side, proxy);
            }
            scene.assert_nothing_plain();
        });
    }
}

fn leased_both_ways(side: &Side<'_>, proxy: KubeProxy) {
    let Side { client: (client, node, at_client), backend: (backend, at_backend) } = side;
    let behind = SocketAddrV4::new(backend.ip, PORT);
    proxy(&node.netns, &BOTH.map(|protocol| service(protocol, ADDRESS, &[behind])));
    at_client.cli(&["counters", "flush"]).unwrap();
    for protocol in BOTH {
        let talk =
            Conversation::start(protocol, &client.netns, ADDRESS, &backend.netns, PORT).unwrap();
        assert!(talk.wait_for(20, SOON), "{protocol:?}");
        assert_eq!(talk.seen().map(v4), Some(talk.client), "what the pod behind it sees");
        wait_leased_by_service(at_client, talk.client, ADDRESS, behind);
        wait_leased_at_server(at_backend, talk.client, behind);
        let table = at_client.cli(&["leases", "list"]).unwrap().stdout;
        assert!(table.contains("TRANSLATED TO") && table.contains(&ADDRESS.to_string()), "{table}");
        let before = Counters::of(at_client);
        assert!(talk.wait_for(100, SOON), "{protocol:?}, leased");
        let moved = before.moved(at_client);
        for reason in [Reason::PodServiceEncapsulated, Reason::DecapServiceToPod] {
            assert!(moved.get(&reason).copied().unwrap_or(0) >= 90, "{protocol:?}: {moved:?}");
        }
        assert_eq!(talk.seen().map(v4), Some(talk.client));
    }
    // Directly, it is a flow of its own.
    let talk = Conversation::start(Protocol::Udp, &client.netns, behind, &backend.netns, PORT);
    wait_leased_at_client(at_client, talk.unwrap().client, behind);
    let status = at_client.cli_json(&["status"]).unwrap();
    for direction in ["encap", "decap"] {
        let share = status["fastpath_share"]["services"][direction].as_f64().unwrap();
        assert!(share > 0.2 && share < 1.0, "{status}");
    }
    let text = at_client.cli(&["status"]).unwrap().stdout;
    assert!(text.contains("(Services "), "{text}");
}

/// One UDP socket asks two Services and the pod behind both; conntrack keeps the answers apart by
/// another source port, and so do the leases.
#[test]
fn one_socket_may_ask_two_services_and_the_pod_behind_them() {
    scene(Setup::VERIFIED).case(|scene| {
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let behind = SocketAddrV4::new(sit.ip, PORT);
        let other = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 8), 54);
        let services = [ADDRESS, other].map(|address| service(Protocol::Udp, address, &[behind]));
        kube_proxy(&scene.lab.node2.netns, &services).unwrap();
        let options = udp::Options { source_port: 5555, ..Default::default() };
        let ask = |address| {
            let report = udp::exchange(&perf.netns, address, &sit.netns, PORT, &options).unwrap();
            assert_eq!(report.answered_by, address);
        };
        for round in 0..30 {
            for address in [ADDRESS, other, behind] {
                // One of them often, so that it has leases when the others come.
                for _ in 0..if round % 3 == 0 { 4 } else { 1 } {
                    ask(address);
                }
            }
        }
        scene.assert_nothing_plain();
    });
}

/// `sessionAffinity: ClientIP`, in both of kube-proxy's modes: each connection of the client is led to the pod
/// that had its first, by leases as without them.
#[test]
fn a_client_stays_with_its_pod_where_the_service_asks_for_it() {
    for proxy in [
        (|node, services| kube_proxy_with(node, services, Affinity::ClientIp).unwrap())
            as KubeProxy,
        |node, services| kube_proxy_nft_with(node, services, Affinity::ClientIp).unwrap(),
    ] {
        scene(Setup::VERIFIED).case(|scene| {
            scene.police(&[Allow::ALL]);
            let (perf, sit) = scene.pods();
            let pods = [0, 1, 2, 3].map(|number| SocketAddrV4::new(sit.ip, PORT + number));
            proxy(&scene.lab.node2.netns, &BOTH.map(|protocol| service(protocol, ADDRESS, &pods)));
            for protocol in BOTH {
                let first = first_choice(protocol, &perf.netns, &sit.netns, &pods);
                for _ in 0..3 {
                    let port = first.port();
                    let talk =
                        Conversation::start(protocol, &perf.netns, ADDRESS, &sit.netns, port);
                    let talk = talk.unwrap();
                    assert!(talk.wait_for(20, SOON), "{protocol:?} to {first}");
                    wait_leased_by_service(&scene.daemon2, talk.client, ADDRESS, first);
                    assert!(talk.wait_for(100, SOON), "{protocol:?} to {first}, leased");
                }
            }
            scene.assert_nothing_plain();
        });
    }
}

/// To which of these a client is led that asks for the first time. All of them listen.
fn first_choice(
    protocol: Protocol,
    client: &Netns,
    server: &Netns,
    pods: &[SocketAddrV4],
) -> SocketAddrV4 {
    let every = || pods.iter().copied();
    match protocol {
        Protocol::Udp => {
            let listen = |pod: SocketAddrV4| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, pod.port()))?;
                socket.set_nonblocking(true)?;
                Ok((pod, socket))
            };
            let sockets: Vec<_> = server.run(|| every().map(listen).collect()).unwrap();
            let socket = client.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)).unwrap();
            socket.send_to(b"first", ADDRESS).unwrap();
            until("one of them hears it", SOON, || {
                sockets.iter().find_map(|(pod, it)| it.recv(&mut [0; 8]).is_ok().then_some(*pod))
            })
        }
        Protocol::Tcp => {
            let listen = |pod: SocketAddrV4| {
                let socket = TcpListener::bind((Ipv4Addr::UNSPECIFIED, pod.port()))?;
                socket.set_nonblocking(true)?;
                Ok((pod, socket))
            };
            let sockets: Vec<_> = server.run(|| every().map(listen).collect()).unwrap();
            let _connection = client.run(|| Ok(TcpStream::connect(ADDRESS)?)).unwrap();
            until("one of them accepts it", SOON, || {
                sockets.iter().find_map(|(pod, it)| it.accept().is_ok().then_some(*pod))
            })
        }
    }
}

/// Conntrack forgets the flow, and its next packet goes to another pod behind the Service.
#[test]
fn a_flow_that_conntrack_forgot_is_translated_anew() {
    scene(Setup::VERIFIED_XDP).case(|scene| {
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let node2 = &scene.lab.node2.netns;
        let ports = [PORT, PORT + 1];
        let ask = |port: u16| {
            let behind = SocketAddrV4::new(sit.ip, port);
            kube_proxy(node2, &[service(Protocol::Udp, ADDRESS, &[behind])]).unwrap();
            conntrack::delete(node2, "-p udp --orig-port-src 5555").unwrap();
            let timeout = Duration::from_millis(300);
            let options = udp::Options { source_port: 5555, timeout, ..Default::default() };
            let exchange = || udp::exchange(&perf.netns, ADDRESS, &sit.netns, port, &options);
            // For at most a lease what was leased goes where it went.
            until(&format!("an answer from port {port}"), SOON, || exchange().ok());
            let patient = udp::Options { source_port: 5555, ..Default::default() };
            for _ in 0..5 {
                let report = udp::exchange(&perf.netns, ADDRESS, &sit.netns, port, &patient);
                assert_eq!(report.unwrap().answered_by, ADDRESS);
            }
            let client = SocketAddrV4::new(perf.ip, 5555);
            until("a lease", SOON, || {
                let _ = exchange();
                let leases = leases(&scene.daemon2);
                leases.iter().any(|lease| lease.is(client, ADDRESS)).then_some(())
            });
        };
        for port in ports.into_iter().cycle().take(4) {
            ask(port);
        }
        scene.assert_nothing_plain();
    });
}

/// What is never leased: a flow whose source conntrack translates, too, and what is excluded.
#[test]
fn masqueraded_and_excluded_flows_are_not_leased() {
    let excluded = format!("leases: {{services: true, exclude: [{}/32]}}\n", ADDRESS.ip());
    Scene::with(lab(), Setup::VERIFIED, &excluded, &[]).case(|scene| {
        scene.police(&[Allow::ALL]);
        let side = &Side::both(scene)[0];
        let (client, node, at_client) = side.client;
        let backend = side.backend.0;
        let behind = SocketAddrV4::new(backend.ip, PORT);
        let other = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 8), 54);
        let services: Vec<_> = BOTH
            .into_iter()
            .flat_map(|protocol| {
                [ADDRESS, other].map(|address| service(protocol, address, &[behind]))
            })
            .collect();
        kube_proxy(&node.netns, &services).unwrap();
        let talk_to = |protocol, address| {
            Conversation::start(protocol, &client.netns, address, &backend.netns, PORT).unwrap()
        };
        for protocol in BOTH {
            let talk = talk_to(protocol, ADDRESS);
            assert!(talk.wait_for(100, SOON));
            assert!(!leases(at_client).iter().any(|lease| lease.ends_at(talk.client)));
            drop(talk);
            let talk = talk_to(protocol, other);
            wait_leased_by_service(at_client, talk.client, other, behind);
        }
        // In front of the rules that translate, as with `masqueradeAll`.
        let from = format!("-t nat -I PREROUTING -s {}/32 -j KUBE-MARK-MASQ", client.ip);
        node.netns.exec("iptables", &from.split(' ').collect::<Vec<_>>()).unwrap();
        let before = Counters::of(at_client);
        for protocol in BOTH {
            let talk = talk_to(protocol, other);
            assert!(talk.wait_for(100, SOON));
            assert!(!leases(at_client).iter().any(|lease| lease.ends_at(talk.client)));
        }
        let moved = before.moved(at_client);
        for reason in [Reason::HostUnmarked, Reason::GrantUnmarked] {
            assert!(moved[&reason] >= 150, "{moved:?}");
        }
        node.netns.exec("iptables", &["-t", "nat", "-F", "PREROUTING"]).unwrap();
        scene.assert_nothing_plain();
    });
}

/// Programs and rules go on without daemons; leases end without the table.
#[test]
fn without_daemons_leases_are_renewed() {
    let more = "leases: {services: true, seconds: 1}\n";
    Scene::with(lab(), Setup::VERIFIED_XDP, more, &[]).case(|scene| {
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let behind = SocketAddrV4::new(sit.ip, PORT);
        let node2 = scene.lab.node2.clone();
        let services = BOTH.map(|protocol| service(protocol, ADDRESS, &[behind]));
        kube_proxy(&node2.netns, &services).unwrap();
        let talks = BOTH.map(|protocol| {
            Conversation::start(protocol, &perf.netns, ADDRESS, &sit.netns, PORT).unwrap()
        });
        for talk in &talks {
            wait_leased_by_service(&scene.daemon2, talk.client, ADDRESS, behind);
        }
        let client = perf.ip;
        scene.daemon2.kill9().unwrap();
        let before = Counters::of(&scene.daemon2);
        until("ten renewals", SOON, || {
            let moved = before.moved(&scene.daemon2);
            let count = |reason| moved.get(&reason).copied().unwrap_or(0);
            let [out, back] = [Reason::HostServiceLeaseGranted, Reason::GrantServiceGiven];
            (count(out) >= 10 && count(back) >= 10).then_some(())
        });
        node2.netns.exec("nft", &["delete", "table", "ip", "tunless"]).unwrap();
        until("no lease without the table", SOON, || {
            leases(&scene.daemon2).is_empty().then_some(())
        });
        assert!(talks.iter().all(|talk| talk.wait_for(50, SOON)));
        assert_unleased(&scene.daemon2, client);
        drop(talks);
    });
}
