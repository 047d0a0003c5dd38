//! What one source has reported: the only memory of it.
//!
//! Sources report what is, as often as they like. Here repetition is recognized, so
//! that each event is logged once.

use std::{collections::BTreeMap, time::SystemTime};

use super::{Origin, Report, SourceKind, error::Outage, reads::Reads};

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogLine {
    /// The source works.
    Info(String),
    /// One object cannot be used, or the source cannot be read: the node is degraded.
    Warning(String),
}

impl LogLine {
    /// Writes the line to the log.
    pub fn write(&self) {
        match self {
            Self::Info(text) => tracing::info!("{text}"),
            Self::Warning(text) => tracing::warn!("{text}"),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Reported {
    kind: SourceKind,
    has_spoken: bool,
    down: Option<(Outage, SystemTime)>,
    reads: Option<Reads>,
    problems: BTreeMap<Origin, String>,
}

impl Reported {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(kind: SourceKind) -> Self {
        Self { kind, has_spoken: false, down: None, reads: None, problems: BTreeMap::new() }
    }

    /// Returns whether the source has reported all its routes at least once.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// Returns why the source cannot be read, and since when.
    #[must_use]
    pub fn down(&self) -> Option<&(Outage, SystemTime)> {
        self.down.as_ref()
    }

    /// Returns how closely the datastore is followed, once that is known.
    #[must_use]
    pub fn reads(&self) -> Option<Reads> {
        self.reads
    }

    /// Returns the objects that cannot be used, each with the reason.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<Origin, String> {
        &self.problems
    }

    /// Takes in a report, but for its claims; returns what is new in it. `now`: the
    /// time of the report.
    pub fn take(&mut self, report: &Report, now: SystemTime) -> Vec<LogLine> {
        match report {
            Report::Snapshot { claims, problems } => {
                let mut lines = self.replace_problems(problems);
                let was_down = self.down.take().is_some();
                let is_first = !std::mem::replace(&mut self.has_spoken, true);
                // The file is always there, and its routes are logged with it.
                if was_down || is_first && self.kind != SourceKind::File {
                    let count = claims.len();
                    lines.push(LogLine::Info(format!("{}: synced, {count} routes", self.kind)));
                }
                lines
            }
            Report::Problems(problems) => self.replace_problems(problems),
            Report::Problem(origin, Some(problem)) => {
                self.add_problem(origin, problem).into_iter().collect()
            }
            Report::Problem(origin, None) => {
                self.problems.remove(origin);
                Vec::new()
            }
            Report::Down(why) => self.set_down(why.clone(), now).into_iter().collect(),
            Report::Up => {
                let was_down = self.down.take().is_some();
                let line = || LogLine::Info(format!("{}: synced again", self.kind));
                was_down.then(line).into_iter().collect()
            }
            Report::Reads(reads) => self.set_reads(*reads).into_iter().collect(),
            Report::Changes(_)
            | Report::OwnNode(_)
            | Report::Names(_)
            | Report::Servers(_)
            | Report::Backends(_) => Vec::new(),
        }
    }

    fn replace_problems(&mut self, problems: &[(Origin, String)]) -> Vec<LogLine> {
        let new = problems.iter().filter_map(|(it, problem)| self.add_problem(it, problem));
        let lines = new.collect();
        self.problems = problems.iter().cloned().collect();
        lines
    }

    fn add_problem(&mut self, origin: &Origin, problem: &str) -> Option<LogLine> {
        let before = self.problems.insert(origin.clone(), problem.to_owned());
        (before.as_deref() != Some(problem))
            .then(|| LogLine::Warning(format!("{}: {origin}: {problem}", self.kind)))
    }

    fn set_reads(&mut self, reads: Reads) -> Option<LogLine> {
        let is_new = self.reads.replace(reads) != Some(reads);
        is_new.then(|| LogLine::Info(format!("{}: {reads}", self.kind)))
    }

    fn set_down(&mut self, why: Outage, now: SystemTime) -> Option<LogLine> {
        let (why, since) = match &self.down {
            Some((before, since)) => (why.after(before), *since),
            None => (why, now),
        };
        let is_new = self.down.as_ref().is_none_or(|(before, _)| *before != why);
        let effect = if self.has_spoken {
            "the routes it reported last stay active"
        } else {
            "it has not reported any routes yet"
        };
        let line = is_new.then(|| LogLine::Warning(format!("{}: {why}; {effect}", self.kind)));
        self.down = Some((why, since));
        line
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sources::error::{Cause, Endpoint};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn snapshot(problems: &[(&str, &str)]) -> Report {
        let problems = problems.iter().map(|(it, why)| ((*it).into(), (*why).to_owned()));
        Report::Snapshot { claims: Vec::new(), problems: problems.collect() }
    }

    fn down(why: &str) -> Report {
        Report::Down(Endpoint::new("E").error(why).into())
    }

    fn problem(why: Option<&str>) -> Report {
        Report::Problem("x".into(), why.map(str::to_owned))
    }

    fn lines(kind: SourceKind, reports: &[Report]) -> Vec<LogLine> {
        let mut reported = Reported::new(kind);
        reports.iter().flat_map(|report| reported.take(report, NOW)).collect()
    }

    fn info(text: &str) -> LogLine {
        LogLine::Info(text.to_owned())
    }

    fn warning(text: &str) -> LogLine {
        LogLine::Warning(text.to_owned())
    }

    #[test]
    fn what_is_reported_again_is_logged_once() {
        let reports = [
            snapshot(&[("x", "is empty")]),
            snapshot(&[("x", "is empty")]),
            problem(Some("is empty")),
            Report::Problems(vec![("x".into(), "is empty".to_owned())]),
            Report::Up,
            down("refused"),
            down("refused"),
            down("no answer"),
            Report::Up,
            Report::Up,
            problem(None),
            problem(None),
            problem(Some("is empty")),
        ];
        assert_eq!(
            lines(SourceKind::Etcd, &reports),
            [
                warning("etcd: x: is empty"),
                info("etcd: synced, 0 routes"),
                warning("etcd: E: refused; the routes it reported last stay active"),
                warning("etcd: E: no answer; the routes it reported last stay active"),
                info("etcd: synced again"),
                warning("etcd: x: is empty"),
            ]
        );
    }

    #[test]
    fn a_source_that_never_reported_keeps_no_routes_active() {
        let reports = [down("refused"), snapshot(&[]), down("refused"), snapshot(&[])];
        assert_eq!(
            lines(SourceKind::Bird, &reports),
            [
                warning("bird: E: refused; it has not reported any routes yet"),
                info("bird: synced, 0 routes"),
                warning("bird: E: refused; the routes it reported last stay active"),
                info("bird: synced, 0 routes"),
            ]
        );
    }

    #[test]
    fn the_files_routes_are_not_announced() {
        assert_eq!(lines(SourceKind::File, &[snapshot(&[]), snapshot(&[])]), []);
    }

    #[test]
    fn a_source_is_down_since_the_first_of_its_errors() {
        let mut reported = Reported::new(SourceKind::Etcd);
        let closed = Endpoint::new("E").error("closed").caused_by(Cause::Closed);
        for (seconds, report) in
            [down("bad certificate"), Report::Down(closed.into())].iter().enumerate()
        {
            reported.take(report, NOW + Duration::from_secs(seconds as u64));
        }
        let (why, since) = reported.down().unwrap();
        assert_eq!((why.to_string().as_str(), *since), ("E: bad certificate", NOW));
    }

    #[test]
    fn all_problems_replace_those_before() {
        let mut reported = Reported::new(SourceKind::Bird);
        reported.take(&snapshot(&[("x", "is empty"), ("y", "is empty")]), NOW);
        reported.take(&Report::Problems(vec![("y".into(), "is a list".to_owned())]), NOW);
        let problems: Vec<&str> = reported.problems().keys().map(AsRef::as_ref).collect();
        assert_eq!(problems, ["y"]);
    }
}
