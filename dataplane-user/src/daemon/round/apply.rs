//! What should be, put in place.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use super::{
    Reconciler,
    order::{Extent, InKernel, InMaps},
};
use crate::{
    bpf::{Maps, Programs, programs::has_tcx},
    config::{Attach, DecapHook},
    desired::Desired,
    netfilter::{MarkRules, conntrack},
    tables::{Attachments, Backstops, KernelRoutes, KnownRules, Marks, Round, Sysctls},
};

impl Reconciler {
    /// Loads programs if those we have were made for other settings. If new ones
    /// do not load, the old ones go on.
    pub(super) fn load(&mut self, desired: &Desired, round: &mut Round) -> Result<()> {
        let logs = self.file.config.log_spoofs;
        let leases = self.file.config.leases.size;
        if self.programs.as_ref().is_some_and(|p| p.are_for(&desired.settings, leases, logs)) {
            return Ok(());
        }
        match Programs::load(&self.pins, desired.settings, leases, logs) {
            Ok(programs) => {
                self.programs = Some(programs);
                let mut maps = Maps::open(&self.pins)?;
                // Leases of other settings, or of a time when nobody looked after them.
                maps.end_leases()?;
                self.maps = Some(maps);
                Ok(())
            }
            Err(error) if self.programs.is_some() => {
                round.failures.push(format!("the old programs stay: {error:#}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes everything what it should be, in an [`order`](super::order) that lets no
    /// packet down.
    pub(super) async fn apply(
        &mut self,
        desired: &Desired,
        rules_may_have_changed: bool,
        round: &mut Round,
    ) -> Result<()> {
        let maps = self.maps.as_mut().context("no maps")?;
        let programs = self.programs.as_mut().context("no programs")?;
        let names: BTreeMap<u32, String> =
            self.host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
        let as_filters = match self.file.config.attach {
            Attach::Auto => !has_tcx(),
            Attach::Tcx => false,
            Attach::Clsact => true,
        };
        let attachments = desired.attachments.iter().copied();
        let links = Attachments::desired(programs, attachments, as_filters)?;
        let tables = &desired.tables;

        let extent = Extent::Whole { endpoints: &desired.endpoints };
        let in_maps = InMaps::upsert(maps, tables, extent, round).await;
        self.leases_end.ask(maps, round);
        let rules = desired.mark_rules.as_ref();
        // What is not to be marked any more must not be before its hooks change.
        if rules.is_none() {
            settle_rules(&mut self.rules, None, rules_may_have_changed, round).await;
        }
        let failures = round.failures.len();
        if rules.is_some() {
            drop(round.upsert(&mut Sysctls::new(&self.pins), &conntrack::relaxed()).await);
        }
        let only_preferred = self.file.config.underlay.decap == DecapHook::Auto;
        let mut attachments = Attachments::new(
            &self.kernel,
            &self.pins,
            programs,
            &names,
            only_preferred.then_some(&mut self.no_xdp),
        );
        let old_links = round.upsert(&mut attachments, &links).await;
        let is_prepared = round.failures.len() == failures;
        let is_node = |node: Ipv4Addr| tables.nodes.contains_key(&node) || in_maps.has_node(node);
        let routes = KernelRoutes::new(&self.kernel, &self.host, is_node);
        let backstops = Backstops::new(&self.kernel, &self.host);
        let in_kernel = InKernel::upsert(routes, backstops, tables, round).await;
        // Last: only what conntrack and every hook is ready for is marked.
        if rules.is_some() {
            let rules = rules.filter(|_| is_prepared);
            settle_rules(&mut self.rules, rules, rules_may_have_changed, round).await;
        }

        in_kernel.delete(tables, round).await;
        round.delete(&mut attachments, old_links).await;
        in_maps.delete(maps, round).await;
        self.leases_end.ask(maps, round);
        Ok(())
    }
}

/// Makes our nft table what it should be, if it is time to look.
async fn settle_rules(
    known: &mut KnownRules,
    wanted: Option<&MarkRules>,
    may_have_changed: bool,
    round: &mut Round,
) {
    if !known.is_due(wanted, may_have_changed) {
        return;
    }
    let table = wanted.map(|rules| ((), rules.clone())).into_iter().collect();
    let mut marks = Marks::new(known, wanted);
    let surplus = round.upsert(&mut marks, &table).await;
    round.delete(&mut marks, surplus).await;
}
