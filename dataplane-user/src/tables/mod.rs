//! The tables we keep true, each with the same three verbs.
//!
//! One round of reconciliation is: read what is, compare with what should be,
//! upsert in every table first, delete last. What failed is tried again in the
//! next round; it never stops the rest.

mod attachments;
mod backstops;
mod endpoints;
mod kernel_routes;
mod node_counters;
mod nodes;
mod routes;

use std::{collections::BTreeMap, fmt::Debug};

use anyhow::Result;

pub use self::{
    attachments::Attachments,
    backstops::Backstops,
    endpoints::{Endpoints, LocalPod},
    kernel_routes::KernelRoutes,
    node_counters::NodeCounters,
    nodes::Nodes,
    routes::Routes,
};
use crate::plan::plan;

/// A table of the kernel's, or a map.
#[expect(async_fn_in_trait, reason = "used by this crate alone, in one thread")]
pub trait Table {
    /// What an entry is found by.
    type Key: Ord + Clone + Debug;
    /// What it says.
    type Value: PartialEq + Clone + Debug;
    /// For messages: "route", "node" …
    const NAME: &'static str;

    /// All entries that are ours, read back and never assumed.
    async fn actual(&mut self) -> Result<BTreeMap<Self::Key, Self::Value>>;

    /// Makes an entry, or changes it in place.
    async fn upsert(&mut self, key: &Self::Key, value: &Self::Value) -> Result<()>;

    /// Removes an entry.
    async fn delete(&mut self, key: &Self::Key) -> Result<()>;
}

/// What one round failed to do.
#[derive(Debug, Default)]
pub struct Round {
    /// What failed, ready to print.
    pub failures: Vec<String>,
}

impl Round {
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
    ) -> Vec<T::Key> {
        let actual = match table.actual().await {
            Ok(actual) => actual,
            Err(error) => {
                self.failures.push(format!("reading the {} table: {error:#}", T::NAME));
                return Vec::new();
            }
        };
        let plan = plan(desired, &actual);
        for (key, value) in &plan.upsert {
            let outcome = table.upsert(key, value).await;
            self.note(outcome, || format!("setting {} {key:?} to {value:?}", T::NAME));
        }
        plan.delete
    }

    /// Removes what is too much, last things first.
    pub async fn delete<T: Table>(&mut self, table: &mut T, keys: Vec<T::Key>) {
        for key in keys.into_iter().rev() {
            let outcome = table.delete(&key).await;
            self.note(outcome, || format!("removing {} {key:?}", T::NAME));
        }
    }
}
