//! What the maps give. Read anew for each scrape, through the pins, so that the daemon's own handles
//! and its loop have no part in it, and that maps which were replaced a moment ago are the new ones.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::MapInfo;
use dataplane_common::{
    Direction, EndpointEntry, Flow, Ipv4Be, Lease, NodeEntry, Prefix, PrefixRoute, Reason, Route,
};

use super::{Label, Metric, Samples, leases::Change};
use crate::{
    bpf::{Maps, Pins, entries, maps::LEASES},
    vocabulary::SourceKind,
};

/// Maps whose fill is shown: those whose entries come and go.
const FILLED: [&str; 4] = ["ROUTES", "NODES", "ENDPOINTS", LEASES];

/// Adds the figures of the maps at `now` (`CLOCK_MONOTONIC`), which is `unix` in Unix time.
/// `nodes`: also those of each node.
///
/// # Errors
/// If a map is missing, as before the first reconcile, or the kernel refuses.
pub fn add(
    samples: &mut Samples,
    pins: &Pins,
    nodes: bool,
    now: Duration,
    unix: Duration,
) -> Result<()> {
    let began = Instant::now();
    let maps = Maps::open(pins)?;
    counters(samples, &maps)?;
    let leases = leases(samples, pins, &maps, now)?;
    let known = known_nodes(pins)?;
    add_nodes(samples, &known);
    let entries = [routes(samples, pins)?, known.len(), endpoints(samples, pins)?, leases];
    for (map, count) in FILLED.into_iter().zip(entries) {
        let pin = pins.map(map);
        let info = MapInfo::from_pin(&pin).with_context(|| pin.display().to_string())?;
        samples.add(Metric::MapEntries, [map.into()], count);
        samples.add(Metric::MapCapacity, [map.into()], u64::from(info.max_entries()));
    }
    if nodes {
        for (address, node) in &known {
            each_node(samples, &maps, *address, node, now, unix);
        }
    }
    samples.add(Metric::MapsRead, [], began.elapsed().as_secs_f64());
    Ok(())
}

fn counters(samples: &mut Samples, maps: &Maps) -> Result<()> {
    let mut changes: BTreeMap<Change, u64> =
        Change::ALL.into_iter().map(|change| (change, 0)).collect();
    for reason in Reason::ALL {
        let counter = maps.counter(*reason)?;
        let labels = || -> [Label; 4] {
            [
                reason.as_str().into(),
                reason.program().as_str().into(),
                reason.direction().as_str().into(),
                reason.verdict().as_str().into(),
            ]
        };
        samples.add(Metric::Packets, labels(), counter.packets);
        samples.add(Metric::Bytes, labels(), counter.bytes);
        if let Some(change) = Change::counted_as(*reason) {
            *changes.entry(change).or_default() += counter.packets;
        }
    }
    for (change, packets) in changes {
        change.add(samples, packets);
    }
    for (cpu, packets) in maps.decapsulated_by_cpu()?.into_iter().enumerate() {
        samples.add(Metric::Decapsulated, [cpu.to_string().into()], packets);
    }
    Ok(())
}

/// Returns how many entries there are, good or not.
fn leases(samples: &mut Samples, pins: &Pins, maps: &Maps, now: Duration) -> Result<usize> {
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let (mut all, mut good) =
        (0_usize, BTreeMap::from([(Direction::Encap, 0_usize), (Direction::Decap, 0)]));
    entries::for_each(&pins.map(LEASES), |flow: &Flow, lease: &Lease| {
        all += 1;
        let is_good = Lease::is_good_at(lease.expires, nanoseconds)
            && lease.epoch == maps.epochs.sum(lease.slots);
        if is_good {
            *good.entry(flow.direction()).or_default() += 1;
        }
    })?;
    for (direction, count) in good {
        samples.add(Metric::Leases, [direction.as_str().into()], count);
    }
    Ok(all)
}

/// Returns how many entries there are, our own addresses included.
fn routes(samples: &mut Samples, pins: &Pins) -> Result<usize> {
    let (mut all, mut routes) = (0_usize, BTreeMap::<(&str, &str), usize>::new());
    entries::for_each(
        &pins.map("ROUTES"),
        |_: &Prefix, PrefixRoute { route, .. }: &PrefixRoute| {
            all += 1;
            if route.is_destination() {
                *routes.entry((source(route), encap(route))).or_default() += 1;
            }
        },
    )?;
    for ((source, encap), count) in routes {
        samples.add(Metric::Routes, [source.into(), encap.into()], count);
    }
    Ok(all)
}

fn source(route: &Route) -> &'static str {
    SourceKind::from_number(route.source).map_or("unknown", SourceKind::as_str)
}

fn encap(route: &Route) -> &'static str {
    if route.is_direct() { "direct" } else { "ipip" }
}

fn known_nodes(pins: &Pins) -> Result<BTreeMap<Ipv4Addr, NodeEntry>> {
    let mut nodes = BTreeMap::new();
    entries::for_each(&pins.map("NODES"), |address: &Ipv4Be, node: &NodeEntry| {
        nodes.insert((*address).into(), *node);
    })?;
    Ok(nodes)
}

fn add_nodes(samples: &mut Samples, nodes: &BTreeMap<Ipv4Addr, NodeEntry>) {
    let state = |entry: &NodeEntry| match (&entry.node.hop.ifindex, entry.node.is_protected()) {
        (_, true) => "protected",
        (ifindex, false) if ifindex.is_none() => "unreachable",
        _ => "reachable",
    };
    for name in ["reachable", "unreachable", "protected"] {
        let count = nodes.values().filter(|node| state(node) == name).count();
        samples.add(Metric::Nodes, [name.into()], count);
    }
}

fn endpoints(samples: &mut Samples, pins: &Pins) -> Result<usize> {
    let mut all = 0_usize;
    entries::for_each(&pins.map("ENDPOINTS"), |_: &Ipv4Be, _: &EndpointEntry| all += 1)?;
    samples.add(Metric::Endpoints, [], all);
    Ok(all)
}

fn each_node(
    samples: &mut Samples,
    maps: &Maps,
    address: Ipv4Addr,
    entry: &NodeEntry,
    now: Duration,
    unix: Duration,
) {
    let label = || Label::from(address.to_string());
    let node = &entry.node;
    if !node.hop.ifindex.is_none() && !node.is_protected() {
        samples.add(Metric::NodeMtu, [label()], u64::from(node.mtu.0));
    }
    // A node that was added a moment ago has no counters yet.
    let Some(counted) = maps.node_counter(Ipv4Be::from(address)) else { return };
    for (direction, counter) in
        [(Direction::Encap, &counted.encap), (Direction::Decap, &counted.decap)]
    {
        let labels = || [label(), direction.as_str().into()];
        samples.add(Metric::NodePackets, labels(), counter.packets);
        samples.add(Metric::NodeBytes, labels(), counter.bytes);
    }
    samples.add(Metric::NodeForged, [label()], counted.forged);
    if counted.last_seen != 0 {
        let ago = now.saturating_sub(Duration::from_nanos(counted.last_seen));
        samples.add(Metric::NodeSeen, [label()], unix.saturating_sub(ago).as_secs_f64());
    }
}
