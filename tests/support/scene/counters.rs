//! The counters of a node, compared over time.

use std::{collections::BTreeMap, time::Duration};

use dataplane_common::{Reason, Verdict};
use tunless_lab::Daemon;

use super::until;

/// What ARP and the nodes' own conversations count at any moment.
const NOISE: [Reason; 3] = [Reason::DecapNotIpv4, Reason::DecapNotIpip, Reason::PodNotIpv4];

/// Packets by reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters(BTreeMap<Reason, u64>);

impl Counters {
    /// As `tunless counters list` shows them now.
    pub fn of(daemon: &Daemon) -> Self {
        let answer = daemon.cli_json(&["counters", "list"]).unwrap();
        let items = answer["items"].as_array().expect("a list");
        let packets = |reason: &Reason| {
            let item = items.iter().find(|item| item["reason"] == reason.as_str());
            let item = item.unwrap_or_else(|| panic!("{} is listed", reason.as_str()));
            (*reason, item["packets"].as_u64().expect("a number"))
        };
        Self(Reason::ALL.iter().map(packets).collect())
    }

    /// How often `reason` was counted.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.0[&reason]
    }

    /// What was counted since, without what is always counted a little.
    pub fn moved(&self, daemon: &Daemon) -> BTreeMap<Reason, u64> {
        let now = Self::of(daemon);
        let difference = |(reason, packets): (&Reason, &u64)| {
            let more = packets - self.packets(*reason);
            (more > 0 && !NOISE.contains(reason)).then_some((*reason, more))
        };
        now.0.iter().filter_map(difference).collect()
    }

    /// That exactly this was counted since.
    pub fn assert_moved(&self, daemon: &Daemon, expected: &[(Reason, u64)]) {
        assert_eq!(self.moved(daemon), expected.iter().copied().collect());
    }

    /// Waits until `reason` was counted `more` often since, and asserts that
    /// nothing else was.
    pub fn wait_for_only(&self, daemon: &Daemon, reason: Reason, more: u64, timeout: Duration) {
        until(reason.as_str(), timeout, || {
            let now = Self::of(daemon);
            (now.packets(reason) - self.packets(reason) >= more).then_some(())
        });
        if !NOISE.contains(&reason) {
            self.assert_moved(daemon, &[(reason, more)]);
        }
    }

    /// That no packet was dropped since.
    pub fn assert_nothing_dropped(&self, daemon: &Daemon) {
        let mut moved = self.moved(daemon);
        moved.retain(|reason, _| reason.verdict() == Verdict::Dropped);
        assert_eq!(moved, BTreeMap::new());
    }
}
