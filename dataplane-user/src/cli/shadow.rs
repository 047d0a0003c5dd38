//! `tunless shadow`: what `mode: shadow` has found out.

use anyhow::{Context as _, Result};
use clap::Subcommand;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Pins,
    daemon::report::{State, unix_now},
    exit::Exit,
    output::{self, Format},
    shadow::{Opinion, Report, describe, opinion},
};

/// What may be asked.
#[derive(Subcommand, Debug)]
pub enum ShadowCommand {
    /// What would change, what would be gained, what stands against it.
    ///
    /// Exit code 3 if a packet differs, if tunless would drop one that tunl0 takes, if a problem stands
    /// against switching on, or if fewer than 1,000 packets were seen. The report goes on over restarts
    /// of the daemon until the next reboot, and can be read while it is down.
    Report,
    /// Forget what was found, and begin anew.
    Reset,
}

/// What `report` prints as JSON.
#[derive(Serialize, JsonSchema)]
pub(super) struct Whole<'a> {
    #[serde(flatten)]
    opinion: &'a Opinion,
    #[serde(flatten)]
    report: &'a Report,
}

/// What `reset` prints as JSON.
#[derive(Serialize, JsonSchema)]
pub(super) struct Begun {
    /// What was found so far is forgotten.
    begun_anew: bool,
}

/// Runs one of them.
pub fn run(command: &ShadowCommand, pins: &Pins, format: Format) -> Result<Exit> {
    match command {
        ShadowCommand::Report => show(pins, format),
        ShadowCommand::Reset => {
            Report::remove(pins)?;
            output::done(format, &Begun { begun_anew: true }, "the report begins anew")?;
            Ok(Exit::Ok)
        }
    }
}

fn show(pins: &Pins, format: Format) -> Result<Exit> {
    let report = Report::read(pins)?.with_context(|| {
        format!(
            "nothing was watched with the pins {}: set `mode: shadow` in the file and run the daemon; the \
             first figures come after 10 s",
            pins.root().display()
        )
    })?;
    let problems = State::read(pins)?.map(|state| state.problems).unwrap_or_default();
    let opinion = opinion(&report, &problems);
    let whole = Whole { opinion: &opinion, report: &report };
    output::object(format, &whole, || describe(&report, &opinion, &problems, unix_now()))?;
    Ok(if opinion.may_switch_on { Exit::Ok } else { Exit::No })
}

/// A report in which every field has a value.
#[cfg(test)]
pub(super) fn example() -> serde_json::Value {
    let report = Report::example();
    serde_json::to_value(Whole { opinion: &opinion(&report, &[]), report: &report }).unwrap()
}
