//! `tunless try`: while it goes on, and once it was kept, every program does what it always does; once it
//! is over no program does anything.

use tunless_tests::case::{self, Case};

use super::coverage;

/// Not while this test runs.
const LATER: u64 = u64::MAX;
const KEPT: u64 = 0;

#[test]
fn a_try_that_goes_on_changes_nothing() {
    let cases: Vec<Case> = coverage::cases().into_iter().map(|case| case.tried(LATER)).collect();
    case::run("tried", &cases);
}

#[test]
fn a_try_that_was_kept_changes_nothing() {
    let cases: Vec<Case> = coverage::cases().into_iter().map(|case| case.tried(KEPT)).collect();
    case::run("kept", &cases);
}

#[test]
fn once_it_is_over_no_program_does_anything() {
    case::run("try_over", &cases());
}

/// Every packet of every other table.
pub fn cases() -> Vec<Case> {
    coverage::cases().into_iter().filter_map(Case::try_over).collect()
}
