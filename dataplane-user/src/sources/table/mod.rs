//! All claims, and the route chosen for each prefix.
//!
//! The work a change makes is that of the prefixes it names, however many there
//! are. [`RouteTable::settle`] chooses anew where something changed and tells
//! which routes are others now; [`judge`] holds the rules.

mod judge;
mod layers;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use self::{judge::Verdict, layers::ClaimedNodes};
use super::{Change, Claim, Encap, Origin, SourceKind};
use crate::address::supernets;

/// A route to a node's pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChosenRoute {
    /// The node's underlay address.
    pub node: Ipv4Addr,
    /// Packets travel plain.
    pub is_direct: bool,
    /// Who said so.
    pub source: SourceKind,
    /// Since when: `CLOCK_MONOTONIC`, seconds.
    pub since: u32,
}

impl ChosenRoute {
    /// Whether packets take another way than with `other`.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        (self.node, self.is_direct) != (other.node, other.is_direct)
    }
}

/// What claims are judged by.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Surroundings {
    /// Our underlay address, if it is known.
    pub node: Option<Ipv4Addr>,
    /// The network it is part of, as the interface has it.
    pub subnet: Option<Ipv4Net>,
    /// The networks that this host is part of, by links that are no pods'.
    pub connected: BTreeSet<Ipv4Net>,
    /// Servers that the sources need, and routers.
    pub servers: BTreeSet<Ipv4Addr>,
    /// The tunnel device's address.
    pub tunnel: Option<Ipv4Addr>,
    /// Local pods.
    pub pods: BTreeSet<Ipv4Addr>,
}

/// How the file wants claims to be weighed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    /// The most trusted source first.
    precedence: Vec<SourceKind>,
    /// How packets travel where a source does not say.
    pools: BTreeMap<Ipv4Net, Encap>,
    /// Datastores whose borrowed addresses are not followed.
    without_borrowed: BTreeSet<SourceKind>,
}

impl Rules {
    /// Sources that `precedence` leaves out follow in their usual order.
    #[must_use]
    pub fn new(precedence: &[SourceKind], pools: BTreeMap<Ipv4Net, Encap>) -> Self {
        Self {
            precedence: SourceKind::in_order(precedence),
            pools,
            without_borrowed: BTreeSet::new(),
        }
    }

    /// The same where these datastores' borrowed addresses are not followed.
    #[must_use]
    pub fn without_borrowed(self, kinds: impl IntoIterator<Item = SourceKind>) -> Self {
        Self { without_borrowed: kinds.into_iter().collect(), ..self }
    }

    /// Whether a source that claims a block also claims each address that is borrowed from it.
    fn knows_borrowers(&self, kind: SourceKind) -> bool {
        kind.is_datastore() && !self.without_borrowed.contains(&kind)
    }

    fn rank(&self, kind: SourceKind) -> usize {
        self.precedence.iter().position(|other| *other == kind).unwrap_or(usize::MAX)
    }

    fn encap(&self, cidr: Ipv4Net) -> Encap {
        let pool = supernets(cidr).find_map(|prefix| self.pools.get(&prefix));
        pool.copied().unwrap_or(Encap::Ipip)
    }
}

/// The origin of claims that an earlier run left active.
const ACTIVE: &str = "active";

/// Who claims a prefix: source and object.
type Claimant = (SourceKind, Origin);

/// See the [module](self).
#[derive(Default, Debug)]
pub struct RouteTable {
    rules: Rules,
    surroundings: Surroundings,
    claims: BTreeMap<Ipv4Net, BTreeMap<Claimant, Claim>>,
    /// How many claims each source has.
    counts: BTreeMap<SourceKind, usize>,
    nodes_claimed: ClaimedNodes,
    /// The file's routes that were active at the start, or all of them before a new source was
    /// configured: they stay until every source has reported.
    held: BTreeMap<Ipv4Net, ChosenRoute>,
    /// The nodes of these.
    held_nodes: BTreeSet<Ipv4Addr>,
    chosen: BTreeMap<Ipv4Net, ChosenRoute>,
    /// How many routes each node has.
    nodes: BTreeMap<Ipv4Addr, usize>,
    /// Why a claim makes no route, or not the one it asks for.
    alarms: BTreeMap<Ipv4Net, String>,
    dirty: BTreeSet<Ipv4Net>,
}

impl RouteTable {
    /// With the routes that an earlier run left active. They are ordinary claims of the sources
    /// they came from, each withdrawn by that source's first complete report. The file reports
    /// at once, so what it no longer has stays until every source has reported: it may have
    /// moved to one of them.
    #[must_use]
    pub fn new(active: BTreeMap<Ipv4Net, ChosenRoute>) -> Self {
        let mut table = Self::default();
        for (cidr, route) in active {
            table.put(cidr, Some(route));
            if route.source == SourceKind::File {
                table.held.insert(cidr, route);
                table.held_nodes.insert(route.node);
            } else {
                let encap = Some(if route.is_direct { Encap::Direct } else { Encap::Ipip });
                let claim = Claim { node: route.node, encap };
                table.set_claim(cidr, (route.source, ACTIVE.into()), Some(claim));
            }
        }
        table
    }

    /// Withdraws the claims of all sources but these: they are not configured any more.
    pub fn keep_only(&mut self, is_configured: impl Fn(SourceKind) -> bool) {
        for kind in SourceKind::ALL.into_iter().filter(|kind| !is_configured(*kind)) {
            if self.count(kind) > 0 {
                self.replace(kind, Vec::new());
            }
        }
    }

    /// Another file.
    pub fn set_rules(&mut self, rules: Rules) {
        if rules != self.rules {
            self.rules = rules;
            self.judge_all();
        }
    }

    /// What the host is like now.
    pub fn set_surroundings(&mut self, surroundings: Surroundings) {
        if surroundings == self.surroundings {
            return;
        }
        let before = std::mem::replace(&mut self.surroundings, surroundings);
        let only_pods = Surroundings { pods: self.surroundings.pods.clone(), ..before.clone() };
        if self.surroundings != only_pods {
            self.judge_all();
            return;
        }
        // What stands, stands, unless a gateway is a pod: but what was refused may be had now.
        self.dirty.extend(self.alarms.keys());
        for pod in before.pods.symmetric_difference(&self.surroundings.pods) {
            self.dirty.extend(self.nodes_claimed.prefixes(*pod));
        }
    }

    fn judge_all(&mut self) {
        self.dirty.extend(self.claims.keys().chain(self.chosen.keys()));
    }

    /// Takes in what a source says.
    pub fn apply(&mut self, kind: SourceKind, changes: impl IntoIterator<Item = Change>) {
        for Change { cidr, origin, claim } in changes {
            self.set_claim(cidr.trunc(), (kind, origin), claim);
        }
    }

    /// Takes in all that a source says: what it no longer says is taken back.
    pub fn replace(&mut self, kind: SourceKind, claims: Vec<Change>) {
        let stays: BTreeSet<(Ipv4Net, &Origin)> =
            claims.iter().map(|change| (change.cidr.trunc(), &change.origin)).collect();
        let mut gone = Vec::new();
        for (cidr, claimants) in &self.claims {
            let theirs = claimants.keys().filter(|(owner, _)| *owner == kind);
            gone.extend(
                theirs
                    .filter(|(_, origin)| !stays.contains(&(*cidr, origin)))
                    .map(|claimant| (*cidr, claimant.clone())),
            );
        }
        for (cidr, claimant) in gone {
            self.set_claim(cidr, claimant, None);
        }
        self.apply(kind, claims);
    }

    /// Takes in all that a source says of one prefix.
    pub fn replace_prefix(&mut self, kind: SourceKind, cidr: Ipv4Net, claims: Vec<Change>) {
        let claimants = self.claims.get(&cidr).into_iter().flat_map(BTreeMap::keys);
        let stays = |origin: &Origin| claims.iter().any(|change| change.origin == *origin);
        let gone = claimants.filter(|(owner, origin)| *owner == kind && !stays(origin));
        for claimant in gone.cloned().collect::<Vec<_>>() {
            self.set_claim(cidr, claimant, None);
        }
        self.apply(kind, claims);
    }

    fn set_claim(&mut self, cidr: Ipv4Net, claimant: Claimant, claim: Option<Claim>) {
        let kind = claimant.0;
        let count = self.counts.entry(kind).or_default();
        let claimants = self.claims.entry(cidr).or_default();
        let before = match claim {
            Some(claim) => claimants.insert(claimant, claim),
            None => claimants.remove(&claimant),
        };
        *count = *count + usize::from(claim.is_some()) - usize::from(before.is_some());
        if claimants.is_empty() {
            self.claims.remove(&cidr);
        }
        if before == claim {
            return;
        }
        self.dirty.insert(cidr);
        let node = |claim: Option<Claim>| claim.map(|claim| claim.node);
        if node(before) == node(claim) {
            return;
        }
        // Before and after: a node may be in one state only.
        let nodes: Vec<Ipv4Addr> = node(before).into_iter().chain(node(claim)).collect();
        for node in &nodes {
            self.dirty.extend(self.touched(cidr, *node));
        }
        if let Some(node) = node(before) {
            self.nodes_claimed.remove(node, cidr, kind);
        }
        if let Some(node) = node(claim) {
            self.nodes_claimed.add(node, cidr, kind);
        }
        for node in nodes {
            self.dirty.extend(self.touched(cidr, node));
        }
    }

    /// A new source is about to report: what is active stays until every source has, and so
    /// does what is held already.
    pub fn hold(&mut self) {
        self.held.extend(&self.chosen);
        self.held_nodes = self.held.values().map(|route| route.node).collect();
        self.judge_all();
    }

    /// Every source has reported: what none claims goes.
    pub fn release(&mut self) {
        if !self.held.is_empty() {
            self.held.clear();
            self.held_nodes.clear();
            self.judge_all();
        }
    }

    /// Chooses anew where something changed; the prefixes whose routes differ.
    /// `now`: `CLOCK_MONOTONIC`, seconds.
    pub fn settle(&mut self, now: u32) -> BTreeSet<Ipv4Net> {
        let mut changed = BTreeSet::new();
        if self.dirty.is_empty() {
            return changed;
        }
        // What was refused may be had now; there are few of them, if any.
        self.dirty.extend(self.alarms.keys());
        while let Some(cidr) = self.dirty.pop_first() {
            let verdict = judge::judge(self, cidr);
            let Verdict { route, alarm } = verdict;
            let before = self.chosen.get(&cidr).copied();
            let route = route.map(|route| match before {
                Some(before) if !route.differs(&before) => {
                    ChosenRoute { since: before.since, ..route }
                }
                _ => ChosenRoute { since: now, ..route },
            });
            match alarm {
                Some(alarm) => drop(self.alarms.insert(cidr, alarm)),
                None => drop(self.alarms.remove(&cidr)),
            }
            if route != before {
                self.put(cidr, route);
                changed.insert(cidr);
            }
        }
        changed
    }

    fn put(&mut self, cidr: Ipv4Net, route: Option<ChosenRoute>) {
        let before = match route {
            Some(route) => {
                *self.nodes.entry(route.node).or_default() += 1;
                self.chosen.insert(cidr, route)
            }
            None => self.chosen.remove(&cidr),
        };
        if let Some(before) = before
            && let Some(count) = self.nodes.get_mut(&before.node)
        {
            *count -= 1;
            if *count == 0 {
                self.nodes.remove(&before.node);
            }
        }
    }

    /// The routes.
    #[must_use]
    pub fn routes(&self) -> &BTreeMap<Ipv4Net, ChosenRoute> {
        &self.chosen
    }

    /// The nodes that have routes.
    pub fn nodes(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.nodes.keys().copied()
    }

    /// The nodes that any claim names.
    pub fn claimed_nodes(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.nodes_claimed.iter()
    }

    /// Whether a node has any route.
    #[must_use]
    pub fn knows(&self, node: Ipv4Addr) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Who claims a prefix, and what they say.
    pub fn claims_to(&self, cidr: Ipv4Net) -> impl Iterator<Item = (SourceKind, &Origin, &Claim)> {
        let claims = self.claims.get(&cidr).into_iter().flatten();
        claims.map(|((kind, origin), claim)| (*kind, origin, claim))
    }

    /// Whether the address of a node that has routes, or our own, lies in `cidr`.
    #[must_use]
    pub fn has_node_in(&self, cidr: Ipv4Net) -> bool {
        self.nodes.range(cidr.network()..=cidr.broadcast()).next().is_some()
            || self.surroundings.node.is_some_and(|node| cidr.contains(&node))
    }

    /// What is wrong with claims, by prefix.
    #[must_use]
    pub fn alarms(&self) -> &BTreeMap<Ipv4Net, String> {
        &self.alarms
    }

    /// How many claims a source has.
    #[must_use]
    pub fn count(&self, kind: SourceKind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }
}
