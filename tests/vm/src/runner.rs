//! Runs the cases of one suite, each under a time limit, and reports them.

use std::{
    any::Any,
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    Kernel,
    checks::Checks,
    figures::Figures,
    report::{Event, Reporter},
    suites::{self, Case, Guest},
};

/// How long one case may take. The emulator is some twenty times slower than
/// the machine it runs on, which may have other work.
pub const CASE_LIMIT: Duration = Duration::from_secs(400);

/// Runs the suite called `name`; the report tells how it went.
#[must_use]
pub fn run(kernel: Kernel, name: &str) -> ExitCode {
    match Reporter::open().and_then(|mut report| run_suite(kernel, name, &mut report)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_suite(kernel: Kernel, name: &str, report: &mut Reporter) -> Result<()> {
    let Some(suite) = suites::find(name) else {
        let why = format!("the guest has no suite `{name}`");
        report.send(&Event::Fatal { why: why.clone() })?;
        bail!(why);
    };
    for case in (suite.cases)(kernel) {
        let name = case.name.to_owned();
        report.send(&Event::Begin { case: name.clone(), loads_tunless: case.loads_tunless })?;
        let started = Instant::now();
        let checks = Checks::default();
        let guest = Guest {
            kernel,
            suite: suite.name,
            case: case.name,
            checks: checks.clone(),
            figures: Figures::default(),
        };
        let figures = guest.figures.clone();
        let result = run_case(case, guest);
        let seconds = started.elapsed().as_secs_f64();
        let (failure, hangs) = match result {
            Ok(failure) => (failure, false),
            Err(TooLong) => (Some(format!("took longer than {CASE_LIMIT:?}")), true),
        };
        for check in checks.so_far() {
            report.send(&Event::Check { case: name.clone(), check })?;
        }
        for figure in figures.so_far() {
            report.send(&Event::Figure { case: name.clone(), figure })?;
        }
        for run in figures.test_runs() {
            report.send(&Event::TestRun { case: name.clone(), run })?;
        }
        if let Some(symbols) = figures.symbols() {
            report.send(&Event::Profiled { case: name.clone(), symbols })?;
        }
        report.send(&Event::End { case: name.clone(), failure, seconds })?;
        if hangs {
            // Its threads and namespaces are still there: no ground to go on.
            report.send(&Event::Fatal { why: format!("{name} hangs: no case after it ran") })?;
            bail!("{name} hangs");
        }
    }
    report.send(&Event::Done)
}

struct TooLong;

/// What the case failed with, if it did.
fn run_case(case: Case, guest: Guest) -> Result<Option<String>, TooLong> {
    let (sender, end) = mpsc::channel();
    let checks = guest.checks.clone();
    let thread = thread::spawn(move || {
        let result = (case.run)(&guest);
        // Nobody listens any more after the limit.
        let _ = sender.send(());
        result
    });
    match end.recv_timeout(CASE_LIMIT) {
        Err(RecvTimeoutError::Timeout) => Err(TooLong),
        // Disconnected: it panicked.
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(match thread.join() {
            Ok(Ok(())) => match checks.failures() {
                failures if failures.is_empty() => None,
                failures => Some(failures.join("\n")),
            },
            Ok(Err(error)) => {
                Some([checks.failures(), vec![format!("{error:#}")]].concat().join("\n"))
            }
            Err(payload) => Some(format!("panicked: {}", panic_text(payload.as_ref()))),
        }),
    }
}

fn panic_text(payload: &dyn Any) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_passes_fails_or_panics() {
        let outcome = |run| {
            let case = Case { name: "x", loads_tunless: false, run };
            let guest = Guest {
                kernel: Kernel::V6_12,
                suite: "smoke",
                case: case.name,
                checks: Checks::default(),
                figures: Figures::default(),
            };
            run_case(case, guest).ok().flatten()
        };
        assert_eq!(outcome(|_| Ok(())), None);
        assert_eq!(outcome(|_| bail!("no")).as_deref(), Some("no"));
        assert_eq!(outcome(|_| panic!("at {}", 1)).as_deref(), Some("panicked: at 1"));
        let unwell = |guest: &Guest| {
            guest.checks.check("ping", || bail!("lost"));
            Ok(())
        };
        assert_eq!(outcome(unwell).as_deref(), Some("ping: lost"));
    }
}
