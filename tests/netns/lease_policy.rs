//! A policy changes: what it now forbids ends within one lease.

use std::{net::SocketAddrV4, time::Duration};

use tunless_lab::{
    Daemon, Lab, LabBuilder, conntrack,
    felix::{Allow, Endpoint, deny_first, enforce},
    service::Protocol,
    traffic::conversation::Conversation,
};
use tunless_tests::scene::{
    SOON, Scene, Setup,
    leased::{leases, wait_lapsed, wait_leased_at_client, wait_leased_at_server},
};

const PORT: u16 = 7000;
const LEASE: Duration = Duration::from_secs(2);
const CONFIG: &str = "leases: {seconds: 2}\n";
const BOTH: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Two leased conversations, one of each kind; then `forbid`, which returns the daemon of the node
/// that forbids it. No lease there is extended any more, and with the lease the answers end.
fn cut_by(setup: Setup, forbid: impl Fn(&Scene) -> &Daemon) {
    Scene::with(lab(), setup, CONFIG, &[]).case(|scene| {
        scene.police(&Allow::port(PORT));
        let (perf, sit) = scene.pods();
        let to = SocketAddrV4::new(sit.ip, PORT);
        let talks = BOTH.map(|protocol| {
            Conversation::start(protocol, &perf.netns, to, &sit.netns, PORT).unwrap()
        });
        for talk in &talks {
            wait_leased_at_client(&scene.daemon2, talk.client, to);
            wait_leased_at_server(&scene.daemon1, talk.client, to);
            assert!(talk.wait_for(20, SOON));
        }
        let daemon = forbid(scene);
        for talk in &talks {
            wait_lapsed(daemon, |lease| lease.is(talk.client, to));
            assert!(talk.wait_for_silence(2 * LEASE, SOON), "{setup:?}: it is not cut");
        }
        let found = leases(&scene.daemon1).into_iter().find(|lease| lease.destination == to);
        assert_eq!(found, None);
        scene.assert_nothing_plain();
        drop(talks);
    });
}

/// As Felix does it: new rules, and the connections they forbid are forgotten.
/// Both ways are denied: where the other end may still begin, its next packet
/// does, and conntrack takes it all for established anew (TCP: with or without
/// leases).
fn deny_and_forget_at_server(scene: &Scene) -> &Daemon {
    let (node, sit) = (&scene.lab.node1.netns, scene.lab.sit());
    let denied = Endpoint { egress: Vec::new(), ..Endpoint::allowing(sit, Vec::new()) };
    enforce(node, &[denied]).unwrap();
    conntrack::delete(node, &format!("-d {}", sit.ip)).unwrap();
    &scene.daemon1
}

fn deny_and_forget_at_client(scene: &Scene) -> &Daemon {
    let (node, perf) = (&scene.lab.node2.netns, scene.lab.perf());
    let denied = Endpoint { ingress: Vec::new(), ..Endpoint::sending(perf, Vec::new()) };
    enforce(node, &[denied]).unwrap();
    conntrack::delete(node, &format!("-d {}", scene.lab.sit().ip)).unwrap();
    &scene.daemon2
}

#[test]
fn forgotten_connections_that_are_denied_end() {
    cut_by(Setup::VERIFIED, deny_and_forget_at_server);
    cut_by(Setup::VERIFIED_XDP, deny_and_forget_at_client);
}

#[test]
fn a_denial_before_the_established_rule_ends_what_is_established() {
    for setup in Setup::BOTH_VERIFIED {
        cut_by(setup, |scene| {
            deny_first(scene.lab.sit(), scene.lab.perf().ip).unwrap();
            &scene.daemon1
        });
    }
}

/// Rules may change all day: what they still allow does not stumble.
#[test]
fn a_change_that_allows_the_flow_does_not_disturb_it() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.police(&Allow::port(PORT));
        let (perf, sit) = scene.pods();
        let to = SocketAddrV4::new(sit.ip, PORT);
        let talk = Conversation::start(Protocol::Tcp, &perf.netns, to, &sit.netns, PORT).unwrap();
        wait_leased_at_client(&scene.daemon2, talk.client, to);
        let counted: u64 = leases(&scene.daemon2).iter().map(|lease| lease.packets).sum();
        for port in [PORT, PORT + 1] {
            scene.police(&[Allow::port(PORT), Allow::port(port)].concat());
            conntrack::delete(&scene.lab.node1.netns, "-p udp").unwrap();
            assert!(talk.wait_for(50, SOON));
        }
        let now: u64 = leases(&scene.daemon2).iter().map(|lease| lease.packets).sum();
        assert!(now > counted + 100, "{counted}, then {now}");
    });
}
