//! RPS on the receive queues of the underlay, as `underlay.spread` has it.

use std::fs;

use tunless_lab::{Daemon, Lab, Node};
use tunless_tests::scene::{SOON, Setup, assert_answered, until};

const QUEUE: &str = "/sys/class/net/eth0/queues/rx-0/rps_cpus";

/// A node whose daemon and commands see its interfaces in `/sys`, and the other one.
struct Pair {
    lab: Lab,
    daemon1: Daemon,
    daemon2: Daemon,
}

impl Pair {
    fn new(spread: &str) -> Self {
        let mut lab = Lab::new().build().unwrap();
        lab.node2.netns = lab.node2.netns.with_sysfs();
        let daemon1 = Daemon::start(&lab.node1, &config(&lab.node1, &lab.node2, "off")).unwrap();
        let daemon2 = Daemon::start(&lab.node2, &config(&lab.node2, &lab.node1, spread)).unwrap();
        Self { lab, daemon1, daemon2 }
    }

    /// Which CPUs go on with packets of node2's only queue.
    fn mask(&self) -> u64 {
        let text = self.lab.node2.netns.exec("cat", &[QUEUE]).unwrap();
        u64::from_str_radix(&text.trim().replace(',', ""), 16).unwrap()
    }

    /// Other software sets it.
    fn set(&self, mask: &str) {
        self.lab.node2.netns.exec("sh", &["-c", &format!("echo {mask} > {QUEUE}")]).unwrap();
    }

    fn wait(&self, what: &str, mask: u64) {
        until(&format!("the queue is {what}"), SOON, || (self.mask() == mask).then_some(()));
    }

    fn reconfigure(&mut self, spread: &str) {
        let config = config(&self.lab.node2, &self.lab.node1, spread);
        self.daemon2.replace_config(&config).unwrap();
    }

    fn assert_answered(&self) {
        assert_answered(&self.lab.sit().netns, self.lab.perf().ip);
    }

    fn finish(self) {
        self.daemon1.finish().unwrap();
        self.daemon2.finish().unwrap();
        assert_eq!(self.lab.problems(), Vec::<String>::new());
    }
}

fn config(node: &Node, peer: &Node, spread: &str) -> String {
    let config = Setup::TRUSTED.config(node, peer, "");
    let changed = config.replace("decap: tc", &format!("decap: tc, spread: {spread}"));
    assert_ne!(config, changed);
    changed
}

/// All CPUs of this machine; none if there is but one, over which nothing can be spread.
fn everywhere() -> u64 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let cpus = online.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (first.parse::<u32>().unwrap()..=last.parse().unwrap()).map(|cpu| 1 << cpu).sum::<u64>()
    });
    let all: u64 = cpus.sum();
    if all.count_ones() > 1 { all } else { 0 }
}

#[test]
fn packets_are_spread_and_left_again() {
    let mut pair = Pair::new("rps");
    pair.wait("spread", everywhere());
    pair.assert_answered();
    let status = pair.daemon2.cli_json(&["status"]).unwrap();
    assert_eq!(status["spread"].is_string(), everywhere() != 0, "{status}");

    // A daemon that dies, and another that goes on.
    pair.daemon2.kill9().unwrap();
    pair.daemon2.restart().unwrap();
    assert_eq!(pair.mask(), everywhere());
    pair.reconfigure("off");
    pair.wait("left", 0);
    pair.assert_answered();
    pair.reconfigure("rps");
    pair.wait("spread again", everywhere());

    // `detach` takes it back, be the daemon dead.
    pair.daemon2.kill9().unwrap();
    let output = pair.daemon2.cli(&["detach"]).unwrap();
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    assert_eq!(pair.mask(), 0);
    pair.finish();
}

#[test]
fn masks_of_others_stay_and_are_named() {
    let mut pair = Pair::new("off");
    let listed = |pair: &Pair, code: &str| {
        let output = pair.daemon2.cli(&["status", "-o", "json"]).unwrap();
        output.stdout.contains(code)
    };
    // It was set before.
    pair.set("1");
    pair.reconfigure("rps");
    if everywhere() != 0 {
        until("others' mask is named", SOON, || listed(&pair, "receive-queues").then_some(()));
    }
    assert_eq!(pair.mask(), 1);
    // They let go of it.
    pair.set("0");
    pair.wait("spread", everywhere());
    until("nothing is wrong", SOON, || (!listed(&pair, "receive-queues")).then_some(()));
    // They take it over, and keep it when everything of ours goes.
    pair.set("1");
    if everywhere() != 0 {
        until("their mask is named", SOON, || listed(&pair, "receive-queues").then_some(()));
    }
    pair.daemon2.terminate_and_detach().unwrap();
    assert_eq!(pair.mask(), 1);
    pair.finish();
}

/// `/sys` of a container may show another network namespace: its `eth0` is not ours.
#[test]
fn interfaces_of_another_namespace_are_left_alone() {
    let lab = Lab::new().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let masks = || {
        let queues = fs::read_dir("/sys/class/net").unwrap().map(|it| it.unwrap().path());
        let files = queues.map(|path| path.join("queues/rx-0/rps_cpus"));
        files.map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>()
    };
    let before = masks();
    let daemon = Daemon::start(node2, &config(node2, node1, "rps")).unwrap();
    let problems = daemon.cli_json(&["status"]).unwrap()["problems"].to_string();
    assert!(problems.contains("RPS needs a /sys"), "{problems}");
    assert_eq!(masks(), before);
    daemon.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}
