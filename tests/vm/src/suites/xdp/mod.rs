//! XDP where the driver is native: nodes and router joined by network cards.

mod driver;
mod interop;
mod merging;
mod nics;
mod no_metadata;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{Daemon, Node};

pub use self::nics::{Model, Nic, nics};
use super::{Case, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "xdp",
    about: "`decap: auto` on network cards: XDP unwraps, GRO merges the inner TCP",
    parts: &[],
    cases,
};

fn cases(kernel: Kernel) -> Vec<Case> {
    let mut cases = [driver::CASES, interop::CASES, merging::CASES].concat();
    cases.extend(no_metadata::cases(kernel));
    cases
}

/// What a daemon has counted.
struct Counters(Value);

impl Counters {
    fn of(daemon: &Daemon) -> Result<Self> {
        daemon.cli_json(&["counters", "list"]).map(Self)
    }

    fn items(&self) -> impl Iterator<Item = &Value> {
        self.0["items"].as_array().into_iter().flatten()
    }

    fn packets(&self, reason: Reason) -> Result<u64> {
        let item = self.items().find(|item| item["reason"] == reason.as_str());
        item.and_then(|item| item["packets"].as_u64())
            .with_context(|| format!("no counter {reason}: {}", self.0))
    }

    /// Packets and bytes that were delivered to pods or to the stack.
    fn delivered(&self) -> (u64, u64) {
        let delivered = self
            .items()
            .filter(|item| item["direction"] == "decap" && item["verdict"] == "forwarded");
        delivered.fold((0, 0), |(packets, bytes), item| {
            let of = |key: &str| item[key].as_u64().unwrap_or_default();
            (packets + of("packets"), bytes + of("bytes"))
        })
    }
}

/// Whether `decap_xdp` is attached and live, as `tunless status` has it.
fn has_xdp(status: &Value) -> bool {
    let attachments = status["attachments"].as_array().into_iter().flatten();
    let mut xdp = attachments.filter(|at| at["program"] == "decap_xdp" && at["live"] == true);
    xdp.any(|at| at["interface"] == "eth0")
}

/// Our program is the one in `eth0`'s driver, and not behind the skb (generic mode).
fn ensure_native(node: &Node, daemon: &Daemon) -> Result<()> {
    let status = daemon.cli_json(&["status"])?;
    ensure!(has_xdp(&status), "decap_xdp is not attached to eth0: {status}");
    let text = node.netns.ip("-j -d link show eth0")?;
    let links: Value = serde_json::from_str(&text).context("`ip -j link` printed no JSON")?;
    let xdp = &links[0]["xdp"];
    // XDP_ATTACHED_DRV
    ensure!(xdp["mode"] == 1, "XDP is not in driver mode on eth0: {xdp}");
    Ok(())
}
