//! Which CPUs go on with received packets.
//!
//! All packets between two nodes have one outer header, so most NICs give them to one queue and
//! one CPU. RPS spreads them by their inner headers. It costs each packet a second interrupt, so
//! `auto` uses it only while a CPU has no time left.
//!
//! Only queues without RPS are given some, and only what is still as it was written is taken back:
//! an operator, `tuned` or `irqbalance` that sets masks keeps them.

mod problems;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::problems::problems;
use crate::{
    config::Spread,
    kernel::receive_queues::{Cpus, Queue},
};

/// What is remembered, so that a restart goes on and `detach` takes it back.
#[derive(Clone, PartialEq, Default, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Spreading {
    /// The CPUs that packets are spread over; `None`: they are not.
    pub cpus: Option<Cpus>,
    /// The queues that were given RPS, and which. They had none before.
    pub queues: BTreeMap<Queue, Cpus>,
}

/// How busy the CPUs are with received packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Heat {
    /// Nothing follows from it.
    #[default]
    Neither,
    /// This CPU has had no time left for a while, and others had.
    Hot(usize),
    /// One CPU could have done all of the work for a while.
    Calm,
}

/// What there is.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// The CPUs that may be given packets.
    pub cpus: Cpus,
    /// How busy they are.
    pub heat: Heat,
    /// The queues by which encapsulated packets arrive, and those remembered.
    pub queues: BTreeMap<Queue, Cpus>,
    /// The former.
    pub underlay: BTreeSet<Queue>,
}

/// What is to be done.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Masks {
    /// Queues, and the CPUs that are to go on with their packets.
    pub wanted: BTreeMap<Queue, Cpus>,
    /// Queues of the underlay whose masks others have set.
    pub foreign: BTreeSet<Queue>,
    /// Packets are to be spread, and there is no queue to spread them at.
    pub has_no_queue: bool,
}

/// Decides which queues get RPS, and which lose it again.
#[must_use]
pub fn decide(setting: Spread, seen: &Seen, memory: &mut Spreading) -> Masks {
    memory.cpus = cpus(setting, seen, memory.cpus.as_ref());
    let has_no_queue = memory.cpus.is_some() && seen.underlay.is_empty();
    let mut masks = Masks { has_no_queue, ..Masks::default() };
    let none = Cpus::default();
    for (queue, found) in &seen.queues {
        let spread_over = memory.cpus.as_ref().filter(|_| seen.underlay.contains(queue));
        let is_ours = memory.queues.get(queue).is_some_and(|ours| ours == found);
        match spread_over {
            Some(cpus) if found.is_empty() => {
                memory.queues.insert(queue.clone(), cpus.clone());
                masks.wanted.insert(queue.clone(), cpus.clone());
            }
            Some(cpus) if is_ours => {
                // Other CPUs: by way of none at all, so that a daemon that is killed in between
                // finds what it remembers, or nothing.
                let next = if found == cpus { cpus } else { &none };
                masks.wanted.insert(queue.clone(), next.clone());
            }
            Some(cpus) => {
                memory.queues.remove(queue);
                if found != cpus {
                    masks.foreign.insert(queue.clone());
                }
            }
            None if is_ours && !found.is_empty() => {
                // Remembered until it is seen to be gone.
                masks.wanted.insert(queue.clone(), none.clone());
            }
            None => drop(memory.queues.remove(queue)),
        }
    }
    memory.queues.retain(|queue, _| seen.queues.contains_key(queue));
    masks
}

/// The CPUs to spread packets over. `was`: those of the last decision.
fn cpus(setting: Spread, seen: &Seen, was: Option<&Cpus>) -> Option<Cpus> {
    let cpus = match (setting, was, seen.heat) {
        (Spread::Off, ..) | (Spread::Auto, Some(_), Heat::Calm) => None,
        (Spread::Rps, ..) => Some(seen.cpus.clone()),
        (Spread::Auto, Some(was), _) => Some(Cpus(&was.0 & &seen.cpus.0)),
        (Spread::Auto, None, Heat::Hot(hot)) => Some(helpers(&seen.cpus, hot)),
        (Spread::Auto, None, _) => None,
    };
    // Over one CPU nothing is spread.
    cpus.filter(|cpus| cpus.0.len() > 1)
}

/// All CPUs; without the hot one, which keeps the driver's work, if at least two others are left.
fn helpers(cpus: &Cpus, hot: usize) -> Cpus {
    let others: BTreeSet<usize> = cpus.0.iter().copied().filter(|cpu| *cpu != hot).collect();
    if others.len() > 1 { Cpus(others) } else { cpus.clone() }
}

#[cfg(test)]
mod tests;
