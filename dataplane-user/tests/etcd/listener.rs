//! The source in a thread of its own, and what it has told so far.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    pin::pin,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use dataplane_user::{
    config::{EtcdConfig, sources::Borrowed},
    sources::{
        Claim, Encap, Me, Origin, OwnNode, Report, Reporter, SourceKind, etcd, names::NodeNames,
        reads::Reads, reported::Reported, servers::ServerAddresses,
    },
};
use ipnet::Ipv4Net;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long to wait for something that has to happen.
const DEADLINE: Duration = Duration::from_secs(120);

/// The name of the node the source runs for.
pub const ME: &str = "me";

/// The source, and what it has told.
pub struct Listener {
    reports: UnboundedReceiver<(SourceKind, Report)>,
    /// How long the source's clock is to go on at once; the source ends with it.
    clock: Option<UnboundedSender<Duration>>,
    thread: Option<JoinHandle<()>>,
    claims: BTreeMap<(Ipv4Net, Origin), Claim>,
    /// The problems, and whether it is down.
    reported: Reported,
    /// Why it is down.
    pub down: Option<String>,
    /// What etcd records about this node.
    pub own: Option<OwnNode>,
    /// What it calls the nodes.
    pub names: NodeNames,
    /// The hosts of its servers.
    pub servers: ServerAddresses,
    /// The cluster's members.
    pub backends: ServerAddresses,
    /// How often it told everything.
    pub snapshots: usize,
    /// How often it told changes.
    pub steps: usize,
    log: Vec<String>,
}

/// Nothing but where etcd is.
pub fn plain(endpoints: Vec<String>) -> EtcdConfig {
    EtcdConfig {
        endpoints,
        ca: None,
        certificate: None,
        key: None,
        username: None,
        password_file: None,
        prefix: tunless_lab::calico::PREFIX.to_owned(),
        borrowed: Borrowed::Auto,
    }
}

impl Listener {
    /// Starts the source.
    pub fn new(config: EtcdConfig) -> Self {
        let (sender, reports) = unbounded_channel();
        let (clock, mut times) = unbounded_channel::<Duration>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let reporter = Reporter::new(SourceKind::Etcd, sender);
                let me = Me { name: ME.to_owned(), address: None };
                let mut source = pin!(etcd::run(config, me, reporter));
                loop {
                    tokio::select! {
                        () = &mut source => panic!("the source returned"),
                        time = times.recv() => {
                            let Some(time) = time else { return };
                            tokio::time::pause();
                            tokio::time::advance(time).await;
                            tokio::time::resume();
                        }
                    }
                }
            });
        });
        Self {
            reports,
            clock: Some(clock),
            thread: Some(thread),
            claims: BTreeMap::new(),
            reported: Reported::new(SourceKind::Etcd),
            down: None,
            own: None,
            names: NodeNames::new(),
            servers: ServerAddresses::new(),
            backends: ServerAddresses::new(),
            snapshots: 0,
            steps: 0,
            log: Vec::new(),
        }
    }

    /// Waits until what was told is so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so(self) {
            match self.reports.try_recv() {
                Ok((_, report)) => self.take(report),
                Err(_) if Instant::now() > end => {
                    let thread = self.thread.as_ref().map(JoinHandle::is_finished);
                    panic!(
                        "never: {what}; the source's thread ended: {thread:?}; claims {:#?}; \
                         problems {:#?}; all it said: {:#?}",
                        self.claims(),
                        self.reported.problems(),
                        self.log
                    );
                }
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Lets the source's clock go on.
    pub fn pass(&self, time: Duration) {
        self.clock.as_ref().unwrap().send(time).unwrap();
    }

    /// How closely etcd is followed.
    pub fn reads(&self) -> Option<Reads> {
        self.reported.reads()
    }

    /// Waits until these are all claims: `10.20.42.0/26 172.16.35.4 ipip`.
    pub fn until_claims(&mut self, wanted: &[&str]) {
        self.until(&format!("{wanted:?}"), |it| it.snapshots > 0 && it.claims() == wanted);
    }

    /// Waits until the source says that it is down, with these words in it.
    pub fn until_down(&mut self, words: &[&str]) {
        self.until(&format!("down because of {words:?}"), |it| {
            it.down.as_ref().is_some_and(|why| words.iter().all(|word| why.contains(word)))
        });
    }

    /// Waits until the source is connected.
    pub fn until_up(&mut self) {
        self.until("up", |it| it.snapshots > 0 && it.down.is_none());
    }

    /// Waits until this is a problem of `key`.
    pub fn until_problem(&mut self, key: &str, words: &str) {
        self.until(&format!("{key} {words}"), |it| {
            it.problem(key).is_some_and(|text| text.contains(words))
        });
    }

    /// The problem of `key`.
    pub fn problem(&self, key: &str) -> Option<&str> {
        self.reported.problems().get(key).map(String::as_str)
    }

    /// All problems, by key.
    pub fn problems(&self) -> Vec<&str> {
        self.reported.problems().keys().map(AsRef::as_ref).collect()
    }

    /// All claims, in order.
    pub fn claims(&self) -> Vec<String> {
        let claims = self.claims.iter();
        claims
            .map(|((cidr, _), Claim { node, encap })| match encap {
                None => format!("{cidr} {node}"),
                Some(Encap::Ipip) => format!("{cidr} {node} ipip"),
                Some(Encap::Direct) => format!("{cidr} {node} direct"),
                Some(Encap::CrossSubnet) => format!("{cidr} {node} cross-subnet"),
            })
            .collect()
    }

    /// How many claims there are.
    pub fn count(&self) -> usize {
        self.claims.len()
    }

    /// The node of a prefix that is claimed once.
    pub fn node_of(&self, cidr: &str) -> Option<Ipv4Addr> {
        let cidr: Ipv4Net = cidr.parse().unwrap();
        let mut claims = self.claims.range((cidr, Origin::from(""))..);
        claims.next().filter(|((found, _), _)| *found == cidr).map(|(_, claim)| claim.node)
    }

    fn take(&mut self, report: Report) {
        let mut shown = format!("{report:?}");
        shown.truncate(500);
        self.log.push(shown);
        self.reported.take(&report, SystemTime::now());
        self.down = self.reported.down().map(|(why, _)| why.to_string());
        match report {
            Report::OwnNode(own) => self.own = Some(own),
            Report::Servers(servers) => self.servers = servers,
            Report::Backends(backends) => self.backends = backends,
            Report::Snapshot { claims, .. } => {
                assert!(self.own.is_some(), "claims before the own node");
                assert!(!self.servers.is_empty(), "claims before the servers");
                self.claims = claims
                    .into_iter()
                    .map(|change| ((change.cidr, change.origin), change.claim.unwrap()))
                    .collect();
                self.snapshots += 1;
            }
            Report::Changes(changes) => {
                assert!(self.snapshots > 0 && !changes.is_empty(), "{:#?}", self.log);
                self.steps += 1;
                for change in changes {
                    let key = (change.cidr, change.origin);
                    match change.claim {
                        Some(claim) => self.claims.insert(key, claim),
                        None => self.claims.remove(&key),
                    };
                }
            }
            Report::Down(why) => {
                let why = why.to_string();
                assert!(!why.contains('\n') && why.starts_with("etcd http"), "{why}");
            }
            Report::Names(names) => self.names = names,
            Report::Reads(_) | Report::Problems(_) | Report::Problem(..) | Report::Up => {}
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.clock.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the source panicked");
        }
    }
}
