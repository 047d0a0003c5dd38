//! What the chosen routes come to in the maps and in the kernel.
//!
//! [`RouteTables::whole`] makes all entries; [`RouteTables::update`] makes those of
//! a few prefixes anew, for which it need not look at any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::{Hop, IfIndex, Mtu as PathMtu, Node, Route, ipv4::OUTER_LENGTH};
use ipnet::Ipv4Net;

use super::{ChosenRoutes, Inputs, TunnelMode, inner};
use crate::{
    config::Mtu,
    kernel::{METRIC, TunnelRoute},
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
    /// Nodes that cannot be reached, and why.
    pub unreachable: BTreeMap<Ipv4Addr, String>,
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
        for extras in &inputs.config.routes.nodes {
            tables.set_node(inputs, extras.node, true);
            for source in &extras.extra_sources {
                let flags = Route::SOURCE_ONLY;
                let route =
                    Route { node: extras.node.into(), since: 0, flags, source: Route::SOURCE_FILE };
                tables.routes.insert(source.0, route);
            }
        }
        for (cidr, route) in routes {
            if !tables.nodes.contains_key(&route.node) {
                tables.set_node(inputs, route.node, true);
            }
            tables.set_route(inputs, *cidr, Some(route));
        }
        let facts = inputs.facts;
        let own = facts.pods.keys().copied().chain([facts.node]).chain(facts.tunnel.address);
        for address in own {
            tables.routes.insert(Ipv4Net::from(address), local(facts.node));
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
        }
    }

    /// The part of it that concerns these prefixes and nodes.
    #[must_use]
    pub fn only(&self, prefixes: &BTreeSet<Ipv4Net>, nodes: &BTreeSet<Ipv4Addr>) -> Self {
        Self {
            routes: pick(&self.routes, prefixes),
            nodes: pick(&self.nodes, nodes),
            kernel_routes: pick(&self.kernel_routes, prefixes),
            unreachable: BTreeMap::new(),
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

    /// What cannot be had, for the operator.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.unreachable.values().chain(self.left_to_tunl0.values())
    }

    fn set_route(&mut self, inputs: Inputs<'_>, cidr: Ipv4Net, route: Option<&ChosenRoute>) {
        // Our own addresses hide wider routes of others: a pod with a borrowed
        // address is still ours.
        let is_own = self.routes.get(&cidr).is_some_and(Route::is_local);
        let left = route.and_then(|route| left_to_tunl0(inputs, cidr, route));
        let taken = route.filter(|_| left.is_none() && !is_own);
        put(&mut self.left_to_tunl0, cidr, left);
        if !is_own {
            put(&mut self.routes, cidr, taken.map(entry));
        }
        let kernel_route = taken.and_then(|route| kernel_route(inputs, &self.nodes, route));
        put(&mut self.kernel_routes, cidr, kernel_route);
    }

    fn set_node(&mut self, inputs: Inputs<'_>, address: Ipv4Addr, is_wanted: bool) {
        if !is_wanted {
            self.nodes.remove(&address);
            self.unreachable.remove(&address);
            return;
        }
        let (node, why) = match node(inputs, address) {
            Ok(node) => (node, None),
            Err(why) => (Node::default(), Some(format!("node {address}: {why}"))),
        };
        self.nodes.insert(address, node);
        put(&mut self.unreachable, address, why);
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

fn local(node: Ipv4Addr) -> Route {
    Route { node: node.into(), since: 0, flags: Route::LOCAL, source: Route::SOURCE_LOCAL }
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
    let gateway = inputs.facts.tunl0_routes.get(&cidr)?;
    (*gateway != route.node && route.source != SourceKind::Kernel).then(|| {
        format!(
            "route {cidr}: the {} says node {}, the kernel's route over tunl0 {gateway}; left to \
             tunl0",
            route.source, route.node
        )
    })
}

fn node(inputs: Inputs<'_>, address: Ipv4Addr) -> Result<Node, String> {
    let Inputs { config, host, paths, facts, .. } = inputs;
    let path = paths.get(&address).ok_or("the kernel has no route to it")?;
    let link = host.links.get(&path.ifindex).filter(|_| facts.underlay.contains(&path.ifindex));
    let Some(link) = link else {
        let name = host.links.get(&path.ifindex).map_or("?", |link| &link.name);
        return Err(format!(
            "the kernel's route leads over {name}, which is no underlay interface"
        ));
    };
    let mtu = path.mtu.unwrap_or(link.mtu).min(link.mtu);
    let mtu = match config.mtu {
        Mtu::Auto => mtu,
        Mtu::Bytes(bytes) => mtu.min(bytes + OUTER_LENGTH as u32),
    };
    let neighbour = host.neighbours.get(&(path.ifindex, path.next_hop));
    let destination = neighbour.map(|neighbour| neighbour.mac).unwrap_or_default();
    Ok(Node {
        hop: Hop { ifindex: IfIndex(path.ifindex), destination, source: link.mac },
        mtu: PathMtu(mtu),
    })
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
    let mtu = nodes.get(&route.node).map_or(0, |node| inner(node.mtu.0));
    Some(TunnelRoute {
        ifindex: tunnel,
        gateway: None,
        source: facts.tunnel.address,
        mtu: (mtu != 0 && mtu < facts.tunnel.mtu).then_some(mtu),
        metric: METRIC,
    })
}
