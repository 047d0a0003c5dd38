//! One round of reconciliation. The steps of a round are the files beside this one.

mod apply;
mod fastpath;
mod handovers;
mod host;
mod kernel_changes;
mod leases_end;
mod order;
mod other_tunl0;
mod outcome;
mod report;
mod secret;
mod sources;
mod step;
mod tunnel;
mod ways;

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::Result;
use tokio::{sync::watch, time::Instant};

use self::{leases_end::LeasesEnd, sources::in_force, tunnel::tunnel};
pub use self::{outcome::Outcome, step::Step};
use super::{handovers::Handovers, next_hops::NextHops, underlay_errors::Scope};
use crate::{
    bpf::{Maps, Pins, Programs},
    clock,
    config::{ConfigFile, Fastpath},
    desired::{ChosenRoutes, Desired, Facts, Inputs, Paths, Terms, TunnelMode},
    kernel::{Host, Kernel},
    sources::{
        hub::{Reports, Sources},
        status::{SourceStatus, SourcesStatus},
        table::RouteTable,
    },
    tables::{KnownRules, Round},
};

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

    /// Somebody changed nftables: look at our table in the next round.
    pub fn rules_touched(&mut self) {
        self.rules_touched = true;
    }

    /// Compares everything and mends what differs. `resync` asks the kernel
    /// again for every way, because a path MTU changes without an event.
    ///
    /// # Errors
    /// If so much is missing that nothing could be compared. What failed for a
    /// single entry is in the outcome and will be tried again.
    pub async fn round(&mut self, resync: bool) -> Result<Outcome> {
        let host = self.kernel.look().await?;
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
        let host = self.make_tunnel(host, &facts).await?;
        let (tunnel_ifindex, tunnel) = tunnel(mode, &host)?;
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
            tunnel: tunnel_ifindex,
        };
        let desired = Desired::new(inputs, self.sources.table().routes(), tunnel, terms);
        self.host = host;
        self.touched.clear();

        self.load(&desired, &mut round)?;
        let may_have_changed = resync || std::mem::take(&mut self.rules_touched);
        self.apply(&desired, may_have_changed, &mut round).await?;
        round.attempt(self.tidy_up(&desired, &facts).await);
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

/// `CLOCK_MONOTONIC`, seconds.
fn now() -> u32 {
    u32::try_from(clock::monotonic().as_secs()).unwrap_or(u32::MAX)
}
