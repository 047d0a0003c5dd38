//! Third stage: what was decided, put in place.
//!
//! [`Applier`] exists only once programs are loaded. Commands that compare have none, so they
//! cannot write. Removal ([`detach`]) is a half of its own and needs no loadable program.

pub mod detach;
mod leases_end;
mod leaving;
pub mod memory;
mod order;
mod other_tunl0;
pub mod serving;
pub mod shadow;
pub mod tunnel;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use anyhow::Result;
use dataplane_common::{Endpoint, IfIndex, Program};
use tokio::time::Instant;

use self::{
    leases_end::LeasesEnd,
    leaving::Leaving,
    order::{InKernel, InMaps},
};
use super::{
    decide::Step,
    observe::{NextHops, Observer},
};
use crate::{
    bpf::{Attachment, Maps, Pins, Programs, frozen, links, programs::as_filters},
    clock,
    config::{Config, DecapHook},
    desired::{self, Desired, RouteTables},
    kernel::{
        Host, Kernel,
        receive_queues::{Cpus, Queue},
    },
    netfilter::{MarkRules, conntrack},
    shadow::Watch,
    tables::{
        Attachments, Backstops, Endpoints, Handovers, KernelRoutes, Keys, KnownRules, Marks,
        ReceiveQueues, Round, Sysctls,
    },
};

pub use self::order::Extent;

/// Puts decisions in place.
pub struct Applier {
    pins: Pins,
    programs: Programs,
    maps: Maps,
    leases_end: LeasesEnd,
    next_hops: NextHops,
    leaving: Leaving,
    /// Our nft table, as far as it is known.
    rules: KnownRules,
    /// In `mode: shadow`, once programs have counted.
    shadow: Option<Watch>,
    /// What was attached before: what is missing then was detached by another program.
    attached: BTreeSet<Attachment>,
}

/// How long programs may be attached before the daemon looks at what else has come. An
/// attachment takes the kernel some 14 ms.
const SLICE: Duration = Duration::from_millis(200);
/// The same when it starts.
const FIRST_SLICE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What failed, for people; it is tried again.
    pub failures: Vec<String>,
    /// Interfaces whose driver refused XDP.
    pub refused_xdp: BTreeSet<IfIndex>,
    /// What is still to be attached to pods: the time was up.
    pub postponed: BTreeSet<Attachment>,
}

/// What a whole reconcile applies.
pub struct Whole<'a> {
    /// The active file.
    pub config: &'a Config,
    /// The host as of the last look.
    pub host: &'a Host,
    /// What should be.
    pub desired: &'a Desired,
    /// The nft table may have been changed by others.
    pub rules_may_differ: bool,
    /// Sysctls that are changed for the first time.
    pub new_sysctls: &'a BTreeSet<String>,
    /// Receive queues, and the CPUs that are to go on with their packets.
    pub masks: &'a BTreeMap<Queue, Cpus>,
    /// Nothing waits for the daemon yet, so that it may take its time.
    pub is_first: bool,
}

impl Applier {
    /// Loads the programs onto the pinned maps. `recorded_rules`: what an earlier process recorded
    /// of the nft table.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program.
    pub fn load(
        pins: &Pins,
        config: &Config,
        desired: &Desired,
        recorded_rules: Option<String>,
    ) -> Result<Self> {
        let (programs, maps) = load(pins, config, desired)?;
        let mut applier = Self {
            pins: pins.clone(),
            programs,
            maps,
            leases_end: LeasesEnd::default(),
            next_hops: NextHops::default(),
            leaving: Leaving::default(),
            rules: KnownRules::Unknown(recorded_rules),
            shadow: None,
            attached: BTreeSet::new(),
        };
        // Programs may come before the first comparison ends.
        applier.keep();
        Ok(applier)
    }

    /// Everything was compared just now.
    pub fn keep(&mut self) {
        if let Err(error) = self.maps.keep(clock::monotonic()) {
            tracing::warn!("{error:#}");
        }
    }

    /// Loads other programs if those there are were made for other settings. If new ones do
    /// not load, the old ones stay.
    ///
    /// # Errors
    /// Why they do not load.
    pub fn reload(&mut self, config: &Config, desired: &Desired) -> Result<()> {
        let leases = config.leases.size;
        let family = shadow::family(desired);
        if self.programs.are_for(&desired.settings, family, leases, config.log_spoofs)
            && self.pins.have_maps()
        {
            return Ok(());
        }
        (self.programs, self.maps) = load(&self.pins, config, desired)?;
        self.shadow = None;
        Ok(())
    }

    /// Detaches programs that stand before others' and belong behind them; the next
    /// [`Self::apply`] attaches them at the end. Packets take the stack path meanwhile.
    pub fn take_out(&mut self, misplaced: &BTreeSet<Attachment>) {
        for at in misplaced {
            match links::end(&self.pins, *at) {
                Ok(()) => drop(self.attached.remove(at)),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }

    /// The loaded programs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Returns what is to be recorded of the nft table.
    #[must_use]
    pub fn record_of_rules(&self) -> Option<String> {
        self.rules.record()
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Puts everything in place, in an [`order`] that loses no packet.
    ///
    /// # Errors
    /// If the kernel does not tell the programs' numbers.
    pub async fn apply(&mut self, kernel: &Kernel, whole: Whole<'_>) -> Result<Outcome> {
        let Whole { config, host, desired, rules_may_differ, new_sysctls, masks, is_first } = whole;
        let mut round = Round::default();
        let mut refused_xdp = BTreeSet::new();
        if desired.shadow.is_none() {
            self.end_shadow(kernel, host).await?;
        }
        let Self { pins, programs, maps, leases_end, leaving, rules: known, attached, .. } = self;
        let deadline = Instant::now() + if is_first { FIRST_SLICE } else { SLICE };
        let names: BTreeMap<IfIndex, String> =
            host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
        let as_filters = as_filters(config.attach);
        let pinned = links::pinned(pins)?.into_iter().map(|(at, _)| at).collect();
        let is_auto = config.underlay.interfaces.is_empty();
        let kept = desired.may_stay.intersection(&pinned).copied();
        let wanted = kept.chain(desired.attachments.iter().copied()).collect();
        let staying = leaving.staying(Instant::now(), &pinned, &wanted, |ifindex| {
            is_auto && desired::links::fitness(config, host, ifindex).is_ok()
        });
        let wanted = &wanted | &staying;
        let links = Attachments::desired(programs, wanted.iter().copied(), as_filters)?;
        let tables = &desired.tables;

        let extent = Extent::Whole { endpoints: &desired.endpoints };
        let in_maps = InMaps::upsert(maps, tables, extent, &mut round).await;
        leases_end.ask(maps, &mut round, &tables.routes);
        let rules = desired.mark_rules.as_ref();
        let is_pod = |address: Ipv4Addr| desired.endpoints.contains_key(&address);
        // No flow may be marked while hooks change between versions, or once it is not to be.
        let hooks_change = serving::is_another(pins);
        if rules.is_none() || hooks_change {
            settle_rules(known, None, &is_pod, rules_may_differ, &mut round).await;
        }
        let failures = round.failures.len();
        if rules.is_some() {
            drop(round.upsert(&mut Sysctls::new(new_sysctls), &conntrack::relaxed()).await);
        }
        let only_preferred = config.underlay.decap == DecapHook::Auto;
        let no_xdp = only_preferred.then_some(&mut refused_xdp);
        let xdp = wanted.iter().filter(|at| at.program == Program::DecapXdp);
        let handovers: BTreeMap<_, ()> = xdp.map(|at| (at.ifindex, ())).collect();
        let mut table = Handovers { maps, renewed: &BTreeSet::new() };
        let old_handovers = round.upsert(&mut table, &handovers).await;
        // Their maps are full: from now on the next version would start from them.
        round.attempt(pins.serve());
        let mut attachments = Attachments::new(kernel, pins, programs, &names, no_xdp);
        attachments.watch(attached, deadline);
        let old_links = round.upsert(&mut attachments, &links).await;
        let postponed = attachments.take_postponed();
        let without_xdp = attachments.take_without_xdp();
        // Whatever did not arrive while `decap_tc` was missing.
        let renewed = attachments.take_renewed();
        if !renewed.is_empty() {
            drop(round.upsert(&mut Handovers { maps, renewed: &renewed }, &handovers).await);
        }
        let is_prepared = round.failures.len() == failures;
        round.failures.extend(without_xdp);
        let is_node = |node: Ipv4Addr| tables.nodes.contains_key(&node) || in_maps.has_node(node);
        let routes = KernelRoutes::new(kernel, host, is_node);
        let backstops = Backstops::new(kernel, host);
        let in_kernel = InKernel::upsert(routes, backstops, tables, &mut round).await;
        // Last: only what conntrack and every hook is ready for is marked.
        if rules.is_some() {
            let rules = rules.filter(|_| is_prepared);
            settle_rules(known, rules, &is_pod, rules_may_differ || hooks_change, &mut round).await;
        }

        in_kernel.delete(tables, &mut round).await;
        round.delete(&mut attachments, old_links).await;
        round.delete(&mut Handovers { maps, renewed: &renewed }, old_handovers).await;
        in_maps.delete(maps, &mut round).await;
        leases_end.ask(maps, &mut round, &tables.routes);
        drop(round.upsert(&mut ReceiveQueues(masks), masks).await);
        *attached = &wanted - &postponed;
        Ok(Outcome { failures: round.failures, refused_xdp, postponed })
    }

    /// Writes the entries of these local pods, and looks at no others. Returns whether that worked.
    pub async fn readdress(&mut self, pods: &BTreeMap<Ipv4Addr, Endpoint>) -> bool {
        let mut round = Round::default();
        let addresses = pods.keys().copied().collect();
        let mut table = Endpoints(&mut self.maps, Keys::Only(&addresses));
        drop(round.upsert(&mut table, pods).await);
        round.failures.is_empty()
    }

    /// Puts the entries of a step in place; `tables`: all entries, as they should be now.
    pub async fn step(&mut self, kernel: &Kernel, step: &Step, tables: &RouteTables) -> Outcome {
        let Step { prefixes, nodes, before } = step;
        let mut round = Round { outdated: step.outdated(tables), ..Round::default() };
        let desired = tables.only(prefixes, nodes);
        let Self { maps, leases_end, .. } = self;
        let extent = Extent::Only { prefixes, nodes };
        let in_maps = InMaps::upsert(maps, &desired, extent, &mut round).await;
        leases_end.ask(maps, &mut round, &tables.routes);
        let routes = KernelRoutes::left(kernel, before.kernel_routes.clone());
        let backstops = Backstops::left(kernel, before.backstops());
        let in_kernel = InKernel::upsert(routes, backstops, &desired, &mut round).await;
        in_kernel.delete(&desired, &mut round).await;
        in_maps.delete(maps, &mut round).await;
        leases_end.ask(maps, &mut round, &tables.routes);
        Outcome { failures: round.failures, ..Outcome::default() }
    }

    /// When [`Self::end_leases`] is to be called, if at all.
    #[must_use]
    pub fn leases_end_at(&self) -> Option<Instant> {
        self.leases_end.due()
    }

    /// Ends all leases.
    pub fn end_leases(&mut self) {
        self.leases_end.end_all(&self.maps);
    }

    /// See [`NextHops`].
    pub async fn refresh_next_hops(&mut self, observer: &Observer) {
        self.next_hops.refresh(observer, &self.maps).await;
    }
}

fn load(pins: &Pins, config: &Config, desired: &Desired) -> Result<(Programs, Maps)> {
    // The directories may have been removed, or the bpffs mounted anew.
    pins.prepare()?;
    let has_end = pins.map(frozen::TRY).exists();
    let family = shadow::family(desired);
    let programs =
        Programs::load(pins, desired.settings, family, config.leases.size, config.log_spoofs)?;
    let maps = Maps::open(pins)?;
    if !has_end {
        // Before a program is attached. In a map that was there, `tunless try --keep` may have written.
        frozen::set_try_end(&pins.maps(), desired.try_end)?;
    }
    // Leases of other settings, or of a time when no daemon watched over them.
    maps.epochs.raise_all();
    Ok((programs, maps))
}

/// Makes our nft table what it should be, if it is time to look.
async fn settle_rules(
    known: &mut KnownRules,
    wanted: Option<&MarkRules>,
    is_pod: &dyn Fn(Ipv4Addr) -> bool,
    may_have_changed: bool,
    round: &mut Round,
) {
    if !known.is_due(wanted, may_have_changed) {
        return;
    }
    let table = wanted.map(|rules| ((), rules.clone())).into_iter().collect();
    let mut marks = Marks::new(known, wanted, is_pod);
    let surplus = round.upsert(&mut marks, &table).await;
    round.delete(&mut marks, surplus).await;
}
