//! A host, its sources and a daemon that can be restarted at any time, without a kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path as FilePath,
};

use dataplane_common::{IfIndex, Mac, Mtu, Program};
use ipnet::Ipv4Net;

use crate::{
    config::ConfigFile,
    daemon::{
        apply::serving,
        decide::{
            Decider, Decision, Fitness, Memory,
            handovers::{Counted, GivenUp},
            problems,
        },
        report::{Code, Problem},
    },
    desired::{ChosenRoutes, Paths},
    kernel::{Host, KernelRoute, Link, Neighbour, Path, TUNL0, TUNNEL},
    sources::{Change, Claim, NodeRecord, OwnNode, Report, SourceKind, reads::Reads},
};

pub const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
/// A second address of ours, which the default route prefers.
pub const SECOND: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 12);
pub const A: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
pub const B: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);
/// In our own subnet.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 11);
/// Behind `eth1`.
pub const FAR: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 9);
/// Without a path.
pub const LOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);
pub const TUNNEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 192);

pub const ETH0: IfIndex = IfIndex(2);
const ETH1: IfIndex = IfIndex(3);
const TUNNEL_INDEX: IfIndex = IfIndex(4);
const TUNL0_INDEX: IfIndex = IfIndex(5);

/// How many blocks of pods there are.
pub const BLOCKS: u8 = 6;
pub const REMOTE: [SourceKind; 3] = [SourceKind::Etcd, SourceKind::Bird, SourceKind::Kernel];

const HEAD: &str = "node: {name: us}\nunderlay: {decap: auto}\nfastpath: verified\n\
    routes:\n  static: [{cidr: 10.20.9.0/26, node: 172.16.35.4}]\n  \
    nodes: [{node: 172.16.35.4, extra_sources: [192.0.2.1/32, 10.20.1.0/26]}]\n  \
    pools: [{cidr: 10.20.0.0/16, encap: cross-subnet}]\n";

/// The files that may be saved; the first has all sources.
pub const FILES: [&str; 5] = [
    "sources: {etcd: {endpoints: [\"http://172.16.35.4:2379\"]}, bird: {}, kernel: {}}\n",
    "sources: {etcd: {endpoints: [\"http://172.16.35.4:2379\"]}}\n",
    "sources: {bird: {}, kernel: {}}\nmtu: 1400\n",
    "mode: accelerate\nsources: {precedence: [kernel], kernel: {}}\n",
    "mode: replace\nspoof: stack\nsources: {etcd: {endpoints: [\"http://172.16.35.4:2379\"]}}\n",
];

pub fn file(index: usize) -> ConfigFile {
    let text = format!("{HEAD}{}", FILES[index]);
    ConfigFile::from_text(FilePath::new("/etc/tunless/config.yaml"), text).unwrap()
}

pub fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub fn block(third: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 20, third, 0), 26)
}

pub fn pod(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 105, 200 + index)
}

/// The pod's interface.
pub fn pod_index(index: u8) -> IfIndex {
    IfIndex(10 + u32::from(index))
}

/// The node a source names for a block: sources differ, and the more trusted one is right.
pub fn owner(kind: SourceKind, third: u8) -> Ipv4Addr {
    let nodes = [A, B, NEAR, FAR];
    nodes[(usize::from(third) + usize::from(kind == SourceKind::Etcd && third == 3)) % 4]
}

pub fn claim(cidr: Ipv4Net, origin: &str, node: Ipv4Addr) -> Change {
    Change { cidr, origin: origin.into(), claim: Some(Claim { node, encap: None }) }
}

pub fn snapshot(claims: Vec<Change>) -> Report {
    Report::Snapshot { claims, problems: Vec::new() }
}

/// What the host is like, and what its sources would report.
#[derive(Clone, Debug)]
pub struct World {
    pub file: usize,
    /// Whether `eth0` has its addresses and routes.
    pub has_addresses: bool,
    pub has_default: bool,
    pub has_eth1: bool,
    pub mtu: Mtu,
    /// Whether tunl0 is up, with routes to every block.
    pub has_tunl0: bool,
    pub pods: BTreeSet<u8>,
    /// Whether the router has its other MAC.
    pub is_router_moved: bool,
    /// Whether `eth0`'s driver refuses XDP.
    pub refuses_xdp: bool,
    /// What `decap_xdp` has counted.
    pub counted: Counted,
    /// Links on which hand-overs do not arrive.
    pub given_up: GivenUp,
    /// `eth0`'s driver.
    pub driver: Option<String>,
    pub refusal: Option<String>,
    /// Blocks for which BIRD's routes are in the kernel.
    pub kernel: BTreeSet<u8>,
    /// What each other source claims.
    pub claims: BTreeMap<SourceKind, Vec<Change>>,
    /// Nodes towards which the kernel uses our second address.
    pub by_second: BTreeSet<Ipv4Addr>,
    /// What etcd records about this node: nothing, that there is no such Node, or its addresses.
    pub own_node: Option<Option<NodeRecord>>,
    /// The address of etcd's second server, which the file has by name, if it was resolved.
    pub server: Option<Ipv4Addr>,
    /// The file has a load balancer's name instead, and etcd lists the server behind it.
    pub is_behind: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            file: 0,
            has_addresses: false,
            has_default: true,
            has_eth1: false,
            mtu: Mtu(1500),
            has_tunl0: false,
            pods: BTreeSet::new(),
            is_router_moved: false,
            refuses_xdp: false,
            counted: Counted::default(),
            given_up: GivenUp::new(),
            driver: None,
            refusal: None,
            kernel: BTreeSet::new(),
            claims: BTreeMap::new(),
            by_second: BTreeSet::new(),
            own_node: None,
            server: None,
            is_behind: false,
        }
    }
}

fn link(name: &str, mac: u16, mtu: Mtu, kind: Option<&str>) -> Link {
    Link {
        name: name.into(),
        alias: None,
        mac: Mac([mac, mac, mac]),
        mtu,
        is_up: true,
        does_arp: true,
        kind: kind.map(Into::into),
        ..Link::default()
    }
}

fn route(
    destination: Ipv4Net,
    ifindex: IfIndex,
    gateway: Option<Ipv4Addr>,
    protocol: u8,
) -> KernelRoute {
    KernelRoute { destination, ifindex: Some(ifindex), gateway, protocol, ..KernelRoute::default() }
}

impl World {
    pub fn host(&self) -> Host {
        let mut host = Host::default();
        let eth0 = link("eth0", 2, self.mtu, None);
        host.links.insert(ETH0, Link { driver: self.driver.clone(), ..eth0 });
        host.links.insert(TUNNEL_INDEX, link(TUNNEL, 4, Mtu(1480), Some("veth")));
        let mac = |mac| Neighbour { mac: Mac([mac, mac, mac]), is_stale: false };
        let router = mac(if self.is_router_moved { 99 } else { 98 });
        host.neighbours.insert((ETH0, ROUTER), router);
        host.neighbours.insert((ETH0, NEAR), mac(97));
        if self.has_addresses {
            host.addresses.push((ETH0, net("172.16.36.10/24")));
            host.addresses.push((ETH0, net("172.16.36.12/24")));
            let default = route(net("0.0.0.0/0"), ETH0, Some(ROUTER), 3);
            if self.has_default {
                host.routes.push(KernelRoute { source: Some(SECOND), ..default });
            }
            host.routes.push(route(net("172.16.36.0/24"), ETH0, None, 2));
        }
        if self.has_eth1 {
            host.links.insert(ETH1, link("eth1", 3, Mtu(1400), None));
            host.addresses.push((ETH1, net("172.17.0.10/24")));
            host.routes.push(route(net("172.17.0.0/24"), ETH1, None, 2));
        }
        if self.has_tunl0 {
            host.links.insert(TUNL0_INDEX, link(TUNL0, 0, Mtu(1480), None));
            host.addresses.push((TUNL0_INDEX, Ipv4Net::from(TUNNEL_ADDRESS)));
            for third in (0..BLOCKS).chain([9]) {
                let node = if third == 9 { A } else { owner(SourceKind::Kernel, third) };
                host.routes.push(route(block(third), TUNL0_INDEX, Some(node), 80));
            }
        }
        for third in &self.kernel {
            let node = owner(SourceKind::Kernel, *third);
            let learnt = route(block(*third), TUNNEL_INDEX, Some(node), 12);
            host.routes.push(KernelRoute { metric: 32, ..learnt });
        }
        for index in &self.pods {
            let ifindex = pod_index(*index);
            host.links.insert(ifindex, link(&format!("cali{index}"), 50, Mtu(1480), Some("veth")));
            host.routes.push(route(Ipv4Net::from(pod(*index)), ifindex, None, 80));
            host.neighbours.insert((ifindex, pod(*index)), mac(60 + u16::from(*index)));
        }
        host
    }

    fn path(&self, node: Ipv4Addr) -> Option<Path> {
        let source = Some(if self.by_second.contains(&node) { SECOND } else { OURS });
        let (ifindex, next_hop) = match node {
            FAR if self.has_eth1 => (ETH1, FAR),
            FAR | LOST => return None,
            NEAR => (ETH0, NEAR),
            _ => (ETH0, ROUTER),
        };
        self.has_addresses.then_some(Path {
            ifindex,
            next_hop,
            source,
            mtu: None,
            is_learnt: false,
        })
    }

    fn fitness(&self) -> Fitness {
        Fitness { refusal: self.refusal.clone(), ..Fitness::default() }
    }
}

/// A daemon in a world. What outlives it is `memory` and `active`.
pub struct Daemon {
    pub decider: Decider,
    paths: Paths,
    host: Host,
    memory: Memory,
    active: ChosenRoutes,
}

impl Daemon {
    pub fn start(world: &World) -> Self {
        let memory = Memory { secret: 7, ..Memory::default() };
        Self::start_with(world, memory, BTreeMap::new())
    }

    fn start_with(world: &World, memory: Memory, active: ChosenRoutes) -> Self {
        let mut decider = Decider::new(file(world.file), memory.clone(), active.clone());
        decider.set_fitness(world.fitness());
        let (paths, host) = (Paths::new(), Host::default());
        Self { decider, paths, host, memory, active }
    }

    /// Killed, and started again. Its sources have not reported anything yet.
    pub fn restart(&mut self, world: &World) {
        let memory = serde_json::to_vec(&self.memory).unwrap();
        let memory = serde_json::from_slice(&memory).unwrap();
        *self = Self::start_with(world, memory, std::mem::take(&mut self.active));
    }

    pub fn reload(&mut self, world: &World) {
        self.decider.replace_file(file(world.file), world.fitness());
    }

    pub fn report(&mut self, world: &World, kind: SourceKind) {
        if let Some(record) = world.own_node.filter(|_| kind == SourceKind::Etcd) {
            self.decider.take(kind, Report::OwnNode(OwnNode { object: "nodes/us".into(), record }));
        }
        if kind == SourceKind::Etcd {
            self.decider.take(kind, Report::Reads(Reads::FOLLOWED));
            let found = world.server.map(|server| [server].into());
            let (found, none) = ([("etcd.example".to_owned(), found)].into(), [].into());
            let (servers, behind) = if world.is_behind { (none, found) } else { (found, none) };
            self.decider.take(kind, Report::Servers(servers));
            self.decider.take(kind, Report::Backends(behind));
        }
        if kind != SourceKind::Kernel {
            let claims = world.claims.get(&kind).cloned().unwrap_or_default();
            self.decider.take(kind, snapshot(claims));
        }
    }

    /// As the daemon does for what sources reported; then everything is decided, and has to be
    /// the same.
    pub fn step(&mut self, world: &World) {
        let before = self.decider.last().is_some();
        if let Some((prefixes, nodes)) = self.decider.changed(2) {
            self.ask(world, nodes.iter().copied());
            if self.decider.step(prefixes, nodes, &self.host, &self.paths).is_some() {
                let stepped = self.decider.last().cloned().unwrap();
                self.active = serving::remembered(stepped.desired.tables.routes.clone());
                let nodes = self.decider.nodes(&self.host, &self.paths);
                self.paths.retain(|node, _| nodes.contains(node));
                let whole = self
                    .decider
                    .decide(&self.host, &self.paths, None, &GivenUp::new())
                    .cloned()
                    .unwrap();
                if whole.facts == stepped.facts {
                    assert_eq!(whole.desired.tables, stepped.desired.tables, "a step is exact");
                }
                return;
            }
        }
        if before {
            self.whole(world);
        }
    }

    fn ask(&mut self, world: &World, nodes: impl Iterator<Item = Ipv4Addr>) {
        for node in nodes {
            if !self.paths.contains_key(&node) {
                self.paths.extend(world.path(node).map(|path| (node, path)));
            }
        }
    }

    /// As `reconcile` does: looks, weighs, decides, applies.
    pub fn whole(&mut self, world: &World) {
        let host = world.host();
        if host.routes != self.host.routes {
            self.decider.routes_differ();
        }
        if host != self.host {
            self.host = host;
            self.paths.retain(|node, _| world.path(*node).is_some());
            for (node, path) in &mut self.paths {
                *path = world.path(*node).unwrap();
            }
        }
        let facts = loop {
            let known = self.paths.len();
            let facts = self.decider.weigh(&self.host, &self.paths, 1);
            let nodes = self.decider.nodes(&self.host, &self.paths);
            self.ask(world, nodes.iter().copied());
            if self.paths.len() == known {
                self.paths.retain(|node, _| nodes.contains(node));
                break facts;
            }
        };
        if facts.is_none() {
            self.decider.forget_decision();
            return;
        }
        self.decider.memory_mut().secret = 7;
        let decision =
            self.decider.decide(&self.host, &self.paths, Some(world.counted), &world.given_up);
        let Some(decision) = decision.cloned() else { return };
        self.memory = self.decider.memory().clone();
        self.active = serving::remembered(decision.desired.tables.routes.clone());
        let attachments = decision.desired.attachments.iter();
        let xdp = attachments.filter(|it| it.program == Program::DecapXdp && it.ifindex == ETH0);
        if world.refuses_xdp && xdp.count() > 0 {
            self.decider.refuse_xdp(&[ETH0].into(), &self.host);
        }
    }

    /// All sources report, and everything is decided until nothing changes any more; to decide
    /// once more then changes nothing.
    pub fn settle(&mut self, world: &World, order: &[SourceKind]) -> Settled {
        for kind in order {
            self.report(world, *kind);
        }
        self.whole(world);
        self.whole(world);
        let settled = self.settled();
        self.whole(world);
        assert_eq!(self.settled(), settled, "to decide again changes nothing");
        assert_eq!(self.decider.changed(9).map(|(prefixes, _)| prefixes.len()).unwrap_or(0), 0);
        settled
    }

    /// What is wrong once everything was decided.
    pub fn problems(&mut self, world: &World) -> Vec<Code> {
        for kind in REMOTE {
            self.report(world, kind);
        }
        self.whole(world);
        self.all_problems().into_iter().map(|problem| problem.code).collect()
    }

    fn all_problems(&self) -> Vec<Problem> {
        let mut all = problems::decision(&self.decider, &self.host);
        let last = self.decider.last();
        all.extend(last.into_iter().flat_map(|last| problems::tables(&last.desired.tables)));
        all
    }

    fn settled(&self) -> Settled {
        let mut decision = self.decider.last().cloned();
        for route in decision.iter_mut().flat_map(|it| it.desired.tables.routes.values_mut()) {
            route.since = 0;
        }
        Settled {
            decision,
            memory: self.decider.memory().clone(),
            alarms: self.decider.table().alarms().clone(),
            problems: self.all_problems().iter().map(Problem::text).collect(),
        }
    }
}

/// What a history came to, but for times.
#[derive(Clone, PartialEq, Debug)]
pub struct Settled {
    pub decision: Option<Decision>,
    pub memory: Memory,
    pub alarms: BTreeMap<Ipv4Net, String>,
    pub problems: Vec<String>,
}

impl Settled {
    pub fn decision(&self) -> &Decision {
        self.decision.as_ref().unwrap()
    }
}
