//! `cargo xtask bench cost`: each program by itself, by `BPF_PROG_TEST_RUN`.
//!
//! One binary (`tests/cost.rs`) measures twice: here, for nanoseconds, and in the emulator,
//! whose clock counts instructions. What is shown is less what a program that does nothing
//! takes.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, TableStyle};
use tunless_vm::{Kernel, bench::cost, figures::TestRun};

use super::results::{Cost, Row};
use crate::{
    vm::measure::{INSTRUCTIONS_PER_NANOSECOND, Measuring},
    workspace,
};

/// Measure each program by itself: nanoseconds here, instructions in the emulator.
///
/// For a packet it is there for and one it leaves to the stack, short and long, with 10,
/// 1,000 and 100,000 routes, and with the table of leases empty and full. Nanoseconds are
/// a median: that of one run alone, its two looks at the clock taken off, as far as this
/// machine tells them apart.
#[derive(Args)]
pub struct Arguments {
    /// How many runs here of each.
    #[arg(long, value_name = "NUMBER", default_value_t = RUNS, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// The kernel in the emulator.
    #[arg(long, value_name = "KERNEL", value_parser = super::deterministic::kernel, default_value = "6.12")]
    kernel: Kernel,
}

const RUNS: u32 = 1001;

impl Default for Arguments {
    fn default() -> Self {
        Self { runs: RUNS, kernel: Kernel::V6_12 }
    }
}

/// Measures, prints, and returns the rows.
pub fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let binary = workspace::build_example("tunless-tests", "cost")?;
    println!("bench: programs by themselves, on this kernel");
    let here = cost::read(Command::new(&binary).args(["--runs", &arguments.runs.to_string()]))?;
    let measuring =
        Measuring::prepare_with(&[arguments.kernel], &[(Path::new(cost::BINARY), &binary)])?;
    let (release, emulated) = measuring.test_runs(arguments.kernel, cost::SUITE.name)?;
    let rows = rows(&here, &emulated)?;
    println!("\nfor one packet: ns here / instructions on {release}; by routes, and by leases");
    print!("{}", table(&rows));
    Ok(rows.into_iter().map(Row::Cost).collect())
}

/// Both figures of the same run.
fn rows(here: &[TestRun], emulated: &[TestRun]) -> Result<Vec<Cost>> {
    ensure!(here.len() == emulated.len(), "{} and {} figures", here.len(), emulated.len());
    here.iter()
        .map(|run| {
            let is_same = |other: &&TestRun| {
                TestRun { nanoseconds: run.nanoseconds, ..(*other).clone() } == *run
            };
            let other =
                emulated.iter().find(is_same).with_context(|| format!("only here: {run:?}"))?;
            Ok(Cost {
                program: run.program.clone(),
                fastpath: run.fastpath.clone(),
                outcome: run.outcome.clone(),
                hit: run.hit,
                bytes: run.bytes,
                routes: run.routes,
                leases_full: run.leases_full,
                nanoseconds: run.nanoseconds,
                instructions: other.nanoseconds * INSTRUCTIONS_PER_NANOSECOND,
            })
        })
        .collect()
}

/// A line for each packet, a column for each filling of the maps.
fn table(rows: &[Cost]) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut lines: BTreeMap<_, BTreeMap<String, String>> = BTreeMap::new();
    for row in rows {
        let column = if row.leases_full {
            "leases full".to_owned()
        } else {
            format!("{} routes", row.routes)
        };
        if !columns.contains(&column) {
            columns.push(column.clone());
        }
        let line = lines
            .entry((&row.program, &row.fastpath, !row.hit, &row.outcome, row.bytes))
            .or_default();
        line.insert(column, format!("{:.0} / {:.0}", row.nanoseconds, row.instructions));
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    let header = ["program", "fastpath", "", "outcome", "bytes"].map(str::to_owned);
    table.set_header(header.into_iter().chain(columns.iter().cloned()));
    for ((program, fastpath, missed, outcome, bytes), cells) in &lines {
        let hit = if *missed { "miss" } else { "hit" };
        let front = [*program, *fastpath, hit, *outcome].map(str::to_owned);
        let cells = columns.iter().map(|column| cells.get(column).cloned().unwrap_or_default());
        table.add_row(front.into_iter().chain([bytes.to_string()]).chain(cells));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 3 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(routes: u32, leases_full: bool, nanoseconds: f64) -> TestRun {
        TestRun {
            program: "encap_pod".into(),
            fastpath: "verified".into(),
            outcome: "pod_encapsulated".into(),
            hit: true,
            bytes: 64,
            routes,
            leases_full,
            nanoseconds,
        }
    }

    #[test]
    fn nanoseconds_and_instructions_of_one_run_are_a_row() {
        let here = [measured(10, false, 80.0), measured(10, true, 90.0)];
        let emulated = [measured(10, true, 1200.0), measured(10, false, 1000.0)];
        let rows = rows(&here, &emulated).unwrap();
        assert_eq!((rows[0].nanoseconds, rows[0].instructions), (80.0, 500.0));
        assert_eq!((rows[1].nanoseconds, rows[1].instructions), (90.0, 600.0));
        let text = table(&rows);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("80 / 500") && text.contains("leases full"), "{text}");
    }

    #[test]
    fn a_run_of_one_side_only_is_told() {
        let error = rows(&[measured(10, false, 1.0)], &[measured(11, false, 1.0)]).unwrap_err();
        assert!(error.to_string().starts_with("only here: "), "{error}");
        assert!(rows(&[], &[measured(10, false, 1.0)]).is_err());
    }
}
