//! Second stage: what should be. Pure: it reads what was observed, what sources claim, the file
//! and the [`Memory`], and touches nothing.
//!
//! | question | file |
//! |---|---|
//! | all of it, as one function | [`decision`] |
//! | which underlay address is ours | [`address`] |
//! | what datastores record about this node | [`own_node`] |
//! | which servers the sources need | [`servers`] |
//! | with tunl0 or without | [`mode`] |
//! | which claim makes a route | `sources::table::judge` |
//! | which entries routes come to | `desired::RouteTables` |
//! | which programs go where | `desired` |
//! | where XDP cannot decapsulate | [`handovers`] |
//! | which pods get no leases | [`unleased`] |
//! | which CPUs go on with received packets | [`spread`] |
//! | what is wrong with all that | [`problems`] |

pub mod address;
mod claims;
pub mod decision;
pub mod handovers;
pub mod memory;
pub mod mode;
mod no_xdp;
pub mod own_node;
pub mod problems;
#[cfg(test)]
mod properties;
pub mod servers;
pub mod spread;
mod step;
pub mod undecided;
pub mod unleased;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::IfIndex;
use ipnet::Ipv4Net;

pub use self::{
    address::NodeAddress,
    decision::{Basis, Decision},
    memory::{Memory, link_key},
    mode::ChosenMode,
    own_node::OwnNodes,
    servers::KnownServers,
    step::Step,
};
use self::{
    claims::KernelRead,
    decision::{Given, Observed},
    handovers::{Counted, GivenUp, Handovers, Refusals},
};
use crate::{
    bpf::Attachment,
    config::ConfigFile,
    desired::Paths,
    kernel::Host,
    netfilter::{ServiceFitness, UnansweredFitness, limits::Limits, outer::OuterRules},
    sources::{
        claims::Claims,
        table::{ChosenRoute, RouteTable},
    },
};

/// Whether this host is fit for the configured fast path.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fitness {
    /// Interfaces of pods with filters or shapers of others: their flows get no leases. Of no
    /// effect while the fast path is withheld.
    pub filtered: BTreeSet<IfIndex>,
    /// Our programs that stand before accepted ones of others, and belong behind them.
    pub misplaced: BTreeSet<Attachment>,
    /// Whether flows of Services may be leased.
    pub services: ServiceFitness,
    /// Whether UDP flows that get no answer may be leased.
    pub unanswered: UnansweredFitness,
    /// As in [`crate::netfilter::MarkRules::closing`].
    pub closing: Option<u32>,
    /// Why the fast path must not be used, if so.
    pub refusal: Option<String>,
}

/// Holds what decisions are made of, from one to the next.
///
/// Only `memory` and the routes that are active outlive the daemon. All else is the file's, is
/// reported by the sources, or is observed anew.
pub struct Decider {
    file: ConfigFile,
    claims: Claims,
    memory: Memory,
    fitness: Fitness,
    limits: Limits,
    outer_rules: BTreeSet<OuterRules>,
    handovers: Handovers,
    refusals: Refusals,
    masks: spread::Masks,
    /// By what the kernel's routes were last read; `None`: they have to be read anew.
    kernel_read: Option<KernelRead>,
    /// Nodes whose next hop has another MAC since the last decision: they are to be decided.
    moved: BTreeSet<Ipv4Addr>,
    last: Option<Decision>,
    /// The last decision was made by another file, so a step must not build on it.
    is_outdated: bool,
}

impl Decider {
    /// Starts with this file, what an earlier run remembered, and the routes it left active.
    #[must_use]
    pub fn new(file: ConfigFile, memory: Memory, active: BTreeMap<Ipv4Net, ChosenRoute>) -> Self {
        let mut claims = Claims::new(active);
        claims.configure(&file.config);
        Self {
            file,
            claims,
            memory,
            fitness: Fitness::default(),
            limits: Limits::default(),
            outer_rules: BTreeSet::new(),
            handovers: Handovers::default(),
            refusals: Refusals::default(),
            masks: spread::Masks::default(),
            kernel_read: None,
            moved: BTreeSet::new(),
            last: None,
            is_outdated: false,
        }
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

    /// What the sources claim.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// All claims and the routes they come to.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        self.claims.table()
    }

    /// Whether the host is fit for the fast path.
    #[must_use]
    pub fn fitness(&self) -> &Fitness {
        &self.fitness
    }

    /// The limits that Felix puts on pods.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Rules of the host that encapsulated packets pass by.
    #[must_use]
    pub fn outer_rules(&self) -> &BTreeSet<OuterRules> {
        &self.outer_rules
    }

    /// Decides which CPUs go on with what the underlay's queues bring.
    pub fn spread(&mut self, seen: &spread::Seen) {
        let setting = self.file.config.underlay.spread;
        self.masks = spread::decide(setting, seen, &mut self.memory.spreading);
    }

    /// Returns what was last decided about receive queues.
    #[must_use]
    pub fn masks(&self) -> &spread::Masks {
        &self.masks
    }

    /// What is known of this node's objects in the datastores.
    #[must_use]
    pub fn own_nodes(&self) -> OwnNodes {
        let config = &self.file.config.sources;
        OwnNodes::known(config, self.claims.own_nodes(), &self.memory.own_nodes)
    }

    /// Returns what is known of the sources' servers.
    #[must_use]
    pub fn servers(&self) -> KnownServers {
        let config = &self.file.config.sources;
        KnownServers::known(config, self.claims.servers(), &self.memory.servers)
    }

    /// Returns what is known of the servers behind them.
    #[must_use]
    pub fn backends(&self) -> KnownServers {
        let config = &self.file.config.sources;
        KnownServers::known(config, self.claims.backends(), &self.memory.backends)
    }

    /// Nothing can be decided for now.
    pub fn forget_decision(&mut self) {
        self.last = None;
    }

    /// Takes in whether the host is fit for the fast path.
    pub fn set_fitness(&mut self, fitness: Fitness) {
        self.fitness = fitness;
    }

    /// Takes in the limits that Felix puts on pods.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes in which rules of the host encapsulated packets pass by.
    pub fn set_outer_rules(&mut self, rules: BTreeSet<OuterRules>) {
        self.outer_rules = rules;
    }

    /// Decides by another file from now on.
    pub fn replace_file(&mut self, file: ConfigFile, fitness: Fitness) {
        self.claims.configure(&file.config);
        self.file = file;
        self.fitness = fitness;
        self.refusals = Refusals::default();
        self.is_outdated = true;
    }

    /// A driver refused XDP.
    pub fn refuse_xdp(&mut self, refused: &BTreeSet<IfIndex>, host: &Host) {
        self.refusals.add(refused, host);
    }

    /// Decides everything anew; `None` while the tunnel device or the node address is missing.
    /// The memory is what is to be persisted before anything is applied. `counted`: what
    /// `decap_xdp` has counted, if that is known; `given_up`: where that does not arrive.
    pub fn decide(
        &mut self,
        host: &Host,
        paths: &Paths,
        counted: Option<Counted>,
        given_up: &GivenUp,
    ) -> Option<&Decision> {
        self.moved.clear();
        self.is_outdated = false;
        let lacks_handover = counted.is_some_and(|counted| self.handovers.look(counted));
        let refused_xdp = self.refusals.of(host);
        let observed = Observed {
            host,
            paths,
            fitness: &self.fitness,
            limits: &self.limits,
            refused_xdp: &refused_xdp,
            lacks_handover,
            given_up,
        };
        let (decision, memory) = self.given(observed).decide();
        for (link, why) in memory.no_xdp.iter().filter(|it| !self.memory.no_xdp.contains_key(it.0))
        {
            let name = link.split(' ').next().unwrap_or_default();
            tracing::info!("{name}: {why}, so TC decapsulates there");
        }
        self.memory = memory;
        self.last = decision;
        self.last.as_ref()
    }

    fn given<'a>(&'a self, observed: Observed<'a>) -> Given<'a> {
        Given {
            config: &self.file.config,
            routes: self.claims.table().routes(),
            have_spoken: self.claims.have_spoken(),
            own_nodes: self.claims.own_nodes(),
            servers: self.claims.servers(),
            backends: self.claims.backends(),
            observed,
            memory: &self.memory,
        }
    }
}
