//! A step: a few routes are others now. Only they, and their nodes, are looked at:
//! the work does not grow with the table.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use super::{
    Last, Outcome, Reconciler, now,
    order::{Extent, InKernel, InMaps},
};
use crate::{
    address::supernets,
    desired::{Inputs, RouteTables},
    tables::{Backstops, KernelRoutes, Round},
};

/// What a step is about, and how it was before.
struct Scope {
    prefixes: BTreeSet<Ipv4Net>,
    nodes: BTreeSet<Ipv4Addr>,
    before: RouteTables,
}

impl Reconciler {
    /// Puts in place what the sources have changed since the last round or step.
    /// `None`: there has to be a whole round.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub async fn step(&mut self) -> Result<Option<Outcome>> {
        let Some(mut last) = self.last.take() else { return Ok(None) };
        let outcome = self.step_from(&mut last).await;
        self.last = Some(last);
        outcome
    }

    async fn step_from(&mut self, last: &mut Last) -> Result<Option<Outcome>> {
        let prefixes = self.sources.table_mut().settle(now());
        let tables = &last.desired.tables;
        let nodes_before = prefixes.iter().filter_map(|p| tables.routes.get(p));
        let nodes_before = nodes_before.map(|route| Ipv4Addr::from(route.node));
        let routes = self.sources.table().routes();
        let nodes_now = prefixes.iter().filter_map(|p| routes.get(p)).map(|route| route.node);
        let touched = std::mem::take(&mut self.touched);
        let nodes: BTreeSet<_> = nodes_before
            .chain(nodes_now)
            .chain(touched)
            .filter(|node| *node != last.facts.node)
            .collect();
        for node in &nodes {
            if !self.paths.contains_key(node) {
                let path = self.kernel.path(*node).await?;
                self.paths.extend(path.map(|path| (*node, path)));
            }
        }
        let leads_elsewhere = |node: &Ipv4Addr| {
            self.paths.get(node).is_some_and(|path| !last.facts.underlay.contains(&path.ifindex))
        };
        if nodes.iter().any(leads_elsewhere) {
            // Over an interface that has no programs of ours, maybe not yet.
            return Ok(None);
        }
        let scope = Scope { before: tables.only(&prefixes, &nodes), prefixes, nodes };
        let mut round = Round::default();
        let covers =
            |prefix: &Ipv4Net| supernets(*prefix).any(|net| tables.routes.contains_key(&net));
        round.outdates_leases = scope.prefixes.iter().any(covers);

        let inputs = Inputs {
            config: &self.file.config,
            host: &self.host,
            paths: &self.paths,
            facts: &last.facts,
            tunnel: last.desired.settings.tunnel_ifindex,
        };
        let table = self.sources.table();
        let has_routes = |node| table.knows(node);
        let desired = &mut last.desired.tables;
        desired.update(inputs, table.routes(), &scope.prefixes, &scope.nodes, has_routes);
        self.apply_step(&scope, &last.desired.tables, &mut round).await?;
        self.paths.retain(|node, _| {
            !scope.nodes.contains(node) || last.desired.tables.nodes.contains_key(node)
        });
        self.scope.send_modify(|known| {
            known.update(&last.desired.tables, &scope.prefixes, &scope.nodes);
        });
        let outcome = Outcome {
            failures: round.failures.len(),
            routes: self.sources.table().routes().len(),
            endpoints: last.desired.endpoints.len(),
        };
        if !round.failures.is_empty() {
            // What is in place is not what we think: look at everything.
            self.report(round.failures);
        }
        self.tell_status();
        Ok(outcome.is_complete().then_some(outcome))
    }

    async fn apply_step(
        &mut self,
        scope: &Scope,
        desired: &RouteTables,
        round: &mut Round,
    ) -> Result<()> {
        let Scope { prefixes, nodes, before } = scope;
        let desired = desired.only(prefixes, nodes);
        let maps = self.maps.as_mut().context("no maps")?;
        let in_maps = InMaps::upsert(maps, &desired, Extent::Only { prefixes, nodes }, round).await;
        self.leases_end.ask(maps, round);
        let routes = KernelRoutes::left(&self.kernel, before.kernel_routes.clone());
        let backstops = Backstops::left(&self.kernel, before.backstops());
        InKernel::upsert(routes, backstops, &desired, round).await.delete(&desired, round).await;
        in_maps.delete(maps, round).await;
        self.leases_end.ask(maps, round);
        Ok(())
    }
}
