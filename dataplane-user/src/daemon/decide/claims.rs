//! What sources claim, and what the host is like, on its way into the table of routes.

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_common::IfIndex;

use super::{Basis, Decider, address::Ground, decision::Observed, handovers::GivenUp};
use crate::{
    config::KernelConfig,
    desired::{Facts, Paths},
    kernel::{Host, TUNL0, TUNNEL},
    sources::{Report, SourceKind, kernel::Reader},
};

/// What the claims of the source `kernel` depend on, besides the routes themselves.
#[derive(PartialEq, Eq)]
pub struct KernelRead {
    config: KernelConfig,
    node: Ipv4Addr,
    underlay: BTreeSet<IfIndex>,
    tunnels: [Option<IfIndex>; 2],
}

impl Decider {
    /// Takes in what a source reports, for the next decision.
    pub fn take(&mut self, kind: SourceKind, report: Report) {
        self.claims.take(kind, report);
    }

    /// The kernel's routes are others: the source `kernel` reads them anew.
    pub fn routes_differ(&mut self) {
        self.kernel_read = None;
    }

    /// The nodes whose paths a decision needs: those that have routes, and those the file
    /// names. While nothing better than the default route names our address, the paths to all
    /// nodes that are claimed: they show it.
    #[must_use]
    pub fn nodes(&self, host: &Host, paths: &Paths) -> BTreeSet<Ipv4Addr> {
        let extras = self.file.config.routes.nodes.iter().map(|extras| extras.node);
        let mut nodes: BTreeSet<Ipv4Addr> = self.table().nodes().chain(extras).collect();
        let basis = self.basis(host, paths);
        if basis.is_none_or(|basis| basis.node.ground == Ground::DefaultRoute) {
            nodes.extend(self.claims.claimed_nodes());
        }
        nodes
    }

    /// What the host comes to, before the tunnel device exists; `None` without a node address.
    #[must_use]
    pub fn basis(&self, host: &Host, paths: &Paths) -> Option<Basis> {
        let (refused_xdp, given_up) = (&BTreeSet::new(), &GivenUp::new());
        let lacks_handover = false;
        let (fitness, limits) = (&self.fitness, &self.limits);
        let observed =
            Observed { host, paths, fitness, limits, refused_xdp, lacks_handover, given_up };
        self.given(observed).basis()
    }

    /// The source of what is sent to nodes: our address; `None` while only the default route
    /// names one.
    #[must_use]
    pub fn source(&self, host: &Host, paths: &Paths) -> Option<Ipv4Addr> {
        let node = self.basis(host, paths)?.node;
        (node.ground != Ground::DefaultRoute).then_some(node.address)
    }

    /// Lets the claims be weighed by what the host is like. What it is like may depend on the
    /// routes they come to: the mode does. `None` without a node address. `now`:
    /// `CLOCK_MONOTONIC`, seconds.
    pub fn weigh(&mut self, host: &Host, paths: &Paths, now: u32) -> Option<Facts> {
        let mut facts = self.basis(host, paths)?.facts;
        self.settle(host, &facts, now);
        let again = self.basis(host, paths)?.facts;
        if again != facts {
            facts = again;
            self.settle(host, &facts, now);
        }
        Some(facts)
    }

    fn settle(&mut self, host: &Host, facts: &Facts, now: u32) {
        self.claims.table_mut().set_surroundings(facts.surroundings(host));
        if let Some(config) = &self.file.config.sources.kernel {
            let read = KernelRead {
                config: config.clone(),
                node: facts.node,
                underlay: facts.underlay.clone(),
                tunnels: [TUNL0, TUNNEL].map(|name| host.link(name).map(|(ifindex, _)| ifindex)),
            };
            let is_silent = self.claims.silent().any(|kind| kind == SourceKind::Kernel);
            if is_silent || self.kernel_read.as_ref() != Some(&read) {
                let claims = Reader::new(config, host, &facts.underlay, facts.node).claims(host);
                let report = Report::Snapshot { claims, problems: Vec::new() };
                self.claims.take(SourceKind::Kernel, report);
                self.kernel_read = Some(read);
            }
        }
        self.claims.table_mut().settle(now);
    }
}
