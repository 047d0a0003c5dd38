//! A rule of nftables, read as far as it decides about encapsulated packets.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{
    packet::{Byte, Operation, Packets, Value},
    set::{Elements, SLOT},
};
use crate::kernel::Attributes;

/// `NFTA_DATA_VERDICT`.
const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`, `_CHAIN`.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// What a rule does at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// The packet goes on behind this hook's chain.
    Accept,
    /// It does not, or another program decides.
    Stop,
    /// To the calling chain, or to the policy of a chain that the kernel calls.
    Return,
    /// Through another chain, and then on with the next rule.
    Jump(String),
    /// To another chain.
    Goto(String),
    /// On with the next rule.
    Continue,
}

impl Verdict {
    /// Reads `NFTA_DATA_*`; `None`: it is a value.
    #[must_use]
    pub fn read(data: &Attributes) -> Option<Self> {
        let verdict = data.inside(DATA_VERDICT);
        let chain = || verdict.text(VERDICT_CHAIN).unwrap_or_default().to_owned();
        // `enum nft_verdicts`, `NF_ACCEPT`.
        Some(match verdict.number(VERDICT_CODE)?.cast_signed() {
            -1 | -2 => Self::Continue,
            -3 => Self::Jump(chain()),
            -4 => Self::Goto(chain()),
            -5 => Self::Return,
            1 => Self::Accept,
            _ => Self::Stop,
        })
    }

    /// Returns the chain that it leads to.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Stop | Self::Return | Self::Continue => None,
        }
    }
}

/// Something that a packet has to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Compare(Value, Operation, Vec<u8>),
    Range { value: Value, is_outside: bool, from: Vec<u8>, to: Vec<u8> },
    Lookup { key: Vec<Value>, set: String, is_outside: bool },
}

/// A rule, as far as it is about encapsulated packets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rule {
    conditions: Vec<Condition>,
    /// There are conditions about something else: some of the packets meet them, maybe.
    pub(super) is_partial: bool,
    /// There are conditions that may be about addresses, in a form that is not read here.
    pub(super) is_unreadable: bool,
    /// It changes the fate of a packet, or how the kernel goes on with it.
    pub acts: bool,
    /// What it does at its end.
    pub verdict: Option<Verdict>,
    /// A map of verdicts, and the key.
    pub(super) map: Option<(Vec<Value>, String)>,
}

/// Which packets meet the conditions of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// Those of these nodes, maybe not all of each.
    pub nodes: Vec<Ipv4Addr>,
    /// It tells them from other packets: by the protocol or a node's address.
    pub is_about: bool,
    /// It is certain that all packets of these nodes meet them.
    pub is_certain: bool,
    /// It is not known whether any does.
    pub is_unreadable: bool,
}

/// The sets of a table.
pub type Sets = BTreeMap<String, Elements>;

impl Rule {
    /// Adds a condition; `None`: one about something that differs.
    pub(super) fn add(&mut self, condition: Option<Condition>) {
        match condition {
            Some(condition) => self.conditions.push(condition),
            None => self.is_partial = true,
        }
    }

    /// Adds what a match of iptables asks for.
    pub(super) fn ask(&mut self, name: &str) {
        match name {
            "comment" => {}
            // They may be about addresses.
            "set" | "iprange" | "bpf" | "u32" | "string" => self.is_unreadable = true,
            _ => self.is_partial = true,
        }
    }

    /// Returns the sets that it asks.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        let asked = self.conditions.iter().filter_map(|condition| match condition {
            Condition::Lookup { set, .. } => Some(set.as_str()),
            Condition::Compare(..) | Condition::Range { .. } => None,
        });
        let map = self.map.iter().filter(|(key, _)| !key.contains(&Value::Absent));
        asked.chain(map.map(|(_, set)| set.as_str()))
    }

    /// Whether any packet may meet the conditions, whatever is in sets.
    #[must_use]
    pub fn may_match(&self, packets: &Packets) -> bool {
        let nodes: Vec<Ipv4Addr> = packets.nodes.iter().copied().collect();
        !self.matches(packets, &nodes, &Sets::new()).nodes.is_empty()
    }

    /// Returns which packets of these nodes meet the conditions, when those of the rules that led
    /// here are met.
    #[must_use]
    pub fn matches(&self, packets: &Packets, nodes: &[Ipv4Addr], sets: &Sets) -> Match {
        let mut found = Match {
            nodes: nodes.to_vec(),
            is_about: false,
            is_certain: !self.is_partial && !self.is_unreadable,
            is_unreadable: self.is_unreadable,
        };
        for condition in &self.conditions {
            if condition.is_readable(sets) {
                let (key, names) = (condition.key(), condition.names());
                found.meet(key, names, |node| condition.holds(packets, node, sets));
            } else {
                found.is_certain = false;
                found.is_unreadable |= names(condition.key());
            }
        }
        found
    }

    /// Returns what becomes of packets that meet the conditions.
    #[must_use]
    pub fn outcomes(&self, packets: &Packets, found: &Match, sets: &Sets) -> Vec<(Match, Verdict)> {
        let mut outcomes: Vec<_> =
            self.verdict.iter().map(|verdict| (found.clone(), verdict.clone())).collect();
        let Some((key, set)) = &self.map else { return outcomes };
        let Some(elements) = sets.get(set) else { return outcomes };
        for element in elements.iter() {
            let Some(verdict) = &element.verdict else { continue };
            let mut outcome = found.clone();
            outcome.meet(key, names(key), |node| match key.as_slice() {
                [Value::Link] => packets.on_link(element.name()),
                key if key.contains(&Value::Absent) => Some(false),
                key => element.has(&bytes(key, node)?),
            });
            if !outcome.nodes.is_empty() {
                outcomes.push((outcome, verdict.clone()));
            }
        }
        outcomes.extend(
            elements
                .otherwise
                .iter()
                .map(|verdict| (Match { is_certain: false, ..found.clone() }, verdict.clone())),
        );
        outcomes
    }
}

impl Match {
    /// Takes in one more condition, about `key`. `names`: it tells these packets from others.
    fn meet(&mut self, key: &[Value], names: bool, holds: impl Fn(Ipv4Addr) -> Option<bool>) {
        let mut is_certain = true;
        let mut is_met = |node| {
            let holds = holds(node);
            is_certain &= holds.is_some();
            holds != Some(false)
        };
        if differs_by_node(key) {
            self.nodes.retain(|node| is_met(*node));
        } else if !is_met(Ipv4Addr::UNSPECIFIED) {
            self.nodes.clear();
        }
        self.is_certain &= is_certain;
        // The bytes that name are always known.
        self.is_about |= names && !self.nodes.is_empty();
    }
}

impl Condition {
    /// What it looks at.
    fn key(&self) -> &[Value] {
        match self {
            Self::Compare(value, ..) | Self::Range { value, .. } => std::slice::from_ref(value),
            Self::Lookup { key, .. } => key,
        }
    }

    fn is_readable(&self, sets: &Sets) -> bool {
        match self {
            Self::Lookup { set, .. } => sets.contains_key(set) || !self.is_possible(),
            Self::Compare(..) | Self::Range { .. } => true,
        }
    }

    /// Whether these packets have what it looks at.
    fn is_possible(&self) -> bool {
        !self.key().contains(&Value::Absent)
    }

    /// Whether it tells encapsulated packets, or those of a node, from others. What is anything
    /// but this is about everything else.
    fn names(&self) -> bool {
        let is_outside = match self {
            Self::Compare(_, operation, _) => *operation == Operation::NotEqual,
            Self::Range { is_outside, .. } | Self::Lookup { is_outside, .. } => *is_outside,
        };
        !is_outside && names(self.key())
    }

    fn holds(&self, packets: &Packets, node: Ipv4Addr, sets: &Sets) -> Option<bool> {
        if !self.is_possible() {
            return Some(false);
        }
        match self {
            Self::Compare(Value::Link, operation, wanted) => {
                let is_it = packets.on_link(wanted);
                match operation {
                    Operation::Equal => is_it,
                    Operation::NotEqual => is_it.map(|is_it| !is_it),
                    _ => None,
                }
            }
            Self::Compare(_, operation, wanted) => {
                operation.holds(&bytes(self.key(), node)?, wanted)
            }
            Self::Range { is_outside, from, to, .. } => {
                let found = bytes(self.key(), node)?;
                let found = found.get(..from.len())?;
                let is_inside =
                    Operation::AtLeast.holds(found, from)? && Operation::AtMost.holds(found, to)?;
                Some(is_inside != *is_outside)
            }
            Self::Lookup { key, set, is_outside } => {
                let elements = sets.get(set)?;
                let is_in = match key.as_slice() {
                    [Value::Link] => {
                        let mut on = elements.iter().map(|it| packets.on_link(it.name()));
                        if on.any(|is_it| is_it != Some(false)) { None } else { Some(false) }
                    }
                    key => elements.contains(&bytes(key, node)?),
                };
                is_in.map(|is_in| is_in != *is_outside)
            }
        }
    }
}

/// Whether a key is another one in the packets of another node.
fn differs_by_node(key: &[Value]) -> bool {
    let is_node = |byte: &Byte| matches!(byte, Byte::Node(..));
    key.iter().any(|value| matches!(value, Value::Bytes(bytes) if bytes.iter().any(is_node)))
}

/// Whether a key tells encapsulated packets, or those of a node, from others.
fn names(key: &[Value]) -> bool {
    key.iter().any(|value| match value {
        Value::Bytes(bytes) => bytes.iter().any(|byte| byte.names()),
        Value::Link | Value::Absent => false,
    })
}

/// What is known of a key in the packets of a node; `None`: nothing.
fn bytes(key: &[Value], node: Ipv4Addr) -> Option<Vec<Option<u8>>> {
    /// `IFNAMSIZ`.
    const NAME: usize = 16;
    let mut all = Vec::new();
    for value in key {
        match value {
            Value::Bytes(bytes) => all.extend(bytes.iter().map(|byte| byte.of(node))),
            Value::Link => all.extend([None; NAME]),
            Value::Absent => all.extend([None; SLOT]),
        }
        if key.len() > 1 {
            all.resize(all.len().next_multiple_of(SLOT), Some(0));
        }
    }
    (!all.is_empty()).then_some(all)
}
