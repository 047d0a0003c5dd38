//! Leases: which flows get one, and what they do with it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use dataplane_common::{Direction, Reason, Verdict};
use tunless_lab::{
    Lab, LabBuilder, Netns,
    capture::Capture,
    felix::Allow,
    packet::{Ipv4, udp as udp_datagram},
    service::Protocol,
    traffic::{conversation::Conversation, flood, flood::Flood, tcp, udp},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, answers, assert_answered, in_time,
    leased::{Lease, assert_unleased, leases, wait_leased_at_client, wait_leased_at_server},
    until,
};

const PORT: u16 = 7000;
const DENIED: u16 = 7001;
/// How long a lease lasts by default.
const LEASE_SECONDS: u64 = 5;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn socket(netns: &Netns, port: u16) -> UdpSocket {
    let socket = netns.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// (direction, source port) of every lease, sorted.
fn directions(leases: &[Lease]) -> Vec<(&str, u16)> {
    let mut found: Vec<_> =
        leases.iter().map(|lease| (lease.direction.as_str(), lease.source.port())).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_denied_flow_gets_nothing_through_and_no_lease() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.police(&Allow::port(PORT));
        let (perf, sit) = scene.pods();
        let denied = SocketAddrV4::new(sit.ip, DENIED);
        let arrived = Capture::start_filtered(&sit.netns, "eth0", |frame| {
            let Some((_, payload)) = frame.outer() else { return false };
            payload.get(2..4) == Some(&DENIED.to_be_bytes())
        })
        .unwrap();
        // The same port all the time, so that it is one flow.
        let (client, _server) = (socket(&perf.netns, 6001), socket(&sit.netns, DENIED));
        for _ in 0..100 {
            client.send_to(b"let me in", denied).unwrap();
        }
        let timeout = Duration::from_millis(1500);
        let options = tcp::Options { timeout, ..Default::default() };
        tcp::bulk(&perf.netns, denied, &sit.netns, DENIED, &options).expect_err("denied");
        // What is allowed gets there, behind everything that was not.
        let allowed = SocketAddrV4::new(sit.ip, PORT);
        udp::exchange(&perf.netns, allowed, &sit.netns, PORT, &Default::default()).unwrap();
        assert_eq!(arrived.stop().unwrap(), Vec::new());
        for daemon in [&scene.daemon1, &scene.daemon2] {
            let leases = leases(daemon);
            let of_denied =
                |lease: &&Lease| [lease.source.port(), lease.destination.port()].contains(&DENIED);
            assert_eq!(leases.iter().find(of_denied), None);
        }
        scene.assert_nothing_plain();
    });
}

/// Netfilter calls a flow established from its first answer on.
#[test]
fn an_allowed_flow_is_leased_after_the_first_answer() {
    const CONFIG: &str = "leases: {seconds: 9}\n";
    for setup in Setup::BOTH_VERIFIED {
        Scene::with(lab(), setup, CONFIG, &[]).case(|scene| {
            scene.warm_up();
            scene.police(&Allow::port(PORT));
            // Before the first lease can be over.
            let Seen { port, asked, answered, asked_again, by_lease, moved } =
                in_time(Duration::from_secs(8), |number| flow_from_its_start(scene, 6000 + number));
            for leases in asked {
                assert_eq!(leases, Vec::new(), "nobody has answered");
            }
            assert_eq!(directions(&answered[0]), [("encap", PORT)]);
            assert_eq!(directions(&answered[1]), [("decap", PORT)]);
            assert_eq!(directions(&asked_again[0]), [("decap", port), ("encap", PORT)]);
            assert_eq!(directions(&asked_again[1]), [("decap", PORT), ("encap", port)]);

            // From here on no packet of it met the stack.
            let mut expected = vec![(Reason::PodEncapsulated, 10), (Reason::DecapToPod, 10)];
            expected.extend(scene.setup.is_xdp().then_some((Reason::XdpUnwrapped, 10)));
            let expected: BTreeMap<Reason, u64> = expected.into_iter().collect();
            assert_eq!(moved, [expected.clone(), expected]);
            for (leases, node) in by_lease.into_iter().zip([&scene.lab.node2, &scene.lab.node1]) {
                assert_eq!(leases.len(), 2);
                for lease in leases {
                    assert_eq!((lease.packets, lease.node), (10, node.ip), "{lease:?}");
                    assert_eq!(lease.protocol, "udp");
                    assert!(lease.expires_in > 0.0 && lease.expires_in <= 9.0, "{lease:?}");
                }
            }
            scene.assert_nothing_plain();
        });
    }
}

/// A flow's leases on node1 and node2, at one moment each, and what both counted at its end.
struct Seen {
    /// Of the client.
    port: u16,
    /// After two requests.
    asked: [Vec<Lease>; 2],
    /// After the first answer.
    answered: [Vec<Lease>; 2],
    /// After the next request.
    asked_again: [Vec<Lease>; 2],
    /// After ten requests and answers more; and what was counted for these.
    by_lease: [Vec<Lease>; 2],
    moved: [BTreeMap<Reason, u64>; 2],
}

fn flow_from_its_start(scene: &Scene, port: u16) -> Seen {
    let (perf, sit) = scene.pods();
    let daemons = [&scene.daemon1, &scene.daemon2];
    let (client, server) = (socket(&perf.netns, port), socket(&sit.netns, PORT));
    let ask = || {
        client.send_to(b"hello", (sit.ip, PORT)).unwrap();
        server.recv_from(&mut [0; 16]).unwrap();
    };
    let answer = || {
        server.send_to(b"hello", (perf.ip, port)).unwrap();
        client.recv_from(&mut [0; 16]).unwrap();
    };
    let of_flow = || {
        let end = SocketAddrV4::new(perf.ip, port);
        daemons.map(|daemon| leases(daemon).into_iter().filter(|it| it.ends_at(end)).collect())
    };
    ask();
    ask();
    let asked = of_flow();
    answer();
    let answered = of_flow();
    ask();
    let asked_again = of_flow();
    let before = daemons.map(Counters::of);
    for _ in 0..10 {
        ask();
        answer();
    }
    let moved = [before[0].moved(daemons[0]), before[1].moved(daemons[1])];
    Seen { port, asked, answered, asked_again, by_lease: of_flow(), moved }
}

/// The figures: more than 99.9 % by leases, and no second without progress.
#[test]
fn a_bulk_flow_goes_by_leases_and_never_stops() {
    let setup = Setup::VERIFIED;
    Scene::new(lab(), setup).case(|scene| {
        scene.warm_up();
        scene.police(&Allow::port(PORT));
        let (perf, sit) = scene.pods();
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let to = SocketAddrV4::new(sit.ip, PORT);
        let began = Instant::now();
        let flood = Flood::start(&perf.netns, to, &sit.netns, PORT).unwrap();
        let renewals = |before: &Counters, daemon| {
            before.moved(daemon).get(&Reason::PodLeaseExpired).copied().unwrap_or(0)
        };
        until("five renewals on both nodes", 3 * SOON, || {
            let mut nodes = before.iter().zip([&scene.daemon1, &scene.daemon2]);
            nodes.all(|(before, daemon)| renewals(before, daemon) >= 5).then_some(())
        });
        let report = flood.close().unwrap();
        assert_eq!(report.end, flood::End::Closed, "{report:?}");
        assert!(report.longest_pause < Duration::from_secs(1), "{report:?}");
        // Those of the handshake and of the end, and one for each lease. On a slow machine there are so
        // few of the other kind that this may be more than their thousandth.
        let few = 10 + began.elapsed().as_secs() / LEASE_SECONDS;
        for (before, daemon) in before.iter().zip([&scene.daemon1, &scene.daemon2]) {
            let moved = before.moved(daemon);
            for (direction, fast) in [
                (Direction::Encap, Reason::PodEncapsulated),
                (Direction::Decap, Reason::DecapToPod),
            ] {
                let is_carried = |reason: &&Reason| {
                    reason.direction() == direction && reason.verdict() == Verdict::Forwarded
                };
                let all: u64 = moved.keys().filter(is_carried).map(|reason| moved[reason]).sum();
                let slow = all - moved[&fast];
                let is_little = slow * 1000 < all || slow <= few;
                assert!(is_little, "{slow} of {all} met the stack: {moved:?}");
            }
            before.assert_nothing_dropped(daemon);
        }
        scene.assert_nothing_plain();
    });
}

/// SCTP's first packet (RFC 9260 §3.3.2), with the checksum conntrack looks at.
fn sctp_init() -> Vec<u8> {
    let mut packet = vec![0x1b, 0x58, 0x1b, 0x58, 0, 0, 0, 0, 0, 0, 0, 0];
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let crc = packet.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            // CRC-32C (RFC 3385), the reflected polynomial.
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    });
    packet[8..12].copy_from_slice(&(!crc).to_le_bytes());
    packet
}

#[test]
fn everything_arrives_and_only_tcp_and_udp_are_leased() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.police(&[Allow::ALL]);
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let arrived = Capture::start(&sit.netns, "eth0").unwrap();
        let arrives = |what: &str, from_perf: &dyn Fn(u8, &[u8], bool) -> bool| {
            let found = arrived.wait_for(SOON, |frame| {
                let Some((ip, payload)) = frame.outer() else { return false };
                ip.source == perf.ip && from_perf(ip.protocol, payload, ip.header_len > 20)
            });
            assert!(found.is_some(), "{what} does not arrive");
        };
        assert_answered(&perf.netns, sit.ip);
        let init = Ipv4::new(perf.ip, sit.ip, 132).packet(&sctp_init());
        perf.inject(&init).unwrap();
        arrives("SCTP", &|protocol, payload, _| protocol == 132 && payload == sctp_init());
        // Four fragments, there and back.
        let to = SocketAddrV4::new(sit.ip, PORT);
        let big = udp::Options { size: 5000, source_port: 6001, ..Default::default() };
        for _ in 0..3 {
            udp::exchange(&perf.netns, to, &sit.netns, PORT, &big).unwrap();
        }
        for daemon in [&scene.daemon1, &scene.daemon2] {
            assert_eq!(leases(daemon), Vec::new());
        }

        // Of a leased flow, what has options or comes in fragments is not.
        let talk = Conversation::start(Protocol::Udp, &perf.netns, to, &sit.netns, PORT).unwrap();
        wait_leased_at_client(&scene.daemon2, talk.client, to);
        wait_leased_at_server(&scene.daemon1, talk.client, to);
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let ip = Ipv4 { options: vec![1, 1, 1, 0], ..Ipv4::udp(perf.ip, sit.ip) };
        let payload = udp_datagram(&ip, talk.client.port(), PORT, b"options");
        perf.inject(&ip.packet(&payload)).unwrap();
        arrives("a packet with options", &|_, payload, has_options| {
            has_options && payload.ends_with(b"options")
        });
        assert_eq!(before[1].moved(&scene.daemon2)[&Reason::PodOptions], 1);
        assert_eq!(before[0].moved(&scene.daemon1)[&Reason::DecapOptionsToStack], 1);
        let flow = Ipv4 { df: false, id: 9, ..Ipv4::udp(perf.ip, sit.ip) };
        let whole = udp_datagram(&flow, talk.client.port(), PORT, b"two fragments");
        let first = Ipv4 { mf: true, ..flow.clone() };
        let last = Ipv4 { fragment_offset: 2, ..flow };
        perf.inject(&first.packet(&whole[..16])).unwrap();
        perf.inject(&last.packet(&whole[16..])).unwrap();
        // The node looks at it whole, and sends it on as it came.
        arrives("the last fragment", &|_, payload, _| payload == b"ments");
        assert_eq!(before[1].moved(&scene.daemon2)[&Reason::PodFragment], 2);
        assert!(talk.wait_for(10, SOON));
        drop(talk);

        let talk = Conversation::start(Protocol::Tcp, &perf.netns, to, &sit.netns, PORT).unwrap();
        wait_leased_at_client(&scene.daemon2, talk.client, to);
        wait_leased_at_server(&scene.daemon1, talk.client, to);
        drop(talk);
        scene.assert_nothing_plain();
    });
}

/// Felix's reverse path check and the kernel's drop what a lease would let through.
#[test]
fn a_forger_never_rides_on_anothers_lease() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        let (perf, sit) = scene.pods();
        let node2 = &scene.lab.node2;
        let forger = node2.add_pod("forger", Lab::pod_ip(node2, 40)).unwrap();
        scene.police(&[Allow::ALL]);
        let to = SocketAddrV4::new(sit.ip, PORT);
        let talk = Conversation::start(Protocol::Udp, &perf.netns, to, &sit.netns, PORT).unwrap();
        wait_leased_at_client(&scene.daemon2, talk.client, to);

        let arrived = Capture::start(&sit.netns, "eth0").unwrap();
        let before = Counters::of(&scene.daemon2);
        let ip = Ipv4::udp(perf.ip, sit.ip);
        let forged = ip.packet(&udp_datagram(&ip, talk.client.port(), PORT, b"forged"));
        until("twenty forged packets are refused", SOON, || {
            // One that comes just as the lease ends asks for it, in vain.
            for _ in 0..20 {
                forger.inject(&forged).unwrap();
            }
            let moved = before.moved(&scene.daemon2);
            (*moved.get(&Reason::PodForgedSource)? >= 20).then_some(())
        });
        assert!(talk.wait_for(50, SOON), "the rightful owner goes on");
        let frames = arrived.stop().unwrap();
        let forged = frames.iter().find(|frame| frame.bytes.ends_with(b"forged"));
        assert_eq!(forged, None);
        assert_unleased(&scene.daemon2, forger.ip);
        assert!(!answers(&forger.netns, sit.ip), "Felix knows no such endpoint");
        scene.assert_nothing_plain();
        node2.remove_pod(&forger).unwrap();
    });
}
