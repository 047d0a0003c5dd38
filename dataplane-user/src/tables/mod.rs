//! The tables we keep true, each with the same three verbs.
//!
//! One round of reconciliation is: read what is, compare with what should be,
//! upsert in every table first, delete last. What failed is tried again in the
//! next round; it never stops the rest.

mod attachments;
mod backstops;
mod endpoints;
mod handovers;
mod kernel_routes;
mod mark_rules;
mod masks;
mod nodes;
mod outdated;
mod receive_queues;
mod routes;
mod sysctls;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use aya::maps::MapError;

pub use self::{
    attachments::Attachments,
    backstops::Backstops,
    endpoints::Endpoints,
    handovers::Handovers,
    kernel_routes::KernelRoutes,
    mark_rules::{KnownRules, Marks},
    masks::Masks,
    nodes::Nodes,
    outdated::{Outdated, raised, with_going},
    receive_queues::ReceiveQueues,
    routes::{Routes, outdated},
    sysctls::{
        Sysctls, forget_sysctls_of_0_1, move_sysctls_of_0_1, record_sysctls_for_0_1,
        remember_sysctls, restore_sysctls, sysctls_of_0_1,
    },
};
use crate::plan::plan;

/// A table of the kernel's, or a map.
#[expect(async_fn_in_trait, reason = "used by this crate alone, in one thread")]
pub trait Table {
    /// What an entry is found by.
    type Key: Ord + Clone;
    /// What it says.
    type Value: PartialEq + Clone;
    /// For messages: "route", "node" …
    const NAME: &'static str;

    /// Says what is done to an entry, in words for an operator, as in "setting the route
    /// to 10.20.42.0/26": it is set to `new`, or removed (`None`).
    fn describe(&self, key: &Self::Key, new: Option<&Self::Value>) -> String;

    /// Returns what leases may hold that setting `key` to `new` (or removing it: `None`)
    /// makes untrue. Then they have to end.
    fn outdated(
        &self,
        actual: &BTreeMap<Self::Key, Self::Value>,
        key: &Self::Key,
        new: Option<&Self::Value>,
    ) -> Vec<Outdated> {
        let _ = (actual, key, new);
        Vec::new()
    }

    /// All entries that are ours, read back and never assumed.
    async fn actual(&mut self) -> Result<BTreeMap<Self::Key, Self::Value>>;

    /// Makes an entry, or changes it in place.
    async fn upsert(&mut self, key: &Self::Key, value: &Self::Value) -> Result<()>;

    /// Removes an entry.
    async fn delete(&mut self, key: &Self::Key) -> Result<()>;
}

/// Which entries of a map are looked at.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a, K> {
    /// All.
    All,
    /// These, whatever else there is: the work is theirs alone.
    Only(&'a BTreeSet<K>),
}

/// The entries that are there.
fn found<K: Ord + Copy, V>(
    keys: &BTreeSet<K>,
    get: impl Fn(K) -> Result<V, MapError>,
) -> Result<BTreeMap<K, V>> {
    let mut entries = BTreeMap::new();
    for key in keys {
        match get(*key) {
            Ok(value) => drop(entries.insert(*key, value)),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(entries)
}

/// What a table has too much.
pub struct Surplus<K> {
    keys: Vec<K>,
    outdated: BTreeSet<Outdated>,
}

impl<K> Default for Surplus<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), outdated: BTreeSet::new() }
    }
}

impl<K: PartialEq> Surplus<K> {
    /// Takes out those that go before others.
    #[must_use]
    pub fn take(&mut self, goes_first: impl Fn(&K) -> bool) -> Self {
        let (first, rest) = std::mem::take(&mut self.keys).into_iter().partition(goes_first);
        self.keys = rest;
        Self { keys: first, outdated: self.outdated.clone() }
    }

    /// Returns what leases will hold no longer once it is gone.
    pub fn outdated(&self) -> &BTreeSet<Outdated> {
        &self.outdated
    }

    /// Whether this entry is too much.
    pub fn contains(&self, key: &K) -> bool {
        self.keys.contains(key)
    }
}

/// What one round failed to do, and what it did to leases.
#[derive(Debug, Default)]
pub struct Round {
    /// What failed, ready to print.
    pub failures: Vec<String>,
    /// What leases hold and is no longer so: see [`Table::outdated`].
    pub outdated: BTreeSet<Outdated>,
}

impl Round {
    /// Notes that a step of its own failed.
    pub fn attempt(&mut self, outcome: Result<()>) {
        self.failures.extend(outcome.err().map(|error| format!("{error:#}")));
    }

    fn note(&mut self, outcome: Result<()>, what: impl FnOnce() -> String) {
        match outcome {
            Ok(()) => tracing::debug!("{}", what()),
            Err(error) => self.failures.push(format!("{}: {error:#}", what())),
        }
    }

    /// Makes and changes what the table lacks; returns what it has too much.
    pub async fn upsert<T: Table>(
        &mut self,
        table: &mut T,
        desired: &BTreeMap<T::Key, T::Value>,
    ) -> Surplus<T::Key> {
        let actual = match table.actual().await {
            Ok(actual) => actual,
            Err(error) => {
                self.failures.push(format!("reading the {} table: {error:#}", T::NAME));
                return Surplus::default();
            }
        };
        let plan = plan(desired, &actual);
        for (key, value) in &plan.upsert {
            self.outdated.extend(table.outdated(&actual, key, Some(value)));
            let outcome = table.upsert(key, value).await;
            self.note(outcome, || table.describe(key, Some(value)));
        }
        let gone = plan.delete.iter().flat_map(|key| table.outdated(&actual, key, None));
        let outdated = gone.collect();
        Surplus { keys: plan.delete, outdated }
    }

    /// Removes what is too much, last things first.
    pub async fn delete<T: Table>(&mut self, table: &mut T, surplus: Surplus<T::Key>) {
        self.outdated.extend(surplus.outdated);
        for key in surplus.keys.into_iter().rev() {
            let outcome = table.delete(&key).await;
            self.note(outcome, || table.describe(&key, None));
        }
    }
}

/// "setting X" or "removing X", for tables whose entries need no other words.
fn set_or_remove<V>(new: Option<&V>, what: &str) -> String {
    let verb = if new.is_some() { "setting" } else { "removing" };
    format!("{verb} {what}")
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    /// A table that refuses every change.
    struct Stubborn;

    impl Table for Stubborn {
        type Key = u32;
        type Value = &'static str;
        const NAME: &'static str = "stubborn";

        fn describe(&self, key: &u32, new: Option<&&'static str>) -> String {
            set_or_remove(new, &format!("number {key}"))
        }

        async fn actual(&mut self) -> Result<BTreeMap<u32, &'static str>> {
            Ok(BTreeMap::from([(2, "old")]))
        }

        async fn upsert(&mut self, _: &u32, _: &&'static str) -> Result<()> {
            bail!("no")
        }

        async fn delete(&mut self, _: &u32) -> Result<()> {
            bail!("never")
        }
    }

    /// Rust's own notation of a value is of no use to an operator.
    #[tokio::test]
    async fn failures_are_in_words() {
        let mut round = Round::default();
        let surplus = round.upsert(&mut Stubborn, &BTreeMap::from([(1, "new")])).await;
        round.delete(&mut Stubborn, surplus).await;
        assert_eq!(round.failures, ["setting number 1: no", "removing number 2: never"]);
    }
}
