//! What the daemon remembers from one run to the next: the only history that decisions use.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dataplane_common::IfIndex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ChosenMode, KnownServers, NodeAddress, OwnNodes, handovers::Failure, spread::Spreading,
};
use crate::kernel::{Host, Link};

/// The memory. Routes that are active are not in it: they are the map `ROUTES`.
#[derive(Clone, PartialEq, Default, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Memory {
    /// This node's underlay address.
    pub node: Option<NodeAddress>,
    /// What the datastores have reported about this node.
    pub own_nodes: OwnNodes,
    /// The addresses of the servers that the sources need.
    pub servers: KnownServers,
    /// The addresses of what serves behind them.
    pub backends: KnownServers,
    /// With tunl0 or without.
    pub mode: Option<ChosenMode>,
    /// Links that cannot use XDP (see [`link_key`]), and why.
    pub no_xdp: BTreeMap<String, String>,
    /// Links on which packets do not arrive as XDP handed them over (see [`link_key`]), and what was
    /// seen.
    pub no_handover: BTreeMap<String, Failure>,
    /// Sysctls that were changed: their values before.
    pub sysctls: BTreeMap<String, u32>,
    /// Receive queues that were given RPS.
    pub spreading: Spreading,
    /// How nft lists our table ([`crate::netfilter::MarkRules::record`]), if there is one.
    pub marks: Option<String>,
    /// The secret among the programs; 0 while there is none.
    pub secret: u32,
    /// When a `tunless try` is over, `CLOCK_MONOTONIC`; `None`: nothing is only tried.
    #[serde(rename = "try")]
    pub attempt: Option<Duration>,
    /// The text of the configuration that was last accepted.
    pub config: Option<String>,
    /// What another version remembers: kept as it is.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl Memory {
    /// Returns the links on which packets do not arrive as XDP handed them over.
    #[must_use]
    pub fn without_handover(&self, host: &Host) -> BTreeSet<IfIndex> {
        let is_known = |link| self.no_handover.contains_key(&link_key(link));
        let known = host.links.iter().filter(|(_, link)| is_known(link));
        known.map(|(ifindex, _)| *ifindex).collect()
    }
}

/// By what a link is recognized after a restart or a reboot of its driver: interface indexes
/// are given anew. A card that was replaced, or another version of its driver, is another link.
#[must_use]
pub fn link_key(link: &Link) -> String {
    let kind = link.kind.as_ref().or(link.driver.as_ref()).map_or("device", String::as_str);
    format!("{} {} {kind}", link.name, link.mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_remembers_is_kept() {
        let text = r#"{"secret": 7, "later": {"number": 12}}"#;
        let memory: Memory = serde_json::from_str(text).unwrap();
        assert_eq!(memory.secret, 7);
        let written = serde_json::to_value(&memory).unwrap();
        assert_eq!(written["later"]["number"], 12);
        assert_eq!(serde_json::from_value::<Memory>(written).unwrap(), memory);
    }
}
