//! The daemon's list of problems as it is read later, when the daemon may have stopped to work: for
//! `tunless status`, `/readyz` and `/metrics` alike.

use std::time::Duration;

use super::{Code, Problem, State};

/// So long without a comparison means that the daemon hangs: three times its interval.
pub const SILENCE: Duration = Duration::from_secs(30);

/// All problems at `now` (`CLOCK_MONOTONIC`), the gravest first.
#[must_use]
pub fn current(state: &State, now: Duration) -> Vec<Problem> {
    let mut problems = state.problems.clone();
    problems.extend(stuck(state, now));
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    problems
}

/// The problem that the daemon has compared nothing for too long, if so.
#[must_use]
pub fn stuck(state: &State, now: Duration) -> Option<Problem> {
    let silence = now.as_secs_f64() - state.heartbeat;
    (silence > SILENCE.as_secs_f64()).then(|| {
        let what =
            format!("the daemon is running, but has not compared anything for {silence:.0} s");
        Problem::new(Code::DaemonStuck, "", what)
    })
}
