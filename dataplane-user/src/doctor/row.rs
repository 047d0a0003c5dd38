//! What `tunless doctor` prints: one row for each thing that was looked at.

use schemars::JsonSchema;
use serde::Serialize;

use super::Check;
use crate::{daemon::report::Problem, output};

/// What came of a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Packets are lost, or would be with the next change.
    Fail,
    /// Worth knowing; packets pass.
    Warn,
    /// It could not be looked at; the row says why.
    Skip,
    /// As it should be.
    Pass,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            Self::Warn => "WARN",
            Self::Skip => "SKIP",
            Self::Pass => "PASS",
        }
    }
}

/// One row.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Row {
    /// Which check.
    pub check: Check,
    /// What came of it.
    pub verdict: Verdict,
    /// On what: an interface, node, prefix, source, or `file:line`; empty for the whole node.
    #[serde(rename = "where")]
    pub subject: String,
    /// What was found, in one sentence.
    pub what: String,
    /// What to do about it; `null` where there is nothing to do.
    pub remedy: Option<String>,
}

impl Row {
    /// A row about `subject`; empty for the whole node.
    pub fn new(
        check: Check,
        verdict: Verdict,
        subject: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Self { check, verdict, subject: subject.into(), what: what.into(), remedy: None }
    }

    /// A row about what is as it should be.
    pub fn pass(check: Check, what: impl Into<String>) -> Self {
        Self::new(check, Verdict::Pass, "", what)
    }

    /// The same with advice.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl From<&Problem> for Row {
    fn from(problem: &Problem) -> Self {
        let (check, verdict) = super::codes::place(problem.code);
        let Problem { subject, what, remedy, .. } = problem;
        Self {
            check,
            verdict,
            subject: subject.clone(),
            what: what.clone(),
            remedy: remedy.clone(),
        }
    }
}

impl output::Row for Row {
    const COLUMNS: &'static [&'static str] = &["CHECK", "VERDICT", "WHERE", "WHAT", "REMEDY"];

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        vec![
            self.check.as_str().into(),
            self.verdict.as_str().into(),
            or_dash(&self.subject),
            self.what.clone(),
            or_dash(self.remedy.as_deref().unwrap_or_default()),
        ]
    }
}

/// Puts rows in the order of their checks; of one check the gravest first.
pub fn sort(rows: &mut [Row]) {
    rows.sort_by_key(|row| (row.check, row.verdict));
}
