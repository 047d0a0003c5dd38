//! Three nodes with tunless, and pods that talk to each other.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::{
    Daemon, Lab, Node, Pod,
    inject::Injector,
    packet::{IPV4, Ipv4, ethernet, icmp_echo},
    service::{Protocol, Service, kube_proxy},
    traffic::{conversation::Conversation, stream},
};

use crate::{demo, interrupt};

/// Where daemons answer Prometheus, on their node's address.
pub const METRICS_PORT: u16 = 9469;
/// Packets with spoofed sources per second.
const SPOOFS: u32 = 20;
/// Far beyond what it takes until a flow is leased.
const SOON: Duration = Duration::from_secs(30);

/// The cluster. Traffic ends before the daemons, and those before the lab they are in.
pub struct Cluster {
    talks: Vec<Conversation>,
    streams: Vec<stream::Stream>,
    /// Those of the nodes, node2's first: that is where pictures are taken.
    daemons: Vec<Daemon>,
    /// The lab.
    pub lab: Lab,
}

impl Cluster {
    /// Builds it; pods talk when this returns, and their flows have leases.
    pub fn build() -> Result<Self> {
        let lab = Lab::new().fabric_filter(true).third_node(true).build();
        let lab = lab.context("the lab cannot be built")?;
        interrupt::check()?;
        let nodes = [Some(&lab.node2), Some(&lab.node1), lab.node3.as_ref()];
        let nodes: Vec<&Node> = nodes.into_iter().flatten().collect();
        let service = Service::hello(lab.sit().ip);
        for node in &nodes {
            kube_proxy(&node.netns, std::slice::from_ref(&service))?;
        }
        let start = |node: &&Node| Daemon::start(node, &config(node, &nodes));
        let daemons = nodes.iter().map(start).collect::<Result<Vec<_>>>()?;
        let mut cluster = Self { talks: Vec::new(), streams: Vec::new(), daemons, lab };
        cluster.talk(&service)?;
        cluster.await_leases()?;
        Ok(cluster)
    }

    /// node2's daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemons[0]
    }

    /// Where the daemons answer Prometheus.
    pub fn metrics(&self) -> Vec<String> {
        let nodes = self.lab.nodes();
        nodes.iter().map(|node| format!("{}:{METRICS_PORT}", node.ip)).collect()
    }

    /// Connections of several kinds between pods of all nodes.
    fn talk(&mut self, service: &Service) -> Result<()> {
        let lab = &self.lab;
        let node3 = lab.node3.as_ref().context("no node3")?;
        let (perf, sit) = (lab.perf(), lab.sit());
        let web = lab.node2.add_pod("demo-web", Ipv4Addr::new(10, 20, 105, 220))?;
        let db = node3.add_pod("demo-db", Ipv4Addr::new(10, 20, 7, 70))?;
        let converse = |protocol, from: &Pod, to: &Pod, port: u16| {
            let address = SocketAddrV4::new(to.ip, port);
            Conversation::start(protocol, &from.netns, address, &to.netns, port)
        };
        self.talks = vec![
            converse(Protocol::Tcp, perf, sit, 5432)?,
            Conversation::start(Protocol::Tcp, &perf.netns, service.address, &sit.netns, 8080)?,
        ];
        // Rates and ports of their own, so that lists have the same order each time.
        let stream = |from: &Pod, to: &Pod, port: u16, rate: u32| {
            let source_port = 40_000 + port;
            let options = stream::Options { rate, size: 800, source_port, answered: true };
            let address = SocketAddrV4::new(to.ip, port);
            stream::Stream::start(&from.netns, address, &to.netns, port, &options)
        };
        self.streams = vec![
            stream(&web, sit, 7000, 1000)?,
            stream(perf, &db, 6379, 600)?,
            stream(&db, &web, 8125, 400)?,
        ];
        Ok(())
    }

    /// Until each conversation is leased, both ways.
    fn await_leases(&self) -> Result<()> {
        let wanted = 2 * (self.talks.len() + self.streams.len());
        let has_all = |leases: &serde_json::Value| {
            leases["items"].as_array().is_some_and(|items| items.len() >= wanted)
        };
        self.daemon().wait_json(&["leases", "list"], SOON, has_all)?;
        // What came before the pods had their programs is not what the pictures are about.
        self.daemon().cli(&["counters", "flush"]).map(drop)
    }

    /// Puts packets to a pod of node2 on its wire, as if node1 had sent them in the name of a pod of node3, until
    /// the result is dropped.
    pub fn spoof(&self) -> Result<Spoofer> {
        let lab = &self.lab;
        let inner = Ipv4::icmp(Ipv4Addr::new(10, 20, 7, 66), lab.perf().ip);
        let inner = inner.packet(&icmp_echo(8, 0xbad, 1, b"spoofed"));
        let packet = Ipv4::ipip(lab.node1.ip, lab.node2.ip).packet(&inner);
        let frame = ethernet(lab.node2.mac, lab.node2.gateway_mac, IPV4, &packet);
        let injector = Injector::new(&lab.router, &lab.node2.router_port)?;
        Ok(Spoofer::start(injector, frame))
    }

    /// Makes the path to node1 narrow, and its router silent, as the demo does.
    pub fn narrow_path(&self) -> Result<()> {
        let lines = demo::narrow_path(&self.lab.node1.router_port);
        for line in &lines {
            self.lab.router.exec("sh", &["-c", line])?;
        }
        Ok(())
    }

    /// Gives node3 a file that its daemon refuses, or the good one again.
    pub fn spoil_config(&self, is_bad: bool) -> Result<()> {
        let (node3, daemon) =
            self.lab.node3.as_ref().zip(self.daemons.last()).context("no node3")?;
        let good = config(node3, &self.lab.nodes());
        let bad = if is_bad { "fastpth: off\n" } else { "" };
        daemon.replace_config(&format!("{good}{bad}"))
    }

    /// Stops and removes all of it; what could not be.
    pub fn tidy(mut self) -> Vec<String> {
        self.talks.clear();
        self.streams.clear();
        // Each stops its tunless and detaches it.
        self.daemons.clear();
        let mut problems = self.lab.problems();
        let id = self.lab.id().clone();
        drop(self);
        if id.exists() {
            problems.push(format!("something of lab {} is left", id.as_str()));
        }
        problems
    }
}

/// A node's configuration: a route to each other node's pods.
fn config(node: &Node, nodes: &[&Node]) -> String {
    let others = nodes.iter().filter(|other| other.ip != node.ip);
    let route = |other: &&Node| {
        let Node { block, ip, label, .. } = other;
        format!("    - {{cidr: {block}, node: {ip}, name: {label}}}\n")
    };
    let routes: String = others.map(route).collect();
    let Node { name, tunnel, ip, .. } = node;
    format!(
        "node: {{name: {name}, tunnel_address: {tunnel}}}\n\
         http: {{listen: \"{ip}:{METRICS_PORT}\", nodes: true}}\n\
         routes:\n  static:\n{routes}"
    )
}

/// Packets with spoofed sources, until dropped.
pub struct Spoofer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Spoofer {
    fn start(injector: Injector, frame: Vec<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                injector.send(&frame)?;
                thread::sleep(Duration::from_secs(1) / SPOOFS);
            }
            Ok(())
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it; an error if packets could not be sent.
    pub fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.thread.take().map(JoinHandle::join);
        ensure!(matches!(sent, Some(Ok(Ok(())))), "spoofed packets cannot be sent: {sent:?}");
        Ok(())
    }
}

impl Drop for Spoofer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it was for is checked on the picture.
            let _ = thread.join();
        }
    }
}
