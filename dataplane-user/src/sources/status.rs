//! How the sources are: a part of the daemon's report.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Origin, SourceKind, reads::Reads};

/// So many problems are told by name.
const TOLD: usize = 20;

/// How much a source can be relied upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceState")]
pub enum State {
    /// It reported all it knows, and every change since.
    Synced,
    /// It reported all it knew, but cannot be reached now: that stays active.
    Stale,
    /// It has not reported anything yet; meanwhile nothing is deleted.
    Waiting,
}

impl State {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Stale => "stale",
            Self::Waiting => "waiting",
        }
    }
}

/// One source.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct SourceStatus {
    /// Which.
    pub source: SourceKind,
    /// How much it can be relied upon.
    pub state: State,
    /// Since when it cannot be reached, Unix seconds; `null`: it can.
    pub stale_since: Option<u64>,
    /// Why it cannot be reached; `null`: it can.
    pub reason: Option<String>,
    /// How closely it is followed, if it is a datastore that may be polled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Reads>,
    /// How many claims it makes.
    pub claims: usize,
    /// What in it cannot be understood, and is skipped.
    pub problems: Vec<String>,
    /// How many more such problems there are.
    pub more_problems: usize,
}

impl SourceStatus {
    pub(super) fn new(
        source: SourceKind,
        state: State,
        down: Option<&(String, SystemTime)>,
        reads: Option<Reads>,
        claims: usize,
        problems: &BTreeMap<Origin, String>,
    ) -> Self {
        let seconds = |time: &SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs());
        Self {
            source,
            state,
            stale_since: down.and_then(|(_, since)| seconds(since)),
            reason: down.map(|(why, _)| why.clone()),
            reads,
            claims,
            problems: problems.iter().take(TOLD).map(|(o, why)| format!("{o}: {why}")).collect(),
            more_problems: problems.len().saturating_sub(TOLD),
        }
    }
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, JsonSchema, Serialize)]
pub struct SourcesStatus {
    /// One by one.
    pub sources: Vec<SourceStatus>,
    /// Claims that make no route, or not the one they ask for.
    pub alarms: Vec<String>,
    /// How many more such claims there are.
    pub more_alarms: usize,
}

impl SourcesStatus {
    /// Of these sources and alarms.
    #[must_use]
    pub fn new<'a>(
        sources: Vec<SourceStatus>,
        alarms: impl ExactSizeIterator<Item = &'a String>,
    ) -> Self {
        let more_alarms = alarms.len().saturating_sub(TOLD);
        Self { sources, alarms: alarms.take(TOLD).cloned().collect(), more_alarms }
    }
}
