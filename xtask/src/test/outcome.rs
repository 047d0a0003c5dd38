//! What a suite came to, read from the output of its test binaries.
//!
//! libtest has no stable machine format; its summary line has not changed in
//! years and is what people read, too.

use std::time::Duration;

use crate::demo::{PROVED, REFUTED};

/// Cases of one suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Cases that passed.
    pub passed: u64,
    /// Cases that failed.
    pub failed: u64,
    /// Cases that libtest counts as `ignored`: there are to be none.
    pub ignored: u64,
    /// Rows of tables that cases went through.
    pub rows: u64,
    /// Names of failed cases, or what else went wrong.
    pub failures: Vec<String>,
    /// How long the suite took.
    pub took: Duration,
}

impl Outcome {
    /// Cases that exist, run or not.
    pub fn cases(&self) -> u64 {
        self.passed + self.failed + self.ignored
    }

    /// Counts one check that has no cases of its own.
    pub fn check(&mut self, passed: bool, what: &str) {
        if passed {
            self.passed += 1;
        } else {
            self.fail(what);
        }
    }

    /// Counts one failure under this name.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        self.failures.push(what.into());
    }

    /// Takes one line of a test binary's output.
    pub fn read_line(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.passed += count(summary, "passed");
            self.failed += count(summary, "failed");
            self.ignored += count(summary, "ignored");
        } else if let Some(rows) = table_rows(line) {
            self.rows += rows;
        } else if let Some(name) = failed_case(line) {
            self.failures.push(name.to_owned());
        }
    }

    /// Takes one line of the demo's output.
    pub fn read_step(&mut self, line: &str) {
        if line.starts_with(PROVED) {
            self.passed += 1;
        } else if let Some(why) = line.strip_prefix(REFUTED) {
            self.fail(why.trim());
        }
    }
}

/// The number before `word` in `ok. 5 passed; 0 failed; …`.
fn count(summary: &str, word: &str) -> u64 {
    summary
        .split(['.', ';'])
        .filter_map(|part| part.trim().split_once(' '))
        .find(|(_, found)| *found == word)
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

/// The number in `table encap_pod: 278 rows`, wherever in the line it begins:
/// libtest prints names of its own in between.
fn table_rows(line: &str) -> Option<u64> {
    let table = &line[line.find("table ")?..];
    table.strip_suffix(" rows")?.rsplit_once(": ")?.1.parse().ok()
}

fn failed_case(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix("FAILED")?.trim_end().strip_suffix(" ...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_several_binaries_add_up() {
        let mut outcome = Outcome::default();
        for line in [
            "running 6 tests",
            "test encap::ttl_is_decremented ... ok",
            "test decap::spoof_is_dropped ... FAILED",
            "test result: FAILED. 4 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; \
             finished in 0.10s",
            "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished \
             in 2.00s",
        ] {
            outcome.read_line(line);
        }
        assert_eq!((outcome.passed, outcome.failed, outcome.ignored), (11, 1, 1));
        assert_eq!(outcome.failures, ["decap::spoof_is_dropped"]);
        assert_eq!(outcome.cases(), 13);
    }

    #[test]
    fn rows_of_tables_add_up() {
        let mut outcome = Outcome::default();
        for line in ["table encap_pod: 278 rows", "test x ... table fuzz encap_pod: 50000 rows"] {
            outcome.read_line(line);
        }
        assert_eq!(outcome.rows, 50_278);
    }

    #[test]
    fn lines_that_only_resemble_a_summary_count_nothing() {
        let mut outcome = Outcome::default();
        for line in [
            "",
            "test result: ",
            "test result: ok. many passed; -1 failed",
            "  test result: ok. 5 passed; 0 failed",
            "test FAILED",
            "test x ... ok",
            "table x: many rows",
            "a table: 3 rows more",
        ] {
            outcome.read_line(line);
        }
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn steps_of_the_demo_are_cases() {
        let mut outcome = Outcome::default();
        for line in ["[1/2] A title", "✔ It is so,", "  as one can see.", "✘ it is not so"] {
            outcome.read_step(line);
        }
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
        assert_eq!(outcome.failures, ["it is not so"]);
    }

    #[test]
    fn a_check_is_one_case() {
        let mut outcome = Outcome::default();
        outcome.check(true, "cargo fmt");
        outcome.check(false, "cargo clippy");
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
        assert_eq!(outcome.failures, ["cargo clippy"]);
    }
}
