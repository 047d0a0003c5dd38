//! Claims, from blocks, nodes and pools: what `felix/calc/l3_route_resolver.go` decides.
//!
//! A block's claim is its host's address; each borrowed address is a /32 of its
//! own. Our own blocks are claimed, too: that proves they are nobody else's. The
//! objects come in any order and may contradict each other; what follows from them
//! depends on the objects only, not on the order.
//!
//! The work for one change is that of the blocks it is about: those that name a
//! node, those inside a pool. Only when our own subnet changes is every block
//! looked at again.

mod addresses;
mod index;
mod problems;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;

pub use self::problems::Aspect;
use self::{addresses::Addresses, index::Blocks, problems::Problems};
use super::{Affinity, Block, CalicoNode, Pool};
use crate::{
    address::supernets,
    sources::{Change, Claim, Encap, NodeRecord, Origin, OwnNode, Report},
};

/// Incremental: feed it objects, then take what changed.
#[derive(Debug)]
pub struct Resolver {
    own_name: String,
    /// What a node is called in a problem, before its name.
    node_kind: &'static str,
    nodes: HashMap<String, CalicoNode>,
    addresses: Addresses,
    blocks: Blocks,
    pools: BTreeMap<Ipv4Net, BTreeMap<Origin, Pool>>,
    pool_ranges: HashMap<Origin, Ipv4Net>,
    affinities: HashMap<Origin, Affinity>,
    affinities_to: HashMap<Ipv4Net, BTreeSet<Origin>>,
    /// What each block claims.
    claims: BTreeMap<Origin, BTreeMap<Ipv4Net, Claim>>,
    /// What was claimed when changes were last taken, of what was touched since.
    before: BTreeMap<(Origin, Ipv4Net), Option<Claim>>,
    /// What was last reported about this node.
    reported_own: Option<OwnNode>,
    /// Nodes have come, gone or moved since their names were last reported.
    are_names_new: bool,
    problems: Problems,
}

/// How packets to a block travel.
enum Way {
    /// In this pool's way; `None`: in no pool.
    Ours(Option<Encap>),
    /// By VXLAN.
    NotOurs,
}

impl Resolver {
    /// For the node called `own_name` in the datastore.
    #[must_use]
    pub fn new(own_name: &str) -> Self {
        Self {
            own_name: own_name.to_owned(),
            node_kind: "nodes",
            nodes: HashMap::new(),
            addresses: Addresses::default(),
            blocks: Blocks::default(),
            pools: BTreeMap::new(),
            pool_ranges: HashMap::new(),
            affinities: HashMap::new(),
            affinities_to: HashMap::new(),
            claims: BTreeMap::new(),
            before: BTreeMap::new(),
            reported_own: None,
            are_names_new: false,
            problems: Problems::default(),
        }
    }

    /// Calls a node `kind/name` in problems, in the place of `nodes/name`.
    #[must_use]
    pub fn calling_nodes(self, kind: &'static str) -> Self {
        Self { node_kind: kind, ..self }
    }

    /// A block is so now, or is gone.
    pub fn set_block(&mut self, origin: Origin, block: Option<Block>) {
        let block = block.map(Arc::new);
        let old = self.blocks.set(&origin, block.clone());
        if old == block {
            return;
        }
        self.renew_claims(origin);
        for block in [&old, &block].into_iter().flatten() {
            for name in block.names() {
                self.judge_node(name);
            }
            self.judge_affinities(block.cidr);
        }
    }

    /// The block of this origin.
    #[must_use]
    pub fn block(&self, origin: &Origin) -> Option<&Block> {
        self.blocks.get(origin)
    }

    /// The affinity of this origin, if blocks are checked against it.
    #[must_use]
    pub fn affinity(&self, origin: &Origin) -> Option<&Affinity> {
        self.affinities.get(origin)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes that blocks name.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.blocks.named()
    }

    /// Whether any block names the node.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.blocks.is_named(name)
    }

    /// The underlay address of a node, as far as it is known.
    #[must_use]
    pub fn node_address(&self, name: &str) -> Option<Ipv4Addr> {
        self.nodes.get(name).and_then(|node| node.address)
    }

    /// Another node with the address of this one.
    #[must_use]
    pub fn sharing_address(&self, name: &str) -> Option<&str> {
        self.addresses.other(self.node_address(name)?, name, &self.own_name)
    }

    /// A node is so now, or is gone.
    pub fn set_node(&mut self, name: &str, node: Option<CalicoNode>) {
        let own_subnet = self.own_subnet();
        if self.nodes.get(name) == node.as_ref() {
            return;
        }
        let before = self.node_address(name);
        let was_there = self.nodes.contains_key(name);
        match node {
            Some(node) => self.nodes.insert(name.to_owned(), node),
            None => self.nodes.remove(name),
        };
        self.are_names_new |=
            before != self.node_address(name) || was_there != self.nodes.contains_key(name);
        for beside in self.addresses.moved(name, before, self.node_address(name)) {
            self.judge_node(&beside);
        }
        self.judge_node(name);
        let touched = if self.own_subnet() == own_subnet {
            self.blocks.naming(name)
        } else {
            self.blocks.all()
        };
        for origin in touched {
            self.renew_claims(origin);
        }
    }

    /// A pool is so now, or is gone.
    pub fn set_pool(&mut self, origin: Origin, pool: Option<Pool>) {
        let old = self.pool_ranges.remove(&origin).and_then(|range| {
            let those = self.pools.get_mut(&range)?;
            let old = those.remove(&origin);
            if those.is_empty() {
                self.pools.remove(&range);
            }
            old
        });
        if let Some(pool) = &pool {
            self.pool_ranges.insert(origin.clone(), pool.cidr);
            self.pools.entry(pool.cidr).or_default().insert(origin.clone(), pool.clone());
        }
        if old == pool {
            return;
        }
        let by_vxlan = pool.as_ref().filter(|pool| pool.encap.is_none());
        self.problems.set(
            origin,
            Aspect::Relation,
            by_vxlan.map(|pool| {
                format!("{} travels by VXLAN, which is left to Calico: no routes to it", pool.cidr)
            }),
        );
        for pool in [old, pool].into_iter().flatten() {
            for origin in self.blocks.inside(pool.cidr) {
                self.renew_claims(origin);
            }
        }
    }

    /// An affinity is so now, or is gone. It claims nothing, but may contradict.
    pub fn set_affinity(&mut self, origin: Origin, affinity: Option<Affinity>) {
        if self.affinities.get(&origin) == affinity.as_ref() {
            return;
        }
        if let Some(Affinity { cidr, .. }) = self.affinities.remove(&origin)
            && let Some(those) = self.affinities_to.get_mut(&cidr)
        {
            those.remove(&origin);
            if those.is_empty() {
                self.affinities_to.remove(&cidr);
            }
        }
        match affinity {
            None => self.problems.set(origin, Aspect::Relation, None),
            Some(affinity) => {
                let cidr = affinity.cidr;
                self.affinities.insert(origin.clone(), affinity);
                self.affinities_to.entry(cidr).or_default().insert(origin);
                self.judge_affinities(cidr);
            }
        }
    }

    /// What is claimed otherwise than when this was last asked.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.before).into_iter();
        touched
            .filter_map(|((origin, cidr), before)| {
                let claim = self.claims.get(&origin).and_then(|those| those.get(&cidr)).copied();
                (claim != before).then_some(Change { cidr, origin, claim })
            })
            .collect()
    }

    /// All claims.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Change> {
        let all = self.claims.iter().flat_map(|(origin, those)| {
            those.iter().map(|(cidr, claim)| Change {
                cidr: *cidr,
                origin: origin.clone(),
                claim: Some(*claim),
            })
        });
        all.collect()
    }

    /// Everything that keeps a route from being made or makes one doubtful: where,
    /// and why.
    #[must_use]
    pub fn problems(&self) -> Vec<(Origin, String)> {
        self.problems.all()
    }

    /// Notes what the caller found wrong with an object; `None`: nothing any more.
    pub fn set_problem(&mut self, origin: Origin, aspect: Aspect, problem: Option<String>) {
        self.problems.set(origin, aspect, problem);
    }

    /// Returns what the datastore records about this node.
    #[must_use]
    pub fn own_node(&self) -> OwnNode {
        let record =
            |node: &CalicoNode| NodeRecord { address: node.address, tunnel_address: node.tunnel };
        OwnNode {
            object: format!("{}/{}", self.node_kind, self.own_name),
            record: self.nodes.get(&self.own_name).map(record),
        }
    }

    /// Reports everything, and nothing of it in the next [`Resolver::take_reports`].
    pub fn report_all(&mut self) -> Vec<Report> {
        self.before.clear();
        self.problems.take_changes();
        let own = self.own_node();
        self.reported_own = Some(own.clone());
        self.are_names_new = false;
        let names = Report::Names(self.addresses.names(&self.own_name));
        // First, so that no decision takes the claims in without it.
        let all = Report::Snapshot { claims: self.snapshot(), problems: self.problems() };
        vec![Report::OwnNode(own), names, all]
    }

    /// Reports what has changed since this was last called.
    pub fn take_reports(&mut self) -> Vec<Report> {
        let changes = self.take_changes();
        let problems = self.take_problems();
        let own = Some(self.own_node()).filter(|own| self.reported_own.as_ref() != Some(own));
        if own.is_some() {
            self.reported_own.clone_from(&own);
        }
        let names = std::mem::take(&mut self.are_names_new)
            .then(|| Report::Names(self.addresses.names(&self.own_name)));
        let changes = (!changes.is_empty()).then_some(Report::Changes(changes));
        let problems = problems.into_iter().map(|(origin, text)| Report::Problem(origin, text));
        own.map(Report::OwnNode).into_iter().chain(names).chain(changes).chain(problems).collect()
    }

    /// Returns problems that came, changed or went (`None`) since the last call.
    pub fn take_problems(&mut self) -> Vec<(Origin, Option<String>)> {
        self.problems.take_changes()
    }

    fn own_subnet(&self) -> Option<Ipv4Net> {
        self.nodes.get(&self.own_name).and_then(|node| node.subnet)
    }

    /// By the smallest pool around a block; of two alike the first by name.
    fn way(&self, cidr: Ipv4Net) -> Way {
        let pools = supernets(cidr).find_map(|range| self.pools.get(&range));
        match pools.and_then(|pools| pools.values().next()) {
            Some(pool) => pool.encap.map_or(Way::NotOurs, |encap| Way::Ours(Some(encap))),
            None => Way::Ours(None),
        }
    }

    /// `CrossSubnet` is *our* subnet with *their* address in it, where both are known.
    fn encap_to(&self, address: Ipv4Addr, encap: Option<Encap>) -> Option<Encap> {
        match (encap, self.own_subnet()) {
            (Some(Encap::CrossSubnet), Some(subnet)) if subnet.contains(&address) => {
                Some(Encap::Direct)
            }
            (Some(Encap::CrossSubnet), Some(_)) => Some(Encap::Ipip),
            _ => encap,
        }
    }

    fn renew_claims(&mut self, origin: Origin) {
        let claims = self.blocks.get(&origin).map(|block| self.claims_of(block));
        let claims = claims.unwrap_or_default();
        let old = self.claims.remove(&origin).unwrap_or_default();
        for cidr in old.keys().chain(claims.keys()) {
            let before = old.get(cidr).copied();
            if before != claims.get(cidr).copied() {
                self.before.entry((origin.clone(), *cidr)).or_insert(before);
            }
        }
        if !claims.is_empty() {
            self.claims.insert(origin, claims);
        }
    }

    fn claims_of(&self, block: &Block) -> BTreeMap<Ipv4Net, Claim> {
        let mut claims = BTreeMap::new();
        let Way::Ours(encap) = self.way(block.cidr) else { return claims };
        let mut claim = |cidr: Ipv4Net, name: &str| {
            if let Some(node) = self.node_address(name) {
                claims.insert(cidr, Claim { node, encap: self.encap_to(node, encap) });
            } else {
                // A lent address must not stay with the block of the same prefix.
                claims.remove(&cidr);
            }
        };
        if let Some(host) = &block.host {
            claim(block.cidr, host);
        }
        for (address, name) in &block.borrowed {
            claim(Ipv4Net::from(*address), name);
        }
        claims
    }

    fn judge_node(&mut self, name: &str) {
        let problem = self.blocks.is_named(name).then(|| self.wrong_with_node(name)).flatten();
        let origin = format!("{}/{name}", self.node_kind).into();
        self.problems.set(origin, Aspect::Relation, problem);
    }

    /// What is wrong with a node that blocks name.
    fn wrong_with_node(&self, name: &str) -> Option<String> {
        let Some(node) = self.nodes.get(name) else {
            return Some("is a block's node but has no Node: no routes to its pods".into());
        };
        let Some(address) = node.address else {
            return Some("has no IPv4 address: no routes to its pods".into());
        };
        let other = self.addresses.other(address, name, &self.own_name)?;
        let kind = self.node_kind;
        // Our own side has it right, and the other one is named.
        if name == self.own_name {
            return None;
        }
        Some(match other == self.own_name {
            true => format!("has our address {address}: no routes to its pods"),
            false => format!(
                "has the address {address} of {kind}/{other}: pods of one of them are not reached"
            ),
        })
    }

    fn judge_affinities(&mut self, cidr: Ipv4Net) {
        for origin in self.affinities_to.get(&cidr).into_iter().flatten() {
            let Some(Affinity { host, .. }) = self.affinities.get(origin) else { continue };
            let other = self.blocks.hosts(cidr).find(|other| *other != host.as_str());
            let problem = other.map(|other| {
                format!("gives {cidr} to {host}, the block itself to {other}: the block counts")
            });
            self.problems.set(origin.clone(), Aspect::Relation, problem);
        }
    }
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
