//! One look at all that a view shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::Result;
use dataplane_common::{Counter, Endpoint, Flow, Lease, Reason};

use super::View;
use crate::{
    bpf::Maps,
    clock,
    kernel::{Kernel, interface_name},
    protocol,
    sources::names::NodeNames,
};

/// By what the same thing is found again in the next look, in the order of a list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// A node or a pod.
    Address(Ipv4Addr),
    /// The index of a reason.
    Reason(usize),
    /// A flow: source, destination, protocol and direction.
    Flow(SocketAddrV4, SocketAddrV4, u8, &'static str),
}

/// One thing in a look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it is called; the columns are those of the view.
    pub names: Vec<String>,
    /// What it has counted, each with its column of rates.
    pub counted: Vec<Counter>,
    /// What else there is to say.
    pub more: String,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Look {
    /// What was looked at.
    pub view: View,
    /// When.
    pub at: Instant,
    /// Each reason's counter, in the order of [`Reason::ALL`].
    pub reasons: Vec<Counter>,
    /// What the view lists.
    pub entries: BTreeMap<Key, Entry>,
}

impl Look {
    /// Looks.
    ///
    /// # Errors
    /// If a map or the kernel's interfaces cannot be read.
    pub async fn at(maps: &Maps, kernel: &Kernel, called: &NodeNames, view: View) -> Result<Self> {
        let reasons =
            Reason::ALL.iter().map(|reason| maps.counter(*reason)).collect::<Result<Vec<_>>>()?;
        let entries = match view {
            View::Nodes => nodes(maps, called)?,
            View::Pods => pods(maps, kernel).await?,
            View::Reasons => by_reason(&reasons),
            View::Leases => leases(maps, called)?,
        };
        Ok(Self { view, at: Instant::now(), reasons, entries })
    }
}

fn nodes(maps: &Maps, called: &NodeNames) -> Result<BTreeMap<Key, Entry>> {
    let mut prefixes: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
    for (_, route) in maps.all_routes()? {
        if route.is_destination() {
            *prefixes.entry(route.node.into()).or_default() += 1;
        }
    }
    let now = clock::monotonic();
    let mut entries = BTreeMap::new();
    for entry in maps.nodes.iter() {
        let (address, (node, _)) = entry?;
        let counters = maps.node_counter(address).unwrap_or_default();
        let seen = Duration::from_nanos(counters.last_seen);
        let way = match node.hop.ifindex.is_none() {
            true if node.is_protected() => "IPsec".to_owned(),
            true => "unreachable".to_owned(),
            false => interface_name(node.hop.ifindex),
        };
        let address: Ipv4Addr = address.into();
        let heard = match counters.last_seen {
            0 => "never".to_owned(),
            _ => format!("{:.1}s ago", now.saturating_sub(seen).as_secs_f64()),
        };
        let routes = prefixes.get(&address).copied().unwrap_or_default();
        let name = called.get(&address).cloned().unwrap_or_else(|| "-".to_owned());
        let names = vec![address.to_string(), name, way, routes.to_string()];
        let counted = vec![counters.encap, counters.decap];
        entries.insert(Key::Address(address), Entry { names, counted, more: heard });
    }
    Ok(entries)
}

async fn pods(maps: &Maps, kernel: &Kernel) -> Result<BTreeMap<Key, Entry>> {
    let mut pods = BTreeMap::new();
    for entry in maps.endpoints.iter() {
        let (address, Endpoint { hop }) = entry?;
        pods.insert(Ipv4Addr::from(address), hop.ifindex);
    }
    let interfaces: BTreeSet<_> = pods.values().copied().collect();
    let traffic = kernel.pod_traffic(&interfaces).await?;
    let entry = |(address, ifindex): (Ipv4Addr, _)| {
        let seen = traffic.get(&ifindex).copied();
        let counted = seen.unwrap_or_default();
        let entry = Entry {
            names: vec![address.to_string(), interface_name(ifindex)],
            counted: vec![counted.from_pod, counted.into_pod],
            more: if seen.is_some() { String::new() } else { "not known".to_owned() },
        };
        (Key::Address(address), entry)
    };
    Ok(pods.into_iter().map(entry).collect())
}

fn by_reason(counters: &[Counter]) -> BTreeMap<Key, Entry> {
    let counted = Reason::ALL.iter().zip(counters).enumerate();
    let entry = |(index, (reason, counter)): (usize, (&Reason, &Counter))| {
        let words = [reason.as_str(), reason.program().hook(), reason.verdict().as_str()];
        let entry = Entry {
            names: words.map(str::to_owned).to_vec(),
            counted: vec![*counter],
            more: reason.caption().to_owned(),
        };
        (Key::Reason(index), entry)
    };
    counted.filter(|(_, (_, counter))| counter.packets > 0).map(entry).collect()
}

fn leases(maps: &Maps, called: &NodeNames) -> Result<BTreeMap<Key, Entry>> {
    let now = clock::monotonic();
    let leases = maps.good_leases(now)?;
    Ok(leases.iter().map(|(flow, lease)| leased(flow, lease, called, now)).collect())
}

fn leased(flow: &Flow, lease: &Lease, called: &NodeNames, now: Duration) -> (Key, Entry) {
    let (source, destination) = flow.ends();
    let (direction, node) = (flow.direction().as_str(), Ipv4Addr::from(lease.node));
    let left = Duration::from_nanos(lease.expires).saturating_sub(now);
    let entry = Entry {
        names: vec![
            source.to_string(),
            destination.to_string(),
            protocol::name(flow.protocol.into()),
            direction.to_owned(),
            match called.get(&node) {
                Some(name) => format!("{node} {name}"),
                None => node.to_string(),
            },
        ],
        counted: vec![Counter { packets: lease.packets, bytes: lease.bytes }],
        more: format!("{:.1}s", left.as_secs_f64()),
    };
    (Key::Flow(source, destination, flow.protocol, direction), entry)
}
