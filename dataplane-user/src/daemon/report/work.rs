//! What the daemon has done since it started: a part of its report.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::unix_now;
use crate::vocabulary::SourceKind;

/// What it has done.
#[derive(Clone, PartialEq, Default, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Work {
    /// When it started, Unix seconds.
    pub started: u64,
    /// How often it compared everything.
    pub whole: u64,
    /// How often it put in place what sources or the kernel changed, and nothing else.
    pub changes: u64,
    /// How often, when it compared everything, not all could be put in place.
    pub failures: u64,
    /// The last time it compared everything; `null`: it has not yet.
    pub last: Option<Last>,
    /// When each source last reported anything, Unix seconds.
    pub heard: BTreeMap<SourceKind, u64>,
}

/// A comparison of everything.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Last {
    /// When it ended, Unix seconds.
    pub at: f64,
    /// How long it took, seconds.
    pub seconds: f64,
}

impl Work {
    /// Nothing yet, from now on.
    #[must_use]
    pub fn begun() -> Self {
        Self { started: unix_now(), ..Self::default() }
    }

    /// Everything was compared, in this time; `is_complete`: and put in place.
    pub fn compared(&mut self, took: Duration, is_complete: bool) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.whole += 1;
        self.failures += u64::from(!is_complete);
        self.last = Some(Last { at: now.as_secs_f64(), seconds: took.as_secs_f64() });
    }
}
