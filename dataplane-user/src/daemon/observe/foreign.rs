//! Kernel routes of others that take packets for remote pods past us.
//!
//! One function finds them for the daemon, for `status`, `routes get` and `routes diff`.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use dataplane_common::{IfIndex, Route};
use ipnet::Ipv4Net;

use crate::{
    address::supernets,
    kernel::{Host, KernelRoute, PROTOCOL},
};

/// A kernel route of others inside one of our routes, or to the same prefix and preferred.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Foreign {
    /// The kernel's route.
    pub destination: Ipv4Net,
    /// Where it leads, as `ip route` shows it.
    pub leads: String,
    /// Our route.
    pub ours: Ipv4Net,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, leads, ours } = self;
        write!(
            f,
            "the kernel routes {destination} {leads}, which takes packets to pods of {ours} past \
             tunless"
        )
    }
}

impl Foreign {
    /// The command that removes it.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("remove it: `ip route del {} {}`", self.destination, self.leads)
    }
}

/// Returns the kernel routes of others to remote pods that the kernel prefers to ours, since their prefix is
/// longer or their metric lower, and that lead elsewhere: not over the tunnel device, to the node
/// itself, nor to a local pod.
#[must_use]
pub fn foreign_routes(
    host: &Host,
    routes: &BTreeMap<Ipv4Net, Route>,
    tunnel: Option<IfIndex>,
) -> Vec<Foreign> {
    // Of several routes to a prefix the kernel takes the first with the lowest metric.
    let mut best: BTreeMap<Ipv4Net, &KernelRoute> = BTreeMap::new();
    for route in &host.routes {
        let known = best.entry(route.destination).or_insert(route);
        if route.metric < known.metric {
            *known = route;
        }
    }
    let mut found = Vec::new();
    for route in best.into_values() {
        if route.protocol == PROTOCOL || route.is_blackhole {
            continue;
        }
        let mut around = supernets(route.destination).filter_map(|net| routes.get_key_value(&net));
        let Some((ours, to)) = around.next() else { continue };
        if to.is_local() || to.is_direct() || !to.is_destination() {
            continue;
        }
        let node = Ipv4Addr::from(to.node);
        let leads_there = |(ifindex, gateway): (IfIndex, Option<Ipv4Addr>)| {
            Some(ifindex) == tunnel || gateway == Some(node)
        };
        let mut hops = route.next_hops().peekable();
        if hops.peek().is_some() && hops.all(leads_there) {
            continue;
        }
        found.push(Foreign {
            destination: route.destination,
            leads: leads(host, route),
            ours: *ours,
        });
    }
    found
}

/// Where a route leads, as `ip route` shows it.
fn leads(host: &Host, route: &KernelRoute) -> String {
    if route.is_unreachable {
        return "unreachable".to_owned();
    }
    let hops = route.next_hops().map(|(ifindex, gateway)| hop(host, ifindex, gateway));
    hops.collect::<Vec<_>>().join(", ")
}

/// A next hop, as `ip route` shows it.
#[must_use]
pub fn hop(host: &Host, ifindex: IfIndex, gateway: Option<Ipv4Addr>) -> String {
    let name = host.links.get(&ifindex).map_or("?", |link| link.name.as_str());
    match gateway {
        Some(gateway) => format!("via {gateway} dev {name}"),
        None => format!("dev {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::METRIC;

    const TUNNEL: IfIndex = IfIndex(4);
    const ETH0: IfIndex = IfIndex(2);
    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn route(cidr: &str, ifindex: Option<IfIndex>, gateway: Option<Ipv4Addr>) -> KernelRoute {
        KernelRoute {
            destination: net(cidr),
            ifindex,
            gateway,
            protocol: 3,
            ..KernelRoute::default()
        }
    }

    #[test]
    fn only_what_takes_packets_past_us_is_foreign() {
        let to = |flags| Route { node: NODE.into(), since: 0, flags, source: 0 };
        let routes = BTreeMap::from([
            (net("10.20.42.0/26"), to(0)),
            (net("10.20.43.0/26"), to(Route::DIRECT)),
            (net("10.20.42.9/32"), to(Route::LOCAL)),
        ]);
        let blackhole = KernelRoute { is_blackhole: true, ..route("10.20.42.32/27", None, None) };
        let ours = KernelRoute { protocol: PROTOCOL, ..route("10.20.42.0/27", Some(ETH0), None) };
        let cases = [
            (route("10.20.42.0/27", Some(ETH0), Some(ROUTER)), true),
            (KernelRoute { is_unreachable: true, ..route("10.20.42.0/27", None, None) }, true),
            // The same next hop, the tunnel device, a local workload, our own.
            (route("10.20.42.0/27", Some(ETH0), Some(NODE)), false),
            (route("10.20.42.0/27", Some(TUNNEL), None), false),
            (route("10.20.42.9/32", Some(IfIndex(9)), None), false),
            (blackhole, false),
            (ours, false),
            // The same prefix: the lower metric counts.
            (route("10.20.42.0/26", Some(ETH0), Some(ROUTER)), true),
            (KernelRoute { metric: 32, ..route("10.20.42.0/26", Some(ETH0), Some(ROUTER)) }, false),
            (route("10.20.42.0/26", Some(ETH0), Some(NODE)), false),
            // Wider, elsewhere, or in a route that travels unencapsulated anyway.
            (route("10.20.0.0/16", Some(ETH0), Some(ROUTER)), false),
            (route("10.99.0.0/16", Some(ETH0), Some(ROUTER)), false),
            (route("10.20.43.0/27", Some(ETH0), Some(ROUTER)), false),
        ];
        for (route, is_foreign) in cases {
            let own = KernelRoute {
                protocol: PROTOCOL,
                metric: METRIC,
                ..self::route("10.20.42.0/26", Some(TUNNEL), None)
            };
            let host = Host { routes: vec![own, route.clone()], ..Host::default() };
            let found = foreign_routes(&host, &routes, Some(TUNNEL));
            assert_eq!(!found.is_empty(), is_foreign, "{route:?}");
        }
    }

    /// Beside tunl0 BIRD's route has a metric of 32; one to the same prefix without a metric wins.
    #[test]
    fn of_two_routes_to_one_prefix_the_lower_metric_counts() {
        let routes = BTreeMap::from([(
            net("10.20.42.0/26"),
            Route { node: NODE.into(), since: 0, flags: 0, source: 0 },
        )]);
        let with = |metric, route| KernelRoute { metric, ..route };
        let to_tunnel = |metric| with(metric, route("10.20.42.0/26", Some(TUNNEL), Some(NODE)));
        let past_us = |metric| with(metric, route("10.20.42.0/26", Some(ETH0), Some(ROUTER)));
        for (there, is_foreign) in [
            (vec![to_tunnel(32), past_us(0)], true),
            (vec![past_us(0), to_tunnel(32)], true),
            (vec![past_us(32)], true),
            (vec![to_tunnel(0), past_us(32)], false),
            (vec![past_us(32), to_tunnel(0)], false),
        ] {
            let host = Host { routes: there.clone(), ..Host::default() };
            let found = foreign_routes(&host, &routes, Some(TUNNEL));
            assert_eq!(found.len(), usize::from(is_foreign), "{there:?}");
        }
    }
}
