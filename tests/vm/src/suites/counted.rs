//! Which way packets took, by what the programs counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tunless_lab::Daemon;

/// Packets and bytes by reason.
#[derive(Clone, Debug, Default)]
pub struct Counted(BTreeMap<String, Count>);

/// What was counted under one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    packets: u64,
    bytes: u64,
    /// Whether such packets go no further.
    is_drop: bool,
}

impl Counted {
    /// As `tunless counters list` shows them now.
    pub fn now(daemon: &Daemon) -> Result<Self> {
        let answer = daemon.cli_json(&["counters", "list"])?;
        let items = answer["items"].as_array().context("no counters are listed")?;
        let mut all = BTreeMap::new();
        for item in items {
            let reason = item["reason"].as_str().context("a counter without a reason")?;
            let number = |key: &str| item[key].as_u64().context("a counter without a number");
            let is_drop = item["verdict"] == "dropped";
            let count = Count { packets: number("packets")?, bytes: number("bytes")?, is_drop };
            all.insert(reason.to_owned(), count);
        }
        Ok(Self(all))
    }

    /// What was counted since.
    pub fn since(&self, daemon: &Daemon) -> Result<Self> {
        Ok(Self::now(daemon)?.less(self))
    }

    /// What this has more than `before`.
    pub fn less(&self, before: &Self) -> Self {
        let more = |(reason, count): (&String, &Count)| {
            let Count { packets, bytes, .. } = before.0.get(reason).copied().unwrap_or_default();
            let more =
                Count { packets: count.packets - packets, bytes: count.bytes - bytes, ..*count };
            (more.packets > 0).then(|| (reason.clone(), more))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    /// Packets.
    pub fn packets(&self, reason: &str) -> u64 {
        self.0.get(reason).map_or(0, |count| count.packets)
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
        let bytes = self.0.get(reason).map_or(0, |count| count.bytes);
        ensure!(bytes >= least, "{bytes} bytes were counted as {reason}, not {least}: {self:?}");
        Ok(())
    }

    /// That nothing was left to tunl0.
    pub fn nothing_for_tunl0(&self) -> Result<()> {
        let left = self.0.iter().find(|(reason, _)| reason.starts_with("tunl0_"));
        ensure!(left.is_none(), "something was left to tunl0: {self:?}");
        Ok(())
    }

    /// That no packet was dropped.
    pub fn nothing_dropped(&self) -> Result<()> {
        let dropped = self.0.values().find(|count| count.is_drop);
        ensure!(dropped.is_none(), "something was dropped: {self:?}");
        Ok(())
    }
}
