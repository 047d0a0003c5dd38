//! What errors of the underlay are judged by: who we are, whom we know.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::Route;
use ipnet::Ipv4Net;

use crate::{
    address::is_single,
    desired::{Desired, RouteTables},
    kernel::Host,
};

/// As of the last round; empty before the first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Scope {
    /// Our node address; the outer source.
    node: Option<Ipv4Addr>,
    /// Outer destinations.
    nodes: BTreeSet<Ipv4Addr>,
    /// `ROUTES`: remote pods, and our own addresses.
    routes: BTreeMap<Ipv4Net, Route>,
    /// The networks this host is part of.
    networks: BTreeSet<Ipv4Net>,
}

impl Scope {
    /// From what the programs work with now.
    pub fn new(desired: &Desired, host: &Host) -> Self {
        if desired.shadow.is_some() {
            // tunl0 relays them itself.
            return Self::default();
        }
        let networks = host.addresses.iter().map(|(_, network)| network.trunc());
        Self {
            node: Some(desired.settings.node.into()),
            nodes: desired.tables.nodes.keys().copied().collect(),
            routes: desired.tables.routes.clone(),
            networks: networks.filter(|network| !is_single(*network)).collect(),
        }
    }

    /// These prefixes and nodes are as `tables` says now.
    pub fn update(
        &mut self,
        tables: &RouteTables,
        prefixes: &BTreeSet<Ipv4Net>,
        nodes: &BTreeSet<Ipv4Addr>,
    ) {
        for prefix in prefixes {
            match tables.routes.get(prefix) {
                Some(route) => drop(self.routes.insert(*prefix, *route)),
                None => drop(self.routes.remove(prefix)),
            }
        }
        for node in nodes {
            if tables.nodes.contains_key(node) {
                self.nodes.insert(*node);
            } else {
                self.nodes.remove(node);
            }
        }
    }

    /// Whether it is our underlay address.
    pub fn is_node(&self, address: Ipv4Addr) -> bool {
        self.node == Some(address)
    }

    /// Whether we send outer packets to it.
    pub fn knows(&self, node: Ipv4Addr) -> bool {
        self.nodes.contains(&node)
    }

    /// Whether it is a local pod's, the tunnel's or the node's own.
    pub fn is_ours(&self, address: Ipv4Addr) -> bool {
        self.route(address).is_some_and(Route::is_local)
    }

    /// Whether it is a pod's, here or elsewhere, or a tunnel device's: nobody
    /// of the underlay.
    pub fn is_inside(&self, address: Ipv4Addr) -> bool {
        let is_inside = |route: &Route| route.is_local() || route.is_destination();
        !self.is_node(address) && self.route(address).is_some_and(is_inside)
    }

    /// The node that packets to this address are sent to.
    pub fn node_of(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        let route = self.route(destination).filter(|route| route.is_destination())?;
        Some(route.node.into())
    }

    /// Whether a sender would take it for a neighbour of this host.
    pub fn is_on_our_network(&self, address: Ipv4Addr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The longest match, as in the map.
    fn route(&self, address: Ipv4Addr) -> Option<&Route> {
        (0..=32).rev().find_map(|length| {
            let prefix = Ipv4Net::new(address, length).ok()?.trunc();
            self.routes.get(&prefix)
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    pub const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    pub const OTHER_PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);
    pub const TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 192);
    pub const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 215);
    pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 31);
    /// Of the peer's block, but here.
    pub const BORROWED: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 7);
    /// Behind the peer, on a network that this host is part of.
    pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 9);
    /// An extra source of the peer's.
    pub const EXTRA: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    pub fn scope() -> Scope {
        let to = |node: Ipv4Addr, flags| Route { node: node.into(), since: 0, flags, source: 0 };
        let host = |address: Ipv4Addr| Ipv4Net::from(address);
        let block = |text: &str| text.parse::<Ipv4Net>().expect("a prefix");
        Scope {
            node: Some(NODE),
            nodes: [PEER, OTHER_PEER].into(),
            routes: [
                (block("10.20.42.0/26"), to(PEER, 0)),
                (block("10.20.7.64/26"), to(OTHER_PEER, 0)),
                (host(NEIGHBOUR), to(PEER, 0)),
                (host(EXTRA), to(PEER, Route::SOURCE_ONLY)),
                (host(NODE), to(NODE, Route::LOCAL)),
                (host(TUNNEL), to(NODE, Route::LOCAL)),
                (host(POD), to(NODE, Route::LOCAL)),
                (host(BORROWED), to(NODE, Route::LOCAL)),
            ]
            .into(),
            networks: [block("172.16.36.0/24"), block("192.168.7.0/24")].into(),
        }
    }

    impl Scope {
        /// With these addresses behind a node, too.
        pub fn with_routes(mut self, addresses: &[Ipv4Addr], node: Ipv4Addr) -> Self {
            let route = Route { node: node.into(), since: 0, flags: 0, source: 0 };
            self.routes.extend(addresses.iter().map(|address| (Ipv4Net::from(*address), route)));
            self
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        let scope = scope();
        // (address, ours, inside, routed to, on our network)
        for (address, ours, inside, node, near) in [
            (NODE, true, false, None, true),
            (TUNNEL, true, true, None, false),
            (POD, true, true, None, false),
            (BORROWED, true, true, None, false),
            (REMOTE, false, true, Some(PEER), false),
            (NEIGHBOUR, false, true, Some(PEER), true),
            (EXTRA, false, false, None, false),
            (PEER, false, false, None, false),
            (Ipv4Addr::BROADCAST, false, false, None, false),
        ] {
            let found = (
                scope.is_ours(address),
                scope.is_inside(address),
                scope.node_of(address),
                scope.is_on_our_network(address),
            );
            assert_eq!(found, (ours, inside, node, near), "{address}");
        }
        assert!(!Scope::default().is_ours(POD) && !Scope::default().knows(PEER));
    }
}
