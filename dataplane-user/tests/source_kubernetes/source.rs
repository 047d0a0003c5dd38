//! The source as the daemon runs it, and what it has said so far.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use dataplane_user::{
    config::{KubernetesConfig, sources::CalicoApi},
    sources::{
        Change, Encap, Me, OwnNode, Report, Reporter, SourceKind, kubernetes, names::NodeNames,
        reads::Reads, reported::Reported, servers::ServerAddresses,
    },
};
use tempfile::TempDir;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};
use tunless_lab::kube_api::{
    KubeApi, V1_BLOCKS, V1_POOLS, V3_BLOCKS, V3_POOLS,
    objects::{block, node, pool},
};

/// For anything that must happen, however busy the machine is.
pub const SOON: Duration = Duration::from_secs(60);
/// For what must not happen.
pub const A_WHILE: Duration = Duration::from_millis(1500);

/// Paths of a group's blocks and pools.
pub const V1: (&str, &str) = (V1_BLOCKS, V1_POOLS);
pub const V3: (&str, &str) = (V3_BLOCKS, V3_POOLS);

/// A running source.
pub struct Source {
    /// What it said.
    pub seen: Seen,
    reports: UnboundedReceiver<(SourceKind, Report)>,
    task: JoinHandle<()>,
    directory: TempDir,
}

/// The sum of what a source said.
#[derive(Debug)]
pub struct Seen {
    /// `10.65.1.0/26 by IPAMBlock/10-65-1-0-26` → `172.17.0.6 Ipip`.
    pub claims: BTreeMap<String, String>,
    pub problems: BTreeMap<String, String>,
    /// The problems, and whether it is down.
    reported: Reported,
    pub down: Option<String>,
    /// What the API has about this node.
    pub own: Option<OwnNode>,
    /// How closely the API is followed.
    pub reads: Option<Reads>,
    /// What it calls the nodes.
    pub names: NodeNames,
    /// The hosts of its servers.
    pub servers: ServerAddresses,
    /// What serves behind them, once it was reported.
    pub backends: Option<ServerAddresses>,
    pub snapshots: usize,
    /// How many reports of changes there were, and changes in them.
    pub steps: usize,
    pub changes: usize,
    /// All reasons for being down, without repetitions.
    pub downs: Vec<String>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    /// On `node-a`, by a kubeconfig for `api`.
    pub fn start(api: &KubeApi, calico: CalicoApi) -> Self {
        Self::start_with(&api.kubeconfig("secret"), |config| config.api = calico)
    }

    /// The same by any kubeconfig.
    pub fn start_with(kubeconfig: &str, set: impl FnOnce(&mut KubernetesConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        fs::write(&path, kubeconfig).unwrap();
        let mut config = KubernetesConfig { kubeconfig: Some(path), ..Default::default() };
        set(&mut config);
        let (sender, reports) = unbounded_channel();
        let me = Me { name: "node-a".to_owned(), address: Some(Ipv4Addr::new(172, 17, 0, 5)) };
        let reporter = Reporter::new(SourceKind::Kubernetes, sender);
        let task = tokio::spawn(kubernetes::run(config, me, reporter));
        Self { seen: Seen::new(), reports, task, directory }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Listens until it is so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + SOON;
        while !is_so(&self.seen) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(report) = timeout(left, self.reports.recv()).await else {
                panic!("not in {SOON:?}: {what}; {:#?}", self.seen)
            };
            let (kind, report) = report.expect("the source runs for ever");
            assert_eq!(kind, SourceKind::Kubernetes);
            self.seen.take(report);
        }
    }

    /// Listens for a while.
    pub async fn listen(&mut self) {
        self.listen_for(A_WHILE).await;
    }

    /// Listens for this time.
    pub async fn listen_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match timeout(left, self.reports.recv()).await {
                Ok(report) => self.seen.take(report.expect("the source runs for ever").1),
                Err(_) => break,
            }
        }
        assert!(!self.task.is_finished(), "the source never ends");
    }

    pub async fn until_synced(&mut self) {
        self.until("a snapshot", |seen| seen.snapshots > 0).await;
    }

    /// Until exactly these claims are made: (prefix, node and way).
    pub async fn until_claims(&mut self, expected: &[(&str, &str)]) {
        let what = format!("{expected:#?}");
        self.until(&what, |seen| seen.snapshots > 0 && seen.has(expected)).await;
    }

    pub async fn until_down(&mut self, parts: &[&str]) {
        let says = |seen: &Seen| {
            let down = seen.down.as_ref();
            down.is_some_and(|why| parts.iter().all(|part| why.contains(part)))
        };
        self.until(&format!("down: {parts:?}"), says).await;
        let why = self.seen.down.clone().unwrap_or_default();
        assert!(!why.contains('\n') && why.starts_with("Kubernetes "), "{why}");
    }

    pub async fn until_up(&mut self) {
        self.until("up", |seen| seen.down.is_none()).await;
    }
}

impl Seen {
    fn new() -> Self {
        Self {
            claims: BTreeMap::new(),
            problems: BTreeMap::new(),
            reported: Reported::new(SourceKind::Kubernetes),
            down: None,
            own: None,
            reads: None,
            names: NodeNames::new(),
            servers: ServerAddresses::new(),
            backends: None,
            snapshots: 0,
            steps: 0,
            changes: 0,
            downs: Vec::new(),
        }
    }

    /// Whether these and no others are claimed.
    pub fn has(&self, expected: &[(&str, &str)]) -> bool {
        let claims = self.claims.iter().map(|(key, claim)| {
            let (cidr, _) = key.split_once(" by ").expect("a claim has an origin");
            (cidr, claim.as_str())
        });
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let mut claims: Vec<_> = claims.collect();
        claims.sort_unstable();
        claims == expected
    }

    fn take(&mut self, report: Report) {
        self.reported.take(&report, SystemTime::now());
        let problems = self.reported.problems().iter();
        self.problems = problems.map(|(it, why)| (it.to_string(), why.clone())).collect();
        let down = self.reported.down().map(|(why, _)| why.to_string());
        if down != self.down {
            self.downs.extend(down.clone());
            self.down = down;
        }
        match report {
            Report::OwnNode(own) => self.own = Some(own),
            Report::Names(names) => self.names = names,
            Report::Servers(servers) => self.servers = servers,
            Report::Backends(backends) => self.backends = Some(backends),
            Report::Reads(reads) => self.reads = Some(reads),
            Report::Snapshot { claims, .. } => {
                assert!(self.own.is_some(), "claims before the own node");
                assert!(self.reads.is_some(), "claims before it is known what they are of");
                assert!(!self.servers.is_empty(), "claims before the servers");
                self.snapshots += 1;
                self.claims.clear();
                claims.into_iter().for_each(|change| self.change(&change));
            }
            Report::Changes(changes) => {
                assert!(self.snapshots > 0, "changes of nothing: {changes:?}");
                self.steps += 1;
                self.changes += changes.len();
                changes.iter().for_each(|change| self.change(change));
            }
            Report::Problem(origin, _) => {
                assert!(self.snapshots > 0, "a problem before the snapshot: {origin}");
            }
            Report::Problems(_) | Report::Down(_) | Report::Up => {}
        }
    }

    fn change(&mut self, change: &Change) {
        let Change { cidr, origin, claim } = change;
        let key = format!("{cidr} by {origin}");
        let Some(claim) = claim else {
            assert!(self.claims.remove(&key).is_some(), "{key} was never claimed");
            return;
        };
        let way = match claim.encap {
            None => "unknown",
            Some(Encap::Ipip) => "ipip",
            Some(Encap::CrossSubnet) => "cross-subnet",
            Some(Encap::Direct) => "direct",
        };
        self.claims.insert(key, format!("{} {way}", claim.node));
    }
}

/// `node-a` (us), `node-b` in our subnet, `node-c` outside of it; a block of each and
/// a pool around them, of Calico's older or newer group.
pub fn cluster((blocks, pools): (&str, &str)) -> KubeApi {
    let api = KubeApi::start().unwrap();
    fill(&api, (blocks, pools));
    api
}

/// Puts the same into an API that is there.
pub fn fill(api: &KubeApi, (blocks, pools): (&str, &str)) {
    api.serve_calico(blocks, pools);
    for (name, address, cidr) in NODES {
        api.set(tunless_lab::kube_api::NODES, node(name, address));
        api.set(blocks, block(blocks, cidr, name, &[]));
    }
    api.set(pools, pool("default-ipv4-ippool", "10.65.0.0/16", "Always"));
}

const NODES: [(&str, &str, &str); 3] = [
    ("node-a", "172.17.0.5/24", "10.65.0.0/26"),
    ("node-b", "172.17.0.6/24", "10.65.1.0/26"),
    ("node-c", "172.17.9.7/24", "10.65.2.0/26"),
];

pub const ALL: [(&str, &str); 3] = [
    ("10.65.0.0/26", "172.17.0.5 ipip"),
    ("10.65.1.0/26", "172.17.0.6 ipip"),
    ("10.65.2.0/26", "172.17.9.7 ipip"),
];
