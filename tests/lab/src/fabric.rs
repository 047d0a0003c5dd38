//! A fabric that knows nothing of pods, and counts what it should never see.
//!
//! Real data centre fabrics drop packets from or to pod addresses. A lab whose
//! router would pass them hides leaks: the packet arrives, the test is green.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    addr::{POD_CIDR, SERVICE_CIDR},
    netns::Netns,
};

const TABLE: &str = "tunless_lab_fabric";
const COUNTER: &str = "plain";

/// Puts the filter into the router. Prerouting, so that a packet the router
/// could not route anyway is counted too.
pub(crate) fn install(router: &Netns) -> Result<()> {
    let rules = format!(
        "table ip {TABLE} {{
            counter {COUNTER} {{ }}
            chain wire {{
                type filter hook prerouting priority -300; policy accept;
                ip saddr {{ {POD_CIDR}, {SERVICE_CIDR} }} counter name {COUNTER} drop
                ip daddr {{ {POD_CIDR}, {SERVICE_CIDR} }} counter name {COUNTER} drop
            }}
        }}\n"
    );
    router.exec_with_input("nft", &["-f", "-"], &rules).map(drop)
}

/// How many packets from or to a pod or service came by un-encapsulated.
pub(crate) fn plain_packets(router: &Netns) -> Result<u64> {
    let text = router.exec("nft", &["-j", "list", "counter", "ip", TABLE, COUNTER])?;
    let json: Value = serde_json::from_str(&text).context("nft printed no JSON")?;
    json["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|item| item["counter"]["packets"].as_u64())
        .with_context(|| format!("nft shows no counter {COUNTER}: {text}"))
}
