//! What one boot came to: cases that passed or failed, or an emulator's death.

use tunless_vm::{
    checks::Check,
    figures::{Figure, Symbols, TestRun},
    report::Event,
};

use super::{
    guest::{End, Ended},
    panics::Report,
};

/// What the guest has said so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// User space came up.
    pub hello: bool,
    /// Our programs may have been loaded.
    pub loaded: bool,
    /// The case under way.
    pub running: Option<String>,
    /// Cases that passed.
    pub passed: u64,
    /// Names of cases that failed, or what else went wrong.
    pub failed: Vec<String>,
    /// What cases found out, with their names.
    pub checks: Vec<(String, Check)>,
    /// What cases have measured.
    pub figures: Vec<Figure>,
    /// What programs took by themselves.
    pub test_runs: Vec<TestRun>,
    /// Of the profiles that were taken, with the names of the cases.
    pub profiled: Vec<(String, Symbols)>,
    /// Every case has ended.
    pub done: bool,
    /// Why the guest could not go on.
    pub fatal: Option<String>,
}

impl Progress {
    /// Takes one event.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Hello { .. } => self.hello = true,
            Event::Begin { case, loads_tunless } => {
                self.running = Some(case.clone());
                self.loaded |= loads_tunless;
            }
            Event::End { case, failure, .. } => {
                self.running = None;
                match failure {
                    Some(_) => self.failed.push(case.clone()),
                    None => self.passed += 1,
                }
            }
            Event::Check { case, check } => self.checks.push((case.clone(), check.clone())),
            Event::Figure { figure, .. } => self.figures.push(figure.clone()),
            Event::TestRun { run, .. } => self.test_runs.push(run.clone()),
            Event::Profiled { case, symbols } => {
                self.profiled.push((case.clone(), symbols.clone()));
            }
            Event::Done => self.done = true,
            Event::Fatal { why } => self.fatal = Some(why.clone()),
        }
    }
}

/// What a boot came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The cases' results stand.
    Cases,
    /// The guest failed as a whole, besides what its cases say.
    Failed(String),
    /// It died of the emulator, and says nothing about tunless.
    Emulator(String),
}

/// Judges a boot by what the guest said, and by what its kernel printed.
pub fn judge(progress: &Progress, ended: &Ended, report: Option<&Report>) -> Verdict {
    if let Some(report) = report {
        let headline = report.headline().to_owned();
        if report.is_ours(progress.loaded) {
            return Verdict::Failed(format!("the kernel reported: {headline}"));
        }
        if report.fatal {
            return Verdict::Emulator(headline);
        }
        // A warning from elsewhere, which it survived.
    }
    if let Some(why) = &progress.fatal {
        return Verdict::Failed(why.clone());
    }
    if progress.done {
        return Verdict::Cases;
    }
    let during = match &progress.running {
        Some(case) => format!(" during {case}"),
        None => String::new(),
    };
    let what = match ended.end {
        End::Off if !ended.emulator.is_empty() => format!("the emulator says: {}", ended.emulator),
        End::Off => format!("it went off{during} without a word"),
        End::Silent => format!("it hung{during} and was killed"),
    };
    if progress.loaded {
        return Verdict::Failed(what);
    }
    Verdict::Emulator(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(end: End) -> Ended {
        Ended { end, console: String::new(), emulator: String::new() }
    }

    fn progress(events: &[Event]) -> Progress {
        let mut progress = Progress::default();
        events.iter().for_each(|event| progress.take(event));
        progress
    }

    fn begin(loads_tunless: bool) -> Event {
        Event::Begin { case: "x".into(), loads_tunless }
    }

    fn end(failure: Option<&str>) -> Event {
        Event::End { case: "x".into(), failure: failure.map(str::to_owned), seconds: 1.0 }
    }

    fn report(fatal: bool, text: &str) -> Report {
        Report { fatal, text: text.into() }
    }

    #[test]
    fn cases_are_counted() {
        let progress =
            progress(&[begin(false), end(None), begin(true), end(Some("no")), Event::Done]);
        assert_eq!((progress.passed, progress.failed.len()), (1, 1));
        assert_eq!(judge(&progress, &ended(End::Off), None), Verdict::Cases);
    }

    #[test]
    fn a_guest_that_dies_before_our_programs_died_of_the_emulator() {
        let early = progress(&[begin(false)]);
        for how in [End::Off, End::Silent] {
            assert!(matches!(judge(&early, &ended(how), None), Verdict::Emulator(_)));
        }
    }

    #[test]
    fn a_guest_that_dies_silently_after_our_programs_has_failed() {
        let late = progress(&[begin(true)]);
        for how in [End::Off, End::Silent] {
            assert!(matches!(judge(&late, &ended(how), None), Verdict::Failed(_)));
        }
    }

    #[test]
    fn an_oops_elsewhere_is_the_emulators_and_one_of_ours_is_not() {
        let late = progress(&[begin(true)]);
        let of = |text| judge(&late, &ended(End::Off), Some(&report(true, text)));
        assert!(matches!(of("Oops: 0\n copy_process"), Verdict::Emulator(_)));
        assert!(matches!(of("Oops: 0\n bpf_prog_1_decap_tc"), Verdict::Failed(_)));
    }

    #[test]
    fn a_warning_fails_a_good_run_only_if_it_is_ours() {
        let good = progress(&[begin(true), end(None), Event::Done]);
        let of = |text| judge(&good, &ended(End::Off), Some(&report(false, text)));
        assert_eq!(of("WARNING: CPU: 0\n exc_debug_kernel"), Verdict::Cases);
        assert!(matches!(of("WARNING: CPU: 0\n skb_segment\n"), Verdict::Failed(_)));
    }

    #[test]
    fn a_guest_that_cannot_go_on_says_why() {
        let stuck = progress(&[begin(true), Event::Fatal { why: "x hangs".into() }]);
        assert_eq!(judge(&stuck, &ended(End::Off), None), Verdict::Failed("x hangs".into()));
    }
}
