//! Leases by the ten and hundred thousand.

use std::{net::SocketAddrV4, ops::Range};

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder, conntrack,
    felix::Allow,
    traffic::{crowd, load::CONNECTIONS},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, assert_lossless,
    leased::{assert_unleased, leases},
    stream_between, until,
};

/// Each takes as many connections as a client has ports of its own for.
const PORTS: Range<u16> = 7000..7005;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Half of them before the daemon is restarted, half after.
#[test]
fn a_hundred_thousand_short_connections_leave_nothing_behind() {
    Scene::new(lab(), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        for port in PORTS {
            let to = SocketAddrV4::new(sit.ip, port);
            crowd::connections(&perf.netns, to, &sit.netns, port, 10_000).unwrap();
        }
        // The figure: a reset takes conntrack ten seconds to believe.
        std::thread::sleep(std::time::Duration::from_secs(15));
        for node in [&scene.lab.node1, &scene.lab.node2] {
            let entries = conntrack::list(&node.netns).unwrap();
            let of_ours = entries.iter().filter(|entry| {
                *entry.destination.ip() == sit.ip && PORTS.contains(&entry.destination.port())
            });
            let lingers = of_ours
                .filter(|entry| entry.state.as_deref() == Some("ESTABLISHED"))
                .collect::<Vec<_>>();
            assert!(entries.len() > 25_000, "they were tracked: {}", entries.len());
            assert_eq!(lingers, Vec::<&conntrack::Entry>::new());
        }
        for (before, daemon) in before.iter().zip([&scene.daemon1, &scene.daemon2]) {
            assert_unleased(daemon, sit.ip);
            before.assert_nothing_dropped(daemon);
            assert!(before.moved(daemon)[&Reason::PodConnectionControl] >= 100_000, "SYN and FIN");
        }
        scene.assert_nothing_plain();
    });
}

/// The packet that accepts a connection and the one that completes it are granted a lease, and those
/// of its end are not: nothing stays behind, though a lease would last for longer.
#[test]
fn a_short_connection_has_one_lease_each_way_until_it_closes() {
    const COUNT: u32 = 300;
    for setup in Setup::BOTH_VERIFIED {
        Scene::with(lab(), setup, "leases: {seconds: 9}\n", &[]).case(|scene| {
            scene.warm_up();
            let (perf, sit) = scene.pods();
            let daemons = [&scene.daemon1, &scene.daemon2];
            let before = daemons.map(Counters::of);
            CONNECTIONS.run((perf, sit), (0, COUNT), || {}, || {}).unwrap();
            for (before, daemon) in before.iter().zip(daemons) {
                let moved = before.moved(daemon);
                let count = |reason| moved.get(&reason).copied().unwrap_or(0);
                for granted in [Reason::HostLeaseGranted, Reason::GrantGiven] {
                    assert_eq!(count(granted), u64::from(COUNT), "{granted:?} of {moved:?}");
                }
                assert!(count(Reason::PodEncapsulated) >= u64::from(COUNT), "{moved:?}");
                assert!(count(Reason::DecapToPod) >= u64::from(COUNT), "{moved:?}");
                until("the last packet is through", SOON, || {
                    leases(daemon).iter().all(|lease| lease.protocol != "tcp").then_some(())
                });
            }
        });
    }
}

/// A full map forgets whom it has not seen for longest: those take the stack,
/// and nothing is lost.
#[test]
fn a_hundred_thousand_flows_in_a_map_for_a_thousand() {
    Scene::with(lab(), Setup::VERIFIED, "leases: {size: 1024}\n", &[]).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let stream = stream_between(perf, sit, 5010);
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        crowd::datagrams((&perf.netns, 20_000..21_000), (&sit.netns, sit.ip, 30_000..30_100), 2)
            .unwrap();
        assert_lossless(stream);
        let granted = [Reason::GrantGiven, Reason::HostLeaseGranted];
        let daemons = [&scene.daemon1, &scene.daemon2];
        for ((before, daemon), granted) in before.iter().zip(daemons).zip(granted) {
            let moved = before.moved(daemon);
            assert!(moved[&granted] > 50_000, "{moved:?}");
            before.assert_nothing_dropped(daemon);
            let count = leases(daemon).len();
            assert!((1..=1024).contains(&count), "{count} leases");
        }
        until("all leases are over by themselves", SOON, || {
            leases(&scene.daemon2).is_empty().then_some(())
        });
        scene.assert_nothing_plain();
    });
}
