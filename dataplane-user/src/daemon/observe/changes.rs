//! What the kernel announced, as far as it can be used without another look.
//!
//! Changes come by the thousand when BIRD or Felix starts: all of them together cost
//! one pass over the routes, and one over the paths.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::IfIndex;
use ipnet::Ipv4Net;

use super::Observer;
use crate::{
    address::is_single,
    kernel::{Changes, KernelRoute, Neighbour, PROTOCOL, Path, RouteChange},
};

/// What to make of announced changes.
#[derive(Default, Debug)]
pub struct Noticed {
    /// Everything has to be looked at.
    pub needs_look: bool,
    /// Prefixes whose kernel routes are claims of the source `kernel`, and changed.
    pub claims: BTreeSet<Ipv4Net>,
    /// Nodes whose next hop has another MAC.
    pub moved: BTreeSet<Ipv4Addr>,
    /// Local pods with another MAC.
    pub pods: BTreeSet<Ipv4Addr>,
}

impl Noticed {
    /// Returns whether entries of routes or nodes are to be decided anew.
    #[must_use]
    pub fn is_for_a_step(&self) -> bool {
        !self.claims.is_empty() || !self.moved.is_empty()
    }
}

/// What the observer has to know to read changes.
pub struct Interest<'a> {
    /// Whether we want this route of ours.
    pub is_wanted: &'a dyn Fn(&Ipv4Net) -> bool,
    /// Protocols that the source `kernel` reads; `None`: there is no such source.
    pub protocols: Option<&'a [u8]>,
    /// Whether a node, or this node, lies in a prefix.
    pub has_node_in: &'a dyn Fn(Ipv4Net) -> bool,
    /// The interface of a local pod, by its address.
    pub interface_of_pod: &'a dyn Fn(Ipv4Addr) -> Option<IfIndex>,
}

impl Observer {
    /// Takes in what the kernel announced.
    pub fn notice(&mut self, changes: Changes, interest: &Interest<'_>) -> Noticed {
        let mut leads_to_nodes =
            changes.other_tables.iter().filter(|net| (interest.has_node_in)(**net));
        let needs_look = changes.is_unknown || leads_to_nodes.next().is_some();
        let mut noticed = Noticed { needs_look, ..Noticed::default() };
        self.notice_routes(changes.routes, interest, &mut noticed);
        self.notice_neighbours(changes.neighbours, interest, &mut noticed);
        noticed
    }

    fn notice_routes(
        &mut self,
        changes: Vec<RouteChange>,
        interest: &Interest<'_>,
        noticed: &mut Noticed,
    ) {
        let is_ours = |change: &RouteChange| change.route.protocol == PROTOCOL;
        let (ours, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_ours);
        // We made our own; one that is gone and wanted was removed by another program.
        let is_missed =
            |it: &RouteChange| !it.is_there && (interest.is_wanted)(&it.route.destination);
        noticed.needs_look |= ours.iter().any(is_missed);
        let is_claim = |change: &RouteChange| {
            interest.protocols.is_some_and(|them| them.contains(&change.route.protocol))
                && !may_lead_to_node(&change.route, interest)
        };
        let (claims, others): (Vec<_>, Vec<_>) = others.into_iter().partition(is_claim);
        noticed.needs_look |= !others.is_empty();
        noticed.claims = claims.iter().map(|change| change.route.destination).collect();
        if !claims.is_empty() {
            self.host.change_routes(claims);
        }
    }

    /// A next hop's MAC is in the entries of the nodes behind it, a pod's in its own. All other
    /// neighbours are of no interest: a pod can make as many as it likes, with addresses that are not
    /// its own. One that becomes a pod's comes with its route.
    fn notice_neighbours(
        &mut self,
        changes: BTreeMap<(IfIndex, Ipv4Addr), Option<Neighbour>>,
        interest: &Interest<'_>,
        noticed: &mut Noticed,
    ) {
        let mac = |neighbour: Option<&Neighbour>| neighbour.map(|neighbour| neighbour.mac);
        let mut moved = BTreeSet::new();
        for (key, neighbour) in changes {
            // Else it was only heard of again, or not for a while.
            if mac(self.host.neighbours.get(&key)) != mac(neighbour.as_ref()) {
                moved.insert(key);
            }
            match neighbour {
                Some(neighbour) => drop(self.host.neighbours.insert(key, neighbour)),
                None => drop(self.host.neighbours.remove(&key)),
            }
        }
        if moved.is_empty() {
            return;
        }
        let is_behind = |path: &Path| moved.contains(&(path.ifindex, path.next_hop));
        let behind = self.paths.iter().filter(|(_, path)| is_behind(path));
        noticed.moved = behind.map(|(node, _)| *node).collect();
        let is_pod = |(ifindex, address): &(IfIndex, Ipv4Addr)| {
            (interest.interface_of_pod)(*address) == Some(*ifindex)
        };
        noticed.pods = moved.into_iter().filter(is_pod).map(|(_, address)| address).collect();
    }
}

/// Whether a route may change the path to a node, or be a local pod's.
fn may_lead_to_node(route: &KernelRoute, interest: &Interest<'_>) -> bool {
    let net: Ipv4Net = route.destination;
    let is_pod = is_single(net) && route.next_hops().all(|(_, gateway)| gateway.is_none());
    (is_pod && !route.is_blackhole) || (interest.has_node_in)(net)
}
