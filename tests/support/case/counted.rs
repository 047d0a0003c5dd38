//! What must have been counted, and when nodes were seen.

use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr, ops::RangeInclusive};

use dataplane_common::{Counter, Direction, NodeCounter, Reason};

use crate::prog::Counters;

/// What is counted for the node, too, as a packet with a source that is not its own.
const LIES: [Reason; 6] = [
    Reason::DecapMartianSource,
    Reason::DecapOwnSource,
    Reason::DecapForgedSource,
    Reason::DecapMartianToStack,
    Reason::DecapOwnToStack,
    Reason::DecapForgedToStack,
];

/// A node is seen when its packet comes, by the clock of leases.
pub fn judge_last_seen(counters: &Counters, now: RangeInclusive<u64>) -> String {
    let mut wrong = String::new();
    for (address, NodeCounter { last_seen, .. }) in &counters.nodes {
        if *last_seen != 0 && !now.contains(last_seen) {
            let _ = writeln!(wrong, "node {address} was last seen at {last_seen}, not in {now:?}");
        }
    }
    wrong
}

/// What `counters` (all zero before) have too much or too little.
#[must_use]
pub fn difference(
    counters: &Counters,
    counts: &[(Reason, u64)],
    nodes: &[(Ipv4Addr, Direction, u64)],
) -> String {
    let mut wrong = String::new();
    let mut expected = BTreeMap::<Reason, Counter>::new();
    for (reason, bytes) in counts {
        let counter = expected.entry(*reason).or_default();
        counter.packets += 1;
        counter.bytes += bytes;
    }
    if counters.reasons != expected {
        let _ = writeln!(wrong, "counted {:?}\nexpected {expected:?}", counters.reasons);
    }
    let forged: u64 = counters.nodes.values().map(|node| node.forged).sum();
    let lies = counts.iter().filter(|(reason, _)| LIES.contains(reason)).count() as u64;
    if forged != lies {
        let _ = writeln!(wrong, "{forged} forged packets counted for nodes, expected {lies}");
    }
    for (address, node) in &counters.nodes {
        let mut expected = NodeCounter { forged: node.forged, ..NodeCounter::default() };
        for (_, direction, bytes) in nodes.iter().filter(|(node, ..)| node == address) {
            let counter = match direction {
                Direction::Encap => &mut expected.encap,
                Direction::Decap => &mut expected.decap,
            };
            counter.packets += 1;
            counter.bytes += bytes;
        }
        // Seen just now, or never: the time itself is the kernel's business.
        let seen = (node.last_seen != 0) == (expected.decap.packets != 0);
        expected.last_seen = node.last_seen;
        if *node != expected || !seen {
            let _ = writeln!(
                wrong,
                "node {address} {node:?}\nexpected {expected:?}, seen rightly: {seen}"
            );
        }
    }
    wrong
}
