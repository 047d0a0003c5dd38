//! The decision itself: a function of its arguments.
//!
//! Four properties, each a test in `properties`:
//!
//! - **Order**: for the same claims, host and file in the end, the decision does not depend on
//!   the order in which they came, nor on restarts in between.
//! - **Idempotence**: to decide again on the same input, with the memory of the first time,
//!   changes nothing.
//! - **Independence**: what is decided for a prefix, node or pod does not depend on what becomes
//!   of another.
//! - **Incumbents**: what is active stays active while it is allowed.
//!
//! Where two candidates are equally good the incumbent comes before order: the one that was
//! there first stays. That is so for
//!
//! - the node address, where the kernel uses several sources towards the nodes, or the datastore
//!   no longer names one;
//! - `mode: auto`, which never goes back from tunl0, even if tunl0 then carries fewer routes;
//! - a prefix that several nodes of one source claim;
//! - a datastore's block that contains one of our pods, or the route to that single address.
//!
//! A verdict of [`handovers`] stays as well: it is about a NIC, and to try XDP again resets it.
//!
//! That a prefix has *no* route is not remembered: after a restart a source may get one which a
//! more trusted source would forbid, until that source has reported.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::IfIndex;

use super::{
    Fitness, KnownServers, Memory, NodeAddress, OwnNodes, address::node_address, handovers,
    handovers::GivenUp, link_key, mode::ChosenMode, mode::mode, unleased::unleased,
};
use crate::{
    config::{Config, DecapHook, Fastpath},
    desired::{ChosenRoutes, Desired, Facts, Inputs, Paths, Terms, TunnelMode},
    kernel::Host,
    netfilter::limits::Limits,
    sources::{Encap, OwnNode, SourceKind, servers::ServerAddresses},
};

/// All that a decision is made of.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The active file.
    pub config: &'a Config,
    /// What the sources' claims come to.
    pub routes: &'a ChosenRoutes,
    /// Whether every source has reported all it knows.
    pub have_spoken: bool,
    /// What each datastore has reported about this node.
    pub own_nodes: &'a BTreeMap<SourceKind, OwnNode>,
    /// The servers of each source, as it has reported them.
    pub servers: &'a BTreeMap<SourceKind, ServerAddresses>,
    /// What serves behind them, likewise.
    pub backends: &'a BTreeMap<SourceKind, ServerAddresses>,
    /// What this host is like.
    pub observed: Observed<'a>,
    /// The only history.
    pub memory: &'a Memory,
}

/// What was observed. A restarted daemon observes all of it anew.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Links, addresses, routes, neighbours.
    pub host: &'a Host,
    /// How the kernel would send to each node.
    pub paths: &'a Paths,
    /// Whether the host is fit for the fast path.
    pub fitness: &'a Fitness,
    /// The limits that Felix puts on pods.
    pub limits: &'a Limits,
    /// Interfaces whose driver refused XDP.
    pub refused_xdp: &'a BTreeSet<IfIndex>,
    /// `decap_xdp` could hand over no packet, though it tried.
    pub lacks_handover: bool,
    /// Links on which what it handed over did not arrive.
    pub given_up: &'a GivenUp,
}

/// What the host and the file come to, before the tunnel device exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Basis {
    /// With tunl0 or without.
    pub mode: ChosenMode,
    /// The underlay address.
    pub node: NodeAddress,
    /// The rest.
    pub facts: Facts,
}

/// What was decided.
#[derive(Clone, PartialEq, Debug)]
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

impl Given<'_> {
    /// Returns what the host comes to; `None` without a node address.
    #[must_use]
    pub fn basis(&self) -> Option<Basis> {
        let Self { config, routes, observed, memory, .. } = *self;
        let Observed { host, paths, .. } = observed;
        let own_nodes = self.own_nodes();
        let node = node_address(config, host, paths, &own_nodes, memory.node)?;
        let mode = mode(config.mode, host, routes, memory.mode, memory.attempt.is_some());
        let mut facts = Facts::find(mode.mode, node.address, config, host, paths);
        if mode.mode == TunnelMode::Replace {
            // tunl0's is Felix's to set, so there what it has counts.
            facts.tunnel.address = facts.tunnel.address.or(own_nodes.tunnel_address());
        }
        facts.servers.extend(self.known_servers().addresses());
        facts.servers.extend(self.known_backends().addresses());
        Some(Basis { mode, node, facts })
    }

    fn own_nodes(&self) -> OwnNodes {
        OwnNodes::known(&self.config.sources, self.own_nodes, &self.memory.own_nodes)
    }

    fn known_servers(&self) -> KnownServers {
        KnownServers::known(&self.config.sources, self.servers, &self.memory.servers)
    }

    fn known_backends(&self) -> KnownServers {
        KnownServers::known(&self.config.sources, self.backends, &self.memory.backends)
    }

    /// Decides everything, and returns what is to be remembered; the memory is to be persisted
    /// before the decision is applied. No decision while the tunnel device or the node address
    /// is missing.
    #[must_use]
    pub fn decide(self) -> (Option<Decision>, Memory) {
        let mut memory = self.memory.clone();
        memory.own_nodes = self.own_nodes();
        memory.servers = self.known_servers();
        memory.backends = self.known_backends();
        let basis = self.basis();
        memory.node = basis.as_ref().map(|basis| basis.node).or(memory.node);
        let decision = basis.and_then(|basis| self.decide_on(basis, &mut memory));
        memory.mode = decision.as_ref().map(|decision| decision.mode).or(memory.mode);
        (decision, memory)
    }

    fn decide_on(self, basis: Basis, memory: &mut Memory) -> Option<Decision> {
        let Basis { mode, node, facts } = basis;
        let Self { config, routes, have_spoken, observed, .. } = self;
        let Observed { host, paths, fitness, limits, refused_xdp, lacks_handover, given_up } =
            observed;
        if lacks_handover && config.underlay.decap == DecapHook::Auto {
            handovers::remember(memory, host, &facts.underlay);
        }
        handovers::remember_given_up(memory, host, given_up);
        let (tunnel_ifindex, tunnel) = facts.mode.find(host)?;
        let is_known = |link| memory.no_xdp.contains_key(&link_key(link));
        let known = host.links.iter().filter(|(_, link)| is_known(link));
        let no_xdp = known.map(|(ifindex, _)| *ifindex).chain(refused_xdp.iter().copied());
        let unleased = unleased(&facts, host, fitness, limits);
        let terms = Terms {
            fastpath: match fitness.refusal {
                Some(_) => Fastpath::Off,
                None => config.fastpath,
            },
            no_xdp: &no_xdp.collect(),
            no_handover: &memory.without_handover(host),
            secret: memory.secret,
            unleased: &unleased.values().map(|pod| pod.ifindex).collect(),
            services: &fitness.services,
            unanswered: &fitness.unanswered,
            closing: fitness.closing,
            try_end: memory.attempt,
        };
        let inputs = Inputs { config, host, paths, facts: &facts, tunnel: tunnel_ifindex };
        let mut desired = Desired::new(inputs, routes, tunnel, terms);
        if mode.mode == TunnelMode::Replace && !have_spoken {
            let encapsulated = config.routes.pools.iter().filter(|it| it.encap != Encap::Direct);
            desired.tables.unknown_pools = encapsulated.map(|pool| pool.cidr.0).collect();
        }
        Some(Decision { facts, mode, node, desired })
    }
}
