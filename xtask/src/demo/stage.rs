//! The lab of the demo, and tunless on its nodes.

use std::{fs, path::PathBuf, process::Child};

use anyhow::{Context as _, Result, anyhow};
use tunless_lab::{
    Daemon, Etcd, Lab, Node, Pod,
    bird::{Bird, Sessions},
    calico,
    daemon::tunless_binary,
    service::{Service, kube_proxy, remove_rules},
    trace::Snapshot,
};

use super::{
    Options,
    options::{Origin, Source},
    server,
    shell::Place,
};
use crate::interrupt;

/// How much of a log is shown.
const LOG_LINES: usize = 12;

/// A node and the tunless on it.
pub struct Host {
    /// The node.
    pub node: Node,
    /// The pod on it.
    pub pod: Pod,
    /// For command lines.
    pub place: Place,
    /// All on it that tunless might change, as it was before.
    before: Snapshot,
    yaml: String,
    /// Of its BIRD.
    socket: Option<PathBuf>,
    log: PathBuf,
    daemon: Option<Daemon>,
}

/// Everything the steps act on. Daemons go before the lab they are in.
pub struct Stage {
    /// node2.perf, where demo-hello-perf is.
    pub node2: Host,
    /// node1.sit, where demo-hello-sit is.
    pub node1: Host,
    /// The pod demo-hello-perf.
    pub perf: Place,
    /// The pod demo-hello-sit.
    pub sit: Place,
    /// The router between the nodes.
    pub router: Place,
    /// The BIRDs on node2 and node1, if routes come from there.
    pub birds: Vec<Bird>,
    /// The etcd on the router, if routes come from there.
    pub etcd: Option<Etcd>,
    /// The HTTP service in demo-hello-sit; it goes with its pod.
    _server: Child,
    /// The lab.
    pub lab: Lab,
}

impl Stage {
    /// Builds the lab; no tunless runs yet.
    pub fn build(options: Options) -> Result<Self> {
        let lab = Lab::new().fabric_filter(true).build().context("the lab cannot be built")?;
        interrupt::check()?;
        for node in lab.nodes() {
            kube_proxy(&node.netns, &services(&lab))?;
            if options.is_trusted() {
                // The empty tables stay, so that before and after look alike.
                remove_rules(&node.netns)?;
            }
        }
        let birds = match options.source {
            Source::File | Source::Etcd => Vec::new(),
            Source::Bird => Bird::start_all(&[&lab.node2, &lab.node1], Sessions::Mesh)?,
        };
        let etcd = match options.source {
            Source::Etcd => Some(datastore(&lab)?),
            Source::File | Source::Bird => None,
        };
        let endpoints = etcd.as_ref().map(Etcd::endpoints);
        let mut router = Place::new("router", &lab.router);
        if let Some(endpoints) = &endpoints {
            router = router.with_etcdctl(endpoints);
        }
        let host = |node, peer, pod: &Pod, bird: Option<&Bird>| {
            let socket = bird.map(Bird::socket);
            let origin = match (&socket, &endpoints) {
                (Some(socket), _) => Origin::Bird(socket),
                (None, Some(endpoints)) => Origin::Etcd(endpoints),
                (None, None) => Origin::File,
            };
            let yaml = options.config(node, peer, &origin);
            Host::new(&lab, node, pod, yaml, socket)
        };
        Ok(Self {
            node2: host(&lab.node2, &lab.node1, lab.perf(), birds.first())?,
            node1: host(&lab.node1, &lab.node2, lab.sit(), birds.get(1))?,
            perf: Place::new(&lab.perf().name, &lab.perf().netns),
            sit: Place::new(&lab.sit().name, &lab.sit().netns),
            router,
            birds,
            etcd,
            _server: server::start(lab.sit())?,
            lab,
        })
    }

    /// Both nodes, node2 first: that is where packets start.
    pub fn hosts(&self) -> [&Host; 2] {
        [&self.node2, &self.node1]
    }

    /// Both nodes, to be started and stopped.
    pub fn hosts_mut(&mut self) -> [&mut Host; 2] {
        [&mut self.node2, &mut self.node1]
    }

    /// Every place a person may want to enter.
    pub fn places(&self) -> [&Place; 5] {
        [&self.node2.place, &self.perf, &self.node1.place, &self.sit, &self.router]
    }

    /// The services of the cluster.
    pub fn services(&self) -> Vec<Service> {
        services(&self.lab)
    }

    /// The ends of the daemons' logs, for a step that failed.
    pub fn logs(&self) -> String {
        let hosts = self.hosts().into_iter().filter_map(Host::log);
        hosts.map(|log| format!("{log}\n")).collect()
    }

    /// Stops and removes all of it, unless it was kept; what could not be.
    pub fn tidy(mut self) -> Vec<String> {
        // Each stops its tunless and detaches it.
        drop((self.node1.daemon.take(), self.node2.daemon.take()));
        self.birds.clear();
        drop(self.etcd.take());
        let mut problems = self.lab.problems();
        let (id, kept) = (self.lab.id().clone(), self.lab.is_kept());
        drop(self);
        if id.exists() && !kept {
            problems.push(format!("something of lab {} is left", id.as_str()));
        }
        problems
    }
}

impl Host {
    fn new(
        lab: &Lab,
        node: &Node,
        pod: &Pod,
        yaml: String,
        socket: Option<PathBuf>,
    ) -> Result<Self> {
        Ok(Self {
            node: node.clone(),
            pod: pod.clone(),
            place: Place::new(node.label, &node.netns),
            before: Snapshot::take(&node.netns)?,
            yaml,
            socket,
            log: lab.dir().join(format!("{}.log", node.label)),
            daemon: None,
        })
    }

    /// Starts tunless, or starts it again, and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        let started = match &mut self.daemon {
            Some(daemon) => daemon.restart(),
            None => Daemon::start(&self.node, &self.yaml).map(|daemon| self.daemon = Some(daemon)),
        };
        started.map_err(|error| {
            // Whoever reports it shows the log, too.
            anyhow!("tunless does not start on {}: {}", self.node.label, error.root_cause())
        })?;
        let config = self.daemon()?.config_path();
        let tunless = tunless_binary()?;
        let place = Place::new(self.node.label, &self.node.netns);
        self.place = place.with_tunless(&tunless, &config);
        if let Some(socket) = &self.socket {
            self.place = self.place.clone().with_birdc(socket);
        }
        Ok(())
    }

    /// The daemon, once started.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().with_context(|| format!("no tunless on {}", self.node.label))
    }

    /// The daemon, to be stopped.
    pub fn daemon_mut(&mut self) -> Result<&mut Daemon> {
        self.daemon.as_mut().with_context(|| format!("no tunless on {}", self.node.label))
    }

    /// What is different from before tunless was started.
    pub fn traces(&self) -> Result<Vec<String>> {
        Ok(self.before.difference(&Snapshot::take(&self.node.netns)?))
    }

    fn log(&self) -> Option<String> {
        let text = fs::read_to_string(&self.log).ok().filter(|text| !text.is_empty())?;
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  | ");
        Some(format!("the end of tunless's log on {}:\n  | {tail}", self.node.label))
    }
}

/// etcd on the router, with what Calico would keep of both nodes.
fn datastore(lab: &Lab) -> Result<Etcd> {
    // The router's address toward node1, which both nodes reach.
    let etcd = Etcd::new().at(&lab.router, lab.node1.gateway).start()?;
    etcd.store(&calico::pool("default-ipv4-ippool", "10.20.0.0/16", "Always"))?;
    for node in lab.nodes() {
        etcd.store(&calico::node(node.name, &node.cidr(), node.tunnel))?;
        etcd.store(&calico::block(node.block, node.name, &[]))?;
    }
    Ok(etcd)
}

fn services(lab: &Lab) -> Vec<Service> {
    vec![Service::hello(lab.sit().ip)]
}
