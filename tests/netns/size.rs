//! Packets of every size: those that fit, those that must not, and those the
//! hardware (here: the kernel) cuts up.

use std::net::SocketAddrV4;

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder, Pod,
    traffic::{
        ping::{self, Trouble},
        udp,
    },
};
use tunless_tests::scene::{Counters, SOON, Scene};

/// The pod's MTU, less the headers of IP and of ICMP or UDP.
const FITS: u32 = 1480 - 28;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn ping_of(from: &Pod, to: &Pod, size: u32, df: bool) -> ping::Report {
    let options = ping::Options { size, df, ..Default::default() };
    ping::ping(&from.netns, to.ip, &options).unwrap()
}

#[test]
fn datagrams_of_every_size_arrive() {
    Scene::each(&lab(), |scene| {
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let (perf, sit) = scene.pods();
        // One byte more than fits goes in two fragments, 65,507 is the most UDP can.
        for size in [1, 64, 1000, FITS as usize, FITS as usize + 1, 4000, 32_768, 65_507] {
            for (from, to) in [(perf, sit), (sit, perf)] {
                let address = SocketAddrV4::new(to.ip, 5002);
                let options = udp::Options { size, ..Default::default() };
                let report =
                    udp::exchange(&from.netns, address, &to.netns, 5002, &options).unwrap();
                assert_eq!((*report.seen.ip(), report.answered_by), (from.ip, address));
            }
        }
        before[0].assert_nothing_dropped(&scene.daemon1);
        before[1].assert_nothing_dropped(&scene.daemon2);
        scene.assert_nothing_plain();
    });
}

#[test]
fn a_pod_knows_what_fits() {
    Scene::each(&lab(), |scene| {
        let (perf, sit) = scene.pods();
        for (from, to) in [(perf, sit), (sit, perf)] {
            let fits = ping_of(from, to, FITS, true);
            assert!(fits.all_answered(), "{}", fits.text);
            let too_big = ping_of(from, to, FITS + 1, true);
            assert_eq!((too_big.received, too_big.mtu()), (0, Some(1480)), "{}", too_big.text);
            let in_pieces = ping_of(from, to, FITS + 1, false);
            assert!(in_pieces.all_answered(), "{}", in_pieces.text);
        }
        scene.assert_nothing_plain();
    });
}

/// Pods that think the tunnel costs nothing: the node has to tell them.
#[test]
fn a_pod_with_too_large_an_mtu_is_told() {
    Scene::each(&lab().pod_mtu(1500), |scene| {
        scene.warm_up();
        let before = Counters::of(&scene.daemon2);
        let (perf, sit) = scene.pods();
        // Without DF first: the kernel in the pod remembers the MTU it is told.
        let in_pieces = ping_of(perf, sit, 1500 - 28, false);
        assert!(in_pieces.all_answered(), "{}", in_pieces.text);
        let pieces = before.moved(&scene.daemon2);
        assert_eq!(pieces.get(&Reason::HostEncapsulated), Some(&6), "cut before it is wrapped");
        let too_big = ping_of(perf, sit, 1500 - 28, true);
        assert_eq!(too_big.received, 0, "{}", too_big.text);
        let told = |trouble: &Trouble| matches!(trouble, Trouble::FragNeeded { mtu: 1480, .. });
        assert!(too_big.troubles.iter().any(told), "{}", too_big.text);
        let fits = ping_of(perf, sit, FITS, true);
        assert!(fits.all_answered(), "{}", fits.text);
        let larger = ping_of(perf, sit, 4000, false);
        assert!(larger.all_answered(), "{}", larger.text);
        before.assert_nothing_dropped(&scene.daemon2);
        if scene.setup.is_trusted() {
            assert!(before.moved(&scene.daemon2)[&Reason::PodTooBig] >= 4);
        }
        scene.assert_nothing_plain();
    });
}

#[test]
fn trains_of_datagrams_arrive_as_they_were_cut() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let (perf, sit) = scene.pods();
        let full = u16::try_from(FITS).unwrap();
        for train in [(1000, 40), (full, 44), (100, 64), (777, 1)] {
            for (from, to) in [(perf, sit), (sit, perf)] {
                let address = SocketAddrV4::new(to.ip, 5003);
                let seen = udp::gso(&from.netns, address, &to.netns, 5003, train, SOON).unwrap();
                assert_eq!(*seen.ip(), from.ip);
            }
        }
        // A train is one packet up to the wire: four went out, or less than one
        // program run for each of the 149 datagrams.
        let encapsulated = match scene.setup.fastpath {
            "trusted" => Reason::PodEncapsulated,
            // Nobody answers, so nothing is established, nor leased.
            "verified" => Reason::HostUnmarked,
            _ => Reason::HostEncapsulated,
        };
        for (before, daemon) in before.iter().zip([&scene.daemon1, &scene.daemon2]) {
            before.assert_nothing_dropped(daemon);
            assert_eq!(before.moved(daemon)[&encapsulated], 4, "{:?}", scene.setup);
        }
        scene.assert_nothing_plain();
    });
}
