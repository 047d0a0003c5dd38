//! What the kernel's main table says of pods: routes of Felix and of Calico's
//! BIRD (`felix/dataplane/linux/ipip_mgr.go`, `bird_ipam.cfg.template`).
//!
//! ```text
//! 10.20.42.0/26 via 172.16.35.4 dev tunl0 proto 80 onlink    wrapped
//! 10.20.43.0/26 via 172.16.36.11 dev eth0 proto 80 onlink    plain (CrossSubnet)
//! blackhole 10.20.105.192/26 proto 80                        ours
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::IfIndex;
use ipnet::Ipv4Net;

use super::{Change, Claim, Encap};
use crate::{
    config::KernelConfig,
    kernel::{Host, KernelRoute, TUNL0, TUNNEL},
};

/// How the routes of one host are read.
#[derive(Debug)]
pub struct Reader<'a> {
    config: &'a KernelConfig,
    node: Ipv4Addr,
    /// Devices whose routes' gateways are nodes.
    tunnels: BTreeSet<IfIndex>,
    /// Where plain routes lead.
    underlay: &'a BTreeSet<IfIndex>,
    /// Gateways that carry other traffic than pods': routers, no nodes.
    routers: BTreeSet<Ipv4Addr>,
}

impl<'a> Reader<'a> {
    /// For this host. `node`: our underlay address.
    #[must_use]
    pub fn new(
        config: &'a KernelConfig,
        host: &Host,
        underlay: &'a BTreeSet<IfIndex>,
        node: Ipv4Addr,
    ) -> Self {
        let tunnels = [TUNL0, TUNNEL].iter().filter_map(|name| host.link(name));
        let others = host.routes.iter().filter(|route| !config.protocols.contains(&route.protocol));
        Self {
            config,
            node,
            tunnels: tunnels.map(|(ifindex, _)| ifindex).collect(),
            underlay,
            routers: others.flat_map(|route| route.next_hops().filter_map(|hop| hop.1)).collect(),
        }
    }

    /// All claims.
    #[must_use]
    pub fn claims(&self, host: &Host) -> Vec<Change> {
        let routes = self.routes_that_count(&host.routes, |_| true);
        routes.into_values().flatten().flat_map(|route| self.claims_of(route)).collect()
    }

    /// The claims to each of these prefixes, none though there be, in one pass.
    #[must_use]
    pub fn claims_to<'r>(
        &self,
        routes: impl IntoIterator<Item = &'r KernelRoute>,
        prefixes: &BTreeSet<Ipv4Net>,
    ) -> BTreeMap<Ipv4Net, Vec<Change>> {
        let mut routes = self.routes_that_count(routes, |cidr| prefixes.contains(cidr));
        let claims = |cidr: &Ipv4Net| {
            let routes = routes.remove(cidr).unwrap_or_default();
            (*cidr, routes.into_iter().flat_map(|route| self.claims_of(route)).collect())
        };
        prefixes.iter().map(claims).collect()
    }

    /// Of several routes to a prefix those with the lowest metric.
    fn routes_that_count<'r>(
        &self,
        routes: impl IntoIterator<Item = &'r KernelRoute>,
        is_asked: impl Fn(&Ipv4Net) -> bool,
    ) -> BTreeMap<Ipv4Net, Vec<&'r KernelRoute>> {
        let mut best: BTreeMap<Ipv4Net, Vec<&KernelRoute>> = BTreeMap::new();
        for route in routes {
            if !self.is_read(route) || !is_asked(&route.destination) {
                continue;
            }
            let known = best.entry(route.destination).or_default();
            let metric = known.first().map_or(route.metric, |known| known.metric);
            if route.metric < metric {
                known.clear();
            }
            if route.metric <= metric {
                known.push(route);
            }
        }
        best
    }

    /// Whether a route is of those that say where pods are.
    fn is_read(&self, route: &KernelRoute) -> bool {
        let within = &self.config.within;
        self.config.protocols.contains(&route.protocol)
            && route.destination.prefix_len() > 0
            && (within.is_empty() || within.iter().any(|net| net.0.contains(&route.destination)))
    }

    /// A multipath route over the tunnel to several nodes makes as many claims: a conflict for
    /// the table to judge. A plain one is the kernel's: BIRD makes them for advertised service
    /// addresses, and any of the next hops is right.
    fn claims_of(&self, route: &KernelRoute) -> Vec<Change> {
        let change = |origin: String, node, encap| Change {
            cidr: route.destination,
            origin: origin.into(),
            claim: Some(Claim { node, encap }),
        };
        let protocol = route.protocol;
        if route.is_blackhole {
            return vec![change(format!("blackhole proto {protocol}"), self.node, None)];
        }
        let is_shared = route.next_hops().count() > 1;
        let claim = |(ifindex, gateway): (IfIndex, Option<Ipv4Addr>)| {
            let gateway = gateway?;
            let (way, encap) = if self.tunnels.contains(&ifindex) {
                ("over the tunnel", Encap::Ipip)
            } else if self.underlay.contains(&ifindex)
                && !self.routers.contains(&gateway)
                && !is_shared
            {
                ("plain", Encap::Direct)
            } else {
                return None;
            };
            Some(change(format!("via {gateway} {way} proto {protocol}"), gateway, Some(encap)))
        };
        route.next_hops().filter_map(claim).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use dataplane_common::Mtu;

    use super::*;
    use crate::kernel::{Link, RouteChange};

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    const OTHER: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);
    const NEAR: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 11);
    const ETH0: IfIndex = IfIndex(2);
    const TUNL: IfIndex = IfIndex(3);

    fn route(cidr: &str, way: Option<(IfIndex, Ipv4Addr)>, protocol: u8) -> KernelRoute {
        KernelRoute {
            destination: cidr.parse().expect("a prefix"),
            ifindex: way.map(|(ifindex, _)| ifindex),
            is_unreachable: false,
            is_blackhole: way.is_none(),
            gateway: way.map(|(_, gateway)| gateway),
            hops: Vec::new(),
            metric: 0,
            source: None,
            mtu: None,
            protocol,
        }
    }

    fn host(routes: Vec<KernelRoute>) -> Host {
        let link = |name: &str| Link {
            name: name.into(),
            alias: None,
            mac: dataplane_common::Mac::default(),
            mtu: Mtu(1500),
            is_up: true,
            does_arp: true,
            kind: None,
            ..Link::default()
        };
        let links = BTreeMap::from([(ETH0, link("eth0")), (TUNL, link("tunl0"))]);
        Host { links, routes, ..Host::default() }
    }

    fn claims(routes: Vec<KernelRoute>) -> Vec<(String, Ipv4Addr, Option<Encap>)> {
        let host = host(routes);
        let underlay = BTreeSet::from([ETH0]);
        let config = KernelConfig::default();
        let reader = Reader::new(&config, &host, &underlay, NODE);
        let flat = |change: Change| {
            let claim = change.claim?;
            Some((change.cidr.to_string(), claim.node, claim.encap))
        };
        reader.claims(&host).into_iter().filter_map(flat).collect()
    }

    #[test]
    fn routes_of_felix_and_bird_are_read() {
        for protocol in [12, 80] {
            let found = claims(vec![
                route("0.0.0.0/0", Some((ETH0, ROUTER)), 3),
                route("10.20.42.0/26", Some((TUNL, PEER)), protocol),
                route("10.20.42.7/32", Some((TUNL, OTHER)), protocol),
                route("10.20.43.0/26", Some((ETH0, NEAR)), protocol),
                route("10.20.105.192/26", None, protocol),
            ]);
            assert_eq!(
                found,
                [
                    ("10.20.42.0/26".into(), PEER, Some(Encap::Ipip)),
                    ("10.20.42.7/32".into(), OTHER, Some(Encap::Ipip)),
                    ("10.20.43.0/26".into(), NEAR, Some(Encap::Direct)),
                    ("10.20.105.192/26".into(), NODE, None),
                ]
            );
        }
    }

    /// Calico 3.33: Felix takes BIRD's routes over tunl0 for its own, in place, and removes those it
    /// does not want (`OwnBIRDIPIPRoutes`); other protocols stay as they are.
    #[test]
    fn felix_takes_birds_routes_over_and_no_claim_moves() {
        let (bird, felix) = (12, 80);
        let by = |protocol| route("10.20.42.0/26", Some((TUNL, PEER)), protocol);
        let stale = || route("10.20.43.0/26", Some((TUNL, OTHER)), bird);
        let change = |route, is_there| RouteChange { route, is_there };
        let read = |host: &Host| -> Vec<_> {
            let (config, underlay) = (KernelConfig::default(), BTreeSet::from([ETH0]));
            let claims = Reader::new(&config, host, &underlay, NODE).claims(host);
            claims.iter().map(|it| (it.cidr.to_string(), it.claim.map(|it| it.node))).collect()
        };
        let wanted = ("10.20.42.0/26".to_owned(), Some(PEER));
        let unwanted = ("10.20.43.0/26".to_owned(), Some(OTHER));
        let mut host = host(vec![by(bird), stale()]);
        for (what, changes, expected) in [
            ("BIRD's", vec![], vec![wanted.clone(), unwanted]),
            // The kernel announces a replacement as a new route.
            ("replaced", vec![change(by(felix), true)], vec![wanted.clone()]),
            ("BIRD again", vec![change(by(bird), true)], vec![wanted.clone()]),
            ("Felix again", vec![change(by(felix), true)], vec![wanted]),
            ("removed", vec![change(by(felix), false)], vec![]),
        ] {
            host.change_routes(changes);
            if what == "replaced" {
                host.change_routes([change(stale(), false)]);
            }
            assert_eq!(read(&host), expected, "{what}");
        }
        // Ours, which are neither's, are not read as claims.
        let ours = route("10.20.42.0/26", Some((TUNL, PEER)), crate::kernel::PROTOCOL);
        host.change_routes([change(ours, true)]);
        assert_eq!(read(&host), []);
    }

    #[test]
    fn what_is_not_theirs_or_names_no_node_is_not() {
        let mut over_cali = route("10.20.105.215/32", Some((IfIndex(7), NEAR)), 80);
        over_cali.gateway = None;
        let found = claims(vec![
            route("0.0.0.0/0", Some((ETH0, ROUTER)), 3),
            // By hand.
            route("10.20.42.0/26", Some((TUNL, PEER)), 4),
            // Plain BIRD behind a router: the gateway is the router.
            route("10.20.43.0/26", Some((ETH0, ROUTER)), 12),
            // The default route, learnt by BGP.
            route("0.0.0.0/0", Some((ETH0, NEAR)), 12),
            over_cali,
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn several_ways_are_several_claims_and_the_lowest_metric_counts() {
        let mut multipath = route("10.20.42.0/26", None, 12);
        multipath.is_blackhole = false;
        multipath.hops = vec![(TUNL, Some(PEER)), (TUNL, Some(OTHER))];
        let mut behind = route("10.20.43.0/26", Some((TUNL, PEER)), 12);
        behind.metric = 32;
        let found =
            claims(vec![multipath, behind, route("10.20.43.0/26", Some((TUNL, OTHER)), 80)]);
        let ipip = Some(Encap::Ipip);
        assert_eq!(
            found,
            [
                ("10.20.42.0/26".into(), PEER, ipip),
                ("10.20.42.0/26".into(), OTHER, ipip),
                ("10.20.43.0/26".into(), OTHER, ipip),
            ]
        );
    }

    #[test]
    fn plain_routes_to_several_nodes_are_the_kernels() {
        let mut services = route("198.19.0.0/16", None, 12);
        services.is_blackhole = false;
        services.hops = vec![(ETH0, Some(NEAR)), (ETH0, Some(PEER))];
        assert_eq!(claims(vec![services]), []);
    }

    #[test]
    fn only_what_lies_within_counts() {
        let host = host(vec![
            route("10.20.42.0/26", Some((TUNL, PEER)), 12),
            route("10.30.0.0/16", Some((TUNL, PEER)), 12),
            route("10.20.0.0/15", Some((TUNL, PEER)), 12),
        ]);
        let config: KernelConfig = serde_yaml::from_str("within: [10.20.0.0/16]").unwrap();
        let underlay = BTreeSet::from([ETH0]);
        let claims = Reader::new(&config, &host, &underlay, NODE).claims(&host);
        let found: Vec<_> = claims.iter().map(|claim| claim.cidr.to_string()).collect();
        assert_eq!(found, ["10.20.42.0/26"]);
    }

    #[test]
    fn however_many_prefixes_are_asked_for_each_route_is_looked_at_once() {
        let cidr = |n: u16| format!("10.{}.{}.0/26", n / 256, n % 256);
        let mut routes: Vec<_> =
            (0..1000).map(|n| route(&cidr(n), Some((TUNL, PEER)), 12)).collect();
        routes.extend((0..1000).map(|n| route(&cidr(n), Some((TUNL, OTHER)), 80)));
        routes.iter_mut().step_by(2).for_each(|route| route.metric = 32);
        let host = host(routes);
        let (config, underlay) = (KernelConfig::default(), BTreeSet::from([ETH0]));
        let reader = Reader::new(&config, &host, &underlay, NODE);
        let gone: Ipv4Net = "10.20.42.0/26".parse().expect("a prefix");
        let mut asked: BTreeSet<_> = host.routes.iter().map(|route| route.destination).collect();
        asked.insert(gone);

        let looks = Cell::new(0);
        let counted = host.routes.iter().inspect(|_| looks.set(looks.get() + 1));
        let mut found = reader.claims_to(counted, &asked);
        assert_eq!(looks.get(), host.routes.len());
        assert_eq!(found.remove(&gone), Some(Vec::new()), "what is gone is told, too");
        assert_eq!(found.into_values().flatten().collect::<Vec<_>>(), reader.claims(&host));
    }
}
