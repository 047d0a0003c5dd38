//! A few routes are others now: only they, and their nodes, are decided anew, so that the work
//! does not grow with the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::Endpoint;
use ipnet::Ipv4Net;

use super::{Decider, Decision};
use crate::{
    daemon::observe::Noticed,
    desired::{Inputs, Paths, RouteTables},
    kernel::Host,
    sources::{SourceKind, kernel::Reader},
    tables::{Outdated, outdated},
};

/// Which entries a step concerns, and how they were before it.
#[derive(Debug)]
pub struct Step {
    /// Prefixes whose routes are others.
    pub prefixes: BTreeSet<Ipv4Net>,
    /// Their nodes, before and after.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// The entries as they were.
    pub before: RouteTables,
}

impl Step {
    /// Returns what leases may hold and is no longer so, now that tables are like `now`.
    /// The maps alone do not show it: a step does not read wider routes.
    #[must_use]
    pub fn outdated(&self, now: &RouteTables) -> BTreeSet<Outdated> {
        let before = &self.before.routes;
        let was_there = |net: &Ipv4Net| {
            if self.prefixes.contains(net) {
                before.contains_key(net)
            } else {
                now.routes.contains_key(net)
            }
        };
        let outdated = |prefix: &Ipv4Net| {
            outdated(*prefix, before.get(prefix), now.routes.get(prefix), was_there)
        };
        self.prefixes.iter().filter_map(outdated).collect()
    }
}

impl Decider {
    /// Takes in what the kernel announced.
    pub fn notice(&mut self, noticed: Noticed, host: &Host) {
        self.moved.extend(noticed.moved);
        let Some(last) = &mut self.last else { return };
        let Some(config) = self.file.config.sources.kernel.as_ref() else { return };
        if noticed.claims.is_empty() {
            return;
        }
        let reader = Reader::new(config, host, &last.facts.underlay, last.facts.node);
        for (cidr, claims) in reader.claims_to(&host.routes, &noticed.claims) {
            self.claims.table_mut().replace_prefix(SourceKind::Kernel, cidr, claims);
        }
        last.facts.tunl0_routes_changed(host, &noticed.claims);
    }

    /// Takes in the MACs of these local pods. Returns their entries.
    pub fn readdress_pods(
        &mut self,
        pods: &BTreeSet<Ipv4Addr>,
        host: &Host,
    ) -> BTreeMap<Ipv4Addr, Endpoint> {
        let Some(Decision { desired, .. }) = &mut self.last else { return BTreeMap::new() };
        let mut changed = BTreeMap::new();
        for pod in pods {
            let Some(endpoint) = desired.endpoints.get_mut(pod) else { continue };
            let neighbour = host.neighbours.get(&(endpoint.hop.ifindex, *pod));
            endpoint.hop.destination = neighbour.map(|it| it.mac).unwrap_or_default();
            changed.insert(*pod, *endpoint);
        }
        changed
    }

    /// Settles what sources have changed since the last decision. Returns the prefixes and the
    /// nodes that a step has to decide anew; `None` if everything has to be. `now`:
    /// `CLOCK_MONOTONIC`, seconds.
    pub fn changed(&mut self, now: u32) -> Option<(BTreeSet<Ipv4Net>, BTreeSet<Ipv4Addr>)> {
        let last = self.last.as_ref().filter(|_| !self.is_outdated)?;
        // What was unreachable for want of a source need not be any more: not a matter of routes.
        if !last.desired.tables.unknown_pools.is_empty() && self.claims.have_spoken() {
            return None;
        }
        // Our own addresses are part of everything, and any prefix may be around a server.
        if self.own_nodes() != self.memory.own_nodes
            || self.servers() != self.memory.servers
            || self.backends() != self.memory.backends
        {
            return None;
        }
        let prefixes = self.claims.table_mut().settle(now);
        let before = prefixes.iter().filter_map(|p| last.desired.tables.routes.get(p));
        let before = before.map(|route| Ipv4Addr::from(route.node));
        let routes = self.claims.table().routes();
        let now = prefixes.iter().filter_map(|p| routes.get(p)).map(|route| route.node);
        let moved = std::mem::take(&mut self.moved);
        let nodes = before.chain(now).chain(moved).filter(|node| *node != last.facts.node);
        let nodes = nodes.collect();
        Some((prefixes, nodes))
    }

    /// Decides the entries of these prefixes and nodes anew. `None` if everything has to be
    /// decided: a node is behind an interface that has no programs of ours, maybe not yet.
    pub fn step(
        &mut self,
        prefixes: BTreeSet<Ipv4Net>,
        nodes: BTreeSet<Ipv4Addr>,
        host: &Host,
        paths: &Paths,
    ) -> Option<Step> {
        let Decision { facts, desired, .. } = self.last.as_mut()?;
        let leads_elsewhere = |node: &Ipv4Addr| {
            paths.get(node).is_some_and(|path| !facts.underlay.contains(&path.ifindex))
        };
        if nodes.iter().any(leads_elsewhere) {
            return None;
        }
        let prefixes = with_longer(&facts.tunl0_routes, prefixes);
        let step = Step { before: desired.tables.only(&prefixes, &nodes), prefixes, nodes };
        let inputs = Inputs {
            config: &self.file.config,
            host,
            paths,
            facts,
            tunnel: desired.settings.tunnel_ifindex,
        };
        let table = self.claims.table();
        let has_routes = |node| table.knows(node);
        let tables = &mut desired.tables;
        tables.update(inputs, table.routes(), &step.prefixes, &step.nodes, has_routes);
        Some(step)
    }
}

/// These prefixes, and those inside them to which tunl0 has routes: their entries depend on what
/// is around them.
fn with_longer(
    tunl0_routes: &BTreeMap<Ipv4Net, Ipv4Addr>,
    prefixes: BTreeSet<Ipv4Net>,
) -> BTreeSet<Ipv4Net> {
    let mut all = prefixes.clone();
    for cidr in prefixes {
        let inside = tunl0_routes.range(cidr..).map(|(net, _)| *net);
        all.extend(inside.take_while(|net| cidr.contains(net)));
    }
    all
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Ipv4Be, Route};

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn tables(routes: &[(&str, u32, u16)]) -> RouteTables {
        let route = |node, source| Route { node: Ipv4Be(node), since: 0, flags: 0, source };
        let routes = routes.iter().map(|(cidr, node, source)| (net(cidr), route(*node, *source)));
        RouteTables { routes: BTreeMap::from_iter(routes), ..RouteTables::default() }
    }

    #[test]
    fn leases_end_for_what_packets_notice() {
        let block = "10.20.42.0/26";
        let outdates = |changed: &str, before: &RouteTables, now: &RouteTables| {
            let prefixes = BTreeSet::from([net(changed)]);
            let before = before.only(&prefixes, &BTreeSet::new());
            let outdated = Step { prefixes, nodes: BTreeSet::new(), before }.outdated(now);
            let only = BTreeSet::from([Outdated::Route(net(changed))]);
            assert!(outdated.is_empty() || outdated == only, "{outdated:?}");
            !outdated.is_empty()
        };
        let alone = tables(&[(block, 1, Route::SOURCE_FILE)]);
        let moved = tables(&[(block, 2, Route::SOURCE_FILE)]);
        let learnt_elsewhere = tables(&[(block, 1, Route::SOURCE_ETCD)]);
        let lent = tables(&[(block, 1, Route::SOURCE_FILE), ("10.20.42.7/32", 2, 0)]);
        assert!(outdates(block, &alone, &moved));
        assert!(outdates(block, &alone, &tables(&[])));
        assert!(!outdates(block, &tables(&[]), &alone));
        assert!(!outdates(block, &alone, &learnt_elsewhere));
        assert!(outdates("10.20.42.7/32", &alone, &lent), "a wider one is not in the scope");
    }
}
