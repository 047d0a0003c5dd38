//! Whether the fast path may be had on this host.

use anyhow::Result;

use super::Reconciler;
use crate::{
    config::ConfigFile,
    daemon::fitness::{self, Depth},
};

impl Reconciler {
    /// Whether this host is fit for a file's fast path; see [`fitness`].
    ///
    /// # Errors
    /// If not: why, and what to do.
    pub async fn judge_fastpath(&mut self, file: &ConfigFile, depth: Depth) -> Result<()> {
        self.shaped = fitness::judge(&self.kernel, &self.pins, file, depth).await?;
        Ok(())
    }

    /// Turns the fast path off, or on again.
    pub fn withhold_fastpath(&mut self, reason: Option<String>) {
        match (&self.withheld, &reason) {
            (None, Some(reason)) => tracing::error!("the fast path is off from now on: {reason}"),
            (Some(_), None) => tracing::info!("the fast path is on again"),
            _ => {}
        }
        self.withheld = reason;
    }

    /// Whether the fast path is off though configured.
    pub fn is_withheld(&self) -> bool {
        self.withheld.is_some()
    }
}
