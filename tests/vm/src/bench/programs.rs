//! What the BPF programs take, by the kernel's own statistics.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use tunless_lab::bpf;

use crate::figures::ProgramCost;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Every program that runs while `send` sends this many packets, those of one name
/// together. The statistics cost, so nothing else is measured meanwhile.
pub fn measure(packets: u64, send: impl FnOnce() -> Result<()>) -> Result<Vec<ProgramCost>> {
    switch("1")?;
    let before = totals()?;
    let sent = send();
    let after = totals();
    switch("0")?;
    sent?;
    let mut costs = Vec::new();
    for (name, (runs, nanoseconds)) in after? {
        let (old_runs, old) = before.get(&name).copied().unwrap_or_default();
        let (runs, nanoseconds) = (runs - old_runs, nanoseconds - old);
        // What runs now and then is not on the packets' way.
        if runs * 2 > packets {
            let (runs, nanoseconds) = (as_float(runs), as_float(nanoseconds));
            let runs_each = runs / as_float(packets);
            costs.push(ProgramCost { name, runs: runs_each, nanoseconds: nanoseconds / runs });
        }
    }
    Ok(costs)
}

/// Runs and nanoseconds by name.
fn totals() -> Result<BTreeMap<String, (u64, u64)>> {
    let mut totals: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for program in bpf::programs().context("cannot list programs")? {
        let total = totals.entry(program.name).or_default();
        *total = (total.0 + program.runs, total.1 + program.nanoseconds);
    }
    Ok(totals)
}

fn switch(value: &str) -> Result<()> {
    fs::write(SWITCH, value).with_context(|| format!("cannot write {value} to {SWITCH}"))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
pub fn as_float(count: u64) -> f64 {
    count as f64
}
