//! The sources that run, what they have said, and the table it goes into.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::SystemTime,
};

use ipnet::Ipv4Net;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{
    Change, Claim, Me, Report, Reporter, SourceKind,
    reported::Reported,
    status::{SourceStatus, State},
    table::{ChosenRoute, RouteTable, Rules},
};
use crate::config::{Config, SourcesConfig};

/// What the sources say, in the order they said it.
pub type Reports = UnboundedReceiver<(SourceKind, Report)>;

/// See the [module](self).
pub struct Sources {
    table: RouteTable,
    known: BTreeMap<SourceKind, Reported>,
    running: BTreeMap<SourceKind, Running>,
    sender: UnboundedSender<(SourceKind, Report)>,
    /// Something that was in force before stays until everybody has spoken.
    is_holding: bool,
}

/// A source's task; ends when dropped.
struct Running {
    /// What it was started with.
    config: SourcesConfig,
    me: Me,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sources {
    /// With the routes that are in force already, from an earlier run.
    #[must_use]
    pub fn new(in_force: BTreeMap<Ipv4Net, ChosenRoute>) -> (Self, Reports) {
        let (sender, reports) = unbounded_channel();
        let sources = Self {
            table: RouteTable::new(in_force),
            known: BTreeMap::new(),
            running: BTreeMap::new(),
            sender,
            is_holding: true,
        };
        (sources, reports)
    }

    /// Starts and stops sources as the file says, and takes in the file's own routes.
    pub fn configure(&mut self, config: &Config, me: &Me) {
        let pools = config.routes.pools.iter().map(|pool| (pool.cidr.0, pool.encap)).collect();
        self.table.set_rules(Rules::new(&config.sources.precedence, pools));
        let wanted: BTreeSet<SourceKind> =
            SourceKind::ALL.into_iter().filter(|kind| is_configured(*kind, config)).collect();
        if wanted.iter().any(|kind| !self.known.contains_key(kind)) && !self.is_holding {
            // Before anything goes that a new source may turn out to have.
            self.table.hold();
            self.is_holding = true;
        }
        for gone in
            self.known.keys().copied().filter(|kind| !wanted.contains(kind)).collect::<Vec<_>>()
        {
            self.running.remove(&gone);
            self.known.remove(&gone);
            self.table.replace(gone, Vec::new());
        }
        for kind in &wanted {
            self.known.entry(*kind).or_insert_with(|| Reported::new(*kind));
            self.start(*kind, &config.sources, me);
        }
        let claims = config.routes.fixed.iter().enumerate().map(|(index, route)| Change {
            cidr: route.cidr.0,
            origin: format!("routes.static[{index}]").into(),
            claim: Some(Claim { node: route.node, encap: route.encap }),
        });
        let claims = claims.collect();
        self.take(SourceKind::File, Report::Snapshot { claims, problems: Vec::new() });
    }

    fn start(&mut self, kind: SourceKind, config: &SourcesConfig, me: &Me) {
        let config = only(kind, config);
        if let Some(running) = self.running.get(&kind)
            && running.config == config
            && running.me == *me
        {
            return;
        }
        let reporter = Reporter::new(kind, self.sender.clone());
        let Some(task) = super::spawn(kind, &config, me.clone(), reporter) else { return };
        self.running.insert(kind, Running { config, me: me.clone(), task });
    }

    /// Takes in a report; it counts after the next [`Self::settle`].
    pub fn take(&mut self, kind: SourceKind, report: Report) {
        // From a task that was stopped meanwhile.
        let Some(known) = self.known.get_mut(&kind) else { return };
        for line in known.take(&report, SystemTime::now()) {
            line.write();
        }
        match report {
            Report::Snapshot { claims, .. } => self.table.replace(kind, claims),
            Report::Changes(changes) => self.table.apply(kind, changes),
            Report::Problems(_) | Report::Problem(..) | Report::Down(_) | Report::Up => {}
        }
        if self.is_holding && self.have_spoken() {
            self.is_holding = false;
            self.table.release();
            self.table.keep_only(|kind| self.known.contains_key(&kind));
        }
    }

    /// Whether every source has told all it knows at least once.
    #[must_use]
    pub fn have_spoken(&self) -> bool {
        !self.known.is_empty() && self.known.values().all(Reported::has_spoken)
    }

    /// The sources that have not reported all their routes yet.
    pub fn silent(&self) -> impl Iterator<Item = SourceKind> {
        self.known.iter().filter(|(_, known)| !known.has_spoken()).map(|(kind, _)| *kind)
    }

    /// The table they all speak into.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// The same, to be told of the host, and settled.
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
}

fn is_configured(kind: SourceKind, config: &Config) -> bool {
    let sources = &config.sources;
    match kind {
        SourceKind::File => true,
        SourceKind::Kubernetes => sources.kubernetes.is_some(),
        SourceKind::Etcd => sources.etcd.is_some(),
        SourceKind::Bird => sources.bird.is_some(),
        SourceKind::Kernel => sources.kernel.is_some(),
    }
}

/// What a source has to be started again for when it changes.
fn only(kind: SourceKind, config: &SourcesConfig) -> SourcesConfig {
    let SourcesConfig { precedence: _, kernel, bird, etcd, kubernetes } = config.clone();
    SourcesConfig {
        precedence: Vec::new(),
        kernel: kernel.filter(|_| kind == SourceKind::Kernel),
        bird: bird.filter(|_| kind == SourceKind::Bird),
        etcd: etcd.filter(|_| kind == SourceKind::Etcd),
        kubernetes: kubernetes.filter(|_| kind == SourceKind::Kubernetes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::error::Endpoint;

    #[test]
    fn what_a_source_reports_again_changes_nothing() {
        let (mut sources, _reports) = Sources::new(BTreeMap::new());
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
