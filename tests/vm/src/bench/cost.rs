//! What each of our programs takes for one packet by itself.
//!
//! A binary of its own measures that (`tests/cost.rs`): it has the programs, which this one
//! is built before.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    figures::TestRun,
    suites::{Case, Guest, Suite},
};

/// Where the guest finds that binary.
pub const BINARY: &str = "/usr/bin/tunless-cost";

/// By this clock every run takes the same; the first ones only fill caches.
const RUNS: &str = "15";

/// Runs it.
pub const SUITE: Suite = Suite {
    name: "bench-cost",
    about: "what each program takes for one packet by itself",
    parts: &[],
    cases: |_| vec![Case { name: "programs", loads_tunless: true, run: measure }],
};

fn measure(guest: &Guest) -> Result<()> {
    let mut command = Command::new(BINARY);
    command.args(["--runs", RUNS]);
    read(&mut command)?.into_iter().for_each(|run| guest.figures.note_test_run(run));
    Ok(())
}

/// What the binary measures.
///
/// # Errors
/// If it does not run, fails, or prints something else.
pub fn read(command: &mut Command) -> Result<Vec<TestRun>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).context("its figures are no text")?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}
