//! `cargo xtask bench`: what tunless costs and what it gains.
//!
//! | part | says |
//! |---|---|
//! | [`deterministic`] | ratios to the kernel's tunl0, in the emulator, the same in every run |
//! | [`native`] | ratios to plain kernel routing, on this machine's kernel |
//! | [`cost`] | nanoseconds and instructions of each program by itself |
//! | [`scale`] | what the daemon takes in a large cluster |
//! | [`churn`] | the share of the fast path while pods and routes come and go |
//!
//! [`profile`] shows where the instructions of one path go; it is no part of the whole.
//!
//! A part prints a table and puts its rows into `target/bench/latest.json`
//! ([`results`]). To add one: a module with `Arguments` (clap, with a
//! `Default`) and `run(&Arguments) -> Result<Vec<Row>>`, a line in [`Part`],
//! in [`Part::all`] and in [`Part::run`], and a kind of [`results::Row`].

mod churn;
mod cost;
mod deterministic;
mod native;
mod profile;
mod ratio;
mod results;
mod scale;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::results::Row;
use crate::setup;

/// Measure tunless: all parts in turn, or one of them.
///
/// Each part prints a table, and replaces its own rows in
/// `target/bench/latest.json`. Speed on a shared machine drifts, so what
/// counts are ratios within one run. Run it as root.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

/// What can be measured by itself.
#[derive(Subcommand)]
enum Part {
    Deterministic(deterministic::Arguments),
    Native(native::Arguments),
    Cost(cost::Arguments),
    Scale(scale::Arguments),
    Churn(churn::Arguments),
    Profile(profile::Arguments),
}

/// Measures what the arguments choose.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    match &arguments.part {
        Some(part) => part.measure(),
        None => Part::all().iter().try_for_each(Part::measure),
    }
}

impl Part {
    /// In the order they run, with the arguments of one who gives none.
    fn all() -> Vec<Self> {
        vec![
            Self::Deterministic(deterministic::Arguments::default()),
            Self::Native(native::Arguments::default()),
            Self::Cost(cost::Arguments::default()),
            Self::Scale(scale::Arguments::default()),
            Self::Churn(churn::Arguments::default()),
        ]
    }

    fn run(&self) -> Result<Vec<Row>> {
        match self {
            Self::Deterministic(arguments) => deterministic::run(arguments),
            Self::Native(arguments) => native::run(arguments),
            Self::Cost(arguments) => cost::run(arguments),
            Self::Scale(arguments) => scale::run(arguments),
            Self::Churn(arguments) => churn::run(arguments),
            Self::Profile(arguments) => profile::run(arguments).map(|()| Vec::new()),
        }
    }

    /// Runs the part and keeps its rows.
    fn measure(&self) -> Result<()> {
        let rows = self.run()?;
        if rows.is_empty() {
            return Ok(());
        }
        let file = results::merge(rows)?;
        println!("\nwritten to {}", crate::workspace::shown(&file));
        Ok(())
    }
}
