//! Who may be a node, and what may be a route: in layers, so that the order in which claims come
//! cannot matter.
//!
//! 1. An address is **admitted** as a node if the file or a datastore names it, or if it is the
//!    gateway of a route of the kernel's or BIRD's and in a network that this host is part of.
//! 2. A prefix **surrounds** what must stay outside the tunnel if an admitted node, this node or
//!    a server that this host depends on lies in it. It makes no route.
//! 3. Any other gateway of the kernel's or BIRD's is not a node if it is a pod of this host, or lies
//!    in a claimed prefix that surrounds nothing: then it is a pod of another host.
//!
//! All three look at what is claimed and never at what was chosen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::{RouteTable, SourceKind};
use crate::address::supernets;

/// The nodes that claims name.
#[derive(Default, Debug)]
pub struct ClaimedNodes(BTreeMap<Ipv4Addr, Claimed>);

/// What is claimed of a node.
#[derive(Default, Debug)]
struct Claimed {
    /// How many claims are of the file's or a datastore's.
    named: usize,
    /// By how many claims it has each prefix.
    prefixes: BTreeMap<Ipv4Net, usize>,
}

/// Whether a source names nodes, and not only gateways.
const fn names_nodes(kind: SourceKind) -> bool {
    matches!(kind, SourceKind::File | SourceKind::Kubernetes | SourceKind::Etcd)
}

impl ClaimedNodes {
    /// Takes in a claim to `cidr` for `node`.
    pub fn add(&mut self, node: Ipv4Addr, cidr: Ipv4Net, kind: SourceKind) {
        let claimed = self.0.entry(node).or_default();
        claimed.named += usize::from(names_nodes(kind));
        *claimed.prefixes.entry(cidr).or_default() += 1;
    }

    /// Takes such a claim back.
    pub fn remove(&mut self, node: Ipv4Addr, cidr: Ipv4Net, kind: SourceKind) {
        let Some(claimed) = self.0.get_mut(&node) else { return };
        claimed.named -= usize::from(names_nodes(kind));
        if let Some(count) = claimed.prefixes.get_mut(&cidr) {
            *count -= 1;
            if *count == 0 {
                claimed.prefixes.remove(&cidr);
            }
        }
        if claimed.prefixes.is_empty() {
            self.0.remove(&node);
        }
    }

    /// The nodes.
    pub fn iter(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.0.keys().copied()
    }

    /// The prefixes that are claimed for a node.
    pub fn prefixes(&self, node: Ipv4Addr) -> impl Iterator<Item = Ipv4Net> {
        self.0.get(&node).into_iter().flat_map(|claimed| claimed.prefixes.keys().copied())
    }

    /// The prefixes that are claimed for the nodes in `cidr`.
    pub fn prefixes_of_nodes_in(&self, cidr: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
        let nodes = self.0.range(cidr.network()..=cidr.broadcast());
        nodes.flat_map(|(_, claimed)| claimed.prefixes.keys().copied())
    }
}

impl RouteTable {
    /// The prefixes to judge anew when claims to `cidr` for `node` come or go.
    pub(super) fn touched(&self, cidr: Ipv4Net, node: Ipv4Addr) -> BTreeSet<Ipv4Net> {
        // The node may be admitted now, or no more: what surrounds it, what it has, and what
        // gateways beside it have.
        let around = supernets(Ipv4Net::from(node)).filter(|net| self.claims.contains_key(net));
        let around: Vec<Ipv4Net> = around.chain([cidr]).collect();
        let beside = around.iter().flat_map(|net| self.nodes_claimed.prefixes_of_nodes_in(*net));
        let own = self.nodes_claimed.prefixes(node);
        beside.chain(own).chain(around.iter().copied()).collect()
    }

    /// Whether an address is a node's for certain; see the [module](self).
    pub(super) fn is_admitted(&self, node: Ipv4Addr) -> bool {
        let Some(claimed) = self.nodes_claimed.0.get(&node) else { return false };
        claimed.named > 0
            || (!self.surroundings.pods.contains(&node)
                && self.surroundings.connected.iter().any(|net| net.contains(&node)))
    }

    /// What lies in `cidr` and must not be reached through the tunnel.
    pub(super) fn surrounded(&self, cidr: Ipv4Net) -> Option<String> {
        let here = &self.surroundings;
        if let Some(node) = here.node.filter(|node| cidr.contains(node)) {
            return Some(format!("our own node address {node} lies inside it"));
        }
        let range = || cidr.network()..=cidr.broadcast();
        if let Some(server) = here.servers.range(range()).next() {
            return Some(format!(
                "{server} lies inside it, which this host needs outside the tunnel (a source's \
                 server, or its router)"
            ));
        }
        let claimed = self.nodes_claimed.0.range(range()).map(|(node, _)| *node);
        // What the file had stays until every source has reported.
        let held = self.held_nodes.range(range()).copied();
        let node = claimed.filter(|node| self.is_admitted(*node)).chain(held).next()?;
        Some(format!("node {node} lies inside it, and packets to it would be wrapped for ever"))
    }

    /// Why a gateway of the kernel's or BIRD's cannot be a node.
    pub(super) fn no_node(&self, gateway: Ipv4Addr) -> Option<String> {
        if self.is_admitted(gateway) {
            return None;
        }
        if self.surroundings.pods.contains(&gateway) {
            return Some(format!("{gateway} is a pod of this host"));
        }
        let is_pods = |net: &Ipv4Net| {
            let is_known = self.claims.contains_key(net) || self.held.contains_key(net);
            is_known && self.surrounded(*net).is_none()
        };
        let cover = supernets(Ipv4Net::from(gateway)).find(is_pods)?;
        Some(format!("the gateway {gateway} lies inside the pod CIDR {cover}"))
    }
}
