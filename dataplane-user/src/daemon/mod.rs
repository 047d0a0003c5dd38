//! `tunless run`: keeps the node as it should be.
//!
//! ```text
//!  kernel, pins, sources        file, memory
//!          │                         │
//!   observe ──────────► decide ──────┴───► apply ──────────► report
//!   what is             what should be     makes it so       status, systemd, log
//! ```
//!
//! Each stage is a folder: [`observe`], [`decide`] (pure), [`apply`], [`report`];
//! [`reconcile`](reconcile) is the way through them. Stopping or killing the daemon stops no
//! packet: programs, maps, device and routes stay.

pub mod apply;
pub mod attempt;
mod config_watch;
mod debounce;
pub mod decide;
pub mod failed_start;
pub mod heard;
mod http;
mod lock;
pub mod observe;
pub mod outside;
pub mod preview;
mod reconcile;
mod reload;
pub mod report;
mod service;
mod shadow;
pub mod silence;
mod spread;
mod start;
pub mod survey;
pub mod underlay_errors;
mod wakes;
mod weigh;

use std::time::Duration;

use anyhow::Result;
use tokio::{sync::watch, time::Instant};

use self::{
    apply::{Applier, memory::MemoryStore},
    attempt::Turn,
    decide::Decider,
    http::Http,
    observe::{Observer, cores::Cores, elsewhere::Elsewhere},
    reconcile::Extent,
    report::{Reporter, Stage},
    silence::Silence,
    underlay_errors::Scope,
    wakes::{Alarms, Wake, Wakes},
};
pub use self::{
    lock::{Held, Lock, is_running, running},
    start::run,
};
use crate::{
    bpf::{Pins, foreign::Reader},
    sources::hub::Hub,
};

/// At least this often everything is compared, whatever was announced.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a failed change is tried again; twice as long each time, up to [`RESYNC`].
const RETRY: Duration = Duration::from_secs(1);
/// How often the programs that all pod traffic needs are checked: nothing announces a pin that
/// is removed, a link that is detached, or metadata that does not arrive.
const CHECK: Duration = Duration::from_millis(500);
/// How often the rules of others are looked at again.
const POLICY: Duration = Duration::from_secs(30);

/// The four stages and what wakes them.
struct Daemon {
    observer: Observer,
    decider: Decider,
    /// Runs the sources that report to the decider.
    hub: Hub,
    /// Once programs are loaded.
    applier: Option<Applier>,
    reporter: Reporter,
    /// Serves metrics and health.
    http: Http,
    wakes: Wakes,
    pins: Pins,
    memory: MemoryStore,
    /// What errors of the underlay are checked against.
    scope: watch::Sender<Scope>,
    /// This host's name, where the file names no node.
    host_name: String,
    bpffs_override: bool,
    /// The file on disk was refused; the reason may go without a new text.
    is_refused: bool,
    /// Routes that are active cannot be read: nothing is applied before every source has
    /// reported its own.
    is_blocked: bool,
    /// nftables were changed since the last reconcile.
    rules_touched: bool,
    /// The programs that all pod traffic needs were not as they should be at the last check.
    needs_repair: bool,
    /// READY was reported.
    is_ready: bool,
    /// The pause after the next failure.
    retry: Duration,
    /// When the rules of others were last looked at.
    policy_seen: Instant,
    /// How busy the CPUs are.
    cores: Cores,
    /// Reads programs of others.
    programs: Reader,
    alarms: Alarms,
    /// Which nodes are sent to and not heard.
    silence: Silence,
    /// Hears encapsulated packets on links without programs.
    elsewhere: Elsewhere,
    lock: Lock,
    /// It runs for the time of `tunless try` alone.
    ends_with_attempt: bool,
}

impl Daemon {
    /// Reconciles for the first time.
    async fn begin(&mut self) -> Result<()> {
        let failure = self.reconcile(Extent::Whole { resync: true }).await;
        // While something serves, the daemon goes on and tries again; else systemd does that.
        if let Some(error) = failure.filter(|_| !self.is_serving()) {
            return Err(error);
        }
        self.announce();
        Ok(())
    }

    /// Reconciles whenever something changes, until a signal ends it.
    async fn run(mut self) -> Result<()> {
        loop {
            service::alive();
            self.name_nodes();
            self.alarms.leases = self.applier.as_ref().and_then(Applier::leases_end_at);
            self.alarms.report = self.reporter.write_at();
            let wake = self.wakes.next(self.alarms).await?;
            if let Wake::Stop(signal) = wake {
                service::stopping();
                self.reporter.write_pending();
                if self.is_shadow() {
                    self.end_shadow().await;
                    tracing::info!(
                        "{signal}: stopped; nothing of `mode: shadow` is attached any more"
                    );
                    return Ok(());
                }
                tracing::info!(
                    "{signal}: stopped; forwarding goes on without the daemon (`tunless detach` \
                     ends it)"
                );
                return Ok(());
            }
            if matches!(wake, Wake::Check) && self.ends_now() {
                return Ok(());
            }
            let is_reload = matches!(wake, Wake::File | Wake::Hangup);
            if let Some(extent) = self.answer(wake).await {
                drop(self.reconcile(extent).await);
            }
            if is_reload {
                self.confirm_reload();
            }
        }
    }

    /// What has to be compared after a wake; `None`: nothing.
    async fn answer(&mut self, wake: Wake) -> Option<Extent> {
        let whole = Extent::Whole { resync: false };
        match wake {
            Wake::Stop(_) => None,
            Wake::Kernel(changes) => {
                let noticed = self.notice(changes);
                // A pod can have this happen as often as it likes: its own entry, and no more.
                if !noticed.pods.is_empty() && !self.readdress_pods(&noticed.pods).await {
                    return Some(whole);
                }
                let extent = match noticed.needs_look {
                    true => Some(whole),
                    false => noticed.is_for_a_step().then_some(Extent::Changes),
                };
                self.decider.notice(noticed, self.observer.host());
                extent
            }
            Wake::Sources(reports) => {
                for (kind, report) in reports {
                    self.reporter.heard(kind);
                    self.decider.take(kind, report);
                }
                Some(Extent::Changes)
            }
            Wake::LeasesDue => {
                if let Some(applier) = &mut self.applier {
                    applier.end_leases();
                }
                None
            }
            Wake::ReportDue => {
                self.reporter.write_pending();
                None
            }
            Wake::Http(trouble) => {
                self.reporter.set(Stage::Http, trouble.into_iter().collect());
                self.reporter.publish();
                None
            }
            Wake::UnderlayError => {
                self.reporter.publish();
                None
            }
            Wake::Resume | Wake::Policies => Some(whole),
            Wake::Rules => {
                self.rules_touched = true;
                Some(whole)
            }
            Wake::Narrowed(nodes) => self.observer.ask_again(nodes).await.then_some(whole),
            Wake::File => {
                let is_new = self.wakes.watch.changed_text() || self.is_refused;
                if is_new {
                    self.reload().await;
                }
                is_new.then_some(whole)
            }
            Wake::Hangup => {
                self.wakes.watch.changed_text();
                self.reload().await;
                Some(whole)
            }
            Wake::Check => {
                self.alarms.check = Instant::now() + CHECK;
                if self.look_at_attempt() == Some(Turn::Kept) {
                    self.keep_attempt();
                    return Some(Extent::Whole { resync: true });
                }
                let needs_repair = self.needs_repair();
                let needed_it = std::mem::replace(&mut self.needs_repair, needs_repair);
                // What could not be repaired at once is tried again at the pace of failures.
                (needs_repair && !needed_it).then_some(Extent::Whole { resync: true })
            }
            Wake::Look => {
                // A directory that is a symlink, or a file system that announces nothing.
                if self.wakes.watch.changed_text() {
                    self.reload().await;
                }
                self.resync().await;
                self.look_at_nodes();
                Some(Extent::Whole { resync: true })
            }
        }
    }
}
