//! What the daemon's report gives: pure.

use std::{collections::BTreeMap, time::Duration};

use dataplane_common::Program;

use super::{Metric, Samples};
use crate::{
    daemon::report::{Code, Problem, State, is_ready},
    sources::status,
};

/// The figures of `state` and of the `problems` that [`current`](crate::daemon::report::current) makes of it,
/// at `now`, Unix time.
pub fn add(samples: &mut Samples, state: &State, problems: &[Problem], now: Duration) {
    samples.add(Metric::Build, [state.version.clone().into(), state.abi.clone().into()], true);
    samples.add(Metric::Start, [], state.work.started as f64);
    samples.add(Metric::Config, [state.config.sha256.clone().into()], true);
    samples.add(Metric::ConfigAccepted, [], state.config.since as f64);
    let is_refused = problems.iter().any(|problem| problem.code == Code::ConfigRefused);
    samples.add(Metric::ConfigReload, [], !is_refused);
    samples.add(Metric::Ready, [], is_ready(problems, now.as_secs()));
    for code in Code::ALL {
        let of_code = || problems.iter().filter(|problem| problem.code == *code);
        let labels = [code.as_str().into(), code.level().as_str().into()];
        samples.add(Metric::Problems, labels, of_code().count());
        if let Some(since) = of_code().filter_map(|problem| problem.since).min() {
            samples.add(Metric::ProblemSince, [code.as_str().into()], since as f64);
        }
    }
    work(samples, state);
    if let Some(decided) = &state.decided {
        let mode = decided.mode_name().into();
        let (fastpath, spoof) = (decided.fastpath.as_str().into(), decided.spoof.as_str().into());
        samples.add(Metric::Settings, [mode, fastpath, spoof], true);
        let mut programs: BTreeMap<Program, usize> =
            Program::ALL.into_iter().map(|program| (program, 0)).collect();
        for at in &decided.attachments {
            *programs.entry(at.program).or_default() += 1;
        }
        for (program, count) in programs {
            samples.add(Metric::Programs, [program.as_str().into()], count);
        }
    }
    sources(samples, state);
}

fn work(samples: &mut Samples, state: &State) {
    let work = &state.work;
    samples.add(Metric::Reconciles, ["whole".into()], work.whole);
    samples.add(Metric::Reconciles, ["changes".into()], work.changes);
    samples.add(Metric::ReconcileFailures, [], work.failures);
    if let Some(last) = work.last {
        samples.add(Metric::ReconcileLast, [], last.at);
        samples.add(Metric::ReconcileDuration, [], last.seconds);
    }
}

fn sources(samples: &mut Samples, state: &State) {
    for source in &state.sources.sources {
        let label = || source.source.as_str().into();
        let is_synced = source.state == status::State::Synced;
        samples.add(Metric::SourceSynced, [label()], is_synced);
        samples.add(Metric::SourceClaims, [label()], source.claims);
        let problems = source.problems.len() + source.more_problems;
        samples.add(Metric::SourceProblems, [label()], problems);
        if let Some(at) = state.work.heard.get(&source.source) {
            samples.add(Metric::SourceReport, [label()], *at as f64);
        }
        if let Some(since) = source.stale_since {
            samples.add(Metric::SourceStale, [label()], since as f64);
        }
    }
}
