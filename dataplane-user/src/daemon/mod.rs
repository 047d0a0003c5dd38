//! `tunless run`: keeps what is equal to what should be.
//!
//! Every change, be it the kernel's, the file's or a failure's retry, ends in the
//! same [`round`](round::Reconciler::round). Stopping or killing the daemon stops
//! no packet: programs, maps, device and routes stay.

mod config_watch;
mod fitness;
mod handovers;
mod lock;
mod next_hops;
mod raw_socket;
mod round;
mod service;
pub mod survey;
mod underlay_errors;

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use self::{
    config_watch::ConfigWatch,
    fitness::Depth,
    round::{Outcome, Reconciler, Step},
    underlay_errors::UnderlayErrors,
};
use crate::{
    bpf::Pins,
    config::{ConfigFile, Fastpath},
    kernel::{Changes, Events, Kernel, RuleEvents},
    sources::{Report, SourceKind, hub::Reports},
};

pub use self::lock::{Held, Lock, is_running};

/// At least this often everything is compared, whatever was announced.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a failed change is tried again; twice as long each time, up to [`RESYNC`].
const RETRY: Duration = Duration::from_secs(1);
/// Events within this time make one round: pods come in hundreds.
const GATHER: Duration = Duration::from_millis(20);
/// How soon our nft table is looked at after somebody changed nftables.
const RULES: Duration = Duration::from_millis(200);
/// How soon the kernel is asked again for the way to a node whose path has become
/// too narrow: the error reaches us a moment before the kernel has drawn its conclusion.
const WAYS: Duration = Duration::from_millis(20);
/// How often the rules of others are looked at again.
const POLICY: Duration = Duration::from_secs(30);

/// Runs until told to stop.
///
/// # Errors
/// If the configuration is refused, another instance has the same pins, or the
/// programs cannot be loaded. Later failures are reported and retried instead.
pub async fn run(path: &Path, bpffs: Option<&Path>) -> Result<()> {
    let mut file = ConfigFile::read(path)?;
    if let Some(directory) = bpffs {
        directory.clone_into(&mut file.config.bpffs.0);
    }
    // Before the first look, so that nothing happens unseen in between.
    let events = Events::subscribe()?;
    let kernel = Kernel::connect()?;
    let (mut reconciler, reports) = Reconciler::new(kernel, file);
    let node = reconciler.check_host(reconciler.file()).await?;
    let pins = Pins::new(reconciler.file().config.bpffs.as_ref());
    let file = reconciler.file().clone();
    if let Err(error) = reconciler.judge_fastpath(&file, Depth::Whole).await {
        // Programs of an earlier run may be at work, and refusing to start
        // would leave them so: they are replaced by ones that let the stack judge.
        if !pins.exist() {
            return Err(error);
        }
        reconciler.withhold_fastpath(Some(format!("{error:#}")));
    }
    pins.prepare()?;
    let lock = Lock::take(&pins)?;
    reconciler.start_sources(node);
    Daemon {
        events,
        reports,
        rule_events: RuleEvents::subscribe()
            .inspect_err(|error| tracing::warn!("{error:#}; changes are found every 10 s"))
            .ok(),
        rules_due: None,
        // Before packets go out about which there could be errors.
        underlay_errors: UnderlayErrors::listen(reconciler.scope()),
        narrowed: BTreeSet::new(),
        ways_due: None,
        watch: ConfigWatch::new(path, reconciler.file().text())?,
        refused: false,
        reconciler,
        bpffs_override: bpffs.is_some(),
        retry: RETRY,
        policy_seen: Instant::now(),
        _raw_socket: raw_socket::open(),
        _lock: lock,
    }
    .run()
    .await
}

/// Judges a file by this host, as the daemon would at its start.
///
/// # Errors
/// If it does not fit.
pub async fn check_here(file: &ConfigFile) -> Result<()> {
    let (mut reconciler, _) = Reconciler::new(Kernel::connect()?, file.clone());
    reconciler.check_host(file).await?;
    reconciler.judge_fastpath(file, Depth::Whole).await
}

/// As [`RuleEvents::changed`]; without events for ever.
async fn rules_changed(events: &mut Option<RuleEvents>) -> Result<()> {
    match events {
        Some(events) => events.changed().await,
        None => std::future::pending().await,
    }
}

struct Daemon {
    events: Events,
    /// What the sources of routes say.
    reports: Reports,
    rule_events: Option<RuleEvents>,
    /// When to look at our nft table: others' may change all the time.
    rules_due: Option<Instant>,
    underlay_errors: UnderlayErrors,
    /// Nodes whose path MTU may be another now.
    narrowed: BTreeSet<Ipv4Addr>,
    /// When to ask for the ways to them.
    ways_due: Option<Instant>,
    watch: ConfigWatch,
    reconciler: Reconciler,
    bpffs_override: bool,
    /// The file as it is was refused; that may be mended without a new text.
    refused: bool,
    /// The pause after the next failure.
    retry: Duration,
    /// When the rules of others were last looked at.
    policy_seen: Instant,
    /// Keeps the kernel from answering "protocol unreachable" for us.
    _raw_socket: Option<socket2::Socket>,
    _lock: Lock,
}

/// What woke the daemon.
enum Wake {
    Kernel(Changes),
    /// A source has something to say.
    Source(SourceKind, Report),
    /// Time to end leases of what changed a moment ago.
    LeasesDue,
    /// Somebody changed nftables.
    Rules,
    /// Time to see whether it was ours.
    RulesDue,
    /// An outer packet was too big for the path to this node.
    Narrowed(Ipv4Addr),
    /// Time to see what the kernel has learnt of that.
    WaysDue,
    File,
    Hangup,
    Time,
    Stop(&'static str),
}

/// What is to be done then.
enum Answer {
    /// Everything is to be compared.
    Round,
    /// Nothing more.
    Wait,
    /// The end; the signal's name.
    Stop(&'static str),
}

impl Daemon {
    async fn run(mut self) -> Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("watching SIGHUP")?;
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;

        if let Some(signal) = self.await_sources(&mut terminate, &mut interrupt).await {
            return self.stop(signal);
        }
        let outcome = self.reconciler.round(true).await?;
        self.reconciler.announce();
        let mut is_ready = outcome.is_complete();
        self.tell(&outcome, is_ready);
        let mut next = self.next_round(outcome.is_complete());

        loop {
            let wake = self.wait(next, &mut hangup, &mut terminate, &mut interrupt).await?;
            let resync = matches!(wake, Wake::Time);
            let is_reload = matches!(wake, Wake::File | Wake::Hangup);
            match self.answer(wake).await {
                Answer::Round => {}
                Answer::Wait => continue,
                Answer::Stop(signal) => break self.stop(signal),
            }
            let complete = match self.reconciler.round(resync).await {
                Ok(outcome) => {
                    is_ready |= outcome.is_complete();
                    self.tell(&outcome, is_ready);
                    outcome.is_complete()
                }
                Err(error) => {
                    self.reconciler.give_up(&error);
                    false
                }
            };
            let after = self.next_round(complete);
            // However much the kernel has to announce, it must not put this off.
            next = if resync { after } else { next.min(after) };
            if is_ready && is_reload {
                service::ready_again();
            }
        }
    }

    /// Does what it was woken for, as far as that can be done without a round.
    async fn answer(&mut self, wake: Wake) -> Answer {
        let needs_round = match wake {
            Wake::Stop(signal) => return Answer::Stop(signal),
            Wake::Kernel(changes) => {
                sleep(GATHER).await;
                self.reconciler.kernel_changed(changes) || self.step().await == Step::NeedsRound
            }
            Wake::Source(kind, report) => {
                self.take_reports(kind, report);
                self.step().await == Step::NeedsRound
            }
            Wake::LeasesDue => {
                self.reconciler.end_leases();
                false
            }
            Wake::Rules => {
                self.rules_due.get_or_insert_with(|| Instant::now() + RULES);
                false
            }
            Wake::RulesDue => {
                self.rules_due = None;
                self.reconciler.rules_touched();
                true
            }
            Wake::Narrowed(node) => {
                self.narrowed.insert(node);
                self.ways_due.get_or_insert_with(|| Instant::now() + WAYS);
                false
            }
            Wake::WaysDue => {
                self.ways_due = None;
                let nodes = std::mem::take(&mut self.narrowed);
                self.reconciler.ask_again(nodes).await
            }
            Wake::File => {
                let is_new = self.watch.changed_text() || self.refused;
                if is_new {
                    self.reload().await;
                }
                is_new
            }
            Wake::Hangup => {
                self.watch.changed_text();
                self.reload().await;
                true
            }
            Wake::Time => {
                // Whatever changed without a word: a directory that is a
                // symlink, a file system that announces nothing.
                if self.watch.changed_text() {
                    self.reload().await;
                }
                self.resync().await;
                true
            }
        };
        if needs_round { Answer::Round } else { Answer::Wait }
    }

    /// While programs of another version serve by routes we cannot read, nothing is
    /// touched before the sources have told us as much. The signal that ended it.
    async fn await_sources(
        &mut self,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> Option<&'static str> {
        if self.reconciler.waits_for_sources() {
            tracing::info!("{}", self.reconciler.awaited());
        }
        while self.reconciler.waits_for_sources() {
            service::alive();
            // Each time anew: systemd's patience with a start that takes long is 60 s.
            service::starting(&self.reconciler.awaited());
            tokio::select! {
                Some((kind, report)) = self.reports.recv() => self.take_reports(kind, report),
                _ = terminate.recv() => return Some("SIGTERM"),
                _ = interrupt.recv() => return Some("SIGINT"),
                () = sleep(RETRY) => {}
            }
        }
        None
    }

    /// This report and all that are there already.
    fn take_reports(&mut self, kind: SourceKind, report: Report) {
        self.reconciler.take(kind, report);
        while let Ok((kind, report)) = self.reports.try_recv() {
            self.reconciler.take(kind, report);
        }
    }

    /// Puts in place what the sources have changed, if that can be done without a
    /// whole round.
    async fn step(&mut self) -> Step {
        self.reconciler.step().await.unwrap_or_else(|error| {
            tracing::warn!("{error:#}");
            Step::NeedsRound
        })
    }

    /// READY once everything was in place for the first time, not before.
    fn tell(&self, outcome: &Outcome, is_ready: bool) {
        if is_ready {
            service::ready(&outcome.summary());
        } else {
            service::starting(&outcome.summary());
        }
    }

    async fn wait(
        &mut self,
        next: Instant,
        hangup: &mut Signal,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> Result<Wake> {
        service::alive();
        let rules_due = self.rules_due.unwrap_or(next);
        let ways_due = self.ways_due.unwrap_or(next);
        let leases_due = self.reconciler.leases_end_at().unwrap_or(next);
        let wake = tokio::select! {
            changes = self.events.changed() => Wake::Kernel(changes?),
            Some((kind, report)) = self.reports.recv() => Wake::Source(kind, report),
            changed = rules_changed(&mut self.rule_events), if self.rules_due.is_none() => {
                changed?;
                Wake::Rules
            }
            node = self.underlay_errors.narrowed() => Wake::Narrowed(node),
            () = self.watch.changed() => Wake::File,
            _ = hangup.recv() => Wake::Hangup,
            _ = terminate.recv() => Wake::Stop("SIGTERM"),
            _ = interrupt.recv() => Wake::Stop("SIGINT"),
            () = sleep_until(next) => Wake::Time,
            () = sleep_until(leases_due), if self.reconciler.leases_end_at().is_some() => {
                Wake::LeasesDue
            }
            () = sleep_until(rules_due), if self.rules_due.is_some() => Wake::RulesDue,
            () = sleep_until(ways_due), if self.ways_due.is_some() => Wake::WaysDue,
        };
        Ok(wake)
    }

    fn next_round(&mut self, complete: bool) -> Instant {
        let pause = if complete { RESYNC } else { self.retry };
        self.retry = if complete { RETRY } else { (self.retry * 2).min(RESYNC) };
        Instant::now() + service::watchdog().map_or(pause, |limit| pause.min(limit / 2))
    }

    async fn resync(&mut self) {
        self.reconciler.refresh_next_hops().await;
        let file = self.reconciler.file().clone();
        if file.config.fastpath != Fastpath::Verified {
            if self.policy_seen.elapsed() < POLICY {
                return;
            }
            self.policy_seen = Instant::now();
        }
        // At boot we come before Felix and kube-proxy; they are found here.
        // What was missing at the start is looked for again.
        let depth = if self.reconciler.is_withheld() { Depth::Whole } else { Depth::Quick };
        let reason = self.reconciler.judge_fastpath(&file, depth).await.err();
        self.reconciler.withhold_fastpath(reason.map(|error| format!("{error:#}")));
    }

    /// Takes the file over if it is sane, else keeps everything as it was.
    async fn reload(&mut self) {
        service::reloading();
        match self.read_again().await {
            Ok((file, withheld, node)) => {
                tracing::info!("{}: applying the new configuration", file.path.display());
                self.refused = false;
                self.reconciler.replace(file, withheld, node);
            }
            Err(error) => {
                self.refused = true;
                tracing::error!("the new configuration is refused, the old one stays:\n{error:#}");
                service::status("the new configuration was refused; the old one stays");
            }
        }
    }

    /// The file, why its fast path has to be withheld, if so, and our node address.
    async fn read_again(&mut self) -> Result<(ConfigFile, Option<String>, Ipv4Addr)> {
        let running = self.reconciler.file().clone();
        let mut file = ConfigFile::read(&running.path)?;
        if self.bpffs_override {
            file.config.bpffs.clone_from(&running.config.bpffs);
        } else if file.config.bpffs != running.config.bpffs {
            bail!("{}: bpffs: changes only with a restart", file.path.display());
        }
        let node = self.reconciler.check_host(&file).await?;
        match self.reconciler.judge_fastpath(&file, Depth::Whole).await {
            Ok(()) => Ok((file, None, node)),
            // Nothing new: what forbids it came later, and routes must go on changing.
            Err(error)
                if running.config.fastpath == file.config.fastpath
                    && running.config.leases == file.config.leases =>
            {
                Ok((file, Some(format!("{error:#}")), node))
            }
            Err(error) => Err(error),
        }
    }

    fn stop(&self, signal: &str) -> Result<()> {
        service::stopping();
        tracing::info!(
            "{signal}: stopped; forwarding goes on without us (`tunless detach` ends it)"
        );
        Ok(())
    }
}
