//! A lab whose node2 runs tunless as a service of a real systemd.

use std::time::Duration;

use tunless_lab::{Daemon, Lab, Node, Systemd, systemd::Entry, traffic::stream::Stream};

use super::{SOON, Setup, assert_answered, stream_between, until};

/// Two nodes: node2's daemon is a service, node1's runs by itself.
pub struct UnderSystemd {
    /// node1.sit's.
    pub daemon1: Daemon,
    /// node2.perf's service manager.
    pub systemd: Systemd,
    /// The lab.
    pub lab: Lab,
}

impl UnderSystemd {
    /// Fast path and netfilter rules: what needs most of the unit's sandbox.
    pub const SETUP: Setup = Setup::VERIFIED;

    /// Boots with a configuration for node2, whose peer is node1. The unit does not run.
    pub fn boot(config: impl FnOnce(&Node, &Node) -> String) -> Self {
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        let systemd = Systemd::boot(&lab.node2, &config(&lab.node2, &lab.node1)).unwrap();
        let daemon1 = Daemon::start(&lab.node1, &good(&lab.node1, &lab.node2)).unwrap();
        Self { daemon1, systemd, lab }
    }

    /// Boots a node2 on which nothing of tunless is installed.
    pub fn without_tunless() -> Self {
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        let systemd = Systemd::boot_without_tunless(&lab.node2).unwrap();
        let daemon1 = Daemon::start(&lab.node1, &good(&lab.node1, &lab.node2)).unwrap();
        Self { daemon1, systemd, lab }
    }

    /// Boots with an accepted configuration, and starts the unit.
    pub fn started() -> Self {
        let scene = Self::boot(good);
        scene.systemd.start().unwrap();
        scene
    }

    /// Writes node2's configuration.
    pub fn configure(&self, config: impl FnOnce(&Node, &Node) -> String) {
        self.systemd.configure(&config(&self.lab.node2, &self.lab.node1)).unwrap();
    }

    /// That pings from node2's pod to node1's are answered.
    pub fn assert_answered(&self) {
        assert_answered(&self.lab.perf().netns, self.lab.sit().ip);
    }

    /// A stream each way between the pods.
    pub fn both_ways(&self) -> [Stream; 2] {
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        [stream_between(perf, sit, 5021), stream_between(sit, perf, 5022)]
    }

    /// Properties of the unit, all at once.
    pub fn assert_properties<const N: usize>(&self, wanted: &[(&str, &str); N]) {
        let found = self.systemd.properties(wanted.map(|(name, _)| name)).unwrap();
        assert_eq!(found, wanted.map(|(_, value)| value), "{:?}", wanted.map(|(name, _)| name));
    }

    /// Waits until the unit is active as another process than `pid`; returns that one.
    pub fn wait_for_successor(&self, pid: &str) -> String {
        let is_new = |it: &str| it != pid && it != "0";
        let successor = self.systemd.wait_property("MainPID", SOON, is_new).unwrap();
        self.systemd.wait_property("ActiveState", SOON, |state| state == "active").unwrap();
        successor
    }

    /// Waits until the daemon wrote an entry with `text` to the journal.
    pub fn wait_for_message(&self, text: &str) -> Entry {
        self.wait_for_entry("tunless", text)
    }

    /// Waits until `identifier` (`tunless`, or `systemd` about it) wrote `text`.
    pub fn wait_for_entry(&self, identifier: &str, text: &str) -> Entry {
        let is_it = |entry: &Entry| entry.identifier == identifier && entry.message.contains(text);
        until(&format!("{identifier} writes {text:?}"), SOON, || {
            self.systemd.journal().unwrap().into_iter().find(is_it)
        })
    }

    /// Ends everything. Nothing may be left, and nothing was sent un-encapsulated.
    pub fn finish(self) {
        assert_eq!(self.lab.plain_packets_on_wire().unwrap(), 0);
        self.systemd.finish().unwrap();
        self.daemon1.finish().unwrap();
        assert_eq!(self.lab.problems(), Vec::<String>::new());
    }
}

/// A configuration that is accepted, with one route.
pub fn good(node: &Node, peer: &Node) -> String {
    UnderSystemd::SETUP.config(node, peer, "")
}

/// A configuration whose last line is refused.
pub fn refused(node: &Node, peer: &Node) -> String {
    UnderSystemd::SETUP.config(node, peer, "bogus: 1\n")
}

/// When systemd started the unit's process, each time.
pub fn starts(systemd: &Systemd) -> Vec<Duration> {
    let journal = systemd.journal().unwrap().into_iter();
    let starts = journal
        .filter(|entry| entry.identifier == "systemd" && entry.message.starts_with("Starting "));
    starts.map(|entry| entry.at).collect()
}
