//! The table at the end, and the last line.

use std::fmt::Write as _;

use super::outcome::Outcome;

/// Renders suites with their outcomes; the last line sums them up.
pub fn render(table: &[(&str, Outcome)]) -> String {
    let mut text = format!(
        "{:<8} {:>7} {:>7} {:>8} {:>11} {:>8}\n",
        "suite", "passed", "failed", "ignored", "table rows", "seconds"
    );
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (suite, outcome) in table {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{suite:<8} {:>7} {:>7} {:>8} {:>11} {:>8.1}",
            outcome.passed,
            outcome.failed,
            outcome.ignored,
            outcome.rows,
            outcome.took.as_secs_f64()
        );
        passed += outcome.passed;
        failed += outcome.failed;
        skipped += outcome.ignored;
    }
    for (suite, outcome) in table {
        for failure in &outcome.failures {
            let _ = writeln!(text, "failed: {suite}: {failure}");
        }
    }
    let _ = write!(text, "\n{passed} passed, {failed} failed");
    if skipped > 0 {
        let _ = write!(text, ", {skipped} skipped");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(passed: u64, failed: u64, ignored: u64) -> Outcome {
        let took = Duration::from_millis(1500);
        Outcome { passed, failed, ignored, took, ..Outcome::default() }
    }

    #[test]
    fn the_last_line_sums_all_suites_up() {
        let text = render(&[("host", outcome(5, 0, 0)), ("prog", outcome(40, 2, 0))]);
        assert_eq!(text.lines().last(), Some("45 passed, 2 failed"));
        assert!(text.contains("prog          40       2        0           0      1.5"), "{text}");
    }

    #[test]
    fn skipped_cases_are_named_only_where_there_are_some() {
        let text = render(&[("host", outcome(5, 0, 3))]);
        assert_eq!(text.lines().last(), Some("5 passed, 0 failed, 3 skipped"));
    }

    #[test]
    fn failures_are_listed_with_their_suite() {
        let mut lint = Outcome::default();
        lint.fail("cargo fmt --check");
        assert!(render(&[("lint", lint)]).contains("failed: lint: cargo fmt --check\n"));
    }
}
