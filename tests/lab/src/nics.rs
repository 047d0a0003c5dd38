//! Links between nodes and router that are network cards, not veth pairs.
//!
//! Whoever made the machine has put them in: per node two, joined by a wire of
//! their own, each with the MAC that the lab gives to that end. When a namespace
//! ends, the kernel gives its cards back to the first one, where the next lab
//! finds them.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    addr::{Mac, mac_of, mac_text},
    cmd,
    netns::Netns,
    topology::{NODE1, NODE2, NODE3},
};

/// The kernel takes a namespace apart behind our back.
const GIVEN_BACK: Duration = Duration::from_secs(20);

/// The MACs at both ends of one wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Of the node's `eth0`.
    pub node: Mac,
    /// Of the router's interface toward it.
    pub router: Mac,
}

/// The wires of node1, node2 and node3.
#[must_use]
pub fn wires() -> [Wire; 3] {
    [NODE1, NODE2, NODE3].map(|plan| Wire { node: mac_of(plan.ip), router: mac_of(plan.gateway()) })
}

/// Moves the card with this MAC into a namespace, as `name`; it is down there.
pub(crate) fn move_into(netns: &Netns, mac: Mac, name: &str) -> Result<()> {
    let card = find(mac)?;
    cmd::check(Command::new("ip").args(["link", "set", &card, "netns", netns.name()]), b"")?;
    // Not before: in the first namespace another card may be called so.
    netns.ip(&format!("link set {card} name {name}")).map(drop)
}

/// The name of the card with this MAC, once it is back in our own namespace.
fn find(mac: Mac) -> Result<String> {
    let mac = mac_text(mac);
    let end = Instant::now() + GIVEN_BACK;
    loop {
        let text = cmd::check(Command::new("ip").args(["-j", "link", "show"]), b"")?;
        let links: Value = serde_json::from_str(&text).context("`ip -j link` printed no JSON")?;
        let card = links.as_array().into_iter().flatten().find(|link| link["address"] == mac);
        match card.and_then(|link| link["ifname"].as_str()) {
            Some(name) => return Ok(name.to_owned()),
            None if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            None => bail!("this machine has no network card {mac} for the lab"),
        }
    }
}
