//! Another version takes over: it finds maps that it cannot read. Whatever becomes of the
//! source of its routes meanwhile, no packet is lost.
//!
//! One binary plays both versions: the directory of its maps gets the name of another version
//! before each start. To the daemon that is the same as maps of another layout, because of those
//! it reads only what is frozen (`bpf/frozen.rs`, tested there on bytes of 0.1).
//!
//! | | the daemon finds |
//! |---|---|
//! | up | another version's maps and no symlink `serving`, as 0.1 leaves them |
//! | down | another version's maps, and `serving` names them, as this version leaves them |

use std::{
    fs,
    net::SocketAddrV4,
    os::unix::fs::symlink,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tunless_lab::{Daemon, Lab, Node, service::Protocol, traffic::conversation::Conversation};
use tunless_tests::{
    bird::PATIENCE,
    route_source::{POOL, RouteSource},
    scene::{SOON, Setup, answers, assert_lossless, lossless, stream_between, until},
};

/// The name of another version's directory of maps.
const OTHER: &str = "vdeadbeef";
/// How long a silent source stays silent, from the start of the daemon; longer if the daemon is
/// not ready by then, because it must not wait for the source.
const SILENCE: Duration = Duration::from_secs(5);

/// What becomes of the source while the version changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    There,
    /// It accepts connections, and answers nothing before [`SILENCE`] is over.
    Silent,
    /// It refuses, from before the change up until after the change back.
    Down,
}

/// Which version takes over from which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Up,
    DownAgain,
}

/// The directory of this version's maps.
fn version(node: &Node) -> PathBuf {
    let entries = fs::read_dir(&node.bpffs).unwrap().map(|entry| entry.unwrap().path());
    let is_version = |path: &PathBuf| {
        !path.is_symlink() && path.file_name().unwrap().to_str().unwrap().starts_with('v')
    };
    let mut versions = entries.filter(is_version);
    let version = versions.next().unwrap();
    assert_eq!(versions.next(), None, "one version alone");
    version
}

/// Leaves the node's pins as another version would; returns that version's directory.
fn leave_as_another_version(node: &Node, direction: Direction) -> PathBuf {
    let other = node.bpffs.join(OTHER);
    fs::rename(version(node), &other).unwrap();
    let serving = node.bpffs.join("serving");
    fs::remove_file(&serving).unwrap();
    if direction == Direction::DownAgain {
        symlink(OTHER, &serving).unwrap();
    }
    other
}

/// Two nodes that learn their routes from one source. Daemons go before the lab they are in.
struct Cluster {
    daemon1: Daemon,
    daemon2: Daemon,
    source: RouteSource,
    name: &'static str,
    lab: Lab,
    setup: Setup,
}

impl Cluster {
    fn start(name: &'static str, setup: Setup) -> Self {
        println!("{name}, {setup:?}");
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        let (node1, node2) = (&lab.node1, &lab.node2);
        let source = RouteSource::start(name, &lab);
        let daemon1 = Daemon::start(node1, &source.config(setup, &lab, node1, node2)).unwrap();
        let daemon2 = Daemon::start(node2, &source.config(setup, &lab, node2, node1)).unwrap();
        source.write_kernel_routes(&lab);
        let (perf, sit) = (lab.perf(), lab.sit());
        until("both nodes know each other", PATIENCE, || {
            answers(&perf.netns, sit.ip).then_some(())
        });
        Self { daemon1, daemon2, source, name, lab, setup }
    }

    /// The version on node 2 changes once.
    fn change(&mut self, fate: Fate, direction: Direction, talks: &[Conversation; 2]) {
        let Self { daemon2, source, lab, .. } = self;
        let (perf, sit) = (lab.perf(), lab.sit());
        let streams = [stream_between(perf, sit, 5001), stream_between(sit, perf, 5002)];
        let answered = talks.each_ref().map(Conversation::answers);
        daemon2.terminate().unwrap();
        let other = leave_as_another_version(&lab.node2, direction);
        match (fate, direction) {
            (Fate::Silent, _) => source.fall_silent(daemon2),
            (Fate::Down, Direction::Up) => source.down(daemon2),
            (Fate::There, _) | (Fate::Down, Direction::DownAgain) => {}
        }
        let started = Instant::now();
        daemon2.launch().unwrap();
        daemon2.wait_notified("READY=1", PATIENCE).unwrap();
        let ready = started.elapsed();
        until("the other version is gone", PATIENCE, || (!other.exists()).then_some(()));
        assert!(version(&lab.node2) != other);
        if fate != Fate::There {
            // It holds up nothing, and `status` says what is waited for.
            let (code, place) = source.problem(daemon2);
            let status = daemon2.cli_json(&["status"]).unwrap();
            assert_eq!(status["ready"], true, "{status}");
            let is_it = |problem: &serde_json::Value| {
                problem["code"] == code && problem["where"].as_str().unwrap().starts_with(&place)
            };
            assert!(status["problems"].as_array().unwrap().iter().any(is_it), "{code}: {status}");
        }
        match (fate, direction) {
            (Fate::Silent, _) => {
                thread::sleep((started + SILENCE).saturating_duration_since(Instant::now()));
                source.speak(daemon2);
            }
            (Fate::Down, Direction::DownAgain) => source.up(daemon2),
            (Fate::There, _) | (Fate::Down, Direction::Up) => {}
        }
        if (fate, direction) != (Fate::Down, Direction::Up) {
            let is_well = |status: &serde_json::Value| {
                status["ready"] == true && status["problems"] == serde_json::json!([])
            };
            daemon2.wait_json(&["status"], PATIENCE, is_well).unwrap();
        }
        let [there, back] = streams.map(lossless);
        for (talk, direction) in talks.iter().zip(["there", "back"]) {
            assert!(talk.wait_for(20, SOON), "the TCP connection {direction} stands still");
        }
        let answers = [0, 1].map(|at| talks[at].answers() - answered[at]);
        println!(
            "cell: {}, {}, {}, {fate:?}, {direction:?}: {}/{} and {}/{} lost, {answers:?} answers \
             by TCP, READY after {:.1} s",
            self.name,
            self.setup.decap,
            self.setup.fastpath,
            there.lost.len(),
            there.sent,
            back.lost.len(),
            back.sent,
            ready.as_secs_f64(),
        );
    }

    fn finish(self) {
        let Self { daemon1, daemon2, source, lab, .. } = self;
        daemon1.finish().unwrap();
        daemon2.finish().unwrap();
        drop(source);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// The version changes up and down with each fate of one source. Two TCP connections outlive all
/// of it.
fn upgrade(name: &'static str, setup: Setup) {
    let mut cluster = Cluster::start(name, setup);
    // Without a route a pod's packet takes the default route, as with tunl0.
    let before = cluster.lab.plain_packets_on_wire().unwrap();
    let (perf, sit) = (cluster.lab.perf().clone(), cluster.lab.sit().clone());
    let talks = [(&perf, &sit), (&sit, &perf)].map(|(client, server)| {
        let address = SocketAddrV4::new(server.ip, 7000);
        Conversation::start(Protocol::Tcp, &client.netns, address, &server.netns, 7000).unwrap()
    });
    let fates: &[Fate] = match cluster.source.can_be_away() {
        true => &[Fate::There, Fate::Silent, Fate::Down],
        false => &[Fate::There],
    };
    for fate in fates {
        for direction in [Direction::Up, Direction::DownAgain] {
            cluster.change(*fate, direction, &talks);
        }
    }
    drop(talks);
    assert_eq!(cluster.lab.plain_packets_on_wire().unwrap(), before);
    cluster.finish();
}

#[test]
fn no_packet_is_lost_with_routes_from_the_file() {
    for setup in Setup::BOTH_VERIFIED {
        upgrade("file", setup);
    }
}

#[test]
fn no_packet_is_lost_with_routes_from_the_kernel() {
    for setup in Setup::BOTH_VERIFIED {
        upgrade("kernel", setup);
    }
}

#[test]
fn no_packet_is_lost_with_routes_from_bird() {
    for setup in Setup::BOTH_VERIFIED {
        upgrade("bird", setup);
    }
}

#[test]
fn no_packet_is_lost_with_routes_from_etcd() {
    for setup in Setup::BOTH_VERIFIED {
        upgrade("etcd", setup);
    }
}

#[test]
fn no_packet_is_lost_with_routes_from_kubernetes() {
    for setup in Setup::BOTH_VERIFIED {
        upgrade("kubernetes", setup);
    }
}

#[test]
fn no_packet_is_lost_without_a_fast_path() {
    for setup in [Setup::OFF, Setup::OFF_XDP] {
        upgrade("file", setup);
    }
}

/// Killed at any moment while it takes over from another version, with its source down: the
/// next one goes on from there.
#[test]
fn a_daemon_killed_at_any_step_of_an_upgrade_loses_nothing() {
    for setup in [Setup::VERIFIED, Setup::VERIFIED_XDP] {
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
        let mut source = RouteSource::start("kubernetes", &lab);
        let daemon1 = Daemon::start(&node1, &source.config(setup, &lab, &node1, &node2)).unwrap();
        let mut daemon2 =
            Daemon::start(&node2, &source.config(setup, &lab, &node2, &node1)).unwrap();
        let (perf, sit) = (lab.perf().clone(), lab.sit().clone());
        until("they talk", PATIENCE, || answers(&perf.netns, sit.ip).then_some(()));
        let routes = daemon2.cli_json(&["routes", "list"]).unwrap()["items"].clone();
        let before = lab.plain_packets_on_wire().unwrap();
        source.down(&daemon2);
        let stream = stream_between(&perf, &sit, 5001);
        let back = stream_between(&sit, &perf, 5002);
        daemon2.terminate().unwrap();
        for name in [OTHER, "v0badcafe"] {
            let other = node2.bpffs.join(name);
            fs::rename(version(&node2), &other).unwrap();
            // A start takes some 200 ms; each is killed a little later than the one before.
            for delay in (0..400).step_by(13) {
                daemon2.launch().unwrap();
                thread::sleep(Duration::from_millis(delay));
                daemon2.kill9().unwrap();
            }
            daemon2.restart().unwrap();
            until("the other version is gone", PATIENCE, || (!other.exists()).then_some(()));
            let now = daemon2.cli_json(&["routes", "list"]).unwrap()["items"].clone();
            let node = |routes: &serde_json::Value| routes[0]["node"].clone();
            assert_eq!(node(&now), node(&routes));
            daemon2.terminate().unwrap();
        }
        assert_lossless(stream);
        assert_lossless(back);
        daemon2.restart().unwrap();
        source.up(&daemon2);
        assert_eq!(lab.plain_packets_on_wire().unwrap(), before);
        daemon1.finish().unwrap();
        daemon2.finish().unwrap();
        drop(source);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// No source has ever reported, and the file only names the pool: a pod's packets do not leave
/// unencapsulated by the default route.
#[test]
fn before_the_first_report_nothing_leaves_unencapsulated() {
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let mut source = RouteSource::start("kubernetes", &lab);
    let RouteSource::Kubernetes(api) = &mut source else { unreachable!() };
    api.down();
    let pools = format!("routes: {{pools: [{{cidr: {POOL}, encap: ipip}}]}}\n");
    let config = |node: &Node, peer: &Node| source.config(Setup::OFF, &lab, node, peer) + &pools;
    let (first, second) = (config(&node1, &node2), config(&node2, &node1));
    let daemon2 = Daemon::start(&node2, &second).unwrap();
    let (perf, sit) = (lab.perf().clone(), lab.sit().clone());
    assert!(!answers(&perf.netns, sit.ip));
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 0);
    source.up(&daemon2);
    let daemon1 = Daemon::start(&node1, &first).unwrap();
    until("both nodes know each other", PATIENCE, || answers(&perf.netns, sit.ip).then_some(()));
    let none_is_left = || {
        let routes = node2.netns.ip("route show type unreachable").unwrap();
        (!routes.contains(POOL)).then_some(())
    };
    until("the pool is reachable where routes lead", PATIENCE, none_is_left);
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 0);
    daemon1.finish().unwrap();
    daemon2.finish().unwrap();
}
