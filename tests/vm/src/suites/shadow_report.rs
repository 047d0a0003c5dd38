//! `tunless shadow report`, whose exit code is 3 as long as something stands against switching on.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tunless_lab::Daemon;

/// The daemon brings it up to date every ten seconds.
const SOON: Duration = Duration::from_secs(120);

/// Waits until the report is as `wanted`.
pub fn wait(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let end = Instant::now() + SOON;
    loop {
        let output = daemon.cli(&["shadow", "report", "-o", "json"])?;
        // Before the first look there is none.
        if output.status != Some(1) {
            ensure!(matches!(output.status, Some(0 | 3)), "{output:?}");
            let report = serde_json::from_str(&output.stdout).context("the report is JSON")?;
            if wanted(&report) {
                return Ok(report);
            }
            if Instant::now() > end {
                bail!("the report did not come to what is wanted within {SOON:?}: {report:#}");
            }
        }
        ensure!(Instant::now() < end, "there is no report after {SOON:?}: {output:?}");
        thread::sleep(Duration::from_millis(500));
    }
}
