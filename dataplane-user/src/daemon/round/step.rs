//! A step: a few routes are others now. Only they, and their nodes, are looked at:
//! the work does not grow with the table.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use super::{
    Last, Reconciler, now,
    order::{Extent, InKernel, InMaps},
};
use crate::{
    desired::{Inputs, RouteTables},
    tables::{Backstops, KernelRoutes, Round, outdates_leases},
};

/// Whether a step did it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Step {
    /// All that changed is in place.
    Sufficed,
    /// Everything has to be looked at.
    NeedsRound,
}

/// What a step is about, and how it was before.
struct Scope {
    prefixes: BTreeSet<Ipv4Net>,
    nodes: BTreeSet<Ipv4Addr>,
    before: RouteTables,
}

impl Scope {
    /// Whether leases may hold what is no longer so, now that tables are like `now`.
    /// The maps alone do not tell: a step does not look at wider routes.
    fn outdates_leases(&self, now: &RouteTables) -> bool {
        let before = &self.before.routes;
        let was_there = |net: &Ipv4Net| {
            if self.prefixes.contains(net) {
                before.contains_key(net)
            } else {
                now.routes.contains_key(net)
            }
        };
        let is_outdated = |prefix: &Ipv4Net| {
            outdates_leases(*prefix, before.get(prefix), now.routes.get(prefix), was_there)
        };
        self.prefixes.iter().any(is_outdated)
    }
}

impl Reconciler {
    /// Puts in place what the sources have changed since the last round or step.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub async fn step(&mut self) -> Result<Step> {
        let Some(mut last) = self.last.take() else { return Ok(Step::NeedsRound) };
        let outcome = self.step_from(&mut last).await;
        self.last = Some(last);
        outcome
    }

    async fn step_from(&mut self, last: &mut Last) -> Result<Step> {
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
            return Ok(Step::NeedsRound);
        }
        let scope = Scope { before: tables.only(&prefixes, &nodes), prefixes, nodes };
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
        let outdates_leases = scope.outdates_leases(desired);
        let mut round = Round { outdates_leases, ..Round::default() };
        self.apply_step(&scope, &last.desired.tables, &mut round).await?;
        self.paths.retain(|node, _| {
            !scope.nodes.contains(node) || last.desired.tables.nodes.contains_key(node)
        });
        self.scope.send_modify(|known| {
            known.update(&last.desired.tables, &scope.prefixes, &scope.nodes);
        });
        self.tell_status();
        if round.failures.is_empty() {
            return Ok(Step::Sufficed);
        }
        // What is in place is not what we think: look at everything.
        self.report(round.failures);
        Ok(Step::NeedsRound)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dataplane_common::{Ipv4Be, Route};

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn tables(routes: &[(&str, u32, u16)]) -> RouteTables {
        let route = |node, source| Route { node: Ipv4Be(node), since: 0, flags: 0, source };
        let routes = routes.iter().map(|(cidr, node, source)| (net(cidr), route(*node, *source)));
        RouteTables { routes: BTreeMap::from_iter(routes), ..RouteTables::default() }
    }

    #[test]
    fn leases_end_for_what_packets_notice() {
        let block = "10.20.42.0/26";
        let outdates = |changed: &str, before: &RouteTables, now: &RouteTables| {
            let prefixes = BTreeSet::from([net(changed)]);
            let before = before.only(&prefixes, &BTreeSet::new());
            Scope { prefixes, nodes: BTreeSet::new(), before }.outdates_leases(now)
        };
        let alone = tables(&[(block, 1, Route::SOURCE_FILE)]);
        let moved = tables(&[(block, 2, Route::SOURCE_FILE)]);
        let learnt_elsewhere = tables(&[(block, 1, Route::SOURCE_ETCD)]);
        let lent = tables(&[(block, 1, Route::SOURCE_FILE), ("10.20.42.7/32", 2, 0)]);
        assert!(outdates(block, &alone, &moved));
        assert!(outdates(block, &alone, &tables(&[])));
        assert!(!outdates(block, &tables(&[]), &alone));
        assert!(!outdates(block, &alone, &learnt_elsewhere));
        assert!(outdates("10.20.42.7/32", &alone, &lent), "a wider one is not in the scope");
    }
}
