//! `tunless nodes …`

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use anyhow::Result;
use dataplane_common::{Ipv4Be, Mtu, Node};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::{Maps, Pins},
    clock,
    config::Cidr,
    daemon::{heard::Heard, report::unix_now, underlay_errors::HeardError},
    exit::Exit,
    output::{self, Format, Row},
    schema,
};

#[derive(JsonSchema, Serialize)]
pub(super) struct NodeItem {
    /// Its underlay address.
    node: Ipv4Addr,
    /// What the datastore, the file or BIRD calls it; `null`: none of them has a name for it.
    name: Option<String>,
    /// Pod CIDRs there.
    #[schemars(with = "BTreeSet<Cidr>")]
    prefixes: BTreeSet<Ipv4Net>,
    /// Out of which interface; `null` while the kernel has no path to it, or IPsec protects it.
    interface: Option<String>,
    /// Whether IPsec protects it: the programs send nothing to it and accept nothing from it.
    protected: bool,
    /// Largest outer packet, bytes; `null` where `interface` is.
    mtu: Option<Mtu>,
    /// The next hop's MAC; `null`: the kernel finds it for each packet.
    #[schemars(extend("pattern" = schema::MAC))]
    next_hop_mac: Option<String>,
    /// Packets to it since the counters began.
    encap_packets: u64,
    /// Bytes of these packets.
    encap_bytes: u64,
    /// Packets from it since the counters began.
    decap_packets: u64,
    /// Bytes of these packets.
    decap_bytes: u64,
    /// Packets from it since the counters began whose inner source is not its own.
    forged_packets: u64,
    /// Seconds since a packet last came from it; `null`: none ever did.
    last_seen_seconds: Option<f64>,
    /// Packets to it since one last came from it, without those of the first ten seconds, in which the
    /// daemon has not looked yet; `null`: that is not known, because no daemon looks.
    sent_since_heard: Option<u64>,
    /// Errors of the underlay about packets to it since the daemon started.
    underlay_errors: u64,
    /// The latest of these errors; `null`: there was none.
    last_error: Option<LastError>,
}

/// An error of the underlay.
#[derive(JsonSchema, Serialize)]
struct LastError {
    /// The router or host that reported it.
    from: Ipv4Addr,
    /// What it reported, for people.
    what: String,
    /// How long ago, seconds.
    seconds_ago: u64,
}

impl Row for NodeItem {
    const COLUMNS: &'static [&'static str] = &[
        "NODE",
        "NAME",
        "PREFIXES",
        "DEV",
        "MTU",
        "NEXT HOP",
        "ENCAP PACKETS",
        "ENCAP BYTES",
        "DECAP PACKETS",
        "DECAP BYTES",
        "FORGED",
        "LAST SEEN",
        "SENT SINCE",
        "ERRORS",
        "LAST ERROR",
    ];

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.node.to_string(),
            self.name.clone().unwrap_or_else(dash),
            self.prefixes.len().to_string(),
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
            self.forged_packets.to_string(),
            self.last_seen_seconds.map_or_else(|| "never".into(), |ago| format!("{ago:.1}s ago")),
            self.sent_since_heard.map_or_else(dash, |packets| packets.to_string()),
            self.underlay_errors.to_string(),
            self.last_error.as_ref().map_or_else(dash, |LastError { from, what, seconds_ago }| {
                format!("{what} ({from}), {} ago", output::age(*seconds_ago))
            }),
        ]
    }
}

/// All nodes, by address.
pub fn list(pins: &Pins, maps: &Maps, format: Format) -> Result<Exit> {
    let mut nodes: Vec<(Ipv4Addr, Node)> = maps
        .nodes
        .iter()
        .map(|entry| entry.map(|(address, (node, _))| (address.into(), node)))
        .collect::<Result<_, _>>()?;
    nodes.sort_unstable_by_key(|(address, _)| *address);
    let mut carried: BTreeMap<Ipv4Addr, BTreeSet<Ipv4Net>> = BTreeMap::new();
    for (prefix, route) in maps.all_routes()? {
        if route.is_destination() {
            carried.entry(route.node.into()).or_default().insert(prefix);
        }
    }
    let known = Known { carried, heard: Heard::read(pins), now: clock::monotonic() };
    let items: Vec<NodeItem> = nodes.iter().map(|(at, node)| known.item(maps, *at, node)).collect();
    output::list(format, &items)?;
    Ok(Exit::Ok)
}

/// What is known of nodes beside the map of nodes.
struct Known {
    carried: BTreeMap<Ipv4Addr, BTreeSet<Ipv4Net>>,
    heard: Heard,
    now: Duration,
}

impl Known {
    fn item(&self, maps: &Maps, address: Ipv4Addr, node: &Node) -> NodeItem {
        let counters = maps.node_counter(Ipv4Be::from(address)).unwrap_or_default();
        let reachable = !node.hop.ifindex.is_none();
        let seen = Duration::from_nanos(counters.last_seen);
        let error = self.heard.errors.get(&address);
        NodeItem {
            node: address,
            name: self.heard.names.get(&address).cloned(),
            prefixes: self.carried.get(&address).cloned().unwrap_or_default(),
            protected: node.is_protected(),
            interface: reachable.then(|| super::interface_name(node.hop.ifindex)),
            mtu: reachable.then_some(node.mtu),
            next_hop_mac: node.hop.destination.is_known().then(|| node.hop.destination.to_string()),
            encap_packets: counters.encap.packets,
            encap_bytes: counters.encap.bytes,
            decap_packets: counters.decap.packets,
            decap_bytes: counters.decap.bytes,
            forged_packets: counters.forged,
            last_seen_seconds: (counters.last_seen != 0)
                .then(|| self.now.saturating_sub(seen).as_secs_f64()),
            sent_since_heard: self.heard.sent_since(address, &counters),
            underlay_errors: error.map_or(0, |error| error.count),
            last_error: error.map(|HeardError { from, what, at, .. }| LastError {
                from: *from,
                what: what.clone(),
                seconds_ago: unix_now().saturating_sub(*at),
            }),
        }
    }
}
