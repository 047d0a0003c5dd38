//! Rules of the host about encapsulated packets. Those that tunless takes in or sends pass by them.
//!
//! A packet of a node is followed as the kernel would take it: from the chains that the kernel calls
//! itself for packets to and from this host, through jumps, sets and verdict maps. A rule counts if it
//! does more than accept, and if it, or the rules that led to it, name protocol 4 or a node. What an
//! earlier rule accepts by such a name does not get there. So Felix's own rules do not count: it accepts
//! the hosts of the cluster, and drops IPIP of others.
//!
//! A rule with a condition about addresses that cannot be read here (an ipset of iptables) does not
//! count, and if it accepts, what it would take is not followed.

mod expressions;
pub mod packet;
pub mod rule;
pub mod saved;
pub mod set;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

pub use self::{
    packet::{Direction, Packets},
    rule::{Rule, Sets, Verdict},
    set::Elements,
};
use super::rules::TABLE;
use crate::kernel::BaseChain;

/// So deep chains call each other at most (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;
/// So many chains are gone through for one hook, a chain that is called twice counted twice.
const MOST_VISITS: usize = 4096;

/// A chain with rules about encapsulated packets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OuterRules {
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// How many there are.
    pub rules: usize,
}

/// Returns which encapsulated packets would pass the chain, if tunless did not take them.
#[must_use]
pub fn sees(chain: &BaseChain) -> Option<Direction> {
    if chain.table == TABLE {
        return None;
    }
    // `enum nf_inet_hooks`: packets that are forwarded are not encapsulated ones of ours.
    match chain.hook {
        0 | 1 => Some(Direction::In),
        3 | 4 => Some(Direction::Out),
        _ => None,
    }
}

/// The chains and sets of a table, as far as a packet may meet them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ruleset {
    /// By name.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// By name; those that cannot be read are missing.
    pub sets: Sets,
}

impl Ruleset {
    /// Returns the chains to which the rules of a chain lead packets of these.
    #[must_use]
    pub fn targets(&self, chain: &str, packets: &Packets) -> BTreeSet<String> {
        let nodes: Vec<Ipv4Addr> = packets.nodes.iter().copied().collect();
        let rules = self.chains.get(chain).into_iter().flatten();
        let outcomes = rules.flat_map(|rule| {
            let found = rule.matches(packets, &nodes, &self.sets);
            let has_any = !found.nodes.is_empty();
            let outcomes = has_any.then(|| rule.outcomes(packets, &found, &self.sets));
            outcomes.unwrap_or_default()
        });
        outcomes.filter_map(|(_, verdict)| verdict.target().map(str::to_owned)).collect()
    }

    /// Returns the rules about these packets that they would meet from this chain on, as chain and
    /// place. `drops`: the policy of that chain.
    #[must_use]
    pub fn concerning(
        &self,
        base: &str,
        drops: bool,
        packets: &Packets,
    ) -> BTreeSet<(String, usize)> {
        let mut walk = Walk { ruleset: self, packets, drops, found: BTreeSet::new(), visits: 0 };
        walk.chain(base, packets.nodes.iter().copied().collect(), Path::default(), 0);
        walk.found
    }
}

/// What the rules that led to a chain have decided.
#[derive(Clone, Copy, Debug)]
struct Path {
    is_about: bool,
    is_certain: bool,
    is_unreadable: bool,
}

impl Default for Path {
    fn default() -> Self {
        Self { is_about: false, is_certain: true, is_unreadable: false }
    }
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    packets: &'a Packets,
    drops: bool,
    found: BTreeSet<(String, usize)>,
    visits: usize,
}

impl Walk<'_> {
    /// Goes through a chain with the packets of these nodes. Returns those of which it accepts some:
    /// they do not go on.
    fn chain(
        &mut self,
        name: &str,
        mut nodes: Vec<Ipv4Addr>,
        path: Path,
        depth: usize,
    ) -> BTreeSet<Ipv4Addr> {
        let mut accepted = BTreeSet::new();
        self.visits += 1;
        if depth > DEEPEST || self.visits > MOST_VISITS {
            return accepted;
        }
        let (ruleset, packets) = (self.ruleset, self.packets);
        for (place, rule) in ruleset.chains.get(name).into_iter().flatten().enumerate() {
            let found = rule.matches(packets, &nodes, &ruleset.sets);
            if found.nodes.is_empty() {
                continue;
            }
            if rule.acts && (found.is_about || path.is_about) {
                self.add(name, place, found.is_unreadable || path.is_unreadable);
            }
            for (outcome, verdict) in rule.outcomes(packets, &found, &ruleset.sets) {
                let now = Path {
                    is_about: path.is_about || outcome.is_about,
                    is_certain: path.is_certain && outcome.is_certain,
                    is_unreadable: path.is_unreadable || outcome.is_unreadable,
                };
                // Some of their packets do not come to the next rule, and it is not by chance.
                let mut leaves = now.is_about || now.is_certain;
                match verdict {
                    Verdict::Continue => leaves = false,
                    Verdict::Accept => {
                        accepted.extend(outcome.nodes.iter().filter(|_| leaves));
                    }
                    Verdict::Stop => {
                        leaves = false;
                        if now.is_about {
                            self.add(name, place, now.is_unreadable);
                        }
                    }
                    // The policy of the chain decides.
                    Verdict::Return if depth == 0 && self.drops && now.is_about => {
                        self.add(name, place, now.is_unreadable);
                    }
                    Verdict::Return => {}
                    Verdict::Jump(chain) => {
                        let taken = self.chain(&chain, outcome.nodes.clone(), now, depth + 1);
                        nodes.retain(|node| !taken.contains(node));
                        accepted.extend(taken);
                        leaves = false;
                    }
                    Verdict::Goto(chain) => {
                        accepted.extend(self.chain(&chain, outcome.nodes.clone(), now, depth + 1));
                    }
                }
                if leaves {
                    nodes.retain(|node| !outcome.nodes.contains(node));
                }
            }
        }
        accepted
    }

    fn add(&mut self, chain: &str, place: usize, is_unreadable: bool) {
        if !is_unreadable {
            self.found.insert((chain.to_owned(), place));
        }
    }
}
