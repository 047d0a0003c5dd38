//! Which path MTU is believed.
//!
//! The kernel takes a "fragmentation needed" about any packet of protocol 4 for one that it has sent
//! itself: our socket makes it (`net/ipv4/raw.c`, `raw_v4_input`). So anybody who can write an ICMP
//! message can make a path look narrow. A learnt MTU counts from the moment a message quoted a packet
//! that we could have sent, and only down to what that message said. What is narrower in truth drops
//! our next large packet, and answers it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::Mtu;

use crate::kernel::Path;

/// What credible messages have said of the paths to nodes.
#[derive(Default)]
pub struct Said {
    least: BTreeMap<Ipv4Addr, Mtu>,
    /// Whether no messages are heard: then the kernel is believed.
    is_deaf: bool,
}

impl Said {
    /// For a daemon that hears no messages.
    #[must_use]
    pub fn deaf() -> Self {
        Self { is_deaf: true, ..Self::default() }
    }

    /// A message quoted a packet of ours to `node`: the path takes no more than `mtu`.
    pub fn hear(&mut self, node: Ipv4Addr, mtu: Mtu) {
        let least = self.least.entry(node).or_insert(mtu);
        *least = mtu.min(*least);
    }

    /// Returns the path to use: what the kernel `answered`, with the MTU that is believed. `known`
    /// is the path used so far. What the kernel had learnt before we looked first is believed.
    pub fn judge(&mut self, node: Ipv4Addr, answered: Path, known: Option<&Path>) -> Path {
        let Some(kernels) = answered.mtu.filter(|_| answered.is_learnt) else {
            self.least.remove(&node);
            return answered;
        };
        if known.is_none() {
            self.hear(node, kernels);
        }
        if self.is_deaf {
            return answered;
        }
        match (self.least.get(&node), known) {
            (Some(least), _) => Path { mtu: Some(kernels.max(*least)), ..answered },
            (None, Some(known)) => Path { mtu: known.mtu, is_learnt: known.is_learnt, ..answered },
            (None, None) => answered,
        }
    }

    /// Forgets nodes for which `is_wanted` is false.
    pub fn keep(&mut self, is_wanted: impl Fn(Ipv4Addr) -> bool) {
        self.least.retain(|node, _| is_wanted(*node));
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::IfIndex;

    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    const OTHER: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);

    fn path(mtu: Option<u32>, is_learnt: bool) -> Path {
        Path { ifindex: IfIndex(2), next_hop: NODE, source: None, mtu: mtu.map(Mtu), is_learnt }
    }

    /// Each line: what was said before, what the kernel answers, the MTU used then.
    #[test]
    fn only_what_was_said_of_our_packets_counts() {
        let learnt = |mtu| path(Some(mtu), true);
        let mut said = Said::default();
        let mut known = None;
        type Step = (&'static [(Ipv4Addr, u32)], Path, Option<u32>);
        let steps: [Step; 12] = [
            (&[], path(None, false), None),
            // Forged about a packet that we would not send, or about another node's path.
            (&[], learnt(552), None),
            (&[(OTHER, 552)], learnt(552), None),
            // A router speaks; what was forged before does not count with it.
            (&[(NODE, 1400)], learnt(552), Some(1400)),
            (&[], learnt(552), Some(1400)),
            (&[(NODE, 1300)], learnt(552), Some(1300)),
            // The kernel forbids less than `min_pmtu`.
            (&[(NODE, 68)], learnt(552), Some(552)),
            // It forgets; what comes then has to be said anew.
            (&[], path(None, false), None),
            (&[], learnt(600), None),
            (&[(NODE, 1200)], learnt(600), Some(1200)),
            // The route's own MTU is the administrator's.
            (&[], path(Some(1000), false), Some(1000)),
            (&[], learnt(600), Some(1000)),
        ];
        for (line, (heard, answered, expected)) in steps.into_iter().enumerate() {
            for (node, mtu) in heard {
                said.hear(*node, Mtu(*mtu));
            }
            let used = said.judge(NODE, answered, known.as_ref());
            assert_eq!(used.mtu, expected.map(Mtu), "line {line}");
            known = Some(used);
        }
    }

    /// After a restart it is not known who said it.
    #[test]
    fn what_the_kernel_knew_before_us_is_believed() {
        let learnt = path(Some(1400), true);
        let mut said = Said::default();
        let known = said.judge(NODE, learnt, None);
        assert_eq!(known, learnt);
        assert_eq!(said.judge(NODE, path(Some(552), true), Some(&known)).mtu, Some(Mtu(1400)));
        said.keep(|node| node == OTHER);
        assert!(said.least.is_empty());
        let unheard = path(Some(552), true);
        assert_eq!(Said::deaf().judge(NODE, unheard, Some(&known)), unheard);
    }
}
