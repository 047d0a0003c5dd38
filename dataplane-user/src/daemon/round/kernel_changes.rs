//! What the kernel announced, as far as it can be told without another look.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Last, Reconciler};
use crate::{
    kernel::{Changes, KernelRoute, Neighbour, PROTOCOL, RouteChange},
    sources::{SourceKind, kernel::Reader},
};

impl Reconciler {
    /// Takes in changes of routes; whether there has to be a whole round. Without
    /// one, a step puts in place what comes of them.
    pub fn kernel_changed(&mut self, changes: Changes) -> bool {
        let Some(mut last) = self.last.take() else { return true };
        let mut needs_round = changes.is_unknown;
        for change in changes.routes {
            needs_round |= self.route_changed(&mut last, change);
        }
        for (key, neighbour) in changes.neighbours {
            needs_round |= self.neighbour_changed(key, neighbour);
        }
        self.last = Some(last);
        needs_round
    }

    fn route_changed(&mut self, last: &mut Last, change: RouteChange) -> bool {
        let RouteChange { route, is_there } = change;
        if route.protocol == PROTOCOL {
            // Our own doing, unless somebody else took away what we want.
            let tables = &last.desired.tables;
            let is_wanted = tables.kernel_routes.contains_key(&route.destination);
            return !is_there && is_wanted;
        }
        let Some(config) = &self.file.config.sources.kernel else { return true };
        if !config.protocols.contains(&route.protocol) || self.may_lead_to_node(&route) {
            return true;
        }
        let cidr = route.destination;
        let is_same =
            |other: &KernelRoute| (other.destination, other.metric) == (cidr, route.metric);
        self.host.routes.retain(|other| !is_same(other));
        if is_there {
            self.host.routes.push(route);
        }
        let host = &self.host;
        let reader = Reader::new(config, host, &last.facts.underlay, last.facts.node);
        let claims = reader.claims_to(host, cidr);
        self.sources.table_mut().replace_prefix(SourceKind::Kernel, cidr, claims);
        match host.tunl0_route_to(cidr) {
            Some(node) => drop(last.facts.tunl0_routes.insert(cidr, node)),
            None => drop(last.facts.tunl0_routes.remove(&cidr)),
        }
        false
    }

    /// A next hop's MAC is in the entries of the nodes behind it, a pod's in its own.
    fn neighbour_changed(&mut self, key: (u32, Ipv4Addr), neighbour: Option<Neighbour>) -> bool {
        let mac = |neighbour: Option<&Neighbour>| neighbour.map(|neighbour| neighbour.mac);
        let is_same = mac(self.host.neighbours.get(&key)) == mac(neighbour.as_ref());
        match neighbour {
            Some(neighbour) => drop(self.host.neighbours.insert(key, neighbour)),
            None => drop(self.host.neighbours.remove(&key)),
        }
        if is_same {
            // Heard of again, or not for a while.
            return false;
        }
        let behind = self.paths.iter().filter(|(_, path)| (path.ifindex, path.next_hop) == key);
        self.touched.extend(behind.map(|(node, _)| *node));
        let link = self.host.links.get(&key.0);
        link.is_none_or(|link| self.file.config.workloads.matches(&link.name))
    }

    /// Such a route may change the way to a node, or be a local pod's.
    fn may_lead_to_node(&self, route: &KernelRoute) -> bool {
        let net: Ipv4Net = route.destination;
        let is_pod =
            net.prefix_len() == 32 && route.next_hops().all(|(_, gateway)| gateway.is_none());
        (is_pod && !route.is_blackhole) || self.sources.table().has_node_in(net)
    }
}
