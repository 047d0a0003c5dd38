//! What a case finds out, piece by piece: the cells of a table.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed {
        /// A figure to show with it.
        note: Option<String>,
    },
    /// It does not, for a reason that is documented, and was counted just now.
    Limited {
        /// The reason.
        why: String,
    },
    /// There is nothing to hold, which was seen just now.
    NotApplicable {
        /// Why not.
        why: String,
    },
    /// It does not hold.
    Failed {
        /// What was found.
        why: String,
    },
}

impl Outcome {
    /// It holds, and there is no more to say.
    pub const GOOD: Self = Self::Passed { note: None };

    /// It holds; `note` is a figure to show.
    #[must_use]
    pub fn good(note: impl Into<String>) -> Self {
        Self::Passed { note: Some(note.into()) }
    }
}

/// One check of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, the same in every case: a column.
    pub name: String,
    /// What it came to.
    pub outcome: Outcome,
}

/// The checks of a case so far.
#[derive(Clone, Debug, Default)]
pub struct Checks(Arc<Mutex<Vec<Check>>>);

impl Checks {
    /// Checks something. A failure is noted, and the case goes on.
    pub fn check(&self, name: &str, run: impl FnOnce() -> Result<Outcome>) {
        let outcome = run().unwrap_or_else(|error| Outcome::Failed { why: format!("{error:#}") });
        self.note(name, outcome);
    }

    /// Notes an outcome.
    pub fn note(&self, name: &str, outcome: Outcome) {
        let check = Check { name: name.to_owned(), outcome };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(check);
    }

    /// All so far, in their order.
    #[must_use]
    pub fn so_far(&self) -> Vec<Check> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What failed, a line each.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let line = |check: Check| match check.outcome {
            Outcome::Failed { why } => Some(format!("{}: {why}", check.name)),
            Outcome::Passed { .. } | Outcome::Limited { .. } | Outcome::NotApplicable { .. } => {
                None
            }
        };
        self.so_far().into_iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failed_check_is_noted_and_others_go_on() {
        let checks = Checks::default();
        checks.check("ping", || bail!("no answer"));
        checks.check("tcp", || Ok(Outcome::GOOD));
        checks.check("loss", || Ok(Outcome::good("0/1")));
        assert_eq!(checks.failures(), ["ping: no answer"]);
        assert_eq!(checks.so_far().len(), 3);
    }
}
