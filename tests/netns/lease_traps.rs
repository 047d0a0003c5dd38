//! Where leases stumbled once: each case here was seen to fail on a prototype.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use dataplane_common::Reason;
use tunless_lab::{
    Daemon, Lab, LabBuilder, conntrack,
    felix::Allow,
    service::{Protocol, Service, kube_proxy},
    traffic::{conversation::Conversation, flood, flood::Flood, stream, stream::Stream, udp},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup,
    leased::{at_client, is_leased, leases, wait_leased_at_client, wait_leased_at_server},
    until,
};

const PORT: u16 = 7000;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Past 2 GiB conntrack takes a reset for a stray, and would not let it through:
/// `nf_conntrack_tcp_ignore_invalid_rst`.
#[test]
fn a_reset_after_three_gibibytes_arrives() {
    Scene::new(lab(), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        scene.police(&Allow::port(PORT));
        let (perf, sit) = scene.pods();
        let to = SocketAddrV4::new(sit.ip, PORT);
        let flood = Flood::start(&perf.netns, to, &sit.netns, PORT).unwrap();
        until("3 GiB", 10 * SOON, || (flood.received() > 3 << 30).then_some(()));
        let report = flood.reset().unwrap();
        assert_eq!(report.end, flood::End::Reset, "{report:?}");
        scene.assert_nothing_plain();
    });
}

/// The lease of a forgotten flow must not carry the answers of the next one
/// around its translation.
#[test]
fn the_next_flow_of_a_port_is_translated_back() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let node2 = &scene.lab.node2.netns;
        let service = Service {
            name: "default/echo".to_owned(),
            protocol: Protocol::Udp,
            address: "10.10.48.7:53".parse().unwrap(),
            endpoints: vec![SocketAddrV4::new(sit.ip, PORT)],
        };
        kube_proxy(node2, std::slice::from_ref(&service)).unwrap();
        let (client, to) = (SocketAddrV4::new(perf.ip, 5555), SocketAddrV4::new(sit.ip, PORT));
        let options = udp::Options { source_port: 5555, ..Default::default() };
        let exchange = |address| udp::exchange(&perf.netns, address, &sit.netns, PORT, &options);
        until("the flow is leased", SOON, || {
            exchange(to).unwrap();
            is_leased(&scene.daemon2, &at_client(client, to)).then_some(())
        });
        conntrack::delete(node2, "-p udp --orig-port-src 5555").unwrap();
        for number in 0..10 {
            let report = exchange(service.address).unwrap_or_else(|error| {
                panic!("{:?}: answer {number} of 10: {error:#}", scene.setup)
            });
            assert_eq!(report.answered_by, service.address);
        }
        scene.assert_nothing_plain();
    });
}

/// FIN and the ACK behind it meet conntrack, or the entry would stay in `LAST_ACK`,
/// where a new SYN passes for an old connection's.
#[test]
fn closed_connections_end_in_time_wait() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.warm_up();
        scene.police(&Allow::port(PORT));
        let (perf, sit) = scene.pods();
        let to = SocketAddrV4::new(sit.ip, PORT);
        for _ in 0..5 {
            let talk =
                Conversation::start(Protocol::Tcp, &perf.netns, to, &sit.netns, PORT).unwrap();
            let client = talk.client;
            wait_leased_at_client(&scene.daemon2, client, to);
            wait_leased_at_server(&scene.daemon1, client, to);
            assert!(talk.wait_for(10, SOON));
            talk.close().unwrap();
            for node in [&scene.lab.node1, &scene.lab.node2] {
                let mut seen = None;
                until("TIME_WAIT", SOON, || {
                    let entries = conntrack::list(&node.netns).unwrap();
                    let entry = entries.into_iter().find(|entry| entry.source == client)?;
                    if seen != entry.state {
                        seen = entry.state;
                        println!("{}: {seen:?}", node.label);
                    }
                    (seen.as_deref() == Some("TIME_WAIT")).then_some(())
                });
            }
        }
        scene.assert_nothing_plain();
    });
}

/// The policy lets only the client begin. The server sends and sends; should
/// conntrack forget the flow between two renewals, it would be cut.
#[test]
fn a_server_that_does_all_the_talking_is_not_interrupted() {
    for setup in Setup::BOTH_VERIFIED {
        Scene::with(lab(), setup, "leases: {seconds: 1}\n", &[]).case(|scene| {
            scene.warm_up();
            scene.police(&Allow::port(PORT));
            let perf = scene.lab.perf();
            tunless_lab::felix::enforce(
                &scene.lab.node2.netns,
                &[tunless_lab::felix::Endpoint::allowing(perf, Vec::new())],
            )
            .unwrap();
            // As short as the daemon allows, for both of conntrack's kinds of UDP flow.
            for node in scene.lab.nodes() {
                for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
                    node.netns.set_sysctl(&format!("netfilter/{timeout}"), "3").unwrap();
                }
            }
            let report = until("a try during which the machine goes on", 5 * SOON, || {
                stream_over_six_renewals(scene)
            });
            assert_eq!(report.lost, Vec::<u64>::new(), "{report:?}");
            scene.assert_nothing_plain();
        });
    }
}

/// What became of a stream of the server's that lived through six renewals of its lease. `None` if the
/// machine stood still for so long meanwhile that conntrack may have forgotten the flow.
fn stream_over_six_renewals(scene: &Scene) -> Option<stream::Report> {
    // Of the three seconds after which conntrack forgets, one may have passed since the last renewal.
    const STANDSTILL: Duration = Duration::from_millis(1500);
    let (perf, sit) = scene.pods();
    let to = SocketAddrV4::new(sit.ip, PORT);
    let mut looked = Instant::now();
    let options = udp::Options { source_port: 7777, ..Default::default() };
    udp::exchange(&perf.netns, to, &sit.netns, PORT, &options).unwrap();
    let options = stream::Options { source_port: PORT, ..Default::default() };
    let back = SocketAddrV4::new(perf.ip, 7777);
    let stream = Stream::start(&sit.netns, back, &perf.netns, 7777, &options).unwrap();
    let mut renewals = 0;
    let mut left = f64::MAX;
    let went_on = until("six renewals", 2 * SOON, || {
        let leases = leases(&scene.daemon2);
        if looked.elapsed() > STANDSTILL {
            return Some(false);
        }
        looked = Instant::now();
        let lease = leases.iter().find(|lease| lease.is(to, back));
        let now = lease.map_or(0.0, |lease| lease.expires_in);
        renewals += u32::from(now > left);
        left = now;
        (renewals >= 6).then_some(true)
    });
    let report = stream.stop().unwrap();
    went_on.then_some(report)
}

/// A lease remembers the node. One of the longest kind is far from over when
/// the pod's address has moved.
#[test]
fn a_moved_route_takes_effect_at_once() {
    for setup in Setup::BOTH_VERIFIED {
        println!("{setup:?}");
        let lab = lab().third_node(true).build().unwrap();
        let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
        let node3 = lab.node3.clone().unwrap();
        // The same address on two nodes: the pod has moved, the old one lingers.
        let moving = Lab::pod_ip(&node1, 20);
        let old = node1.add_pod("old", moving).unwrap();
        let new = node3.add_pod("new", moving).unwrap();
        let config = |at| {
            let routes = [(node1.block, node1.ip), (&*format!("{moving}/32"), at)];
            setup.config_with(&node2, &routes, "leases: {seconds: 9}\n")
        };
        let daemon1 = Daemon::start(&node1, &setup.config(&node1, &node2, "")).unwrap();
        let daemon2 = Daemon::start(&node2, &config(node1.ip)).unwrap();
        let daemon3 = Daemon::start(&node3, &setup.config(&node3, &node2, "")).unwrap();
        let mut scene = Scene { daemon1, daemon2, lab, setup };
        scene.twice(|scene| {
            let perf = scene.lab.perf();
            let to = SocketAddrV4::new(moving, PORT);
            let options = udp::Options { source_port: 5555, ..Default::default() };
            let exchange = |server| udp::exchange(&perf.netns, to, server, PORT, &options);
            let client = SocketAddrV4::new(perf.ip, 5555);
            let of_old = |daemon: &Daemon| {
                leases(daemon)
                    .into_iter()
                    .find(|lease| lease.is(client, to) && lease.node == node1.ip)
            };
            until("a lease to the old node", SOON, || {
                // Not before the daemon knows the pod's MAC.
                exchange(&old.netns).unwrap();
                of_old(&scene.daemon2)
            });
            let before = Counters::of(&scene.daemon2);
            scene.daemon2.rewrite_config(&config(node3.ip)).unwrap();
            until("the lease to the old node is void", SOON, || {
                of_old(&scene.daemon2).is_none().then_some(())
            });
            for _ in 0..5 {
                exchange(&new.netns).unwrap();
            }
            // One that lapses is counted as expired.
            let moved = before.moved(&scene.daemon2);
            assert_eq!(moved.get(&Reason::PodLeaseOutdated), Some(&1), "{moved:?}");
            scene.assert_nothing_plain();
        });
        daemon3.finish().unwrap();
        scene.finish();
    }
}
