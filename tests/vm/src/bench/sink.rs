//! Where packets end: dropped at a device's ingress, and counted.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tunless_lab::Netns;

/// A device that drops the IPv4 that comes in.
#[derive(Debug)]
pub struct Sink {
    netns: Netns,
    device: String,
}

impl Sink {
    /// Drops all IPv4 from now on; neighbours are still found.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        let sink = Self { netns: netns.clone(), device: device.to_owned() };
        sink.tc("qdisc add dev DEVICE clsact")?;
        sink.tc("filter add dev DEVICE ingress protocol ip matchall action drop")?;
        Ok(sink)
    }

    /// Packets so far.
    pub fn packets(&self) -> Result<u64> {
        let text = self.tc("-s -j filter show dev DEVICE ingress")?;
        let filters: Value = serde_json::from_str(&text).context("tc's filters")?;
        let count = |filter: &Value| {
            filter.pointer("/options/actions/0/stats/packets").and_then(Value::as_u64)
        };
        filters.as_array().into_iter().flatten().find_map(count).context(text)
    }

    /// Lets everything through again.
    pub fn close(self) -> Result<()> {
        self.tc("qdisc del dev DEVICE clsact").map(drop)
    }

    fn tc(&self, line: &str) -> Result<String> {
        let line = line.replace("DEVICE", &self.device);
        self.netns.exec("tc", &line.split(' ').collect::<Vec<_>>())
    }
}
