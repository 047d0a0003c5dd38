//! How the sources are, written by the daemon for the CLI to read: a file in
//! `/run`, so that it can be read while the daemon is down.

use std::{
    collections::BTreeMap,
    fs, io,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Origin, SourceKind};
use crate::{bpf::Pins, run_dir};

/// So many problems are told by name.
const TOLD: usize = 20;

/// How much a source can be relied upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It told all it knows, and every change since.
    Synced,
    /// It told all it knew, but cannot be reached now: that stays in force.
    Stale,
    /// It has not told anything yet; meanwhile nothing is deleted.
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
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct SourceStatus {
    /// Which.
    pub source: SourceKind,
    /// How much it can be relied upon.
    pub state: State,
    /// Since when it cannot be reached, Unix seconds.
    pub stale_since: Option<u64>,
    /// Why it cannot be reached.
    pub reason: Option<String>,
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
        claims: usize,
        problems: &BTreeMap<Origin, String>,
    ) -> Self {
        let seconds = |time: &SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs());
        Self {
            source,
            state,
            stale_since: down.and_then(|(_, since)| seconds(since)),
            reason: down.map(|(why, _)| why.clone()),
            claims,
            problems: problems.iter().take(TOLD).map(|(o, why)| format!("{o}: {why}")).collect(),
            more_problems: problems.len().saturating_sub(TOLD),
        }
    }
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
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

    /// Puts it where the CLI finds it.
    ///
    /// # Errors
    /// If `/run` cannot be written.
    pub fn write(&self, pins: &Pins) -> Result<()> {
        let path = run_dir::file(pins, "sources");
        let new = path.with_extension("sources-new");
        fs::create_dir_all(run_dir::DIRECTORY).context(run_dir::DIRECTORY)?;
        let text = serde_json::to_vec(self)?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("{}", path.display()))
    }

    /// As the daemon last left it; `None` if it never did.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(pins: &Pins) -> Result<Option<Self>> {
        let path = run_dir::file(pins, "sources");
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?,
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// If that is refused.
    pub fn remove(pins: &Pins) -> Result<()> {
        let path = run_dir::file(pins, "sources");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
