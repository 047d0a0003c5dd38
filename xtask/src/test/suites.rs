//! The suites: which commands each one is.

use std::{
    env,
    num::NonZero,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tunless_lab::identity::sweep;
use tunless_vm::Kernel;

use super::{
    Arguments,
    outcome::Outcome,
    stream::{self, Ended},
};
use crate::workspace;

/// Packages whose tests need no kernel of their own.
const HOST_PACKAGES: [&str; 6] =
    ["dataplane-common", "dataplane-user", "xtask", "tunless-lab", "tunless-package", "tunless-vm"];
/// The package with the tests against a kernel.
const TESTS_PACKAGE: &str = "tunless-tests";

/// The eBPF programs as clippy sees them: compiled for this machine, since the
/// toolchain that builds them for eBPF need not have clippy. A `no_std` binary can be
/// checked only where nothing unwinds.
const LINT_PROGRAMS: &str =
    "cargo clippy --package dataplane-ebpf --config profile.dev.panic=\"abort\" -- -D warnings";

/// A group of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Formatting and clippy, warnings denied.
    Lint,
    /// Unit and property tests of every crate.
    Host,
    /// The eBPF programs packet by packet, through `BPF_PROG_TEST_RUN`.
    Prog,
    /// Two nodes in network namespaces, with the release build of tunless.
    Netns,
    /// The demo, whose steps check what they show.
    Demo,
    /// Other kernels, in an emulator: tunless beside the kernel's tunl0.
    Vm,
}

impl Suite {
    /// In the order they run: the quick ones first.
    pub const ALL: [Self; 6] =
        [Self::Lint, Self::Host, Self::Prog, Self::Netns, Self::Demo, Self::Vm];

    /// As typed after `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Host => "host",
            Self::Prog => "prog",
            Self::Netns => "netns",
            Self::Demo => "demo",
            Self::Vm => "vm",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Lint => "formatting and clippy, warnings denied",
            Self::Host => "unit and property tests of every crate",
            Self::Prog => "the eBPF programs packet by packet, through BPF_PROG_TEST_RUN",
            Self::Netns => "two nodes in network namespaces, with the release build of tunless",
            Self::Demo => "the demo, whose steps check what they show",
            Self::Vm => "other kernels, in an emulator: tunless beside the kernel's tunl0",
        }
    }
}

/// One line for `--list`.
pub fn describe(suite: Suite) -> String {
    let what = match suite {
        Suite::Lint | Suite::Demo | Suite::Prog | Suite::Netns => String::new(),
        Suite::Host => format!(": {}", HOST_PACKAGES.join(", ")),
        Suite::Vm => format!(": smoke on {}", Kernel::ALL.map(Kernel::name).join(", ")),
    };
    format!("{:<6} {}{what}", suite.name(), suite.about())
}

/// Runs one suite; whatever goes wrong is a failure in its outcome.
pub fn run(suite: Suite, arguments: &Arguments, deadline: Instant) -> Outcome {
    let Arguments { filter, full, .. } = arguments;
    let started = Instant::now();
    let mut outcome = Outcome::default();
    match suite {
        Suite::Lint => {
            check(&mut outcome, "cargo fmt --all --check", deadline);
            check(
                &mut outcome,
                "cargo clippy --workspace --exclude dataplane-ebpf --all-targets -- -D warnings",
                deadline,
            );
            check(&mut outcome, LINT_PROGRAMS, deadline);
        }
        Suite::Host => {
            let mut command = workspace::cargo(["test", "--no-fail-fast"]);
            command.args(HOST_PACKAGES.iter().flat_map(|package| ["--package", package]));
            // Those that take long wait for servers of their own.
            command.env("RUST_TEST_THREADS", "8");
            cases(&mut outcome, &mut command, filter, deadline);
        }
        Suite::Prog | Suite::Netns => {
            kernel_cases(&mut outcome, suite, filter, deadline);
        }
        Suite::Demo => {
            for arguments in [
                ["--fastpath", "verified"],
                ["--fastpath", "off"],
                ["--fastpath", "trusted"],
                ["--source", "bird"],
                ["--source", "etcd"],
            ] {
                if !stream::interrupted() {
                    demo(&mut outcome, arguments, deadline);
                }
            }
        }
        Suite::Vm => vm(&mut outcome, *full, deadline),
    }
    outcome.took = started.elapsed().max(Duration::from_millis(1));
    outcome
}

fn kernel_cases(outcome: &mut Outcome, suite: Suite, filter: &[String], deadline: Instant) {
    if suite == Suite::Netns {
        // The tests run the program that is shipped.
        let build = "cargo build --release --package dataplane-user";
        let ended = stream::run(&mut command_line(build), deadline, |_| {});
        if !matches!(ended, Ok(Ended::Well)) {
            outcome.fail(format!("{build}: {}", reason(ended)));
            return;
        }
    }
    let mut command = workspace::cargo(["test", "--no-fail-fast", "--package", TESTS_PACKAGE]);
    command.args(["--test", suite.name()]);
    if suite == Suite::Netns {
        // Most cases wait for something: by three at a time two processors had nothing to do for
        // more than half of the time. Many more, and those that watch for lost packets would see
        // the scheduler's.
        command.env("RUST_TEST_THREADS", "6");
    }
    cases(outcome, &mut command, filter, deadline);
}

/// Runs test binaries and reads their cases.
fn cases(outcome: &mut Outcome, command: &mut Command, filter: &[String], deadline: Instant) {
    command.arg("--").args(filter);
    let ended = stream::run(command, deadline, |line| outcome.read_line(line));
    let cases_failed = outcome.failed > 0 && matches!(ended, Ok(Ended::Badly));
    if !matches!(ended, Ok(Ended::Well)) && !cases_failed {
        outcome.fail(format!("cargo test: {}", reason(ended)));
    } else if outcome.cases() == 0 && filter.is_empty() {
        outcome.fail("no case ran");
    }
}

/// Runs the demo and counts its steps.
fn demo(outcome: &mut Outcome, arguments: [&str; 2], deadline: Instant) {
    let what = format!("demo {}", arguments.join(" "));
    println!("--- cargo xtask {what}");
    let before = outcome.clone();
    let ended = env::current_exe().context("this program's own path is unknown").and_then(|this| {
        let mut command = Command::new(this);
        command.arg("demo").args(arguments);
        stream::run(&mut command, deadline, |line| outcome.read_step(line))
    });
    if matches!(ended, Ok(Ended::OutOfTime))
        && let Err(error) = sweep()
    {
        // It had no time to do so itself.
        outcome.fail(format!("{what}: {error:#}"));
    }
    if !matches!(ended, Ok(Ended::Well)) && outcome.failed == before.failed {
        outcome.fail(format!("{what}: {}", reason(ended)));
    } else if outcome.cases() == before.cases() {
        outcome.fail(format!("{what}: no step ran"));
    }
}

/// Runs the smoke suite, or `all`, on every kernel; its lines are those of test
/// binaries.
fn vm(outcome: &mut Outcome, all: bool, deadline: Instant) {
    let ended = env::current_exe().context("this program's own path is unknown").and_then(|this| {
        let mut command = Command::new(this);
        // A guest keeps one processor busy.
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let jobs = processors.min(Kernel::ALL.len()).to_string();
        command.args(["vm", "test", "--kernel", "all", "--jobs", &jobs]);
        if all {
            command.args(["--suite", "all"]);
        }
        stream::run(&mut command, deadline, |line| outcome.read_line(line))
    });
    let cases_failed = outcome.failed > 0 && matches!(ended, Ok(Ended::Badly));
    if !matches!(ended, Ok(Ended::Well)) && !cases_failed {
        outcome.fail(format!("vm: {}", reason(ended)));
    } else if outcome.cases() == 0 {
        outcome.fail("no case ran");
    }
}

/// Runs a command that passes or fails as a whole.
fn check(outcome: &mut Outcome, line: &str, deadline: Instant) {
    println!("--- {line}");
    match stream::run(&mut command_line(line), deadline, |_| {}) {
        Ok(Ended::Well) => outcome.check(true, line),
        Ok(Ended::Badly) => outcome.check(false, line),
        ended => outcome.fail(format!("{line}: {}", reason(ended))),
    }
}

fn command_line(line: &str) -> Command {
    workspace::cargo(line.split_whitespace().skip(1))
}

fn reason(ended: Result<Ended>) -> String {
    match ended {
        Ok(Ended::OutOfTime) => "stopped, the time budget is spent".into(),
        Ok(Ended::Badly | Ended::Well) => "failed outside of a case".into(),
        Err(error) => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_str(suite.name(), false), Ok(suite));
        }
    }
}
