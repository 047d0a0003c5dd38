//! The source `bird` by itself, and what it has said.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use dataplane_user::{
    config::BirdConfig,
    sources::{Me, Report, Reporter, SourceKind, bird, names::NodeNames},
};
use tokio::sync::{
    mpsc::{UnboundedReceiver, unbounded_channel},
    oneshot,
};
use tunless_lab::Node;

use crate::scene::until;

/// How long BIRDs may take to find each other again: their timers, not our speed.
pub const PATIENCE: Duration = Duration::from_secs(200);

/// The source at work in a thread of its own, and the state its reports come to.
pub struct Watcher {
    reports: UnboundedReceiver<(SourceKind, Report)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    claims: BTreeMap<(String, String), String>,
    /// Prefixes that were taken back at some time.
    pub withdrawn: BTreeSet<String>,
    /// What it calls the nodes.
    pub names: NodeNames,
    /// Why it cannot be reached, if so.
    pub down: Option<String>,
    /// Why it could not be reached, each time since [`Watcher::forget_downs`]; some are over in a moment.
    downs: Vec<String>,
    /// Whether it has told everything once.
    pub is_synced: bool,
}

impl Watcher {
    /// As on `node`, reading the BIRD behind `socket`.
    pub fn start(node: &Node, socket: &Path, settle_seconds: u64) -> Self {
        let (sender, reports) = unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let config = BirdConfig {
            socket: socket.to_owned(),
            poll_milliseconds: 100,
            settle_seconds,
            ..BirdConfig::default()
        };
        let me = Me { name: node.name.to_owned(), address: Some(node.ip) };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let source =
                    tokio::spawn(bird::run(config, me, Reporter::new(SourceKind::Bird, sender)));
                let _ = stopped.await;
                source.abort();
            });
        });
        Self {
            reports,
            stop: Some(stop),
            thread: Some(thread),
            claims: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            names: NodeNames::new(),
            down: None,
            downs: Vec::new(),
            is_synced: false,
        }
    }

    /// Takes in what was said meanwhile.
    pub fn catch_up(&mut self) {
        while let Ok((kind, report)) = self.reports.try_recv() {
            assert_eq!(kind, SourceKind::Bird);
            self.take(report);
        }
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Snapshot { claims, problems } => {
                assert_eq!(problems, [], "nothing that BIRD says is a riddle");
                let before = std::mem::take(&mut self.claims);
                self.claims.extend(claims.into_iter().filter_map(|change| {
                    let key = (change.cidr.to_string(), change.origin.to_string());
                    Some((key, change.claim?.node.to_string()))
                }));
                self.note_withdrawn(before);
                self.down = None;
                self.is_synced = true;
            }
            Report::Changes(changes) => {
                let before = self.claims.clone();
                for change in changes {
                    let key = (change.cidr.to_string(), change.origin.to_string());
                    match change.claim {
                        Some(claim) => self.claims.insert(key, claim.node.to_string()),
                        None => self.claims.remove(&key),
                    };
                }
                self.note_withdrawn(before);
            }
            Report::Down(why) => {
                self.downs.push(why.to_string());
                self.down = Some(why.to_string());
            }
            Report::Up => self.down = None,
            Report::Problems(problems) => assert_eq!(problems, [], "everything is understood"),
            Report::Problem(origin, why) => panic!("{origin}: {why:?}"),
            Report::Names(names) => self.names = names,
            Report::OwnNode(own) => panic!("BIRD has no Nodes: {own:?}"),
            Report::Reads(reads) => panic!("BIRD is always polled: {reads}"),
            Report::Servers(servers) | Report::Backends(servers) => {
                panic!("BIRD is on this host: {servers:?}")
            }
        }
    }

    fn note_withdrawn(&mut self, before: BTreeMap<(String, String), String>) {
        let now: BTreeSet<&String> = self.claims.keys().map(|(cidr, _)| cidr).collect();
        let gone = before.into_keys().map(|(cidr, _)| cidr).filter(|cidr| !now.contains(cidr));
        self.withdrawn.extend(gone.collect::<Vec<_>>());
    }

    /// `(prefix, node)`, in the order of the text.
    pub fn claims(&self) -> Vec<(String, String)> {
        self.claims.iter().map(|((cidr, _), node)| (cidr.clone(), node.clone())).collect()
    }

    /// Waits until exactly these are claimed, by a source that is up.
    pub fn wait_for(&mut self, what: &str, expected: &[(&str, &Node)]) {
        let mut expected: Vec<(String, String)> =
            expected.iter().map(|(cidr, node)| ((*cidr).to_owned(), node.ip.to_string())).collect();
        expected.sort();
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            self.catch_up();
            let mut claims = self.claims();
            claims.sort();
            if self.down.is_none() && self.is_synced && claims == expected {
                return;
            }
            assert!(
                std::time::Instant::now() < end,
                "{what}: {claims:?} instead of {expected:?}, {:?}",
                self.down
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Forgets when it was down: [`Watcher::wait_down`] is about what comes from now on.
    pub fn forget_downs(&mut self) {
        self.catch_up();
        self.downs.clear();
    }

    /// Waits until the source has said that it is down, with these words.
    pub fn wait_down(&mut self, words: &str) {
        until(&format!("the source is down: {words}"), PATIENCE, || {
            self.catch_up();
            self.downs.iter().any(|why| why.contains(words)).then_some(())
        });
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the source panicked");
        }
    }
}
