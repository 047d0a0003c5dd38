//! What the chosen routes come to in the maps and in the kernel.
//!
//! Each entry is a function of its own prefix or node. [`RouteTables::whole`] makes all;
//! [`RouteTables::update`] makes those of a few prefixes anew, for which it need not look at any
//! other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::{Hop, Mtu, Node, Route, ipv4::OUTER_LENGTH};
use ipnet::Ipv4Net;

use super::{ChosenRoutes, Inputs, TunnelMode, inner, links};
use crate::{
    address::{is_single, supernets},
    config::{NodeExtras, TunnelMtu},
    kernel::{Link, METRIC, Path, TunnelRoute},
    sources::{SourceKind, table::ChosenRoute},
};

/// Entries of the maps `ROUTES` and `NODES`, and routes of the main table.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RouteTables {
    /// `ROUTES`.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// `NODES`.
    pub nodes: BTreeMap<Ipv4Addr, Node>,
    /// Routes of the main table.
    pub kernel_routes: BTreeMap<Ipv4Net, TunnelRoute>,
    /// Nodes to which nothing can be sent encapsulated, and why.
    pub unreachable: BTreeMap<Ipv4Addr, String>,
    /// Those of them for which IPsec is the reason, and that have nothing but routes.
    pub protected: BTreeSet<Ipv4Addr>,
    /// Paths that the kernel takes for narrower than `underlay.min_path_mtu`, and how narrow.
    pub too_narrow: BTreeMap<Ipv4Addr, Mtu>,
    /// Routes by which nothing is sent nor taken in, because IPsec would be passed by: to which
    /// node.
    pub withheld: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// Routes that are left to tunl0, and why.
    pub left_to_tunl0: BTreeMap<Ipv4Net, String>,
    /// Pools whose routes are not known yet: what no route covers must not leave
    /// unencapsulated.
    pub unknown_pools: BTreeSet<Ipv4Net>,
}

impl RouteTables {
    /// All entries.
    #[must_use]
    pub fn whole(inputs: Inputs<'_>, routes: &ChosenRoutes) -> Self {
        let mut tables = Self::default();
        let extras = &inputs.config.routes.nodes;
        let nodes = routes.values().map(|route| route.node);
        for node in nodes.chain(extras.iter().map(|extras| extras.node)) {
            if !tables.nodes.contains_key(&node) {
                tables.set_node(inputs, node, true);
            }
        }
        let facts = inputs.facts;
        let own = facts.pods.keys().copied().chain([facts.node]).chain(facts.tunnel.address);
        let others = extras.iter().flat_map(|extras| &extras.extra_sources);
        let others = own.map(Ipv4Net::from).chain(others.map(|source| source.0));
        for cidr in others.filter(|cidr| !routes.contains_key(cidr)) {
            tables.set_route(inputs, cidr, None);
        }
        for (cidr, route) in routes {
            tables.set_route(inputs, *cidr, Some(route));
        }
        for cidr in facts.tunl0_routes.keys().filter(|cidr| !routes.contains_key(cidr)) {
            let entry = tables.entry_without_route(inputs, routes, *cidr);
            put(&mut tables.routes, *cidr, entry);
        }
        tables
    }

    /// The entries of these prefixes and nodes anew. `has_routes` tells whether a
    /// node still has any.
    pub fn update(
        &mut self,
        inputs: Inputs<'_>,
        routes: &ChosenRoutes,
        prefixes: &BTreeSet<Ipv4Net>,
        nodes: &BTreeSet<Ipv4Addr>,
        has_routes: impl Fn(Ipv4Addr) -> bool,
    ) {
        for node in nodes {
            let is_configured = || inputs.config.routes.nodes.iter().any(|n| n.node == *node);
            self.set_node(inputs, *node, has_routes(*node) || is_configured());
        }
        for cidr in prefixes {
            self.set_route(inputs, *cidr, routes.get(cidr));
            if !routes.contains_key(cidr) {
                let entry = self.entry_without_route(inputs, routes, *cidr);
                put(&mut self.routes, *cidr, entry);
            }
        }
    }

    /// The entry of a prefix to which no source has a route: the one it has already, or what
    /// the kernel's own route over tunl0 comes to. That is longer than a route of ours, so the
    /// kernel sends by it, and a shorter entry must not hide it.
    fn entry_without_route(
        &self,
        inputs: Inputs<'_>,
        routes: &ChosenRoutes,
        cidr: Ipv4Net,
    ) -> Option<Route> {
        let known = self.routes.get(&cidr).filter(|entry| entry.source != Route::SOURCE_KERNEL);
        let by_kernel = || {
            let gateway = *inputs.facts.tunl0_routes.get(&cidr)?;
            let wider = supernets(cidr).find_map(|net| routes.get(&net))?;
            let (node, source) = (gateway.into(), Route::SOURCE_KERNEL);
            let is_other = wider.node != gateway && !is_protected(inputs, gateway);
            is_other.then_some(Route { node, since: 0, flags: 0, source })
        };
        known.copied().or_else(by_kernel)
    }

    /// The part of it that concerns these prefixes and nodes.
    #[must_use]
    pub fn only(&self, prefixes: &BTreeSet<Ipv4Net>, nodes: &BTreeSet<Ipv4Addr>) -> Self {
        Self {
            routes: pick(&self.routes, prefixes),
            nodes: pick(&self.nodes, nodes),
            kernel_routes: pick(&self.kernel_routes, prefixes),
            unreachable: BTreeMap::new(),
            protected: BTreeSet::new(),
            too_narrow: BTreeMap::new(),
            withheld: BTreeMap::new(),
            left_to_tunl0: BTreeMap::new(),
            unknown_pools: BTreeSet::new(),
        }
    }

    /// What needs an `unreachable` route behind it: what goes by the tunnel device,
    /// which may vanish.
    #[must_use]
    pub fn backstops(&self) -> BTreeMap<Ipv4Net, ()> {
        let wrapped = self.kernel_routes.iter().filter(|(_, route)| route.gateway.is_none());
        wrapped
            .map(|(cidr, _)| (*cidr, ()))
            .chain(self.unknown_pools.iter().map(|net| (*net, ())))
            .collect()
    }

    /// Whether any route's packets travel unencapsulated.
    #[must_use]
    pub fn has_direct(&self) -> bool {
        self.routes.values().any(|route| route.is_destination() && route.is_direct())
    }

    /// Whether packets to a prefix travel plain now. Its `unreachable` route then goes
    /// before the one over the tunnel device, or packets would find only that.
    #[must_use]
    pub fn is_direct(&self, prefix: &Ipv4Net) -> bool {
        self.routes.get(prefix).is_some_and(Route::is_direct)
    }

    /// Returns whether tunl0 alone sends to a node, because the kernel's route leads over a link that we
    /// cannot send by.
    #[must_use]
    pub fn is_for_tunl0(&self, node: Ipv4Addr) -> bool {
        let has_no_way = self.nodes.get(&node).is_some_and(|node| node.hop.ifindex.is_none());
        has_no_way && !self.unreachable.contains_key(&node)
    }

    /// Returns the nodes that cannot be reached, and why. A node that IPsec protects can, if all its
    /// routes are direct: the kernel sends these packets, and obeys the policies.
    #[must_use]
    pub fn out_of_reach(&self) -> BTreeMap<Ipv4Addr, &String> {
        let withheld: BTreeSet<Ipv4Addr> = self.withheld.values().copied().collect();
        let is_lost = |node: &Ipv4Addr| !self.protected.contains(node) || withheld.contains(node);
        self.unreachable
            .iter()
            .filter(|(node, _)| is_lost(node))
            .map(|(node, why)| (*node, why))
            .collect()
    }

    fn set_route(&mut self, inputs: Inputs<'_>, cidr: Ipv4Net, route: Option<&ChosenRoute>) {
        // Our own addresses hide wider routes of others: a pod with a borrowed
        // address is still ours.
        let own = own(inputs, cidr);
        let left = route.and_then(|route| left_to_tunl0(inputs, cidr, route));
        let taken = route.filter(|_| left.is_none() && own.is_none());
        put(&mut self.left_to_tunl0, cidr, left);
        // Plain packets of such a node are not taken in, so it has no entry; what is sent to it
        // stays in the tunnel device.
        let is_withheld =
            |route: &&ChosenRoute| !route.is_direct && is_protected(inputs, route.node);
        let withheld = taken.filter(is_withheld).map(|route| route.node);
        let entry = taken.filter(|_| withheld.is_none()).map(entry);
        put(&mut self.withheld, cidr, withheld);
        let entry = own.or(entry).or_else(|| extra_source(inputs, cidr));
        put(&mut self.routes, cidr, entry);
        let kernel_route = taken.and_then(|route| kernel_route(inputs, &self.nodes, route));
        put(&mut self.kernel_routes, cidr, kernel_route);
    }

    fn set_node(&mut self, inputs: Inputs<'_>, address: Ipv4Addr, is_wanted: bool) {
        if !is_wanted {
            self.nodes.remove(&address);
            self.unreachable.remove(&address);
            self.protected.remove(&address);
            self.too_narrow.remove(&address);
            return;
        }
        let (reachable, why) = match node(inputs, address) {
            Ok(node) => (node, None),
            // Its routes are listed as left to tunl0.
            Err(_) if for_tunl0(inputs, address).is_some() => (Node::default(), None),
            Err(why) => (Node::default(), Some(format!("node {address}: {why}"))),
        };
        // The kernel obeys the policies; the programs do not know them.
        let is_protected = is_protected(inputs, address);
        self.nodes.insert(address, if is_protected { Node::PROTECTED } else { reachable });
        put(&mut self.unreachable, address, why);
        let mut extras = inputs.config.routes.nodes.iter();
        if inputs.facts.mode == TunnelMode::Replace
            && is_protected
            && !extras.any(|extras| extras.node == address)
        {
            self.protected.insert(address);
        } else {
            self.protected.remove(&address);
        }
        let learnt = inputs.paths.get(&address).filter(|path| path.is_learnt);
        let least = inputs.config.underlay.min_path_mtu;
        let narrow = learnt.and_then(|path| path.mtu).filter(|mtu| *mtu < least);
        put(&mut self.too_narrow, address, narrow);
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn pick<K: Ord + Copy, V: Clone>(map: &BTreeMap<K, V>, keys: &BTreeSet<K>) -> BTreeMap<K, V> {
    keys.iter().filter_map(|key| Some((*key, map.get(key)?.clone()))).collect()
}

/// The entry of one of our own addresses: this node's, the tunnel device's, a local pod's.
fn own(inputs: Inputs<'_>, cidr: Ipv4Net) -> Option<Route> {
    let (facts, address) = (inputs.facts, cidr.addr());
    let is_own = is_single(cidr)
        && (facts.node == address
            || facts.tunnel.address == Some(address)
            || facts.pods.contains_key(&address));
    let (node, flags, source) = (facts.node.into(), Route::LOCAL, Route::SOURCE_LOCAL);
    is_own.then_some(Route { node, since: 0, flags, source })
}

/// The entry of what the file lets a node send from besides its pod CIDRs.
fn extra_source(inputs: Inputs<'_>, cidr: Ipv4Net) -> Option<Route> {
    let has_it = |extras: &&NodeExtras| extras.extra_sources.iter().any(|net| net.0 == cidr);
    // Of several nodes the last counts.
    let extras = inputs.config.routes.nodes.iter().rfind(has_it)?;
    if is_protected(inputs, extras.node) {
        return None;
    }
    let (flags, source) = (Route::SOURCE_ONLY, Route::SOURCE_FILE);
    Some(Route { node: extras.node.into(), since: 0, flags, source })
}

fn entry(route: &ChosenRoute) -> Route {
    Route {
        node: route.node.into(),
        since: route.since,
        flags: if route.is_direct { Route::DIRECT } else { 0 },
        source: route.source.into(),
    }
}

/// Beside tunl0 the kernel's routes are the newer word: what they contradict is
/// left to tunl0.
fn left_to_tunl0(inputs: Inputs<'_>, cidr: Ipv4Net, route: &ChosenRoute) -> Option<String> {
    if inputs.facts.mode == TunnelMode::Accelerate
        && !route.is_direct
        && let Some(policy) = inputs.facts.ipsec.protecting(route.node)
    {
        let node = route.node;
        return Some(format!(
            "route {cidr}: {policy} to node {node}; left to tunl0, which obeys it"
        ));
    }
    if !route.is_direct
        && let Some(why) = for_tunl0(inputs, route.node)
    {
        let node = route.node;
        return Some(format!(
            "route {cidr}: the kernel's route to node {node} {why}; left to tunl0"
        ));
    }
    let gateway = inputs.facts.tunl0_routes.get(&cidr)?;
    (*gateway != route.node && route.source != SourceKind::Kernel).then(|| {
        format!(
            "route {cidr}: the {} says node {}, the kernel's route over tunl0 {gateway}; left to \
             tunl0",
            route.source, route.node
        )
    })
}

/// Whether IPsec protects packets between us and a node.
fn is_protected(inputs: Inputs<'_>, node: Ipv4Addr) -> bool {
    inputs.facts.ipsec.protecting(node).is_some()
}

/// Returns why the way to a node is tunl0's, which sends by links that we cannot send by.
fn for_tunl0(inputs: Inputs<'_>, node: Ipv4Addr) -> Option<String> {
    if inputs.facts.mode == TunnelMode::Replace {
        return None;
    }
    let path = inputs.paths.get(&node)?;
    let is_served = match links::fitness(inputs.config, inputs.host, path.ifindex) {
        Err(unfit) => unfit.serves_tunl0(),
        Ok(()) => true,
    };
    link(inputs, path).err().filter(|_| is_served)
}

/// Returns the link that a path leads over, or why we cannot send by it.
fn link<'a>(inputs: Inputs<'a>, path: &Path) -> Result<&'a Link, String> {
    let Inputs { config, host, facts, .. } = inputs;
    let link = host.links.get(&path.ifindex);
    if let Some(link) = link.filter(|_| facts.underlay.contains(&path.ifindex)) {
        return Ok(link);
    }
    let name = link.map_or("?", |link| &link.name);
    let why = match links::fitness(config, host, path.ifindex) {
        Err(unfit) => unfit.text(),
        Ok(()) => "is not among underlay.interfaces".to_owned(),
    };
    Err(format!("leads over {name}, which {why}"))
}

fn node(inputs: Inputs<'_>, address: Ipv4Addr) -> Result<Node, String> {
    let Inputs { config, host, paths, facts, .. } = inputs;
    if facts.mode == TunnelMode::Replace
        && let Some(policy) = facts.ipsec.protecting(address)
    {
        return Err(format!(
            "{policy}, and without tunl0 they would travel in the clear; nothing is sent to it \
             (`mode: accelerate` leaves such nodes to tunl0)"
        ));
    }
    let Some(path) = paths.get(&address) else {
        let vrf = host.owner(facts.node).and_then(|ifindex| host.vrf(ifindex));
        return Err(vrf.map_or_else(
            || "the kernel has no route to it".to_owned(),
            |vrf| {
                format!(
                    "the kernel has no route to it: our address {} is in the VRF {} (an underlay \
                     in a VRF is not supported)",
                    facts.node, vrf.name
                )
            },
        ));
    };
    let link = link(inputs, path).map_err(|why| format!("the kernel's route {why}"))?;
    let least = if path.is_learnt { config.underlay.min_path_mtu } else { Mtu(0) };
    let mtu = path.mtu.map_or(link.mtu, |mtu| mtu.max(least)).min(link.mtu);
    let mtu = match config.mtu {
        TunnelMtu::Auto => mtu,
        TunnelMtu::Bytes(bytes) => mtu.min(Mtu(bytes.0 + OUTER_LENGTH as u32)),
    };
    let neighbour = host.neighbours.get(&(path.ifindex, path.next_hop));
    let destination = neighbour.map(|neighbour| neighbour.mac).unwrap_or_default();
    Ok(Node { hop: Hop { ifindex: path.ifindex, destination, source: link.mac }, mtu })
}

/// The route of the main table: over the tunnel device; plain to a node that is
/// a neighbour of ours; none where plain packets find their way by the fabric's
/// own routes.
fn kernel_route(
    inputs: Inputs<'_>,
    nodes: &BTreeMap<Ipv4Addr, Node>,
    route: &ChosenRoute,
) -> Option<TunnelRoute> {
    let Inputs { paths, facts, tunnel, .. } = inputs;
    if facts.mode == TunnelMode::Accelerate {
        return None;
    }
    if route.is_direct {
        let path = paths.get(&route.node).filter(|path| path.next_hop == route.node)?;
        return Some(TunnelRoute {
            ifindex: path.ifindex,
            gateway: Some(route.node),
            source: None,
            mtu: None,
            metric: METRIC,
        });
    }
    let node = nodes.get(&route.node).filter(|node| !node.is_protected());
    let mtu = node.map_or(Mtu(0), |node| inner(node.mtu));
    Some(TunnelRoute {
        ifindex: tunnel,
        gateway: None,
        source: facts.tunnel.address,
        mtu: (mtu != Mtu(0) && mtu < facts.tunnel.mtu).then_some(mtu),
        metric: METRIC,
    })
}

#[cfg(test)]
mod tests;
