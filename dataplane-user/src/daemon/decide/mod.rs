//! Second stage: what should be. Pure: it reads what was observed, what sources claim, the file
//! and the [`Memory`], and touches nothing.
//!
//! | question | file |
//! |---|---|
//! | which underlay address is ours | [`address`] |
//! | with tunl0 or without | [`mode`] |
//! | which claim makes a route | `sources::table::judge` |
//! | which entries routes come to | `desired::RouteTables` |
//! | which programs go where | `desired` |
//! | where XDP cannot decapsulate | [`handovers`] |
//! | what is wrong with all that | [`problems`] |

pub mod address;
mod claims;
pub mod handovers;
pub mod memory;
pub mod mode;
pub mod problems;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

pub use self::{
    address::NodeAddress,
    memory::{Memory, link_key},
    mode::ChosenMode,
    step::Step,
};
use self::{
    address::node_address,
    handovers::{Counted, Handovers},
    mode::mode,
};
use crate::{
    config::{ConfigFile, DecapHook, Fastpath},
    desired::{Desired, Facts, Inputs, Paths, Terms, TunnelMode},
    kernel::Host,
    sources::{
        Encap,
        hub::{Reports, Sources},
        table::{ChosenRoute, RouteTable},
    },
};

/// Whether this host is fit for the configured fast path.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fitness {
    /// Interfaces of pods with filters or shapers of others: their flows get no leases.
    pub filtered: BTreeSet<u32>,
    /// Why the fast path must not be used, if so.
    pub refusal: Option<String>,
}

/// Decides, and holds what decisions are made of.
pub struct Decider {
    file: ConfigFile,
    sources: Sources,
    memory: Memory,
    fitness: Fitness,
    handovers: Handovers,
    /// Interfaces whose driver refused XDP since this file was taken.
    refused_xdp: BTreeSet<u32>,
    /// Nodes whose next hop has another MAC since the last decision.
    moved: BTreeSet<Ipv4Addr>,
    last: Option<Decision>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What the host and the file come to.
    pub facts: Facts,
    /// Why the mode is what it is.
    pub mode: ChosenMode,
    /// Why the node address is what it is.
    pub node: NodeAddress,
    /// What should be.
    pub desired: Desired,
}

impl Decider {
    /// With this file, what an earlier run remembered, and the routes it left active.
    #[must_use]
    pub fn new(
        file: ConfigFile,
        memory: Memory,
        active: BTreeMap<Ipv4Net, ChosenRoute>,
    ) -> (Self, Reports) {
        let (sources, reports) = Sources::new(active);
        let decider = Self {
            file,
            sources,
            memory,
            fitness: Fitness::default(),
            handovers: Handovers::default(),
            refused_xdp: BTreeSet::new(),
            moved: BTreeSet::new(),
            last: None,
        };
        (decider, reports)
    }

    /// The active file.
    #[must_use]
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// What is to be remembered.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The same, for facts that are no decisions: a new secret, sysctls as they were.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// The last decision; `None` before the first, or while nothing can be decided.
    #[must_use]
    pub fn last(&self) -> Option<&Decision> {
        self.last.as_ref()
    }

    /// The sources and what they claim.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// All claims and the routes they come to.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        self.sources.table()
    }

    /// Whether the host is fit for the fast path.
    #[must_use]
    pub fn fitness(&self) -> &Fitness {
        &self.fitness
    }

    /// Nothing can be decided for now.
    pub fn forget_decision(&mut self) {
        self.last = None;
    }

    /// Takes in whether the host is fit for the fast path.
    pub fn set_fitness(&mut self, fitness: Fitness) {
        self.fitness = fitness;
    }

    /// Decides by another file from now on.
    pub fn replace_file(&mut self, file: ConfigFile, fitness: Fitness, name: String) {
        if file.config.mode != self.file.config.mode {
            self.memory.mode = None;
        }
        self.file = file;
        self.fitness = fitness;
        self.refused_xdp.clear();
        self.start_sources(name);
    }

    /// The nodes that have routes, and those the file names.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<Ipv4Addr> {
        let extras = self.file.config.routes.nodes.iter().map(|extras| extras.node);
        self.sources.nodes().chain(extras).collect()
    }

    /// What the host comes to, before the tunnel device exists; `None` without a node address.
    #[must_use]
    pub fn ground(&self, host: &Host, paths: &Paths) -> Option<(ChosenMode, NodeAddress, Facts)> {
        let config = &self.file.config;
        let node = node_address(config, host, paths, self.memory.node)?;
        let mode = mode(config.mode, host, self.table().routes(), self.memory.mode);
        let facts = Facts::find(mode.mode, node.address, config, host, paths);
        Some((mode, node, facts))
    }

    /// Takes in what `decap_xdp` has counted, and where the driver refused it. Where XDP can
    /// hand nothing over, TC decapsulates, unless the file insists.
    pub fn set_xdp(&mut self, counted: Option<Counted>, host: &Host, facts: &Facts) {
        if self.file.config.underlay.decap != DecapHook::Auto {
            return;
        }
        let Some(counted) = counted else { return };
        for ifindex in self.handovers.look(counted, &facts.underlay) {
            let Some(link) = host.links.get(&ifindex) else { continue };
            let why = "its driver has no XDP metadata".to_owned();
            tracing::info!("{}: {why}, so TC decapsulates there", link.name);
            self.memory.no_xdp.insert(link_key(link), why);
        }
    }

    /// A driver refused XDP.
    pub fn refuse_xdp(&mut self, refused: BTreeSet<u32>) {
        self.refused_xdp.extend(refused);
    }

    fn no_xdp(&self, host: &Host) -> BTreeSet<u32> {
        let is_known = |link| self.memory.no_xdp.contains_key(&link_key(link));
        let known = host.links.iter().filter(|(_, link)| is_known(link));
        known.map(|(ifindex, _)| *ifindex).chain(self.refused_xdp.iter().copied()).collect()
    }

    /// Decides everything anew; `None` while the tunnel device or the node address is missing.
    /// The memory is what is to be persisted before anything is applied.
    pub fn decide(&mut self, host: &Host, paths: &Paths) -> Option<&Decision> {
        self.moved.clear();
        self.last = self.decision(host, paths);
        if let Some(Decision { mode, node, .. }) = &self.last {
            self.memory.mode = Some(*mode);
            self.memory.node = Some(*node);
        }
        self.last.as_ref()
    }

    fn decision(&self, host: &Host, paths: &Paths) -> Option<Decision> {
        let (mode, node, facts) = self.ground(host, paths)?;
        let (tunnel_ifindex, tunnel) = facts.mode.find(host)?;
        let fastpath = match self.fitness.refusal {
            Some(_) => Fastpath::Off,
            None => self.file.config.fastpath,
        };
        let no_xdp = self.no_xdp(host);
        let terms = Terms {
            fastpath,
            no_xdp: &no_xdp,
            secret: self.memory.secret,
            shaped: &self.fitness.filtered,
        };
        let inputs = Inputs {
            config: &self.file.config,
            host,
            paths,
            facts: &facts,
            tunnel: tunnel_ifindex,
        };
        let mut desired = Desired::new(inputs, self.table().routes(), tunnel, terms);
        if mode.mode == TunnelMode::Replace && !self.sources.have_spoken() {
            let pools = self.file.config.routes.pools.iter();
            let encapsulated = pools.filter(|pool| pool.encap != Encap::Direct);
            desired.tables.unknown_pools = encapsulated.map(|pool| pool.cidr.0).collect();
        }
        Some(Decision { facts, mode, node, desired })
    }
}
