//! Kernels without TCX links.
//!
//! tunless does not attach by clsact filters yet. Once it does, these kernels
//! take the cases of [`super::interop`], and this file goes.

use anyhow::{Result, ensure};
use tunless_lab::{Lab, daemon::expect_failure};

use super::interop::config;
use crate::suites::{Case, Guest};

/// What there is to see today.
pub const CASES: &[Case] =
    &[Case { name: "without_tcx_the_daemon_says_so", loads_tunless: true, run: says_so }];

fn says_so(_: &Guest) -> Result<()> {
    let lab = Lab::new().build()?;
    let (code, text) = expect_failure(&lab.node2, &config(&lab.node2, &lab.node1, "off"))?;
    ensure!(code == 1, "exit code {code}, not 1: {text}");
    ensure!(text.contains("no TCX links"), "the error says nothing of TCX: {text}");
    ensure!(text.contains("6.6"), "the error does not say which kernel has them: {text}");
    Ok(())
}
