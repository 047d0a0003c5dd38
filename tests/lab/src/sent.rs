//! What each node sends, by IP protocol: counted in the router, before anything else there.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Lab;

const TABLE: &str = "sent";

/// IP-in-IP (RFC 2003).
pub const IPIP: u8 = 4;
/// IPsec's Encapsulating Security Payload (RFC 4303).
pub const ESP: u8 = 50;

impl Lab {
    /// Counts packets of these protocols from now on.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub fn count_sent(&self, protocols: &[u8]) -> Result<()> {
        let nodes = self.nodes();
        let rules = nodes.iter().flat_map(|node| {
            protocols.iter().map(move |protocol| {
                let comment = comment(node.label, *protocol);
                format!(
                    "ip protocol {protocol} ip saddr {} counter comment \"{comment}\"\n",
                    node.ip
                )
            })
        });
        let rules: String = rules.collect();
        let table = format!(
            "table ip {TABLE} {{\nchain wire {{\n\
             type filter hook prerouting priority -320;\n{rules}}}\n}}\n"
        );
        self.router.exec_with_input("nft", &["-f", "-"], &table).map(drop)
    }

    /// How many packets of a protocol the node called `label` has sent since.
    ///
    /// # Errors
    /// If they are not counted.
    pub fn sent(&self, label: &str, protocol: u8) -> Result<u64> {
        let text = self.router.exec("nft", &["-j", "list", "table", "ip", TABLE])?;
        let json: Value = serde_json::from_str(&text)?;
        let comment = comment(label, protocol);
        let items = json["nftables"].as_array().context("no list")?;
        let rule = items
            .iter()
            .filter_map(|item| item.get("rule"))
            .find(|rule| rule["comment"] == comment.as_str())
            .with_context(|| format!("no rule {comment}"))?;
        let expressions = rule["expr"].as_array().context("no expressions")?;
        let counter = expressions.iter().find_map(|it| it.get("counter")).context("no counter")?;
        counter["packets"].as_u64().context("no number")
    }
}

fn comment(label: &str, protocol: u8) -> String {
    format!("{label} {protocol}")
}
