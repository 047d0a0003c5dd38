//! The kernel's own IPIP device, where it is not ours to touch.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::IfIndex;
use ipnet::Ipv4Net;

use super::{Host, KernelRoute, Link};

/// The fallback device of the kernel's ipip module (`net/ipv4/ipip.c`), one per
/// network namespace, which Felix configures.
pub const TUNL0: &str = "tunl0";

impl Host {
    /// tunl0, if it is up.
    #[must_use]
    pub fn tunl0(&self) -> Option<(IfIndex, &Link)> {
        self.link(TUNL0).filter(|(_, link)| link.is_up)
    }

    /// The routes over tunl0: prefix → node.
    #[must_use]
    pub fn tunl0_routes(&self) -> BTreeMap<Ipv4Net, Ipv4Addr> {
        let mut best: BTreeMap<Ipv4Net, (u32, Ipv4Addr)> = BTreeMap::new();
        for (route, node) in self.over_tunl0() {
            let entry = best.entry(route.destination).or_insert((route.metric, node));
            // As the kernel chooses: among equals the first.
            if route.metric < entry.0 {
                *entry = (route.metric, node);
            }
        }
        best.into_iter().map(|(prefix, (_, node))| (prefix, node)).collect()
    }

    /// Whether tunl0 carries routes to pods: `10.20.42.0/26 via 172.16.35.4 dev
    /// tunl0 onlink`, as Felix and BIRD make them.
    #[must_use]
    pub fn tunl0_carries_routes(&self) -> bool {
        self.over_tunl0().next().is_some()
    }

    /// Each route over tunl0 that names a node, with it.
    fn over_tunl0(&self) -> impl Iterator<Item = (&KernelRoute, Ipv4Addr)> {
        let tunl0 = self.tunl0().map(|(ifindex, _)| ifindex);
        let over_it = move |route: &&KernelRoute| tunl0.is_some() && route.ifindex == tunl0;
        self.routes.iter().filter(over_it).filter_map(|route| Some((route, route.gateway?)))
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Mac, Mtu};

    use super::*;

    const TUNL: IfIndex = IfIndex(4);
    const ETH0: IfIndex = IfIndex(2);
    const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    const OTHER: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);

    fn host(routes: &[(&str, IfIndex, Option<Ipv4Addr>, u32)]) -> Host {
        let link = Link {
            name: TUNL0.into(),
            alias: None,
            mac: Mac::default(),
            mtu: Mtu(1480),
            is_up: true,
            does_arp: false,
            kind: None,
            ..Link::default()
        };
        let route =
            |&(destination, ifindex, gateway, metric): &(&str, IfIndex, _, u32)| KernelRoute {
                destination: destination.parse().unwrap(),
                ifindex: Some(ifindex),
                gateway,
                metric,
                protocol: 80,
                ..KernelRoute::default()
            };
        Host {
            links: BTreeMap::from([(TUNL, link)]),
            routes: routes.iter().map(route).collect(),
            ..Host::default()
        }
    }

    /// Whichever comes first in the dump.
    #[test]
    fn of_two_routes_to_one_prefix_the_lower_metric_counts() {
        let block: Ipv4Net = "10.20.42.0/26".parse().unwrap();
        let mut routes =
            [("10.20.42.0/26", TUNL, Some(PEER), 0), ("10.20.42.0/26", TUNL, Some(OTHER), 1024)];
        for _ in 0..2 {
            let host = host(&routes);
            assert_eq!(host.tunl0_routes(), BTreeMap::from([(block, PEER)]));
            routes.reverse();
        }
        // Equal metrics differ in TOS or were appended: the first is the kernel's.
        let equal = host(&[
            ("10.20.42.0/26", TUNL, Some(OTHER), 0),
            ("10.20.42.0/26", TUNL, Some(PEER), 0),
        ]);
        assert_eq!(equal.tunl0_routes(), BTreeMap::from([(block, OTHER)]));
    }

    #[test]
    fn only_routes_over_it_that_name_a_node_count() {
        let none =
            host(&[("10.20.42.0/26", ETH0, Some(PEER), 0), ("10.20.43.0/26", TUNL, None, 0)]);
        assert_eq!(none.tunl0_routes(), BTreeMap::new());
        assert!(!none.tunl0_carries_routes());

        let mut one = host(&[("10.20.42.0/26", TUNL, Some(PEER), 0)]);
        assert!(one.tunl0_carries_routes());
        one.links.get_mut(&TUNL).unwrap().is_up = false;
        assert!(!one.tunl0_carries_routes());
        assert_eq!(one.tunl0_routes(), BTreeMap::new());
    }
}
