//! Last stage: what is reported, from one list of problems: `tunless status` and its exit code,
//! systemd's status line, the log.

mod check;
mod current;
mod forwarding;
mod ledger;
pub mod names;
mod pace;
mod problem;
mod state;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

pub use self::{
    check::{check, summary},
    current::{SILENCE, current, stuck},
    forwarding::{Ways, forwarding},
    problem::{Code, HOLD, Level, Problem, is_ready},
    state::{ConfigState, Decided, SCHEMA, State, Tunnel, unix_now},
    work::{Last, Work},
};
use self::{ledger::Ledger, pace::Pace};
use super::{decide::Decision, service, silence::SilentNodes, underlay_errors::LatestErrors};
use crate::{
    bpf::{Attachment, Pins, Programs},
    clock,
    config::{Fastpath, Spoof},
    kernel::receive_queues::Cpus,
    sources::{names::NodeNames, status::SourcesStatus},
    vocabulary::SourceKind,
};

/// Which stage found a problem: each stage's own list replaces its former one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The configuration file.
    File,
    /// The pins as the daemon found them.
    Pins,
    /// Sources of routes, and claims.
    Sources,
    /// What was decided.
    Decide,
    /// Routes and nodes.
    Tables,
    /// What could not be put in place.
    Apply,
    /// What is at work.
    Check,
    /// Metrics and health.
    Http,
}

/// Reports.
pub struct Reporter {
    pins: Pins,
    run: String,
    found: BTreeMap<Stage, Vec<Problem>>,
    ledger: Ledger,
    state: State,
    /// As it was last written.
    written: Option<Arc<State>>,
    /// The same for the thread that serves metrics and health.
    shared: watch::Sender<Arc<State>>,
    underlay_errors: Option<watch::Receiver<LatestErrors>>,
    /// What nodes are called, as it was last written.
    names: Option<Arc<NodeNames>>,
    pace: Pace,
}

impl Reporter {
    /// For the instance with these pins. A random number tells this run from others.
    #[must_use]
    pub fn new(pins: &Pins, run: u64, config: ConfigState) -> Self {
        let run = format!("{run:016x}");
        let state = State {
            schema: SCHEMA,
            run: run.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: format!("v{:08x}", dataplane_common::abi::ABI),
            heartbeat: clock::monotonic().as_secs_f64(),
            config,
            problems: Vec::new(),
            decided: None,
            spread: None,
            sources: SourcesStatus::default(),
            underlay_errors: LatestErrors::new(),
            silent: SilentNodes::new(),
            work: Work::begun(),
        };
        let starting = Problem::new(Code::Starting, "", "the daemon has not reconciled yet");
        let state = State { problems: vec![starting], ..state };
        Self {
            pins: pins.clone(),
            run,
            found: BTreeMap::new(),
            ledger: Ledger::default(),
            shared: watch::Sender::new(Arc::new(state.clone())),
            state,
            written: None,
            underlay_errors: None,
            names: None,
            pace: Pace::default(),
        }
    }

    /// The report as it is written, for other threads.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.shared.subscribe()
    }

    /// Replaces what a stage found wrong.
    pub fn set(&mut self, stage: Stage, problems: Vec<Problem>) {
        self.found.insert(stage, problems);
    }

    /// Another configuration is active.
    pub fn set_config(&mut self, config: ConfigState) {
        self.state.config = config;
    }

    /// What was decided, as it is in place: `programs` are those that run.
    /// `postponed`: what the next reconcile attaches.
    pub fn set_decision(
        &mut self,
        decision: Option<&Decision>,
        programs: Option<&Programs>,
        postponed: &BTreeSet<Attachment>,
    ) {
        let (Some(decision), Some(programs)) = (decision, programs) else { return };
        let settings = programs.settings();
        let Decision { facts, mode, node, desired } = decision;
        self.state.decided = Some(Decided {
            mode: mode.mode,
            is_shadow: desired.shadow.is_some(),
            mode_ground: mode.ground.as_str().to_owned(),
            fastpath: Fastpath::from(settings.fastpath),
            spoof: Spoof::from_number(settings.spoof),
            node: node.address,
            node_ground: node.ground.as_str().to_owned(),
            tunnel: Tunnel {
                interface: facts.mode.device().to_owned(),
                ifindex: desired.settings.tunnel_ifindex,
                address: facts.tunnel.address,
                mtu: facts.tunnel.mtu,
            },
            attachments: (&desired.attachments - postponed).into_iter().collect(),
            marks: desired.mark_rules.is_some(),
            has_routes: desired.tables.routes.values().any(dataplane_common::Route::is_destination),
            pods: facts.pods.values().map(|pod| pod.hop.ifindex).collect(),
            plain_underlay: match desired.tables.has_direct() {
                true => facts.underlay.clone(),
                false => BTreeSet::new(),
            },
        });
    }

    /// What is in place, as last reported.
    #[must_use]
    pub fn decided(&self) -> Option<&Decided> {
        self.state.decided.as_ref()
    }

    /// Where the latest errors of the underlay are found.
    pub fn set_underlay_errors(&mut self, errors: watch::Receiver<LatestErrors>) {
        self.underlay_errors = Some(errors);
    }

    /// Which nodes are sent to and not heard.
    pub fn set_silent(&mut self, silent: &SilentNodes) {
        self.state.silent.clone_from(silent);
    }

    /// Writes what nodes are called, if that is not what was written last.
    pub fn name_nodes(&mut self, names: &Arc<NodeNames>) {
        if self.names.as_ref().is_some_and(|written| Arc::ptr_eq(written, names)) {
            return;
        }
        self.names = Some(Arc::clone(names));
        if let Err(error) = names::write(&self.pins, names) {
            tracing::warn!("lists will have old names of nodes: {error:#}");
        }
    }

    /// Over which CPUs received packets are spread.
    pub fn set_spread(&mut self, cpus: Option<Cpus>) {
        self.state.spread = cpus;
    }

    /// How the sources are.
    pub fn set_sources(&mut self, status: SourcesStatus) {
        self.state.sources = status;
    }

    /// Everything was compared just now, in this time; `is_complete`: and put in place.
    pub fn beat(&mut self, took: Duration, is_complete: bool) {
        self.state.heartbeat = clock::monotonic().as_secs_f64();
        self.state.work.compared(took, is_complete);
    }

    /// What has changed was put in place, and nothing else compared.
    pub fn stepped(&mut self) {
        self.state.work.changes += 1;
    }

    /// A source has reported.
    pub fn heard(&mut self, source: SourceKind) {
        self.state.work.heard.insert(source, unix_now());
    }

    /// Logs what came and what went, and writes the report if it differs: at once if other
    /// problems are in it, else some times a second at most.
    pub fn publish(&mut self) {
        let problems = self.found.values().flatten().cloned();
        self.ledger.update(problems, unix_now()).log();
        self.state.problems = self.ledger.problems();
        if let Some(errors) = &self.underlay_errors {
            self.state.underlay_errors.clone_from(&errors.borrow());
        }
        let Some(written) = &self.written else {
            return self.write();
        };
        if **written == self.state {
            self.pace.clear();
        } else if self.pace.may_write(is_urgent(written, &self.state)) {
            self.write();
        }
    }

    /// When [`Self::write_pending`] is to be called, if at all.
    #[must_use]
    pub fn write_at(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Writes what was put off, if anything was.
    pub fn write_pending(&mut self) {
        if self.pace.due().is_some() {
            self.pace.clear();
            self.write();
        }
    }

    fn write(&mut self) {
        let state = Arc::new(self.state.clone());
        self.shared.send_replace(Arc::clone(&state));
        match state.write(&self.pins) {
            Ok(()) => self.written = Some(state),
            Err(error) => tracing::warn!("`tunless status` will be out of date: {error:#}"),
        }
    }

    /// All problems, the gravest first.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.state.problems
    }

    /// Reports to systemd that the daemon is ready; `routes`, `endpoints`: how many there are.
    pub fn ready(&self, routes: usize, endpoints: usize) {
        service::ready(&summary(routes, endpoints, &self.state.problems));
    }

    /// The random number of this run.
    #[must_use]
    pub fn run(&self) -> &str {
        &self.run
    }
}

/// Whether the report must not be put off: other problems, another level, another file, or the
/// first decision. That a cause has other words is not urgent.
fn is_urgent(written: &State, now: &State) -> bool {
    let problems = |state: &State| -> BTreeSet<_> {
        let problems = state.problems.iter();
        problems.map(|problem| (problem.key(), problem.level)).collect()
    };
    written.config != now.config
        || written.decided.is_some() != now.decided.is_some()
        || problems(written) != problems(now)
}
