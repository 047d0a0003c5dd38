//! `tunless nodes …`

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::{Ipv4Be, Mtu, Node};
use serde::Serialize;

use crate::{
    bpf::Maps,
    clock,
    exit::Exit,
    output::{self, Format, Row},
};

#[derive(Serialize)]
struct NodeItem {
    node: Ipv4Addr,
    /// `None` while the kernel has no way to it, or IPsec protects it.
    interface: Option<String>,
    /// Whether IPsec protects it: the programs send nothing to it and accept nothing from it.
    protected: bool,
    /// Largest outer packet, bytes.
    mtu: Option<Mtu>,
    next_hop_mac: Option<String>,
    encap_packets: u64,
    encap_bytes: u64,
    decap_packets: u64,
    decap_bytes: u64,
    /// Seconds since a packet last came from it.
    last_seen_seconds: Option<f64>,
}

impl Row for NodeItem {
    const COLUMNS: &'static [&'static str] = &[
        "NODE",
        "DEV",
        "MTU",
        "NEXT HOP",
        "ENCAP PACKETS",
        "ENCAP BYTES",
        "DECAP PACKETS",
        "DECAP BYTES",
        "LAST SEEN",
    ];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.node.to_string(),
            match &self.interface {
                Some(interface) => interface.clone(),
                None if self.protected => "IPsec".into(),
                None => "unreachable".into(),
            },
            self.mtu.map_or_else(dash, |mtu| mtu.to_string()),
            self.next_hop_mac.clone().unwrap_or_else(|| "by the kernel".into()),
            self.encap_packets.to_string(),
            self.encap_bytes.to_string(),
            self.decap_packets.to_string(),
            self.decap_bytes.to_string(),
            self.last_seen_seconds.map_or_else(|| "never".into(), |ago| format!("{ago:.1}s ago")),
        ]
    }
}

pub fn list(maps: &Maps, format: Format) -> Result<Exit> {
    let mut nodes: Vec<(Ipv4Addr, Node)> = maps
        .nodes
        .iter()
        .map(|entry| entry.map(|(address, (node, _))| (address.into(), node)))
        .collect::<Result<_, _>>()?;
    nodes.sort_unstable_by_key(|(address, _)| *address);
    let now = clock::monotonic();
    let items: Vec<NodeItem> = nodes.iter().map(|(at, node)| item(maps, *at, node, now)).collect();
    output::list(format, &items)?;
    Ok(Exit::Ok)
}

fn item(maps: &Maps, address: Ipv4Addr, node: &Node, now: std::time::Duration) -> NodeItem {
    let counters = maps.node_counter(Ipv4Be::from(address)).unwrap_or_default();
    let reachable = !node.hop.ifindex.is_none();
    let seen = std::time::Duration::from_nanos(counters.last_seen);
    NodeItem {
        node: address,
        protected: node.is_protected(),
        interface: reachable.then(|| super::interface_name(node.hop.ifindex)),
        mtu: reachable.then_some(node.mtu),
        next_hop_mac: node.hop.destination.is_known().then(|| node.hop.destination.to_string()),
        encap_packets: counters.encap.packets,
        encap_bytes: counters.encap.bytes,
        decap_packets: counters.decap.packets,
        decap_bytes: counters.decap.bytes,
        last_seen_seconds: (counters.last_seen != 0)
            .then(|| now.saturating_sub(seen).as_secs_f64()),
    }
}
