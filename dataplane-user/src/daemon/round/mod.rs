//! One round of reconciliation.

mod kernel_changes;
mod leases_end;
mod other_tunl0;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    net::Ipv4Addr,
};

use anyhow::{Context as _, Result};
use dataplane_common::{Ipv4Be, Reason, State};
use ipnet::Ipv4Net;
use tokio::{sync::watch, time::Instant};

use self::leases_end::LeasesEnd;
use super::{
    fitness::{self, Depth},
    handovers::{Counted, Handovers},
    next_hops::NextHops,
    underlay_errors::Scope,
};
use crate::{
    bpf::{Attachment, Hook, Maps, Pins, Programs, programs::has_tcx},
    clock,
    config::{Attach, ConfigFile, DecapHook, Fastpath, HostFacts},
    desired::{self, ChosenRoutes, Desired, Facts, Inputs, Paths, Terms, TunnelMode},
    kernel::{Host, Kernel, Path, TUNNEL},
    netfilter::{MarkRules, conntrack},
    output,
    sources::{
        Me, Report, SourceKind,
        hub::{Reports, Sources},
        kernel::Reader,
        status::{SourceStatus, SourcesStatus},
        table::{ChosenRoute, RouteTable},
    },
    tables::{
        Attachments, Backstops, Endpoints, KernelRoutes, Keys, KnownRules, Marks, NodeCounters,
        Nodes, Round, Routes, Sysctls,
    },
};

/// Said while the device that carries the pods' routes is not there.
const NO_TUNL0: &str = "there is no tunl0 that is up, so nothing is changed until it is back; \
                        `mode: replace` does without";

/// Knows what should be, and makes it so.
pub struct Reconciler {
    kernel: Kernel,
    file: ConfigFile,
    pins: Pins,
    programs: Option<Programs>,
    maps: Option<Maps>,
    /// Interfaces whose driver refused XDP.
    no_xdp: BTreeSet<u32>,
    /// Interfaces whose driver took it, but cannot hand packets over.
    handovers: Handovers,
    /// Why the fast path is off though configured.
    withheld: Option<String>,
    host: Host,
    paths: Paths,
    /// Where routes come from.
    sources: Sources,
    /// What the last round wanted; a step changes it with the kernel and the maps.
    last: Option<Last>,
    /// How the sources are, as last written down.
    told: SourcesStatus,
    leases_end: LeasesEnd,
    /// Nodes whose next hop's MAC is another now.
    touched: BTreeSet<Ipv4Addr>,
    /// With tunl0 or without, from the first round with a file on: tunl0 may come
    /// and go, but not our mind.
    mode: Option<TunnelMode>,
    /// Our node address as last known: a NIC that is down has no routes to tell it by.
    node: Option<Ipv4Addr>,
    next_hops: NextHops,
    /// What errors of the underlay are judged by.
    scope: watch::Sender<Scope>,
    /// See [`Self::secret`]; 0 until it is known.
    secret: u32,
    /// Pods' interfaces with filters of others.
    shaped: BTreeSet<u32>,
    /// Our nft table, as far as we know.
    rules: KnownRules,
    /// Somebody changed nftables since we looked.
    rules_touched: bool,
    /// What was last complained about, to say it once.
    reported: Vec<String>,
}

/// What a round found and wanted.
struct Last {
    facts: Facts,
    desired: Desired,
}

/// What a round came to.
pub struct Outcome {
    failures: usize,
    routes: usize,
    endpoints: usize,
}

impl Outcome {
    /// Whether everything asked for is in place.
    pub fn is_complete(&self) -> bool {
        self.failures == 0
    }

    /// One line for `systemctl status`.
    pub fn summary(&self) -> String {
        let Self { failures, routes, endpoints } = self;
        let tables = format!(
            "{}, {}",
            output::count(*routes, "route"),
            output::count(*endpoints, "endpoint")
        );
        match failures {
            0 => tables,
            _ => format!("{tables}; {}, see the log", output::count(*failures, "failure")),
        }
    }
}

impl Reconciler {
    /// Nothing is touched yet.
    pub fn new(kernel: Kernel, file: ConfigFile) -> (Self, Reports) {
        let pins = Pins::new(file.config.bpffs.as_ref());
        let (sources, reports) = Sources::new(in_force(&pins));
        let reconciler = Self {
            kernel,
            pins,
            file,
            sources,
            last: None,
            told: SourcesStatus::default(),
            leases_end: LeasesEnd::default(),
            touched: BTreeSet::new(),
            programs: None,
            maps: None,
            no_xdp: BTreeSet::new(),
            handovers: Handovers::default(),
            withheld: None,
            host: Host::default(),
            paths: Paths::new(),
            mode: None,
            node: None,
            next_hops: NextHops::default(),
            scope: watch::Sender::default(),
            secret: 0,
            shaped: BTreeSet::new(),
            rules: KnownRules::default(),
            rules_touched: true,
            reported: Vec::new(),
        };
        (reconciler, reports)
    }

    /// The connection to the kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The ways to the nodes.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// How the sources are.
    pub fn source_states(&self) -> Vec<SourceStatus> {
        self.sources.status()
    }

    /// All claims and the routes they come to.
    pub fn table(&self) -> &RouteTable {
        self.sources.table()
    }

    /// The routes.
    pub fn chosen(&self) -> &ChosenRoutes {
        self.sources.table().routes()
    }

    /// The file in force.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// What errors of the underlay are judged by, after each round anew.
    pub fn scope(&self) -> watch::Receiver<Scope> {
        self.scope.subscribe()
    }

    /// Starts the sources of the file in force. `node`: our address.
    pub fn start_sources(&mut self, node: Ipv4Addr) {
        let name = self.file.config.node.name.clone().unwrap_or_else(host_name);
        self.sources.configure(&self.file.config, &Me { name, address: Some(node) });
    }

    /// Takes in what a source says, for the next round or step.
    pub fn take(&mut self, kind: SourceKind, report: Report) {
        self.sources.take(kind, report);
    }

    /// Programs of another version serve, with routes that we cannot read: they
    /// must go on until we know as much.
    pub fn waits_for_sources(&self) -> bool {
        let spoken = self.sources.have_spoken() || self.sources.has(SourceKind::Kernel);
        !spoken && !self.pins.exist() && self.pins.other_versions().is_ok_and(|v| !v.is_empty())
    }

    /// From the next round on, another file; `withheld` if its fast path must
    /// not be had for now. `node`: our address.
    pub fn replace(&mut self, file: ConfigFile, withheld: Option<String>, node: Ipv4Addr) {
        if file.config.mode != self.file.config.mode {
            self.mode = None;
        }
        self.file = file;
        self.withhold_fastpath(withheld);
        self.no_xdp.clear();
        self.start_sources(self.node.unwrap_or(node));
        // Ask for the ways anew: there may be new nodes.
        self.host = Host::default();
    }

    /// Turns the fast path off, or on again.
    pub fn withhold_fastpath(&mut self, reason: Option<String>) {
        match (&self.withheld, &reason) {
            (None, Some(reason)) => tracing::error!("the fast path is off from now on: {reason}"),
            (Some(_), None) => tracing::info!("the fast path is on again"),
            _ => {}
        }
        self.withheld = reason;
    }

    /// Whether the fast path is off though configured.
    pub fn is_withheld(&self) -> bool {
        self.withheld.is_some()
    }

    /// Whether this host is fit for a file's fast path; see [`fitness`].
    ///
    /// # Errors
    /// If not: why, and what to do.
    pub async fn judge_fastpath(&mut self, file: &ConfigFile, depth: Depth) -> Result<()> {
        self.shaped = fitness::judge(&self.kernel, &self.pins, file, depth).await?;
        Ok(())
    }

    /// Somebody changed nftables: look at our table in the next round.
    pub fn rules_touched(&mut self) {
        self.rules_touched = true;
    }

    /// Judges a file by this host as it is now; returns our node address.
    ///
    /// # Errors
    /// If the file does not fit it.
    pub async fn check_host(&self, file: &ConfigFile) -> Result<Ipv4Addr> {
        let host = self.kernel.look().await?;
        let mut paths = Paths::new();
        for node in desired::configured_nodes(&file.config) {
            if let Some(path) = self.kernel.path(node).await? {
                paths.insert(node, path);
                break;
            }
        }
        let node = desired::node_address(&file.config, &host, &paths);
        file.check_against(&HostFacts {
            interfaces: host.links.values().map(|link| link.name.clone()).collect(),
            addresses: host.addresses.iter().map(|(_, net)| net.addr()).collect(),
            node,
            pods: desired::local_pods(&file.config, &host).into_keys().collect(),
        })?;
        node.with_context(|| {
            format!(
                "{}: cannot tell this node's underlay address: no node can be reached and there \
                 is no default route; set node.address",
                file.path.display()
            )
        })
    }

    /// Compares everything and mends what differs. `resync` asks the kernel
    /// again for every way, because a path MTU changes without an event.
    ///
    /// # Errors
    /// If so much is missing that nothing could be compared. What failed for a
    /// single entry is in the outcome and will be tried again.
    pub async fn round(&mut self, resync: bool) -> Result<Outcome> {
        let mut host = self.kernel.look().await?;
        self.make_way_for_other_tunl0(&host).await?;
        let ways_may_differ = !host.ways().eq(self.host.ways())
            || host.addresses != self.host.addresses
            || host.links != self.host.links;
        if resync || ways_may_differ {
            self.ask_for_ways(self.nodes()).await;
        }
        let mode = match self.mode {
            Some(mode) => mode,
            None => TunnelMode::choose(self.file.config.mode, &host),
        };
        self.mode = Some(mode);
        let mut facts = self.find_facts(mode, &host)?;
        self.consult_sources(&host, &facts);
        let unasked = self.nodes();
        let unasked: BTreeSet<_> =
            unasked.into_iter().filter(|node| !self.paths.contains_key(node)).collect();
        if !unasked.is_empty() {
            self.ask_for_ways(unasked).await;
            facts = self.find_facts(mode, &host)?;
        }
        let mut round = Round::default();
        let tunnel = match mode {
            TunnelMode::Replace => {
                if self.kernel.ensure_tunnel(&host, facts.tunnel, self.pins.root()).await? {
                    host = self.kernel.look().await?;
                }
                host.link(TUNNEL).with_context(|| format!("{TUNNEL} vanished"))?
            }
            // What there is stays as it is: without tunl0 nothing would take its place.
            TunnelMode::Accelerate => host.tunl0().context(NO_TUNL0)?,
        };
        let fastpath =
            if self.withheld.is_some() { Fastpath::Off } else { self.file.config.fastpath };
        let secret = self.secret()?;
        self.look_at_handovers(&host, &facts)?;
        let terms = Terms { fastpath, no_xdp: &self.no_xdp, secret, shaped: &self.shaped };
        let inputs = Inputs {
            config: &self.file.config,
            host: &host,
            paths: &self.paths,
            facts: &facts,
            tunnel: tunnel.0,
        };
        let desired = Desired::new(inputs, self.sources.table().routes(), tunnel.1, terms);
        self.host = host;
        self.touched.clear();

        self.load(&desired, &mut round)?;
        let may_have_changed = resync || std::mem::take(&mut self.rules_touched);
        self.apply(&desired, may_have_changed, &mut round).await?;
        let tidied = match mode {
            TunnelMode::Replace => {
                let (tunnel, address) = (desired.settings.tunnel_ifindex, facts.tunnel.address);
                self.kernel.trim_addresses(&self.host, tunnel, address).await
            }
            // It may be there from a time without tunl0.
            TunnelMode::Accelerate => {
                self.kernel.delete_tunnel(&self.host, self.pins.root()).await.map(drop)
            }
        };
        round.attempt(tidied);
        let outcome = Outcome {
            failures: round.failures.len(),
            routes: self.sources.table().routes().len(),
            endpoints: desired.endpoints.len(),
        };
        self.write_state(&desired, &facts, outcome.is_complete())?;
        self.report(desired.tables.warnings().cloned().chain(round.failures).collect());
        self.scope.send_replace(Scope::new(&desired, &self.host));
        self.last = Some(Last { facts, desired });
        self.tell_status();
        if outcome.is_complete() {
            self.remove_other_versions();
        }
        Ok(outcome)
    }

    /// Where XDP can hand nothing over, TC unwraps, unless the file insists.
    fn look_at_handovers(&mut self, host: &Host, facts: &Facts) -> Result<()> {
        if self.file.config.underlay.decap != DecapHook::Auto {
            return Ok(());
        }
        // Without maps nothing has been counted.
        let opened;
        let maps = match &self.maps {
            Some(maps) => Some(maps),
            None => {
                opened = Maps::open(&self.pins).ok();
                opened.as_ref()
            }
        };
        if let Some(maps) = maps {
            let counted = Counted {
                unable: maps.counter(Reason::XdpUnable)?.packets,
                unwrapped: maps.counter(Reason::XdpUnwrapped)?.packets,
            };
            for ifindex in self.handovers.look(counted, &facts.underlay) {
                let name = host.links.get(&ifindex).map_or("?", |link| &link.name);
                tracing::info!("{name}'s driver has no XDP metadata, so TC unwraps there");
            }
        }
        self.no_xdp.extend(self.handovers.without());
        Ok(())
    }

    /// The secret among our programs: the one in use, else a new one. While
    /// programs are swapped one after the other, all must know it.
    fn secret(&mut self) -> Result<u32> {
        if self.secret == 0 {
            let used = Maps::open(&self.pins).and_then(|maps| maps.state()).ok();
            self.secret = match used.map(|state| state.secret) {
                Some(secret) if secret != 0 => secret,
                _ => random()?,
            };
        }
        Ok(self.secret)
    }

    /// All nodes that are to be reached.
    pub fn nodes(&self) -> BTreeSet<Ipv4Addr> {
        let extras = self.file.config.routes.nodes.iter().map(|extras| extras.node);
        self.sources.nodes().chain(extras).collect()
    }

    /// What we make of the host.
    ///
    /// # Errors
    /// If nothing tells our node address.
    pub fn find_facts(&mut self, mode: TunnelMode, host: &Host) -> Result<Facts> {
        let facts = Facts::find(mode, &self.file.config, host, &self.paths, self.node)
            .context("this node has no underlay address; set node.address")?;
        self.node = Some(facts.node);
        Ok(facts)
    }

    /// Tells the table of routes what the host is like, the kernel's routes among it.
    pub fn consult_sources(&mut self, host: &Host, facts: &Facts) {
        self.sources.table_mut().set_surroundings(facts.surroundings(host));
        let routes_differ = host.routes != self.host.routes || !self.sources.have_spoken();
        if let Some(config) = self.file.config.sources.kernel.as_ref().filter(|_| routes_differ) {
            let claims = Reader::new(config, host, &facts.underlay, facts.node).claims(host);
            let report = Report::Snapshot { claims, problems: Vec::new() };
            self.sources.take(SourceKind::Kernel, report);
        }
        self.sources.table_mut().settle(now());
    }

    /// Asks the kernel for the ways to these nodes; forgets those to no node.
    pub async fn ask_for_ways(&mut self, nodes: BTreeSet<Ipv4Addr>) {
        for node in nodes {
            match self.kernel.path(node).await {
                Ok(Some(path)) => {
                    let known = self.paths.insert(node, path);
                    if known.is_some_and(|known| path.mtu != known.mtu) {
                        tracing::info!("node {node}: {}", mtu(&path));
                    }
                }
                Ok(None) => drop(self.paths.remove(&node)),
                // No answer is no "no": what we knew stays.
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        let wanted = self.nodes();
        self.paths.retain(|node, _| wanted.contains(node));
    }

    /// Asks for the ways to these nodes, whose path MTU may have changed; whether
    /// any is another now.
    pub async fn ask_again(&mut self, nodes: BTreeSet<Ipv4Addr>) -> bool {
        let mut differs = false;
        for node in nodes {
            let Some(known) = self.paths.get_mut(&node) else { continue };
            match self.kernel.path(node).await {
                Ok(Some(path)) if path != *known => {
                    tracing::info!("node {node}: {}, after an error of the underlay", mtu(&path));
                    *known = path;
                    differs = true;
                }
                // That there is no way any more is announced.
                Ok(_) => {}
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        differs
    }

    /// Loads programs if those we have were made for other settings. If new ones
    /// do not load, the old ones go on.
    fn load(&mut self, desired: &Desired, round: &mut Round) -> Result<()> {
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

    /// Upserts from the maps outwards, deletes from the routes inwards: no
    /// packet is sent to where it is not yet, or no longer, expected.
    async fn apply(
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
        let counted: BTreeMap<_, _> = tables.nodes.keys().map(|node| (*node, ())).collect();

        let old_counters = round.upsert(&mut NodeCounters(maps, Keys::All), &counted).await;
        let old_nodes = round.upsert(&mut Nodes(maps, Keys::All), &tables.nodes).await;
        let old_endpoints = round.upsert(&mut Endpoints(maps), &desired.endpoints).await;
        let old_routes = round.upsert(&mut Routes(maps, Keys::All), &tables.routes).await;
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
        let is_node =
            |node: Ipv4Addr| tables.nodes.contains_key(&node) || old_nodes.contains(&node);
        let mut kernel_routes = KernelRoutes::new(&self.kernel, &self.host, is_node);
        let old_kernel_routes = round.upsert(&mut kernel_routes, &tables.kernel_routes).await;
        // Behind their routes, or packets would find only them for a moment.
        let mut backstops = Backstops::new(&self.kernel, &self.host);
        let mut old_backstops = round.upsert(&mut backstops, &tables.backstops()).await;
        // Last: only what conntrack and every hook is ready for is marked.
        if rules.is_some() {
            let rules = rules.filter(|_| is_prepared);
            settle_rules(&mut self.rules, rules, rules_may_have_changed, round).await;
        }

        let direct = old_backstops.take(|prefix| tables.is_direct(prefix));
        round.delete(&mut backstops, direct).await;
        round.delete(&mut kernel_routes, old_kernel_routes).await;
        round.delete(&mut backstops, old_backstops).await;
        round.delete(&mut attachments, old_links).await;
        round.delete(&mut Routes(maps, Keys::All), old_routes).await;
        round.delete(&mut Endpoints(maps), old_endpoints).await;
        round.delete(&mut Nodes(maps, Keys::All), old_nodes).await;
        round.delete(&mut NodeCounters(maps, Keys::All), old_counters).await;
        self.leases_end.ask(maps, round);
        Ok(())
    }

    fn write_state(&mut self, desired: &Desired, facts: &Facts, synced: bool) -> Result<()> {
        // What runs, not what was asked for: new programs may have failed to load.
        let settings = *self.programs.as_ref().context("no programs")?.settings();
        let is_refused =
            |at: &&Attachment| at.hook == Hook::DecapXdp && self.no_xdp.contains(&at.ifindex);
        let refused = desired.attachments.iter().filter(is_refused).count();
        let state = State {
            heartbeat: u64::try_from(clock::monotonic().as_nanos())?,
            pid: std::process::id(),
            synced: synced.into(),
            node: facts.node.into(),
            tunnel: facts.tunnel.address.map(Into::into).unwrap_or_default(),
            tunnel_ifindex: desired.settings.tunnel_ifindex,
            tunnel_mtu: facts.tunnel.mtu,
            attachments: u32::try_from(desired.attachments.len() - refused)?,
            fastpath: settings.fastpath,
            spoof: settings.spoof,
            fastpath_withheld: self.withheld.is_some().into(),
            accelerate: u8::from(facts.mode == TunnelMode::Accelerate),
            reserved: [0; 4],
            secret: settings.secret,
        };
        let maps = self.maps.as_mut().context("no maps")?;
        maps.state.set(0, state, 0).context("writing the state")
    }

    /// After a round that could not even compare: says so, here and to `status`.
    pub fn give_up(&mut self, error: &anyhow::Error) {
        if let Some(maps) = &mut self.maps
            && let Ok(state) = maps.state()
        {
            let outcome = maps.state.set(0, State { synced: 0, ..state }, 0);
            outcome.unwrap_or_else(|error| tracing::debug!("writing the state: {error}"));
        }
        self.report(vec![format!("{error:#}")]);
    }

    /// Says what is wrong, once, and when it no longer is.
    pub fn report(&mut self, failures: Vec<String>) {
        for failure in failures.iter().filter(|failure| !self.reported.contains(failure)) {
            tracing::error!("{failure}");
        }
        if failures.is_empty() && !self.reported.is_empty() {
            tracing::info!("everything is in place again");
        }
        self.reported = failures;
    }

    /// Says what was found out, for the first lines of the log.
    pub fn announce(&self) {
        let Some(state) = self.maps.as_ref().and_then(|maps| maps.state().ok()) else { return };
        let config = &self.file.config;
        tracing::info!(
            "node {:?}, tunnel address {:?}, {} nodes, {} programs attached, fast path {}, pins in {}",
            state.node,
            state.tunnel,
            self.paths.len(),
            state.attachments,
            Fastpath::from(state.fastpath).as_str(),
            config.bpffs,
        );
        if state.tunnel == Ipv4Be::UNSPECIFIED {
            tracing::warn!(
                "no node.tunnel_address: this host itself talks to remote pods from its node \
                 address, and their answers will not come through the tunnel"
            );
        }
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        if forwarding.is_ok_and(|value| value.trim() == "0") {
            tracing::warn!(
                "net.ipv4.ip_forward is 0, so the kernel forwards nothing to or from pods; run \
                 `sysctl -w net.ipv4.ip_forward=1`"
            );
        }
    }

    /// Writes down how the sources are, if that has changed.
    fn tell_status(&mut self) {
        let table = self.sources.table();
        let status = SourcesStatus::new(self.sources.status(), table.alarms().values());
        if status == self.told {
            return;
        }
        for alarm in status.alarms.iter().filter(|alarm| !self.told.alarms.contains(alarm)) {
            tracing::error!("{alarm}");
        }
        match status.write(&self.pins) {
            Ok(()) => self.told = status,
            Err(error) => tracing::warn!("`tunless status` cannot tell of sources: {error:#}"),
        }
    }

    /// When leases have to be ended, if any change waits for that.
    pub fn leases_end_at(&self) -> Option<Instant> {
        self.leases_end.due()
    }

    /// Ends them.
    pub fn end_leases(&mut self) {
        if let Some(maps) = &mut self.maps
            && let Err(error) = self.leases_end.end(maps)
        {
            tracing::error!("{error:#}");
        }
    }

    /// See [`NextHops`].
    pub async fn refresh_next_hops(&mut self) {
        if let Some(maps) = &self.maps {
            self.next_hops.refresh(&self.kernel, maps, &self.host, &self.paths).await;
        }
    }

    /// Maps of versions with another layout are of no use once ours serve.
    fn remove_other_versions(&self) {
        for directory in self.pins.other_versions().unwrap_or_default() {
            match Pins::remove_version(&directory) {
                Ok(()) => tracing::info!("removed {}, of another version", directory.display()),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
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

/// The routes an earlier run left in force; none if there was none.
fn in_force(pins: &Pins) -> BTreeMap<Ipv4Net, ChosenRoute> {
    if !pins.exist() {
        return BTreeMap::new();
    }
    let routes = Maps::open(pins).and_then(|maps| maps.all_routes()).unwrap_or_default();
    let remote = routes.into_iter().filter(|(_, route)| route.is_destination());
    let chosen = remote.filter_map(|(cidr, route)| {
        let source = SourceKind::from_number(route.source)?;
        let (node, is_direct) = (route.node.into(), route.is_direct());
        Some((cidr, ChosenRoute { node, is_direct, source, since: route.since }))
    });
    chosen.collect()
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into())
}

/// `CLOCK_MONOTONIC`, seconds.
fn now() -> u32 {
    u32::try_from(clock::monotonic().as_secs()).unwrap_or(u32::MAX)
}

/// What is known of a path's MTU, for the log.
fn mtu(path: &Path) -> String {
    match path.mtu {
        Some(bytes) => format!("the path MTU is {bytes} now"),
        None => "the path MTU is the interface's again".to_owned(),
    }
}

/// Any number but zero, which stands for none.
fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
