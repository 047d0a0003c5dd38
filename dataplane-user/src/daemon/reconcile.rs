//! One way through the stages, for a whole look and for a few routes.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::Result;
use tokio::time::Instant;

use super::{
    Daemon, POLICY, RESYNC, RETRY,
    apply::{Applier, Outcome, Whole, serving, tunnel},
    decide::{
        Fitness, NodeAddress,
        handovers::{Counted, Failure, GivenUp},
        problems, spread,
    },
    observe::{
        Interest, Noticed, fitness,
        fitness::Depth,
        health::{self, Seen},
        limits, outer_rules,
    },
    report::{self, Code, Problem, Stage},
    service,
    spread::spread,
    underlay_errors::Scope,
    weigh::weigh,
};
use crate::{
    bpf::{Attachment, Maps, filters, links},
    clock,
    config::Fastpath,
    desired::{RouteTables, links::fitness},
    kernel::Changes,
    sources::{Me, status::SourcesStatus},
    tables::{record_sysctls_for_0_1, remember_sysctls},
};
use dataplane_common::{IfIndex, Program, Reason};

/// How much is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Everything. `resync` asks the kernel again for every path, because a path MTU changes
    /// without an event.
    Whole { resync: bool },
    /// What sources and kernel have changed since the last reconcile.
    Changes,
}

impl Daemon {
    /// Observes, decides, applies and reports. Returns why nothing could be compared, if so; it
    /// is reported and tried again.
    pub(super) async fn reconcile(&mut self, extent: Extent) -> Option<anyhow::Error> {
        if extent == Extent::Changes && self.step().await {
            self.reporter.stepped();
            self.report_sources();
            self.reporter.publish();
            return None;
        }
        let resync = matches!(extent, Extent::Whole { resync: true });
        let began = Instant::now();
        let outcome = self.whole(resync).await;
        tracing::debug!("compared everything in {} ms", began.elapsed().as_millis());
        let is_complete = matches!(&outcome, Ok(outcome) if outcome.failures.is_empty());
        let is_finished = !matches!(&outcome, Ok(outcome) if !outcome.postponed.is_empty());
        let mut postponed = BTreeSet::new();
        let (problems, failure) = match outcome {
            Ok(outcome) => {
                postponed = outcome.postponed;
                let failed = |what: String| Problem::new(Code::ApplyFailed, what.clone(), what);
                (outcome.failures.into_iter().map(failed).collect(), None)
            }
            Err(error) => {
                let problem = Problem::new(Code::ReconcileFailed, "", format!("{error:#}"));
                (vec![problem], Some(error))
            }
        };
        self.reporter.set(Stage::Apply, problems);
        self.report(&postponed).await;
        self.reporter.beat(began.elapsed(), is_complete);
        if let (Some(applier), None) = (&mut self.applier, &failure) {
            applier.keep();
        }
        self.reporter.publish();
        self.schedule(resync, is_complete, is_finished);
        if failure.is_none() || self.is_serving() {
            self.report_ready();
        }
        failure
    }

    /// Whether programs forward packets, be they of an earlier run.
    pub(super) fn is_serving(&self) -> bool {
        self.applier.is_some() || links::list(&self.pins).is_ok_and(|links| !links.is_empty())
    }

    /// Everything: what is, what should be, the difference made.
    async fn whole(&mut self, resync: bool) -> Result<Outcome> {
        let looked = self.observer.look().await?;
        if resync && self.is_ready {
            self.judge_fitness().await;
        }
        self.look_at_limits(resync).await;
        self.look_at_outer_rules(resync).await;
        if looked.routes_differ {
            self.decider.routes_differ();
        }
        if let Some(applier) = &mut self.applier {
            let (kernel, host) = (self.observer.kernel(), self.observer.host());
            applier.make_way_for_other_tunl0(kernel, host).await?;
        }
        if resync || looked.paths_may_differ {
            // The host may have lost the address.
            let source = self.decider.source(self.observer.host(), self.observer.paths());
            self.observer.send_from(source);
            let nodes = self.decider.nodes(self.observer.host(), self.observer.paths());
            self.observer.ask(nodes).await;
        }
        let Some(facts) = weigh(&mut self.observer, &mut self.decider).await? else {
            // The sources' nodes may show which address is ours.
            self.decider.forget_decision();
            return Ok(Outcome::default());
        };
        if self.is_held_back() {
            return Ok(Outcome::default());
        }
        tunnel::ensure(&mut self.observer, &facts, &self.pins).await?;
        let counted = self.counted()?;
        let given_up = self.given_up().await?;
        let memory = self.decider.memory_mut();
        if memory.secret == 0 {
            memory.secret = serving::secret(&self.pins, 0)?;
        }
        let (host, paths) = (self.observer.host(), self.observer.paths());
        let Some(decision) = self.decider.decide(host, paths, counted, &given_up).cloned() else {
            return Ok(Outcome::default());
        };
        let new_sysctls = match decision.desired.mark_rules {
            Some(_) => remember_sysctls(&mut self.decider.memory_mut().sysctls),
            None => BTreeSet::new(),
        };
        let mut outcome = Outcome::default();
        let spread = spread(&mut self.decider, self.observer.host(), self.cores.heat());
        outcome.failures.extend(spread.err().map(|error| format!("{error:#}")));
        if !self.pins.have_maps() {
            // The directories were removed, or the bpffs was mounted anew.
            self.pins.prepare()?;
        }
        self.lock.renew(&self.pins)?;
        self.memory.write(&self.pins, self.decider.memory())?;
        if !new_sysctls.is_empty() || !self.is_ready {
            let recorded = record_sysctls_for_0_1(&self.pins, &self.decider.memory().sysctls);
            outcome.failures.extend(recorded.err().map(|error| format!("{error:#}")));
        }
        self.run_sources(None);

        let config = self.decider.file().config.clone();
        let applier = match &mut self.applier {
            Some(applier) => {
                if let Err(error) = applier.reload(&config, &decision.desired) {
                    outcome.failures.push(format!("the old programs stay: {error:#}"));
                }
                applier
            }
            empty => {
                let recorded = self.decider.memory().marks.clone();
                let applier = Applier::load(&self.pins, &config, &decision.desired, recorded)?;
                empty.insert(applier)
            }
        };
        let whole = Whole {
            config: &config,
            host: self.observer.host(),
            desired: &decision.desired,
            rules_may_differ: resync || std::mem::take(&mut self.rules_touched),
            new_sysctls: &new_sysctls,
            masks: &self.decider.masks().wanted,
            is_first: !self.is_ready,
        };
        let applied = applier.apply(self.observer.kernel(), whole).await?;
        outcome.failures.extend(applied.failures);
        let record = applier.record_of_rules();
        outcome.postponed = applied.postponed;
        self.decider.refuse_xdp(&applied.refused_xdp, self.observer.host());
        let tidied = tunnel::tidy_up(&self.observer, &decision, &self.pins).await;
        outcome.failures.extend(tidied.err().map(|error| format!("{error:#}")));
        self.scope.send_replace(Scope::new(&decision.desired, self.observer.host()));
        // A daemon that does not find it makes the table anew.
        if self.decider.memory().marks != record {
            self.decider.memory_mut().marks = record;
            self.memory.write(&self.pins, self.decider.memory())?;
        }
        if outcome.failures.is_empty() && outcome.postponed.is_empty() {
            serving::remove_other_versions(&self.pins);
            // What could not be read at the start is of no use any more.
            self.is_blocked = false;
            self.reporter.set(Stage::Pins, Vec::new());
        }
        Ok(outcome)
    }

    /// Whether nothing is decided and applied yet, so that routes which cannot be read stay active.
    fn is_held_back(&self) -> bool {
        self.is_blocked && !self.decider.claims().have_spoken()
    }

    /// Runs the sources of the active file. `address`: ours, as long as none was decided.
    pub(super) fn run_sources(&mut self, address: Option<NodeAddress>) {
        let config = &self.decider.file().config;
        let name = config.node.name.clone().unwrap_or_else(|| self.host_name.clone());
        let address = self.decider.memory().node.or(address).map(|node| node.address);
        self.hub.run(&config.sources, &Me { name, address });
    }

    /// What changed since the last reconcile, if that can be put in place without a whole one.
    /// Returns whether it is.
    async fn step(&mut self) -> bool {
        let Some((prefixes, nodes)) = self.decider.changed(clock::seconds()) else { return false };
        if self.applier.is_none() {
            return false;
        }
        if let Err(error) = self.observer.ask_unknown(nodes.iter().copied()).await {
            tracing::warn!("{error:#}");
            return false;
        }
        let (host, paths) = (self.observer.host(), self.observer.paths());
        let Some(step) = self.decider.step(prefixes, nodes, host, paths) else { return false };
        let (Some(applier), Some(last)) = (&mut self.applier, self.decider.last()) else {
            return false;
        };
        let tables: &RouteTables = &last.desired.tables;
        let outcome = applier.step(self.observer.kernel(), &step, tables).await;
        self.observer
            .keep_paths(|node| !step.nodes.contains(&node) || tables.nodes.contains_key(&node));
        self.scope.send_modify(|known| known.update(tables, &step.prefixes, &step.nodes));
        self.reporter.set(Stage::Tables, problems::tables(tables));
        // What is in place is not what we think: compare everything.
        outcome.failures.is_empty()
    }

    /// Puts the MACs of local pods in place that have changed. Returns whether that worked.
    pub(super) async fn readdress_pods(&mut self, pods: &BTreeSet<Ipv4Addr>) -> bool {
        let changed = self.decider.readdress_pods(pods, self.observer.host());
        match &mut self.applier {
            Some(applier) => applier.readdress(&changed).await,
            None => false,
        }
    }

    /// Takes in what the kernel announced.
    pub(super) fn notice(&mut self, changes: Changes) -> Noticed {
        let Self { observer, decider, .. } = self;
        let config = &decider.file().config;
        let last = decider.last();
        let is_wanted = |cidr: &ipnet::Ipv4Net| {
            last.is_some_and(|last| last.desired.tables.kernel_routes.contains_key(cidr))
        };
        let table = decider.table();
        let mut noticed = observer.notice(
            changes,
            &Interest {
                is_wanted: &is_wanted,
                protocols: config.sources.kernel.as_ref().map(|kernel| &kernel.protocols[..]),
                has_node_in: &|net| table.has_node_in(net),
                interface_of_pod: &|pod| Some(last?.desired.endpoints.get(&pod)?.hop.ifindex),
            },
        );
        noticed.needs_look |= last.is_none();
        noticed
    }

    /// Calls `read` with the maps of this version; `None` without maps.
    fn with_maps<T>(&self, read: impl FnOnce(&Maps) -> Result<T>) -> Result<Option<T>> {
        match &self.applier {
            Some(applier) => read(applier.maps()).map(Some),
            None => Maps::open(&self.pins).ok().map(|maps| read(&maps)).transpose(),
        }
    }

    /// What `decap_xdp` has counted; `None` without maps.
    fn counted(&self) -> Result<Option<Counted>> {
        self.with_maps(|maps| {
            Ok(Counted {
                unable: maps.counter(Reason::XdpUnable)?.packets,
                unwrapped: maps.counter(Reason::XdpUnwrapped)?.packets,
            })
        })
    }

    /// Where what `decap_xdp` handed over does not arrive at `decap_tc`, though that is attached.
    async fn given_up(&self) -> Result<GivenUp> {
        let entries = self.with_maps(|maps| Ok(maps.links.all()?))?.unwrap_or_default();
        let failures = entries.iter().filter_map(|(at, link)| Some((*at, Failure::of(link)?)));
        let mut given_up: GivenUp = failures.collect();
        if !given_up.is_empty() {
            let mut links = links::list(&self.pins)?;
            filters::check(self.observer.kernel(), &mut links).await?;
            let live = links.iter().filter(|(_, link)| link.is_live).map(|(at, _)| *at);
            let live: BTreeSet<Attachment> = live.collect();
            given_up.retain(|ifindex, _| {
                live.contains(&Attachment { program: Program::DecapTc, ifindex: *ifindex })
            });
        }
        Ok(given_up)
    }

    /// Whether the programs have given up handing packets over on a link.
    fn has_given_up(&self) -> bool {
        let (Some(applier), Some(decided)) = (&self.applier, self.reporter.decided()) else {
            return false;
        };
        let xdp = decided.attachments.iter().filter(|at| at.program == Program::DecapXdp);
        let mut entries = xdp.filter_map(|at| applier.maps().links.get(at.ifindex).ok()?);
        entries.any(|link| link.is_given_up())
    }

    /// Looks at what is at work, and collects what is wrong.
    async fn report(&mut self, postponed: &BTreeSet<Attachment>) {
        let programs = self.applier.as_ref().map(Applier::programs);
        self.reporter.set_decision(self.decider.last(), programs, postponed);
        let (host, paths) = (self.observer.host(), self.observer.paths());
        let mut decided = match self.is_held_back() && self.decider.basis(host, paths).is_some() {
            // There is no decision on purpose, not because something is missing.
            true => Vec::new(),
            false => problems::decision(&self.decider, host),
        };
        decided.extend(spread::problems(&self.decider, self.cores.hot()));
        self.reporter.set_spread(self.decider.memory().spreading.cpus.clone());
        decided.extend(self.heard_elsewhere());
        self.reporter.set(Stage::Decide, decided);
        let tables = self.decider.last().map(|last| problems::tables(&last.desired.tables));
        self.reporter.set(Stage::Tables, tables.unwrap_or_default());
        self.report_sources();
        let checked = match self.seen().await {
            Ok(Some(seen)) => self.reporter.decided().map(|decided| report::check(decided, &seen)),
            Ok(None) => None,
            Err(error) => {
                Some(vec![Problem::new(Code::ReconcileFailed, "pins", format!("{error:#}"))])
            }
        };
        self.reporter.set(Stage::Check, checked.unwrap_or_default());
    }

    /// Encapsulated packets of nodes on links that have no programs.
    fn heard_elsewhere(&mut self) -> Vec<Problem> {
        let Some(last) = self.decider.last() else { return Vec::new() };
        self.elsewhere.listen_beside(&last.facts.receiving);
        let (host, tables, mode) = (self.observer.host(), &last.desired.tables, last.facts.mode);
        let config = &self.decider.file().config;
        let heard = self.elsewhere.heard(Instant::now());
        // Of a node that is left to tunl0 nothing else is expected.
        let of_nodes = heard.filter(|(_, sender)| {
            tables.nodes.contains_key(sender) && !tables.is_for_tunl0(*sender)
        });
        let named = of_nodes.filter_map(|(ifindex, sender)| {
            let (link, unfit) = (host.links.get(&ifindex)?, fitness(config, host, ifindex).err());
            Some(problems::heard_elsewhere(link, unfit.as_ref(), sender, mode))
        });
        named.collect()
    }

    async fn seen(&self) -> Result<Option<Seen>> {
        let (Some(_), Some(last)) = (&self.applier, self.decider.last()) else { return Ok(None) };
        let (kernel, host) = (self.observer.kernel(), self.observer.host());
        let (device, routes) = (last.facts.mode.device(), &last.desired.tables.routes);
        // The applier has just looked at the nft table.
        health::look(kernel, &self.pins, host, device, false, routes).await.map(Some)
    }

    fn report_sources(&mut self) {
        let table = self.decider.table();
        let status = SourcesStatus::new(self.decider.claims().status(), table.alarms().values());
        self.reporter.set(Stage::Sources, problems::sources(&status));
        self.reporter.set_sources(status);
    }

    /// READY once everything that can be decided was put in place for the first time.
    fn report_ready(&mut self) {
        self.is_ready = true;
        let endpoints = self.decider.last().map_or(0, |last| last.desired.endpoints.len());
        self.reporter.ready(self.decider.table().routes().len(), endpoints);
    }

    fn schedule(&mut self, resync: bool, is_complete: bool, is_finished: bool) {
        let pause = if is_complete { RESYNC } else { self.retry };
        self.retry = if is_complete { RETRY } else { (self.retry * 2).min(RESYNC) };
        let after = service::watchdog().map_or(pause, |limit| pause.min(limit / 2));
        let after = Instant::now() + after;
        // However much the kernel has to announce, it must not put this off.
        self.alarms.look = if resync { after } else { self.alarms.look.min(after) };
        self.alarms.resume = (!is_finished).then(Instant::now);
    }

    /// Whether the programs that all pod traffic needs are not as they should be: one is gone, or
    /// packets are not handed over from one to the next.
    pub(super) fn needs_repair(&self) -> bool {
        self.has_lost_programs() || self.has_given_up()
    }

    /// Whether a program is gone that all pod traffic needs.
    fn has_lost_programs(&self) -> bool {
        let Some(decided) = self.reporter.decided() else { return false };
        // Without a decision nothing could be attached again.
        if self.applier.is_none() || self.decider.last().is_none() {
            return false;
        }
        let needed = decided.attachments.iter().filter(|at| {
            matches!(at.program, Program::DecapTc | Program::DecapXdp | Program::EncapHost)
        });
        !self.pins.have_maps() || needed.into_iter().any(|at| links::is_lost(&self.pins, *at))
    }

    /// Before everything is compared once more: what costs more to look at.
    pub(super) async fn resync(&mut self) {
        self.watch_shadow().await;
        if let Some(applier) = &mut self.applier {
            applier.refresh_next_hops(&self.observer).await;
            let looked = applier.maps().decapsulated_by_cpu();
            let looked = looked.and_then(|counted| Ok(self.cores.look(&counted)?));
            if let Err(error) = looked {
                tracing::debug!("how busy the CPUs are is not known: {error:#}");
            }
        }
    }

    /// Whether the host is still fit for the fast path. At boot tunless comes before Felix and
    /// kube-proxy; they are found here. What was missing at the start is looked for again.
    async fn judge_fitness(&mut self) {
        let file = self.decider.file();
        if file.config.fastpath != Fastpath::Verified {
            if self.policy_seen.elapsed() < POLICY {
                return;
            }
            self.policy_seen = Instant::now();
        }
        let before = self.decider.fitness();
        let depth = if before.refusal.is_some() { Depth::Whole } else { Depth::Quick(before) };
        let (kernel, host) = (self.observer.kernel(), self.observer.host());
        let fitness =
            fitness::judge(kernel, host, &self.pins, file, &mut self.programs, depth).await;
        let fitness = match fitness {
            Ok(fitness) => fitness,
            Err(error) => Fitness {
                refusal: Some(format!("{error:#}")),
                misplaced: BTreeSet::new(),
                ..self.decider.fitness().clone()
            },
        };
        if let Some(applier) = &mut self.applier {
            applier.take_out(&fitness.misplaced);
        }
        self.decider.set_fitness(fitness);
    }

    /// Reads Felix's chains of pods if they, or the pods, may be others than before.
    async fn look_at_limits(&mut self, resync: bool) {
        let config = &self.decider.file().config;
        if config.fastpath != Fastpath::Verified {
            return;
        }
        let host = self.observer.host();
        let interfaces = limits::interfaces(config, host);
        if resync || self.rules_touched || interfaces != self.decider.limits().asked {
            let limits = limits::look(self.observer.kernel(), interfaces).await;
            self.decider.set_limits(limits);
        }
    }

    /// Reads the host's rules about encapsulated packets if they may be others than before.
    async fn look_at_outer_rules(&mut self, resync: bool) {
        let (kernel, host) = (self.observer.kernel(), self.observer.host());
        let basis = self.decider.basis(host, self.observer.paths());
        if let Some(basis) = basis.filter(|_| resync || self.rules_touched) {
            let nodes = self.decider.table().nodes().collect();
            let links = basis.facts.receiving_names(host);
            let rules = outer_rules::look(kernel, &nodes, &links).await;
            self.decider.set_outer_rules(rules);
        }
    }

    /// What was found out, for the first lines of the log.
    pub(super) fn announce(&self) {
        let Some(decided) = self.reporter.decided() else { return };
        let interfaces: BTreeSet<IfIndex> =
            decided.attachments.iter().map(|attachment| attachment.ifindex).collect();
        tracing::info!(
            "node {} ({}), tunnel address {}, mode {} ({}), {}, {} attached to {}, fast path {}, \
             pins in {}",
            decided.node,
            decided.node_ground,
            decided.tunnel.address.map_or_else(|| "none".to_owned(), |address| address.to_string()),
            decided.mode_name(),
            decided.mode_ground,
            crate::output::count(self.decider.table().nodes().count(), "node"),
            crate::output::count(decided.attachments.len(), "program"),
            crate::output::count(interfaces.len(), "interface"),
            decided.fastpath.as_str(),
            self.pins.root().display(),
        );
    }
}
