//! What the sources have reported, and the table it goes into.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::SystemTime,
};

use ipnet::Ipv4Net;

use super::{
    Change, Claim, OwnNode, Report, SourceKind,
    names::{Names, NodeNames},
    reads::Pace,
    reported::Reported,
    servers::ServerAddresses,
    status::{SourceStatus, State},
    table::{ChosenRoute, RouteTable, Rules},
};
use crate::config::{Config, SourcesConfig, sources::Borrowed};

/// See the [module](self). Runs nothing: the [`Hub`](super::hub::Hub) does.
pub struct Claims {
    table: RouteTable,
    known: BTreeMap<SourceKind, Reported>,
    /// What datastores record about this node.
    own_nodes: BTreeMap<SourceKind, OwnNode>,
    /// What each calls the nodes.
    names: Names,
    /// The servers of the sources that have reported theirs.
    servers: BTreeMap<SourceKind, ServerAddresses>,
    /// What serves behind them.
    backends: BTreeMap<SourceKind, ServerAddresses>,
    /// The file's rules.
    rules: Rules,
    /// How the file wants the borrowed addresses of each datastore to be learnt.
    borrowed: BTreeMap<SourceKind, Borrowed>,
    /// Something that was active before stays until every source has reported.
    is_holding: bool,
}

impl Claims {
    /// Starts with the routes that an earlier run left active.
    #[must_use]
    pub fn new(active: BTreeMap<Ipv4Net, ChosenRoute>) -> Self {
        Self {
            table: RouteTable::new(active),
            known: BTreeMap::new(),
            own_nodes: BTreeMap::new(),
            names: Names::default(),
            servers: BTreeMap::new(),
            backends: BTreeMap::new(),
            rules: Rules::default(),
            borrowed: BTreeMap::new(),
            is_holding: true,
        }
    }

    /// Expects the sources that the file configures, and takes in the file's own routes.
    pub fn configure(&mut self, config: &Config) {
        let pools = config.routes.pools.iter().map(|pool| (pool.cidr.0, pool.encap)).collect();
        self.rules = Rules::new(&config.sources.precedence, pools);
        self.borrowed = config.sources.borrowed().collect();
        let wanted: BTreeSet<SourceKind> = SourceKind::ALL
            .into_iter()
            .filter(|kind| is_configured(*kind, &config.sources))
            .collect();
        let is_new = |kind| !self.known.contains_key(kind);
        if !self.known.is_empty() && wanted.iter().any(is_new) {
            // Before anything goes that a new source may turn out to have.
            self.table.hold();
            self.is_holding = true;
        }
        for gone in
            self.known.keys().copied().filter(|kind| !wanted.contains(kind)).collect::<Vec<_>>()
        {
            self.known.remove(&gone);
            self.own_nodes.remove(&gone);
            self.names.forget(gone);
            self.servers.remove(&gone);
            self.backends.remove(&gone);
            self.table.replace(gone, Vec::new());
        }
        for kind in &wanted {
            self.known.entry(*kind).or_insert_with(|| Reported::new(*kind));
        }
        self.set_rules();
        let claims = config.routes.fixed.iter().enumerate().map(|(index, route)| Change {
            cidr: route.cidr.0,
            origin: format!("routes.static[{index}]").into(),
            claim: Some(Claim { node: route.node, encap: route.encap }),
        });
        let claims = claims.collect();
        self.take(SourceKind::File, Report::Snapshot { claims, problems: Vec::new() });
        let named = config.routes.fixed.iter();
        let names = named.filter_map(|route| Some((route.node, route.name.clone()?)));
        self.names.set(SourceKind::File, names.collect());
    }

    /// Takes in a report; it counts after the table is settled.
    pub fn take(&mut self, kind: SourceKind, report: Report) {
        // From a task that was stopped meanwhile.
        let Some(known) = self.known.get_mut(&kind) else { return };
        let reads = known.reads();
        for line in known.take(&report, SystemTime::now()) {
            line.write();
        }
        if known.reads() != reads {
            self.set_rules();
        }
        match report {
            Report::Snapshot { claims, .. } => self.table.replace(kind, claims),
            Report::Changes(changes) => self.table.apply(kind, changes),
            Report::OwnNode(own) => drop(self.own_nodes.insert(kind, own)),
            Report::Names(names) => self.names.set(kind, names),
            Report::Servers(servers) => drop(self.servers.insert(kind, servers)),
            Report::Backends(backends) => drop(self.backends.insert(kind, backends)),
            Report::Reads(_)
            | Report::Problems(_)
            | Report::Problem(..)
            | Report::Down(_)
            | Report::Up => {}
        }
        if self.is_holding && self.have_spoken() {
            self.is_holding = false;
            self.table.release();
            self.table.keep_only(|kind| self.known.contains_key(&kind));
        }
    }

    fn set_rules(&mut self) {
        self.table.set_rules(self.rules.clone().without_borrowed(self.without_borrowed()));
    }

    /// What nodes are called, as far as any source knows.
    #[must_use]
    pub const fn names(&self) -> &Arc<NodeNames> {
        self.names.all()
    }

    /// Returns the datastores that may not have reported all borrowed addresses.
    pub fn without_borrowed(&self) -> impl Iterator<Item = SourceKind> {
        let follows = |kind: &SourceKind, borrowed: Borrowed| match borrowed {
            Borrowed::Followed => true,
            Borrowed::Polled | Borrowed::Off => false,
            Borrowed::Auto => {
                let reads = self.known.get(kind).and_then(Reported::reads);
                reads.is_some_and(|reads| reads.borrowed == Some(Pace::Followed))
            }
        };
        let without = self.borrowed.iter().filter(move |(kind, it)| !follows(kind, **it));
        without.map(|(kind, _)| *kind)
    }

    /// Whether every source has reported all it knows at least once.
    #[must_use]
    pub fn have_spoken(&self) -> bool {
        !self.known.is_empty() && self.known.values().all(Reported::has_spoken)
    }

    /// The sources that have not reported all their routes yet.
    pub fn silent(&self) -> impl Iterator<Item = SourceKind> {
        self.known.iter().filter(|(_, known)| !known.has_spoken()).map(|(kind, _)| *kind)
    }

    /// What each datastore has reported about this node.
    #[must_use]
    pub fn own_nodes(&self) -> &BTreeMap<SourceKind, OwnNode> {
        &self.own_nodes
    }

    /// Returns the servers of each source that has reported them.
    #[must_use]
    pub fn servers(&self) -> &BTreeMap<SourceKind, ServerAddresses> {
        &self.servers
    }

    /// Returns what serves behind them, of each source that has reported it.
    #[must_use]
    pub fn backends(&self) -> &BTreeMap<SourceKind, ServerAddresses> {
        &self.backends
    }

    /// The table of all their claims.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// The same, to be settled by what the host is like.
    pub fn table_mut(&mut self) -> &mut RouteTable {
        &mut self.table
    }

    /// How they are, for `tunless status`.
    #[must_use]
    pub fn status(&self) -> Vec<SourceStatus> {
        let of = |(kind, known): (&SourceKind, &Reported)| {
            let state = match (known.down(), known.has_spoken()) {
                (Some(_), true) => State::Stale,
                (None, true) => State::Synced,
                (_, false) => State::Waiting,
            };
            let down = known.down().map(|(why, since)| (why.to_string(), *since));
            SourceStatus::new(
                *kind,
                state,
                down.as_ref(),
                known.reads(),
                self.table.count(*kind),
                known.problems(),
            )
        };
        self.known.iter().map(of).collect()
    }

    /// The nodes that have routes.
    pub fn nodes(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.table.nodes()
    }

    /// The nodes that any source names, whether their claims make routes or not.
    pub fn claimed_nodes(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.table.claimed_nodes()
    }
}

/// Whether the file has a source of this kind. The file itself always is one.
pub(crate) fn is_configured(kind: SourceKind, sources: &SourcesConfig) -> bool {
    match kind {
        SourceKind::File => true,
        SourceKind::Kubernetes => sources.kubernetes.is_some(),
        SourceKind::Etcd => sources.etcd.is_some(),
        SourceKind::Bird => sources.bird.is_some(),
        SourceKind::Kernel => sources.kernel.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::error::Endpoint;

    #[test]
    fn what_a_source_reports_again_changes_nothing() {
        let mut sources = Claims::new(BTreeMap::new());
        sources.known.insert(SourceKind::Etcd, Reported::new(SourceKind::Etcd));
        let down = Report::Down(Endpoint::new("etcd").error("refused").into());
        sources.take(SourceKind::Etcd, down.clone());
        sources.take(SourceKind::Etcd, Report::Up);
        assert_eq!(sources.silent().collect::<Vec<_>>(), [SourceKind::Etcd]);

        let (cidr, origin) = ("10.20.42.0/26".parse().unwrap(), "x".into());
        let claim = Some(Claim { node: Ipv4Addr::new(172, 16, 35, 4), encap: None });
        let claims = vec![Change { cidr, origin, claim }];
        let snapshot = Report::Snapshot { claims, problems: Vec::new() };
        for report in [snapshot.clone(), snapshot, down.clone(), down, Report::Up, Report::Up] {
            sources.take(SourceKind::Etcd, report);
            assert!(sources.have_spoken());
            assert_eq!(sources.table().count(SourceKind::Etcd), 1);
        }
        assert_eq!(sources.table_mut().settle(0), BTreeSet::from([cidr]));
        assert_eq!(sources.table_mut().settle(0), BTreeSet::new());
    }
}
