//! Nodes that packets are sent to and that are not heard: how many since they were last heard.
//!
//! Programs count what goes to a node and note when a packet last came from it. Between two looks at
//! these ([`Silence::look`]) nothing else is noted, so that no packet costs more for it. What was sent
//! between the last packet of a node and the next look is not counted as sent since.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::NodeCounter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::bpf::Maps;

/// A node that was sent to and not heard since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Silent {
    /// When a packet last came from it: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_seen: u64,
    /// How many packets had been sent to it when that was noticed.
    pub sent_before: u64,
}

/// All such nodes, by underlay address.
pub type SilentNodes = BTreeMap<Ipv4Addr, Silent>;

/// What the last looks showed of each node.
#[derive(Debug, Default)]
pub struct Silence {
    heard: BTreeMap<Ipv4Addr, Silent>,
    silent: SilentNodes,
}

impl Silence {
    /// Takes in what is counted for all nodes now.
    pub fn look(&mut self, counted: impl IntoIterator<Item = (Ipv4Addr, NodeCounter)>) {
        let (mut heard, mut silent) = (BTreeMap::new(), SilentNodes::new());
        for (node, NodeCounter { encap, last_seen, .. }) in counted {
            let now = Silent { last_seen, sent_before: encap.packets };
            let known = self.heard.get(&node).filter(|known| known.last_seen == last_seen);
            // Fewer than before: the counters began anew.
            let since = match known {
                Some(known) if known.sent_before > encap.packets => {
                    Silent { sent_before: 0, ..now }
                }
                Some(known) => *known,
                None => now,
            };
            heard.insert(node, since);
            // One that was never heard needs no note: all that was sent to it was sent since.
            if last_seen != 0 && encap.packets > since.sent_before {
                silent.insert(node, since);
            }
        }
        self.heard = heard;
        self.silent = silent;
    }

    /// Returns the nodes that were sent to since they were last heard.
    #[must_use]
    pub const fn nodes(&self) -> &SilentNodes {
        &self.silent
    }
}

/// How many packets were sent to a node since one last came from it, by what is counted now and what the
/// daemon last noticed. `None`: that is not known. `is_fresh`: the daemon has looked a moment ago.
#[must_use]
pub fn sent_since_heard(
    counted: &NodeCounter,
    silent: Option<&Silent>,
    is_fresh: bool,
) -> Option<u64> {
    let sent = counted.encap.packets;
    if counted.last_seen == 0 {
        return Some(sent);
    }
    match silent.filter(|silent| silent.last_seen == counted.last_seen) {
        Some(silent) => Some(sent.checked_sub(silent.sent_before).unwrap_or(sent)),
        // It was heard since, or nothing was sent to it.
        None => is_fresh.then_some(0),
    }
}

impl Daemon {
    /// Writes what nodes are called, once every source has reported: until then an earlier run knew more.
    pub(super) fn name_nodes(&mut self) {
        let claims = self.decider.claims();
        if claims.have_spoken() {
            self.reporter.name_nodes(claims.names());
        }
    }

    /// Looks at what is counted for each node.
    pub(super) fn look_at_nodes(&mut self) {
        let Some(applier) = &self.applier else { return };
        match counted(applier.maps()) {
            Ok(counted) => {
                self.silence.look(counted);
                self.reporter.set_silent(self.silence.nodes());
            }
            Err(error) => tracing::debug!("which nodes are silent is not known: {error:#}"),
        }
    }
}

fn counted(maps: &Maps) -> anyhow::Result<Vec<(Ipv4Addr, NodeCounter)>> {
    maps.nodes
        .iter()
        .map(|entry| {
            let (node, (_, index)) = entry?;
            Ok((node.into(), maps.node_counters.sum(index)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use dataplane_common::Counter;

    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);

    fn counted(sent: u64, last_seen: u64) -> NodeCounter {
        let encap = Counter { packets: sent, bytes: 100 * sent };
        NodeCounter { encap, last_seen, ..NodeCounter::default() }
    }

    /// What `nodes list` shows after these looks, each so much sent and last seen then.
    fn shown(looks: &[(u64, u64)], now: (u64, u64)) -> Option<u64> {
        let mut silence = Silence::default();
        for (sent, last_seen) in looks {
            silence.look([(NODE, counted(*sent, *last_seen))]);
        }
        sent_since_heard(&counted(now.0, now.1), silence.nodes().get(&NODE), true)
    }

    #[test]
    fn what_was_sent_counts_from_the_look_that_saw_it_heard() {
        assert_eq!(shown(&[(10, 5)], (10, 5)), Some(0));
        assert_eq!(shown(&[(10, 5), (14, 5)], (14, 5)), Some(4));
        assert_eq!(shown(&[(10, 5), (14, 5), (19, 5)], (21, 5)), Some(11));
        assert_eq!(shown(&[(10, 5), (14, 5)], (20, 6)), Some(0), "heard a moment ago");
        assert_eq!(shown(&[(10, 5), (14, 5), (20, 6), (22, 6)], (22, 6)), Some(2));
        assert_eq!(shown(&[(10, 5)], (300, 5)), Some(0), "before the next look");
    }

    #[test]
    fn a_node_that_was_never_heard_was_sent_all_since() {
        assert_eq!(shown(&[], (7, 0)), Some(7));
        assert_eq!(shown(&[(5, 0), (6, 0)], (7, 0)), Some(7));
    }

    #[test]
    fn counters_that_begin_anew_are_no_riddle() {
        assert_eq!(shown(&[(10, 5), (14, 5), (3, 5)], (3, 5)), Some(3));
        assert_eq!(shown(&[(10, 5), (14, 5)], (3, 5)), Some(3), "flushed since the last look");
    }

    #[test]
    fn without_a_daemon_only_what_it_noticed_is_known() {
        let mut silence = Silence::default();
        silence.look([(NODE, counted(10, 5))]);
        silence.look([(NODE, counted(14, 5))]);
        let noticed = silence.nodes().get(&NODE);
        assert_eq!(sent_since_heard(&counted(30, 5), noticed, false), Some(20));
        assert_eq!(sent_since_heard(&counted(30, 6), noticed, false), None);
        assert_eq!(sent_since_heard(&counted(30, 6), None, false), None);
        assert_eq!(sent_since_heard(&counted(30, 0), None, false), Some(30));
    }

    #[test]
    fn a_node_that_is_gone_is_forgotten() {
        let mut silence = Silence::default();
        silence.look([(NODE, counted(10, 5))]);
        silence.look([(NODE, counted(14, 5))]);
        silence.look([]);
        assert!(silence.nodes().is_empty());
        silence.look([(NODE, counted(2, 5))]);
        assert!(silence.nodes().is_empty(), "it is new");
    }
}
