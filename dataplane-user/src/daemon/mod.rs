//! `tunless run`: keeps what is equal to what should be.
//!
//! Every change, be it the kernel's, the file's or a failure's retry, ends in the
//! same [`round`](round::Reconciler::round). Stopping or killing the daemon stops
//! no packet: programs, maps, device and routes stay.

mod config_watch;
mod lock;
mod next_hops;
mod raw_socket;
mod round;
mod service;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use self::{
    config_watch::ConfigWatch,
    round::{Outcome, Reconciler},
};
use crate::{
    bpf::{Pins, programs::require_tcx},
    config::{ConfigFile, Fastpath},
    kernel::{Events, Kernel},
    policy::{self, Finding},
};

pub use self::lock::{Lock, is_running};

/// At least this often everything is compared, whatever was announced.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a failed change is tried again; twice as long each time, up to [`RESYNC`].
const RETRY: Duration = Duration::from_secs(1);
/// Events within this time make one round: pods come in hundreds.
const GATHER: Duration = Duration::from_millis(20);
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
    let mut reconciler = Reconciler::new(kernel, file);
    reconciler.check_host(reconciler.file()).await?;
    require_tcx()?;
    let pins = Pins::new(reconciler.file().config.bpffs.as_ref());
    if let Err(error) = refuse_untrusted(reconciler.file()) {
        // Programs of an earlier run may be at work, and refusing to start
        // would leave them so: they are replaced by ones that let the stack judge.
        if !pins.exist() {
            return Err(error);
        }
        reconciler.withhold_fastpath(Some(format!("{error:#}")));
    }
    pins.prepare()?;
    let lock = Lock::take(&pins)?;
    Daemon {
        events,
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
    let reconciler = Reconciler::new(Kernel::connect()?, file.clone());
    reconciler.check_host(file).await?;
    refuse_untrusted(file)
}

/// `trusted` and somebody else's rules exclude each other, unless the operator says otherwise.
fn refuse_untrusted(file: &ConfigFile) -> Result<()> {
    if file.config.fastpath != Fastpath::Trusted || file.config.i_accept_no_network_policy {
        return Ok(());
    }
    let remedy = "use `fastpath: off`, or set `i_accept_no_network_policy: true` if nobody relies \
                  on NetworkPolicy or Services";
    match policy::look() {
        Finding::Nothing => Ok(()),
        Finding::Rules(found) => {
            bail!("{}: fastpath: `trusted` would skip {found}; {remedy}", file.path.display())
        }
        Finding::Unknown(why) => bail!(
            "{}: fastpath: cannot tell whether `trusted` would skip anybody's rules: {why}; {remedy}",
            file.path.display()
        ),
    }
}

struct Daemon {
    events: Events,
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
    Kernel,
    File,
    Hangup,
    Time,
    Stop(&'static str),
}

impl Daemon {
    async fn run(mut self) -> Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("watching SIGHUP")?;
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;

        let outcome = self.reconciler.round(true).await?;
        self.reconciler.announce();
        let mut is_ready = outcome.is_complete();
        self.tell(&outcome, is_ready);
        let mut next = self.next_round(outcome.is_complete());

        loop {
            let wake = self.wait(next, &mut hangup, &mut terminate, &mut interrupt).await?;
            let resync = matches!(wake, Wake::Time);
            match wake {
                Wake::Stop(signal) => break self.stop(signal),
                Wake::Kernel => sleep(GATHER).await,
                Wake::File => {
                    if self.watch.changed_text() || self.refused {
                        self.reload().await;
                    } else {
                        continue;
                    }
                }
                Wake::Hangup => {
                    self.watch.changed_text();
                    self.reload().await;
                }
                Wake::Time => {
                    // Whatever changed without a word: a directory that is a
                    // symlink, a file system that announces nothing.
                    if self.watch.changed_text() {
                        self.reload().await;
                    }
                    self.resync().await;
                }
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
            if is_ready && matches!(wake, Wake::File | Wake::Hangup) {
                service::ready_again();
            }
        }
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
        let wake = tokio::select! {
            changed = self.events.changed() => { changed?; Wake::Kernel }
            () = self.watch.changed() => Wake::File,
            _ = hangup.recv() => Wake::Hangup,
            _ = terminate.recv() => Wake::Stop("SIGTERM"),
            _ = interrupt.recv() => Wake::Stop("SIGINT"),
            () = sleep_until(next) => Wake::Time,
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
        if self.policy_seen.elapsed() >= POLICY {
            self.policy_seen = Instant::now();
            // At boot we come before Felix and kube-proxy; they are found here.
            let reason = refuse_untrusted(self.reconciler.file()).err();
            self.reconciler.withhold_fastpath(reason.map(|error| format!("{error:#}")));
        }
    }

    /// Takes the file over if it is sane, else keeps everything as it was.
    async fn reload(&mut self) {
        service::reloading();
        match self.read_again().await {
            Ok((file, withheld)) => {
                tracing::info!("{}: applying the new configuration", file.path.display());
                self.refused = false;
                self.reconciler.replace(file, withheld);
            }
            Err(error) => {
                self.refused = true;
                tracing::error!("the new configuration is refused, the old one stays:\n{error:#}");
                service::status("the new configuration was refused; the old one stays");
            }
        }
    }

    /// The file, and why its fast path has to be withheld, if so.
    async fn read_again(&self) -> Result<(ConfigFile, Option<String>)> {
        let running = self.reconciler.file();
        let mut file = ConfigFile::read(&running.path)?;
        if self.bpffs_override {
            file.config.bpffs.clone_from(&running.config.bpffs);
        } else if file.config.bpffs != running.config.bpffs {
            bail!("{}: bpffs: changes only with a restart", file.path.display());
        }
        self.reconciler.check_host(&file).await?;
        match refuse_untrusted(&file) {
            Ok(()) => Ok((file, None)),
            // Nothing new: the rules came later, and routes must go on changing.
            Err(error) if running.config.fastpath == Fastpath::Trusted => {
                Ok((file, Some(format!("{error:#}"))))
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
