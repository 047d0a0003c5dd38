//! Which way packets took, by what the programs counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tunless_lab::Daemon;

/// Packets and bytes by reason.
#[derive(Clone, Debug, Default)]
pub struct Counted(BTreeMap<String, (u64, u64)>);

impl Counted {
    /// As `tunless counters list` shows them now.
    pub fn now(daemon: &Daemon) -> Result<Self> {
        let answer = daemon.cli_json(&["counters", "list"])?;
        let items = answer["items"].as_array().context("no counters are listed")?;
        let mut all = BTreeMap::new();
        for item in items {
            let reason = item["reason"].as_str().context("a counter without a reason")?;
            let number = |key: &str| item[key].as_u64().context("a counter without a number");
            all.insert(reason.to_owned(), (number("packets")?, number("bytes")?));
        }
        Ok(Self(all))
    }

    /// What was counted since.
    pub fn since(&self, daemon: &Daemon) -> Result<Self> {
        Ok(Self::now(daemon)?.less(self))
    }

    /// What this has more than `before`.
    pub fn less(&self, before: &Self) -> Self {
        let more = |(reason, (packets, bytes)): (&String, &(u64, u64))| {
            let (old, old_bytes) = before.0.get(reason).copied().unwrap_or_default();
            (*packets > old).then(|| (reason.clone(), (packets - old, bytes - old_bytes)))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    /// Packets.
    pub fn packets(&self, reason: &str) -> u64 {
        self.0.get(reason).map_or(0, |(packets, _)| *packets)
    }

    /// That each of these was counted.
    pub fn has(&self, reasons: &[&str]) -> Result<()> {
        for reason in reasons {
            ensure!(self.packets(reason) > 0, "nothing was counted as {reason}: {self:?}");
        }
        Ok(())
    }

    /// That none of these was counted.
    pub fn lacks(&self, reasons: &[&str]) -> Result<()> {
        for reason in reasons {
            ensure!(self.packets(reason) == 0, "something was counted as {reason}: {self:?}");
        }
        Ok(())
    }

    /// That these bytes at least were counted under this reason.
    pub fn has_bytes(&self, reason: &str, least: u64) -> Result<()> {
        let bytes = self.0.get(reason).map_or(0, |(_, bytes)| *bytes);
        ensure!(bytes >= least, "{bytes} bytes were counted as {reason}, not {least}: {self:?}");
        Ok(())
    }

    /// That nothing was left to tunl0.
    pub fn nothing_for_tunl0(&self) -> Result<()> {
        let left = self.0.iter().find(|(reason, _)| reason.starts_with("tunl0_"));
        ensure!(left.is_none(), "something was left to tunl0: {self:?}");
        Ok(())
    }
}
