//! What the kernel announced, as far as it can be told without another look.
//!
//! Changes come by the thousand, when BIRD or Felix starts: all of them together cost
//! one pass over the routes, and one over the ways.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::{Last, Reconciler};
use crate::{
    address::is_single,
    kernel::{Changes, KernelRoute, Neighbour, PROTOCOL, Path, RouteChange},
    sources::{SourceKind, kernel::Reader},
};

impl Reconciler {
    /// Takes in changes of routes; whether there has to be a whole round. Without
    /// one, a step puts in place what comes of them.
    pub fn kernel_changed(&mut self, changes: Changes) -> bool {
        let Some(mut last) = self.last.take() else { return true };
        let is_ours = |change: &RouteChange| change.route.protocol == PROTOCOL;
        let (ours, others): (Vec<_>, Vec<_>) = changes.routes.into_iter().partition(is_ours);
        // Our own doing, unless somebody else took away what we want.
        let wanted = &last.desired.tables.kernel_routes;
        let mut needs_round = changes.is_unknown
            || ours.iter().any(|it| !it.is_there && wanted.contains_key(&it.route.destination));
        needs_round |= self.routes_changed(&mut last, others);
        needs_round |= self.neighbours_changed(changes.neighbours);
        self.last = Some(last);
        needs_round
    }

    fn routes_changed(&mut self, last: &mut Last, changes: Vec<RouteChange>) -> bool {
        let Some(config) = &self.file.config.sources.kernel else { return !changes.is_empty() };
        let is_claim = |change: &RouteChange| {
            config.protocols.contains(&change.route.protocol)
                && !self.may_lead_to_node(&change.route)
        };
        let (claims, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_claim);
        if !claims.is_empty() {
            let prefixes = claims.iter().map(|change| change.route.destination).collect();
            self.host.change_routes(claims);
            let reader = Reader::new(config, &self.host, &last.facts.underlay, last.facts.node);
            for (cidr, claims) in reader.claims_to(&self.host.routes, &prefixes) {
                self.sources.table_mut().replace_prefix(SourceKind::Kernel, cidr, claims);
            }
            last.facts.tunl0_routes_changed(&self.host, &prefixes);
        }
        !others.is_empty()
    }

    /// A next hop's MAC is in the entries of the nodes behind it, a pod's in its own.
    fn neighbours_changed(
        &mut self,
        changes: BTreeMap<(u32, Ipv4Addr), Option<Neighbour>>,
    ) -> bool {
        let mac = |neighbour: Option<&Neighbour>| neighbour.map(|neighbour| neighbour.mac);
        let mut moved = BTreeSet::new();
        for (key, neighbour) in changes {
            // Else heard of again, or not for a while.
            if mac(self.host.neighbours.get(&key)) != mac(neighbour.as_ref()) {
                moved.insert(key);
            }
            match neighbour {
                Some(neighbour) => drop(self.host.neighbours.insert(key, neighbour)),
                None => drop(self.host.neighbours.remove(&key)),
            }
        }
        if moved.is_empty() {
            return false;
        }
        let is_behind = |path: &Path| moved.contains(&(path.ifindex, path.next_hop));
        let behind = self.paths.iter().filter(|(_, path)| is_behind(path));
        self.touched.extend(behind.map(|(node, _)| *node));
        let is_pods = |ifindex: &u32| {
            let link = self.host.links.get(ifindex);
            link.is_none_or(|link| self.file.config.workloads.matches(&link.name))
        };
        moved.iter().any(|(ifindex, _)| is_pods(ifindex))
    }

    /// Such a route may change the way to a node, or be a local pod's.
    fn may_lead_to_node(&self, route: &KernelRoute) -> bool {
        let net: Ipv4Net = route.destination;
        let is_pod = is_single(net) && route.next_hops().all(|(_, gateway)| gateway.is_none());
        (is_pod && !route.is_blackhole) || self.sources.table().has_node_in(net)
    }
}
