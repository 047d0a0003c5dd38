//! Which underlay address this node has.
//!
//! The grounds are ranked: `node.address` in the file, the datastore's record of this node as far
//! as the host has that address, the kernel's source towards the nodes, the default route's. Every
//! peer knows us by one address, so it stays as long as the host has it, until a ground of at least
//! its rank names another. The default route's source only stands in until a node is known.

use std::{cmp::Reverse, collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::OwnNodes;
use crate::{config::Config, desired::Paths, kernel::Host};

/// Why it is that address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// `node.address` in the file.
    Configured,
    /// The address of our Node in the datastore.
    OwnNode,
    /// The source the kernel uses towards the nodes.
    Path,
    /// The default route's source: no node is known yet.
    DefaultRoute,
}

impl Ground {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "node.address in the file",
            Self::OwnNode => "this node's address in the datastore",
            Self::Path => "the kernel's source towards the nodes",
            Self::DefaultRoute => "the default route's source",
        }
    }
}

/// The address and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct NodeAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Why it is this one.
    pub ground: Ground,
}

/// Decides the address; `None` if nothing names one and nothing ever did. `active`: the one
/// decided before.
#[must_use]
pub fn node_address(
    config: &Config,
    host: &Host,
    paths: &Paths,
    own: &OwnNodes,
    active: Option<NodeAddress>,
) -> Option<NodeAddress> {
    let by = |ground| move |address| NodeAddress { address, ground };
    if let Some(address) = config.node.address {
        return Some(NodeAddress { address, ground: Ground::Configured });
    }
    if let Some(address) = own.address(host) {
        return Some(NodeAddress { address, ground: Ground::OwnNode });
    }
    // What the file said before is no ground any more.
    let active = active.filter(|active| active.ground != Ground::Configured);
    let here = active.filter(|active| host.has(active.address));
    here.filter(|active| matches!(active.ground, Ground::OwnNode | Ground::Path))
        .or_else(|| usual_source(host, paths).map(by(Ground::Path)))
        .or(here)
        .or_else(|| default_route_source(host).map(by(Ground::DefaultRoute)))
        // A NIC that is down has no routes to tell it by.
        .or(active)
}

/// The source of the most paths, if the host still has it; of several the lowest.
fn usual_source(host: &Host, paths: &Paths) -> Option<Ipv4Addr> {
    let mut counts: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
    let sources = paths.values().filter_map(|path| path.source);
    for source in sources.filter(|source| host.has(*source)) {
        *counts.entry(source).or_default() += 1;
    }
    let best = counts.into_iter().max_by_key(|(source, count)| (*count, Reverse(*source)));
    best.map(|(source, _)| source)
}

/// Without any node to ask about: the address on the default route's interface.
fn default_route_source(host: &Host) -> Option<Ipv4Addr> {
    let default = host.routes.iter().filter(|route| route.destination.prefix_len() == 0);
    let route = default.min_by_key(|route| route.metric)?;
    route.source.or_else(|| {
        host.addresses
            .iter()
            .find(|(ifindex, _)| Some(*ifindex) == route.ifindex)
            .map(|(_, net)| net.addr())
    })
}

#[cfg(test)]
mod tests {
    use dataplane_common::IfIndex;

    use super::*;
    use crate::{
        kernel::Path,
        sources::{NodeRecord, OwnNode, SourceKind},
    };

    const ETH0: IfIndex = IfIndex(2);
    const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    const OTHER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 11);
    const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);

    fn host(addresses: &[Ipv4Addr]) -> Host {
        let net = |address: &Ipv4Addr| (ETH0, format!("{address}/24").parse().unwrap());
        Host { addresses: addresses.iter().map(net).collect(), ..Host::default() }
    }

    fn paths(source: Option<Ipv4Addr>) -> Paths {
        let path = |source| Path {
            ifindex: ETH0,
            next_hop: PEER,
            source: Some(source),
            mtu: None,
            is_learnt: false,
        };
        source.map(|source| (PEER, path(source))).into_iter().collect()
    }

    #[test]
    fn an_address_stays_while_the_host_has_it() {
        let active = |address, ground| Some(NodeAddress { address, ground });
        let configured = Config {
            node: crate::config::NodeConfig { address: Some(OTHER), ..Default::default() },
            ..Default::default()
        };
        let plain = Config::default();
        for (config, addresses, source, before, after) in [
            // Nothing is known.
            (&plain, vec![], None, None, None),
            (&plain, vec![OURS], Some(OURS), None, active(OURS, Ground::Path)),
            // The kernel prefers another address towards one node: ours stays.
            (
                &plain,
                vec![OURS, OTHER],
                Some(OTHER),
                active(OURS, Ground::Path),
                active(OURS, Ground::Path),
            ),
            // The default route's stood in.
            (
                &plain,
                vec![OURS, OTHER],
                Some(OTHER),
                active(OURS, Ground::DefaultRoute),
                active(OTHER, Ground::Path),
            ),
            (
                &plain,
                vec![OURS],
                Some(OURS),
                active(OURS, Ground::DefaultRoute),
                active(OURS, Ground::Path),
            ),
            (
                &plain,
                vec![OURS],
                None,
                active(OURS, Ground::DefaultRoute),
                active(OURS, Ground::DefaultRoute),
            ),
            // It left the host.
            (
                &plain,
                vec![OTHER],
                Some(OTHER),
                active(OURS, Ground::Path),
                active(OTHER, Ground::Path),
            ),
            // It left the host, and nothing names another.
            (&plain, vec![], None, active(OURS, Ground::Path), active(OURS, Ground::Path)),
            // The file names one, and no longer does.
            (
                &configured,
                vec![OURS],
                Some(OURS),
                active(OURS, Ground::Path),
                active(OTHER, Ground::Configured),
            ),
            (
                &plain,
                vec![OURS, OTHER],
                Some(OURS),
                active(OTHER, Ground::Configured),
                active(OURS, Ground::Path),
            ),
        ] {
            let (host, paths) = (host(&addresses), paths(source));
            let own = OwnNodes::default();
            let found = node_address(config, &host, &paths, &own, before);
            assert_eq!(found, after, "{addresses:?} {source:?} {before:?}");
            // Deciding again changes nothing.
            assert_eq!(node_address(config, &host, &paths, &own, found), found);
        }
    }

    /// What the datastore records ranks below the file and above the kernel's source.
    #[test]
    fn the_datastores_record_counts_if_the_host_has_it() {
        use Ground::{Configured, DefaultRoute, OwnNode as Recorded, Path};
        let by = |address, ground| Some(NodeAddress { address, ground });
        let known = |address| {
            let record = Some(NodeRecord { address, tunnel_address: None });
            OwnNodes::of(SourceKind::Etcd, OwnNode { object: "nodes/us".into(), record })
        };
        let missing =
            || OwnNodes::of(SourceKind::Etcd, OwnNode { object: "nodes/us".into(), record: None });
        let none = OwnNodes::default;
        for (own, file, addresses, source, before, after) in [
            // The same address on every machine has the default route, the cluster is elsewhere.
            (known(Some(OTHER)), None, vec![OURS, OTHER], None, None, by(OTHER, Recorded)),
            (known(Some(OTHER)), None, vec![OURS, OTHER], Some(OURS), None, by(OTHER, Recorded)),
            (
                known(Some(OTHER)),
                None,
                vec![OURS, OTHER],
                Some(OURS),
                by(OURS, Path),
                by(OTHER, Recorded),
            ),
            (
                known(Some(OTHER)),
                None,
                vec![OURS, OTHER],
                None,
                by(OURS, DefaultRoute),
                by(OTHER, Recorded),
            ),
            // The file ranks higher.
            (
                known(Some(OTHER)),
                Some(OURS),
                vec![OURS, OTHER],
                None,
                by(OTHER, Recorded),
                by(OURS, Configured),
            ),
            // The host does not have it.
            (known(Some(OTHER)), None, vec![OURS], Some(OURS), None, by(OURS, Path)),
            (known(Some(OTHER)), None, vec![OURS], None, by(OURS, Path), by(OURS, Path)),
            // It moved within the datastore, to one that the host has, and to one that it lacks.
            (
                known(Some(OTHER)),
                None,
                vec![OURS, OTHER],
                None,
                by(OURS, Recorded),
                by(OTHER, Recorded),
            ),
            (known(Some(PEER)), None, vec![OURS], None, by(OURS, Recorded), by(OURS, Recorded)),
            // The datastore names none (any more): no ground of its rank names another.
            (known(None), None, vec![OURS], Some(OTHER), by(OURS, Recorded), by(OURS, Recorded)),
            (missing(), None, vec![OURS], Some(OTHER), by(OURS, Recorded), by(OURS, Recorded)),
            (none(), None, vec![OURS], Some(OTHER), by(OURS, Recorded), by(OURS, Recorded)),
            // The host lost it: the next ground counts, and without one it stays.
            (none(), None, vec![OTHER], Some(OTHER), by(OURS, Recorded), by(OTHER, Path)),
            (known(Some(OURS)), None, vec![], None, by(OURS, Recorded), by(OURS, Recorded)),
        ] {
            let node = crate::config::NodeConfig { address: file, ..Default::default() };
            let config = Config { node, ..Config::default() };
            let (host, paths) = (host(&addresses), paths(source));
            let found = node_address(&config, &host, &paths, &own, before);
            assert_eq!(found, after, "{own:?} {addresses:?} {source:?} {before:?}");
            assert_eq!(node_address(&config, &host, &paths, &own, found), found);
        }
    }

    #[test]
    fn of_several_sources_the_most_frequent_counts_then_the_lowest() {
        for (sources, expected) in [
            (vec![], None),
            (vec![None], None),
            (vec![Some(OTHER)], Some(OTHER)),
            (vec![Some(OTHER), Some(OURS)], Some(OURS)),
            (vec![Some(OURS), Some(OTHER), Some(OTHER), None], Some(OTHER)),
        ] {
            let path = |source| Path {
                ifindex: ETH0,
                next_hop: PEER,
                source,
                mtu: None,
                is_learnt: false,
            };
            let nodes = (1_u8..).map(|last| Ipv4Addr::new(172, 16, 35, last));
            let paths: Paths = nodes.zip(sources.into_iter().map(path)).collect();
            assert_eq!(usual_source(&host(&[OURS, OTHER]), &paths), expected, "{paths:?}");
        }
    }

    #[test]
    fn of_several_default_routes_the_lowest_metric_counts() {
        let route = |metric, source| crate::kernel::KernelRoute {
            destination: "0.0.0.0/0".parse().unwrap(),
            ifindex: Some(ETH0),
            gateway: Some(PEER),
            metric,
            source,
            protocol: 3,
            ..crate::kernel::KernelRoute::default()
        };
        for (routes, expected) in [
            (vec![], None),
            (vec![route(0, None)], Some(OURS)),
            (vec![route(0, Some(OTHER))], Some(OTHER)),
            (vec![route(200, Some(OTHER)), route(100, Some(OURS))], Some(OURS)),
        ] {
            let host = Host { routes, ..host(&[OURS, OTHER]) };
            assert_eq!(default_route_source(&host), expected, "{:?}", host.routes);
        }
    }
}
