//! Leases of UDP flows that get no answer: statsd, syslog, RTP.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use dataplane_common::{Direction, Program, Reason};
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Netns,
    felix::{Allow, Endpoint, enforce},
    traffic::stream::{Options, Stream},
};
use tunless_tests::scene::{
    Counters, HASTY, SOON, Scene, Setup, assert_lossless, in_time,
    leased::{Lease, assert_all_answer, leases, wait_lapsed},
    until,
};

const PORT: u16 = 8125;
/// Packets over less than this get no lease.
const AFTER: Duration = Duration::from_secs(2);
/// The programs' clock goes by the kernel's ticks.
const TICKS: Duration = Duration::from_millis(50);
const LEASE: Duration = Duration::from_secs(2);
const ON: &str = "leases: {seconds: 2, unanswered_udp: true}\n";
const OFF: &str = "leases: {seconds: 2}\n";

fn scene(setup: Setup, more: &str) -> Scene {
    Scene::with(Lab::new().fabric_filter(true), setup, more, &HASTY)
}

fn lab_socket(netns: &Netns, port: u16) -> UdpSocket {
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?);
    let socket = netns.run(bind).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// perf sends, sit hears, packet by packet.
struct Sender {
    client: UdpSocket,
    server: UdpSocket,
    /// perf's end, and sit's.
    from: SocketAddrV4,
    to: SocketAddrV4,
    sent: u8,
}

impl Sender {
    fn new(scene: &Scene) -> Self {
        let (perf, sit) = scene.pods();
        let (client, server) = (lab_socket(&perf.netns, 0), lab_socket(&sit.netns, PORT));
        let from = SocketAddrV4::new(perf.ip, client.local_addr().unwrap().port());
        Self { client, server, from, to: SocketAddrV4::new(sit.ip, PORT), sent: 0 }
    }

    /// Sends so many, each once the one before has arrived whole.
    fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.sent = self.sent.wrapping_add(1);
            let content: Vec<u8> = (0..777_u16).map(|at| at as u8 ^ self.sent).collect();
            self.client.send_to(&content, self.to).unwrap();
            let mut buffer = [0; 2048];
            let (length, from) = self.server.recv_from(&mut buffer).expect("it arrives");
            assert_eq!((&buffer[..length], from), (&content[..], self.from.into()));
        }
    }

    fn answer(&self) {
        self.server.send_to(&[7; 99], self.from).unwrap();
        let mut buffer = [0; 2048];
        let (length, from) = self.client.recv_from(&mut buffer).expect("the answer arrives");
        assert_eq!((&buffer[..length], from), (&[7; 99][..], self.to.into()));
    }
}

/// Waits until both nodes have counted exactly this since. A packet is in the pod before its program has
/// counted it.
fn assert_counted(
    scene: &Scene,
    before: &[Counters; 2],
    at_receiver: &[(Reason, u64)],
    at_sender: &[(Reason, u64)],
) {
    for ((before, daemon), counted) in
        before.iter().zip(daemons(scene)).zip([at_receiver, at_sender])
    {
        let mut expected = counted.to_vec();
        // XDP has counted what `decap_tc` delivers.
        let unwrapped = counted.iter().filter(|(it, _)| it.program() == Program::DecapTc);
        let unwrapped: u64 = unwrapped.map(|(_, packets)| packets).sum();
        if scene.setup.is_xdp() && unwrapped > 0 {
            expected.push((Reason::XdpUnwrapped, unwrapped));
        }
        let expected: BTreeMap<Reason, u64> = expected.into_iter().collect();
        let total: u64 = expected.values().sum();
        let moved = until("all are counted", SOON, || {
            let mut moved = before.moved(daemon);
            // The host asks its pods for their MACs.
            moved.remove(&Reason::GrantNoFlow);
            (moved.values().sum::<u64>() >= total).then_some(moved)
        });
        assert_eq!(moved, expected);
    }
}

fn counters(scene: &Scene) -> [Counters; 2] {
    [&scene.daemon1, &scene.daemon2].map(Counters::of)
}

fn is_leased(daemon: &Daemon, to: SocketAddrV4) -> bool {
    leases(daemon).iter().any(|lease| lease.destination == to)
}

fn wait_leased(daemons: [&Daemon; 2], to: SocketAddrV4, leased: bool) {
    for daemon in daemons {
        let what = format!("leased to {to}: {leased}");
        until(&what, SOON, || (is_leased(daemon, to) == leased).then_some(()));
    }
}

/// Waits until the sender's node marks the flow no more; then it has no lease, and gets none.
fn wait_unmarked(daemon: &Daemon, to: SocketAddrV4) {
    let before = Counters::of(daemon);
    until("no mark", SOON, || before.moved(daemon).get(&Reason::HostUnmarked).map(drop));
    assert!(!is_leased(daemon, to));
}

#[test]
fn the_third_packet_after_two_seconds_is_granted_a_lease_and_the_rest_goes_by_it() {
    const CONFIG: &str = "leases: {seconds: 9, unanswered_udp: true}\n";
    for setup in Setup::BOTH_VERIFIED {
        scene(setup, CONFIG).case(|scene| {
            scene.warm_up();
            scene.police(&[Allow::ALL]);
            // The first is not confirmed yet when our rules see it. All four come in less than the two
            // seconds.
            let (mut sender, before) = in_time(Duration::from_millis(1500), |_| {
                let mut sender = Sender::new(scene);
                let before = counters(scene);
                sender.send(4);
                (sender, before)
            });
            assert!(leases(&scene.daemon1).is_empty() && leases(&scene.daemon2).is_empty());
            thread::sleep(AFTER + TICKS);
            sender.send(1);
            sender.send(100);
            assert_counted(
                scene,
                &before,
                &[
                    (Reason::DecapNoLeaseToStack, 5),
                    (Reason::GrantUnmarked, 1),
                    (Reason::GrantUnanswered, 3),
                    (Reason::GrantUnansweredGiven, 1),
                    (Reason::DecapToPod, 100),
                ],
                &[
                    (Reason::PodNoLease, 5),
                    (Reason::HostUnmarked, 1),
                    (Reason::HostUnanswered, 3),
                    (Reason::HostUnansweredLeaseGranted, 1),
                    (Reason::PodEncapsulated, 100),
                ],
            );
            // The answer is established, and once its lease is over, so is the request.
            let before = counters(scene);
            sender.answer();
            assert_counted(
                scene,
                &before,
                &[(Reason::PodNoLease, 1), (Reason::HostLeaseGranted, 1)],
                &[(Reason::DecapNoLeaseToStack, 1), (Reason::GrantGiven, 1)],
            );
            wait_leased([&scene.daemon1, &scene.daemon2], sender.to, false);
            let before = counters(scene);
            sender.send(1);
            assert_counted(
                scene,
                &before,
                &[(Reason::DecapLeaseExpiredToStack, 1), (Reason::GrantGiven, 1)],
                &[(Reason::PodLeaseExpired, 1), (Reason::HostLeaseGranted, 1)],
            );
            scene.assert_nothing_plain();
        });
    }
}

/// Ten packets a second, as sources of statistics send them.
fn stream(scene: &Scene) -> (Stream, SocketAddrV4) {
    let (perf, sit) = scene.pods();
    let to = SocketAddrV4::new(sit.ip, PORT);
    let options = Options { rate: 10, ..Options::default() };
    (Stream::start(&perf.netns, to, &sit.netns, PORT, &options).unwrap(), to)
}

fn daemons(scene: &Scene) -> [&Daemon; 2] {
    [&scene.daemon1, &scene.daemon2]
}

#[test]
fn a_stream_is_leased_after_two_seconds_and_again_after_a_restart() {
    scene(Setup::VERIFIED, ON).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let started = Instant::now();
        let (stream, to) = stream(scene);
        for daemon in daemons(scene) {
            let leased = is_leased(daemon, to);
            // On a machine that was too slow to look in time this shows nothing, and fails nothing.
            assert!(!leased || started.elapsed() > AFTER, "too early");
        }
        wait_leased(daemons(scene), to, true);
        for daemon in [&mut scene.daemon1, &mut scene.daemon2] {
            daemon.kill9().unwrap();
            daemon.restart().unwrap();
        }
        let before = counters(scene);
        for (before, daemon, reason) in [
            (&before[0], &scene.daemon1, Reason::GrantUnansweredGiven),
            (&before[1], &scene.daemon2, Reason::HostUnansweredLeaseGranted),
        ] {
            until("a renewal", SOON, || before.moved(daemon).get(&reason).map(drop));
        }
        assert_lossless(stream);
        scene.assert_nothing_plain();
    });
}

/// Such a flow has no connection that a rule for what is established would let pass: conntrack need not
/// forget it.
#[test]
fn a_denial_ends_a_stream_within_a_lease() {
    /// Returns the daemon of the node that denies.
    type Deny = fn(&Scene) -> &Daemon;
    let by_receiver: Deny = |scene| {
        scene.police(&[]);
        &scene.daemon1
    };
    let by_sender: Deny = |scene| {
        let denied = Endpoint::sending(scene.lab.perf(), Vec::new());
        enforce(&scene.lab.node2.netns, &[denied]).unwrap();
        &scene.daemon2
    };
    for (setup, deny) in [(Setup::VERIFIED, by_receiver), (Setup::VERIFIED_XDP, by_sender)] {
        scene(setup, ON).case(|scene| {
            scene.warm_up();
            scene.police(&[Allow::ALL]);
            let (stream, to) = stream(scene);
            wait_leased(daemons(scene), to, true);
            assert!(stream.wait_for(5, SOON), "it goes on");
            let daemon = deny(scene);
            wait_lapsed(daemon, |lease| lease.destination == to);
            until("nothing arrives for a lease", SOON, || {
                let received = stream.received();
                thread::sleep(LEASE);
                (stream.received() == received).then_some(())
            });
            scene.police(&[Allow::ALL]);
            wait_leased(daemons(scene), to, true);
            drop(stream);
            scene.assert_nothing_plain();
        });
    }
}

#[test]
fn without_the_option_no_such_flow_is_leased() {
    scene(Setup::VERIFIED, OFF).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let mut sender = Sender::new(scene);
        let before = counters(scene);
        sender.send(4);
        thread::sleep(AFTER + TICKS);
        sender.send(20);
        assert_counted(
            scene,
            &before,
            &[(Reason::DecapNoLeaseToStack, 24), (Reason::GrantUnmarked, 24)],
            &[(Reason::PodNoLease, 24), (Reason::HostUnmarked, 24)],
        );
        drop(sender);
        // Switched on and off again while it runs.
        let (stream, to) = stream(scene);
        for more in [ON, OFF] {
            let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
            for (daemon, node, peer) in
                [(&scene.daemon1, node1, node2), (&scene.daemon2, node2, node1)]
            {
                daemon.rewrite_config(&scene.setup.config(node, peer, more)).unwrap();
            }
            match more {
                ON => wait_leased(daemons(scene), to, true),
                _ => wait_unmarked(&scene.daemon2, to),
            }
        }
        let before = counters(scene);
        assert!(stream.wait_for(30, SOON));
        let moved = before[1].moved(&scene.daemon2);
        let sent = moved.keys().filter(|it| it.direction() == Direction::Encap);
        assert_eq!(sent.collect::<Vec<_>>(), [&Reason::PodNoLease, &Reason::HostUnmarked]);
        assert_lossless(stream);
        scene.assert_nothing_plain();
    });
}

/// Sends `rounds` datagrams to each of so many ports of a pod from each of these, and hears nothing.
fn scan(from: &Netns, sources: &[u16], to: Ipv4Addr, ports: std::ops::Range<u16>, rounds: u32) {
    let sockets: Vec<UdpSocket> = sources.iter().map(|port| lab_socket(from, *port)).collect();
    for round in 0..rounds {
        if round > 0 {
            thread::sleep(Duration::from_millis(1100));
        }
        for socket in &sockets {
            for port in ports.clone() {
                // A full queue loses one; a scan does not mind.
                let _ = socket.send_to(&[1; 16], (to, port));
            }
        }
    }
}

/// The map has room for 1,024 leases, so 64 flows without an answer at a time.
#[test]
fn a_scan_evicts_no_lease() {
    const CONFIG: &str = "leases: {seconds: 9, size: 1024, unanswered_udp: true}\n";
    const PLACES: usize = 64;
    scene(Setup::VERIFIED, CONFIG).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let talks = scene.talks();
        scene.assert_leased(&talks);
        let is_talks = |lease: &&Lease| talks.iter().any(|talk| lease.ends_at(talk.client));
        let wait_talks_leased = |daemon: &Daemon| {
            until("both talks are leased both ways", SOON, || {
                (leases(daemon).iter().filter(is_talks).count() == 4).then_some(())
            });
        };
        daemons(scene).into_iter().for_each(wait_talks_leased);
        // Single packets: none is granted anything, nor takes a place.
        let before = counters(scene);
        scan(&perf.netns, &[9001, 9002], sit.ip, 10_000..50_000, 1);
        assert!(talks.iter().all(|talk| talk.wait_for(100, SOON)));
        let none = [
            Reason::HostUnanswered,
            Reason::HostUnansweredLeaseGranted,
            Reason::GrantUnanswered,
            Reason::GrantUnansweredGiven,
        ];
        for (before, daemon) in before.iter().zip(daemons(scene)) {
            let mut moved = before.moved(daemon);
            moved.retain(|reason, _| none.contains(reason));
            assert_eq!(moved, BTreeMap::new());
        }
        // Slowly, so that each flow might have a lease: there are so many places.
        let before = counters(scene);
        scan(&perf.netns, &[9003], sit.ip, 10_000..12_000, 5);
        let granted = [Reason::GrantUnansweredGiven, Reason::HostUnansweredLeaseGranted];
        for ((before, daemon), granted) in before.iter().zip(daemons(scene)).zip(granted) {
            let found = leases(daemon);
            let unanswered = found.iter().filter(|lease| !is_talks(lease)).count();
            assert!(unanswered <= PLACES, "{unanswered} of {found:?}");
            // The list need not show them: on a slow machine they may be over.
            let moved = before.moved(daemon);
            assert!(moved.contains_key(&granted), "{moved:?}");
            wait_talks_leased(daemon);
        }
        assert_all_answer(&talks);
        drop(talks);
        scene.assert_nothing_plain();
    });
}

fn withheld(daemon: &Daemon) -> Option<Value> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let problems = status["problems"].as_array().expect("a list").clone();
    problems.into_iter().find(|problem| problem["code"] == "unanswered-withheld")
}

/// Rules that count or report NEW packets would miss those of a lease. Others' leases stay.
#[test]
fn rules_that_count_or_report_new_packets_withhold_such_leases() {
    let nft = |hook: &str, rule: &str| {
        format!(
            "table ip others {{\nchain watch {{\ntype filter hook {hook} priority 5\n{rule}\n}}\n}}\n"
        )
    };
    scene(Setup::VERIFIED, ON).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let node2 = &scene.lab.node2.netns;
        let talks = scene.talks();
        scene.assert_leased(&talks);
        let (stream, to) = stream(scene);
        wait_leased(daemons(scene), to, true);
        for (rule, named) in [
            ("ct state new limit rate 5/second counter", "`limit`"),
            ("ct state new log", "`log`"),
            ("ct state new log group 1", "`log`"),
            ("ct count over 100000 counter", "`connlimit`"),
        ] {
            node2.exec_with_input("nft", &["-f", "-"], &nft("forward", rule)).unwrap();
            let problem = until("the problem", SOON, || withheld(&scene.daemon2)).to_string();
            let place = format!("{named} in the chain watch (table others)");
            for said in [place.as_str(), "leases.unanswered_udp: false"] {
                assert!(problem.contains(said), "no {said} in {problem}");
            }
            wait_unmarked(&scene.daemon2, to);
            scene.assert_leased(&talks);
            node2.exec("nft", &["delete", "table", "ip", "others"]).unwrap();
            until("no problem", SOON, || withheld(&scene.daemon2).is_none().then_some(()));
            wait_leased(daemons(scene), to, true);
        }
        // The host's own packets are no pod's.
        let own = nft("input", "ct state new limit rate 5/second counter");
        node2.exec_with_input("nft", &["-f", "-"], &own).unwrap();
        let before = Counters::of(&scene.daemon2);
        until("two renewals", SOON, || {
            let moved = before.moved(&scene.daemon2);
            (*moved.get(&Reason::HostUnansweredLeaseGranted)? >= 2).then_some(())
        });
        assert_eq!(withheld(&scene.daemon2), None);
        node2.exec("nft", &["delete", "table", "ip", "others"]).unwrap();
        assert_lossless(stream);
        drop(talks);
        scene.assert_nothing_plain();
    });
}
