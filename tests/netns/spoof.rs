//! IP in IP that lies or is broken, put on node2's wire: each packet counted
//! under its reason and nothing else, none delivered.

use std::{net::Ipv4Addr, time::Duration};

use aya::maps::{Array, Map, MapData};
use dataplane_common::Reason;
use dataplane_user::clock;
use tunless_lab::{
    Daemon, Lab, LabBuilder,
    packet::{IPV4, Ipv4, ethernet, icmp_echo},
};
use tunless_tests::scene::{Counters, HASTY, SOON, Scene, Setup, hostile::Attack, until};

/// A block of a node that is configured, though not there.
const THIRD: (&str, Ipv4Addr) = ("10.20.7.64/26", Ipv4Addr::new(172, 16, 34, 7));
/// A pod of it.
const THIRDS_POD: Ipv4Addr = Ipv4Addr::new(10, 20, 7, 70);
/// In nobody's block.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A scene in which node2 knows of a third node.
fn scene(setup: Setup, more: &str) -> Scene {
    println!("{setup:?}");
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let routes = [(node1.block, node1.ip), THIRD];
    let daemon1 = Daemon::start(node1, &setup.config(node1, node2, "")).unwrap();
    let daemon2 = Daemon::start(node2, &setup.config_with(node2, &routes, more)).unwrap();
    let scene = Scene { daemon1, daemon2, lab, setup };
    scene.warm_up();
    scene
}

/// What to send, as a packet or as a whole frame.
enum Hostile {
    Packet(Vec<u8>),
    Frame(Vec<u8>),
}

/// Sends each, and waits until exactly its reason was counted once more.
fn assert_counted(scene: &Scene, attack: &Attack<'_>, cases: Vec<(&str, Reason, Hostile)>) {
    for (what, reason, hostile) in cases {
        println!("{what}");
        let before = Counters::of(&scene.daemon2);
        match hostile {
            Hostile::Packet(packet) => attack.send(&packet),
            Hostile::Frame(frame) => attack.send_frame(&frame),
        }
        before.wait_for_only(&scene.daemon2, reason, 1, SOON);
    }
}

#[test]
fn lies_about_the_source_are_dropped() {
    Scene::each_by(
        |setup| scene(setup, ""),
        |scene| {
            let Lab { node1, node2, .. } = &scene.lab;
            let attack = Attack::new(scene);
            let from = |source| Hostile::Packet(attack.outer().packet(&attack.inner(source)));
            let outer = |source, destination| {
                let ip = Ipv4::ipip(source, destination);
                Hostile::Packet(ip.packet(&attack.inner(scene.lab.sit().ip)))
            };
            let stranger = Ipv4Addr::new(172, 16, 35, 99);
            assert_counted(
                scene,
                &attack,
                vec![
                    ("a pod of another node", Reason::DecapForgedSource, from(THIRDS_POD)),
                    ("another node", Reason::DecapSourceUnknown, from(THIRD.1)),
                    ("the very pod", Reason::DecapOwnSource, from(scene.lab.perf().ip)),
                    ("this node", Reason::DecapOwnSource, from(node2.ip)),
                    ("this node's tunnel address", Reason::DecapOwnSource, from(node2.tunnel)),
                    ("loopback", Reason::DecapMartianSource, from(Ipv4Addr::LOCALHOST)),
                    ("nothing", Reason::DecapMartianSource, from(Ipv4Addr::UNSPECIFIED)),
                    ("a group", Reason::DecapMartianSource, from(Ipv4Addr::new(224, 0, 0, 1))),
                    ("everybody", Reason::DecapMartianSource, from(Ipv4Addr::BROADCAST)),
                    ("nobody's address", Reason::DecapSourceUnknown, from(NOBODY)),
                    ("an unknown node", Reason::DecapUnknownNode, outer(stranger, node2.ip)),
                    (
                        "not our address",
                        Reason::DecapOtherDestination,
                        outer(node1.ip, node2.tunnel),
                    ),
                ],
            );
            attack.assert_nothing_delivered();
            scene.assert_nothing_plain();
        },
    );
}

#[test]
fn broken_packets_are_not_delivered() {
    Scene::each_by(
        |setup| scene(setup, ""),
        |scene| {
            let sit = scene.lab.sit().ip;
            let attack = Attack::new(scene);
            let inner = attack.inner(sit);
            let packet = |outer: &dyn Fn(&mut Ipv4)| {
                let mut ip = attack.outer();
                outer(&mut ip);
                Hostile::Packet(ip.packet(&inner))
            };
            let wrong = |spoil: &dyn Fn(&mut Ipv4)| {
                Hostile::Packet(attack.outer().packet(&attack.wrong(sit, spoil)))
            };
            let cut = |length: usize| Hostile::Packet(attack.outer().packet(&inner[..length]));
            let nested = |protocol| {
                let ip = Ipv4::new(sit, scene.lab.perf().ip, protocol);
                Hostile::Packet(attack.outer().packet(&ip.packet(&inner)))
            };
            let mut cases = vec![
                (
                    "outer fragment, first",
                    Reason::DecapOuterFragment,
                    packet(&|ip| {
                        (ip.df, ip.mf) = (false, true);
                    }),
                ),
                (
                    "outer fragment, later",
                    Reason::DecapOuterFragment,
                    packet(&|ip| {
                        (ip.df, ip.fragment_offset) = (false, 2);
                    }),
                ),
                ("outer options", Reason::DecapOuterOptions, packet(&|ip| ip.options = vec![1; 4])),
                (
                    "outer checksum",
                    Reason::DecapOuterBadChecksum,
                    packet(&|ip| ip.checksum = Some(1)),
                ),
                ("outer version", Reason::DecapOuterBadHeader, packet(&|ip| ip.version = Some(6))),
                ("outer IHL", Reason::DecapOuterBadHeader, packet(&|ip| ip.ihl = Some(4))),
                (
                    "outer length, too much",
                    Reason::DecapOuterBadLength,
                    packet(&|ip| {
                        ip.total_len = Some(1000);
                    }),
                ),
                (
                    "outer length, no header",
                    Reason::DecapOuterBadLength,
                    packet(&|ip| {
                        ip.total_len = Some(19);
                    }),
                ),
                ("congestion", Reason::DecapEcnViolation, packet(&|ip| ip.tos = 3)),
                ("TTL 0", Reason::DecapInnerTtlZero, wrong(&|ip| ip.ttl = 0)),
                ("inner version", Reason::DecapInnerBadHeader, wrong(&|ip| ip.version = Some(6))),
                ("inner IHL", Reason::DecapInnerBadHeader, wrong(&|ip| ip.ihl = Some(4))),
                (
                    "inner length, too much",
                    Reason::DecapInnerBadLength,
                    wrong(&|ip| {
                        ip.total_len = Some(1000);
                    }),
                ),
                (
                    "inner checksum",
                    Reason::DecapInnerBadChecksum,
                    wrong(&|ip| ip.checksum = Some(1)),
                ),
                ("IPIP in IPIP", Reason::DecapNestedTunnel, nested(4)),
                ("6in4 in IPIP", Reason::DecapNestedTunnel, nested(41)),
            ];
            cases.extend([0, 1, 8, 19].map(|n| ("inner cut", Reason::DecapInnerTruncated, cut(n))));
            cases
                .extend([20, 21, 28].map(|n| ("payload cut", Reason::DecapInnerBadLength, cut(n))));
            assert_counted(scene, &attack, cases);
            attack.assert_nothing_delivered();
            scene.assert_nothing_plain();
        },
    );
}

/// What is no IPv4 for us is none of our business; whatever the kernel makes
/// of it, the pod does not get it.
#[test]
fn strange_frames_are_left_alone() {
    Scene::each_by(
        |setup| scene(setup, ""),
        |scene| {
            let node2 = &scene.lab.node2;
            let attack = Attack::new(scene);
            let good = attack.outer().packet(&attack.inner(scene.lab.sit().ip));
            let frame = |ethertype, payload: &[u8]| {
                Hostile::Frame(ethernet(node2.mac, node2.gateway_mac, ethertype, payload))
            };
            let tagged = [[0, 42].as_slice(), &IPV4.to_be_bytes(), &good].concat();
            let mut cases = vec![
                ("VLAN 42", Reason::DecapNotIpv4, frame(0x8100, &tagged)),
                (
                    "IPv6",
                    Reason::DecapNotIpv4,
                    frame(0x86dd, &[[0x60].as_slice(), &[0; 60]].concat()),
                ),
                ("an unknown protocol", Reason::DecapNotIpv4, frame(0x88b5, &good)),
                ("not protocol 4", Reason::DecapNotIpip, frame(IPV4, &attack.inner(THIRDS_POD))),
            ];
            cases.extend([0, 1, 10, 19].map(|length| {
                (
                    "cut in the outer header",
                    Reason::DecapOuterTruncated,
                    frame(IPV4, &good[..length]),
                )
            }));
            assert_counted(scene, &attack, cases);
            attack.assert_nothing_delivered();
        },
    );
}

/// As a flooding switch delivers them. XDP runs before the kernel compares MACs,
/// so it compares itself.
#[test]
fn frames_for_other_machines_are_not_delivered() {
    Scene::each_by(
        |setup| scene(setup, ""),
        |scene| {
            let node2 = &scene.lab.node2;
            let attack = Attack::new(scene);
            let good = attack.outer().packet(&attack.inner(scene.lab.sit().ip));
            let before = Counters::of(&scene.daemon2);
            attack.send_frame(&ethernet([2, 0, 0, 0, 0, 99], node2.gateway_mac, IPV4, &good));
            attack.send_frame(&ethernet([0xff; 6], node2.gateway_mac, IPV4, &good));
            until("both are counted", SOON, || {
                (before.moved(&scene.daemon2).get(&Reason::DecapNotForHost) == Some(&2))
                    .then_some(())
            });
            before.assert_moved(&scene.daemon2, &[(Reason::DecapNotForHost, 2)]);
            attack.assert_nothing_delivered();
        },
    );
}

/// For clusters where blocks move faster than routes: the kernel's rules judge.
#[test]
fn with_spoof_stack_the_kernel_judges() {
    Scene::each_by(
        |setup| scene(setup, "spoof: stack\n"),
        |scene| {
            let attack = Attack::new(scene);
            let from = |source| Hostile::Packet(attack.outer().packet(&attack.inner(source)));
            // rp_filter and the martian check drop these.
            let cases = vec![
                ("the very pod", Reason::DecapOwnToStack, from(scene.lab.perf().ip)),
                ("this node", Reason::DecapOwnToStack, from(scene.lab.node2.ip)),
                ("loopback", Reason::DecapMartianToStack, from(Ipv4Addr::LOCALHOST)),
            ];
            assert_counted(scene, &attack, cases);
            attack.assert_nothing_delivered();
            // This one could be a pod that has moved a moment ago.
            let attack = Attack::new(scene);
            let moved = attack.outer().packet(&attack.inner(THIRDS_POD));
            let before = Counters::of(&scene.daemon2);
            attack.send(&moved);
            attack.wait_for_delivery(|frame| frame.is_plain(THIRDS_POD, scene.lab.perf().ip));
            assert_eq!(before.moved(&scene.daemon2)[&Reason::DecapForgedToStack], 1);
        },
    );
}

/// A gateway's further address, say: outside every pod CIDR, and allowed.
#[test]
fn extra_sources_are_their_nodes_alone() {
    let scene = |setup: Setup| {
        let more = format!("  nodes:\n    - {{node: 172.16.35.4, extra_sources: [{NOBODY}/32]}}\n");
        scene(setup, &more)
    };
    Scene::each_by(scene, |scene| {
        let perf = scene.lab.perf().ip;
        // The way back leads over the NIC, so strict rp_filter needs help.
        let node2 = &scene.lab.node2.netns;
        node2.ip(&format!("route replace {NOBODY}/32 dev tunless0")).unwrap();
        let attack = Attack::new(scene);
        attack.send(&attack.outer().packet(&attack.inner(NOBODY)));
        attack.wait_for_delivery(|frame| frame.is_plain(NOBODY, perf));
        let attack = Attack::new(scene);
        let ip = Ipv4::icmp(NOBODY, perf).packet(&icmp_echo(8, 0xbad, 1, b"hello"));
        let third = Hostile::Packet(Ipv4::ipip(THIRD.1, scene.lab.node2.ip).packet(&ip));
        assert_counted(scene, &attack, vec![("not its own", Reason::DecapForgedSource, third)]);
        attack.assert_nothing_delivered();
    });
}

/// Programs rely on the tables for a minute, so the daemon has to say more often that it keeps them.
#[test]
fn the_daemon_keeps_its_tables() {
    Scene::with(lab(), Setup::OFF, "", &HASTY).case(|scene| {
        let pin = scene.lab.node2.bpffs.join("serving/KEPT_AT");
        let map: Array<_, u64> = Map::Array(MapData::from_pin(pin).unwrap()).try_into().unwrap();
        let kept_at = || Duration::from_nanos(map.get(&0, 0).unwrap());
        let before = clock::monotonic();
        until("it compares everything", SOON, || (kept_at() > before).then_some(()));
        assert!(kept_at() <= clock::monotonic());
    });
}
