//! `cargo xtask test`: every suite, streamed, then one table.
//!
//! A failing suite does not stop the run: one run shows all that is broken.
//! Whatever the suites did, nothing of theirs may be left on the machine
//! afterwards (`traces`).

mod outcome;
mod report;
mod stream;
mod suites;
mod traces;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::{suites::Suite, traces::Traces};
use crate::setup;

/// Run the tests: formatting and lints, host tests, programs, namespaces, demo,
/// other kernels.
///
/// Sets the machine up first (see `setup`), runs the suites in order and
/// prints their output as it comes; then a table of cases per suite, and last
/// one line for all. A suite without a case is a failure, and so is a network
/// namespace, a directory, a pin or a daemon's file that a test left behind. Run it
/// as root.
#[derive(clap::Args)]
pub struct Arguments {
    /// Run this suite only; may be given more than once.
    #[arg(long, value_name = "SUITE")]
    only: Vec<Suite>,
    /// Run every suite of `vm`, not only the smoke suite: half an hour more.
    #[arg(long)]
    full: bool,
    /// List the suites, and run nothing.
    #[arg(long)]
    list: bool,
    /// Stop what still runs after this time, and count it as failed.
    ///
    /// Counted from the start, set-up included; 85 unless given, with `--full` 140.
    #[arg(long, value_name = "MINUTES")]
    budget: Option<u64>,
    /// Run only cases whose name contains FILTER (as `cargo test -- FILTER`;
    /// any other argument of test binaries will do). Leaves `lint`, `demo`
    /// and `vm` out, which have no cases to choose from.
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Runs what the arguments choose; an error if anything failed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let chosen = chosen(&arguments.only, !arguments.filter.is_empty());
    if arguments.list {
        for suite in chosen {
            println!("{}", suites::describe(suite));
        }
        return Ok(());
    }

    setup::run()?;
    if chosen.contains(&Suite::Lint) {
        setup::lint_tools()?;
    }
    if chosen.contains(&Suite::Host) {
        setup::helm()?;
    }
    if chosen.contains(&Suite::Netns) {
        setup::systemd_root()?;
        setup::prometheus()?;
        setup::container_tools()?;
        setup::image_root()?;
    }
    stream::forward_interrupts()?;
    let budget = arguments.budget.unwrap_or(if arguments.full { 140 } else { 85 });
    let deadline = started + Duration::from_secs(budget.saturating_mul(60));

    let before = Traces::find();
    before.mention();
    let mut table = Vec::new();
    for suite in chosen {
        if stream::interrupted() {
            break;
        }
        println!("\n=== {}", suite.name());
        table.push((suite.name(), suites::run(suite, arguments, deadline)));
    }
    if !arguments.filter.is_empty() && table.iter().all(|(_, outcome)| outcome.cases() == 0) {
        bail!("no case matches `{}`", arguments.filter.join(" "));
    }
    table.push(("traces", Traces::find().left_since(&before)));

    // A table cut short would look like a pass.
    if stream::interrupted() {
        bail!("interrupted");
    }
    print!("\n{}", report::render(&table));
    if table.iter().any(|(_, outcome)| outcome.failed > 0) {
        std::process::exit(1);
    }
    Ok(())
}

fn chosen(only: &[Suite], filtered: bool) -> Vec<Suite> {
    Suite::ALL
        .into_iter()
        .filter(|suite| {
            if only.is_empty() {
                !(filtered && matches!(suite, Suite::Lint | Suite::Demo | Suite::Vm))
            } else {
                only.contains(suite)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_run_in_order_and_a_filter_takes_those_with_named_cases() {
        assert_eq!(chosen(&[], false), Suite::ALL);
        assert_eq!(chosen(&[], true), [Suite::Host, Suite::Prog, Suite::Netns]);
        assert_eq!(chosen(&[Suite::Netns, Suite::Lint], true), [Suite::Lint, Suite::Netns]);
    }
}
