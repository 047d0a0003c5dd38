//! Which problems there are, since when; each is logged once when it comes and once when it goes.

use std::collections::BTreeMap;

use super::{Code, Level, Problem};

/// The problems as last seen.
#[derive(Default, Debug)]
pub struct Ledger {
    /// By code, subject, and which of several about one subject it is.
    known: BTreeMap<(Code, String, usize), Problem>,
}

/// What came and what went.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// New problems, and old ones whose cause is another.
    pub come: Vec<Problem>,
    /// Problems that are no more.
    pub gone: Vec<Problem>,
}

impl Ledger {
    /// Takes in what is wrong `now` (Unix seconds).
    pub fn update(&mut self, problems: impl IntoIterator<Item = Problem>, now: u64) -> Change {
        let mut before = std::mem::take(&mut self.known);
        let mut change = Change::default();
        for mut problem in problems {
            let (code, subject) = problem.key();
            let first = (code, subject.clone(), 0);
            let same = self.known.range(first..=(code, subject.clone(), usize::MAX));
            let (mut others, mut is_known) = (0, false);
            for (_, other) in same {
                others += 1;
                is_known |= other.what == problem.what;
            }
            if is_known {
                continue;
            }
            let key = (code, subject, others);
            let old = before.remove(&key);
            problem.since = old.as_ref().and_then(|old| old.since).or(Some(now));
            if old.is_none_or(|old| old.what != problem.what) {
                change.come.push(problem.clone());
            }
            self.known.insert(key, problem);
        }
        change.gone = before.into_values().collect();
        change
    }

    /// All problems, the gravest first.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.known.values().cloned().collect();
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
        problems
    }
}

impl Change {
    /// Writes it to the log, but for what the sources themselves log as they report it.
    pub fn log(&self) {
        for problem in self.gone.iter().filter(|problem| !is_a_sources_state(problem.code)) {
            tracing::info!("resolved: {}", problem.what);
        }
        for problem in self.come.iter().filter(|problem| !is_logged_by_sources(problem.code)) {
            let text = problem.text();
            match problem.level {
                Level::Down => tracing::error!("{text}"),
                Level::Degraded => tracing::warn!("{text}"),
                Level::Info => tracing::info!("{text}"),
            }
        }
    }
}

/// Whether the code is about how a source of routes is.
fn is_a_sources_state(code: Code) -> bool {
    matches!(code, Code::SourceStale | Code::SourceWaiting)
}

fn is_logged_by_sources(code: Code) -> bool {
    is_a_sources_state(code) || code == Code::SourceObject
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: Code, subject: &str, what: &str) -> Problem {
        Problem::new(code, subject, what)
    }

    #[test]
    fn a_problem_comes_once_and_goes_once() {
        let mut ledger = Ledger::default();
        let away = || problem(Code::SourceStale, "etcd", "no answer");
        let node = || problem(Code::Unreachable, "172.16.35.4", "no route");
        let change = ledger.update([away()], 10);
        assert_eq!((change.come.len(), change.gone.len()), (1, 0));
        assert_eq!(ledger.update([away()], 11), Change::default());
        let change = ledger.update([away(), node()], 12);
        assert_eq!(change.come, [Problem { since: Some(12), ..node() }]);
        assert_eq!(ledger.problems().len(), 2);
        let change = ledger.update([node()], 13);
        assert_eq!(change.gone, [Problem { since: Some(10), ..away() }]);
        let change = ledger.update([], 14);
        assert_eq!(change.gone.len(), 1);
        assert_eq!(ledger.problems(), []);
    }

    #[test]
    fn another_cause_is_logged_but_no_new_beginning() {
        let mut ledger = Ledger::default();
        ledger.update([problem(Code::SourceStale, "etcd", "refused")], 10);
        let change = ledger.update([problem(Code::SourceStale, "etcd", "timed out")], 20);
        assert_eq!(change.come[0].since, Some(10));
        assert_eq!(change.gone, []);
    }

    /// Two stages may find the same, and one subject may have two problems of a kind.
    #[test]
    fn what_is_found_twice_is_one_problem_and_what_differs_is_two() {
        let mut ledger = Ledger::default();
        let twice = || {
            [problem(Code::Claim, "10.20.0.0/26", "a"), problem(Code::Claim, "10.20.0.0/26", "a")]
        };
        assert_eq!(ledger.update(twice(), 10).come.len(), 1);
        assert_eq!(ledger.update(twice(), 11), Change::default());
        let two = || {
            [problem(Code::Claim, "10.20.0.0/26", "a"), problem(Code::Claim, "10.20.0.0/26", "b")]
        };
        assert_eq!(ledger.update(two(), 12).come.len(), 1);
        assert_eq!(ledger.update(two(), 13), Change::default());
        assert_eq!(ledger.problems().len(), 2);
        assert_eq!(ledger.problems()[0].since, Some(10));
    }

    #[test]
    fn the_gravest_comes_first() {
        let mut ledger = Ledger::default();
        ledger.update(
            [
                problem(Code::NoRoutes, "", ""),
                problem(Code::ForwardingOff, "", ""),
                problem(Code::SourceStale, "etcd", ""),
            ],
            1,
        );
        let codes: Vec<Code> = ledger.problems().into_iter().map(|problem| problem.code).collect();
        assert_eq!(codes, [Code::ForwardingOff, Code::SourceStale, Code::NoRoutes]);
    }
}
