//! All that can wake the daemon, as one stream. What comes in bursts is gathered first.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use dataplane_common::Mtu;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    config_watch::ConfigWatch,
    debounce::Debounced,
    http::Troubles,
    report::Problem,
    underlay_errors::{LatestErrors, UnderlayErrors},
};
use crate::{
    kernel::{Announcements, Changes, Events},
    sources::{Report, SourceKind, hub::Reports},
};

/// Events within this time are answered together: pods come in hundreds.
const GATHER: Duration = Duration::from_millis(20);
/// How soon our nft table is looked at after another program changed nftables.
const RULES: Duration = Duration::from_millis(200);
/// How soon the kernel is asked again for the path to a node whose path has become
/// too narrow: the error reaches us a moment before the kernel has drawn its conclusion.
const PATHS: Duration = Duration::from_millis(20);
/// How soon an error of the underlay is in the report.
const ERRORS: Duration = Duration::from_millis(250);

/// What woke the daemon.
pub enum Wake {
    /// The kernel announced changes.
    Kernel(Changes),
    /// Sources have something to report.
    Sources(Vec<(SourceKind, Report)>),
    /// Leases of what changed a moment ago are to be ended.
    LeasesDue,
    /// A report that was put off is to be written.
    ReportDue,
    /// nftables were changed.
    Rules,
    /// Metrics and health are served, or this keeps them from it.
    Http(Option<Problem>),
    /// IPsec policies were changed.
    Policies,
    /// Outer packets were too big for the paths to these nodes, which take no more than so much.
    Narrowed(BTreeMap<Ipv4Addr, Mtu>),
    /// The underlay reported that packets do not get to a node.
    UnderlayError,
    /// The configuration file was saved.
    File,
    /// SIGHUP.
    Hangup,
    /// Time to look at everything.
    Look,
    /// Time to go on with what the last reconcile left: programs on pods' interfaces.
    Resume,
    /// Time to check that the programs on the NIC and the tunnel device are attached.
    Check,
    /// A signal that ends the daemon, by its name.
    Stop(&'static str),
}

/// When the daemon wakes by itself.
#[derive(Clone, Copy)]
pub struct Alarms {
    /// [`Wake::Look`].
    pub look: Instant,
    /// [`Wake::Check`].
    pub check: Instant,
    /// [`Wake::Resume`], if anything was left.
    pub resume: Option<Instant>,
    /// [`Wake::LeasesDue`], if at all.
    pub leases: Option<Instant>,
    /// [`Wake::ReportDue`], if at all.
    pub report: Option<Instant>,
}

/// Where wakes come from.
pub struct Wakes {
    events: Events,
    kernel: Debounced<Changes>,
    rule_events: Option<Announcements>,
    rules: Debounced<()>,
    policy_events: Option<Announcements>,
    policies: Debounced<()>,
    underlay_errors: UnderlayErrors,
    narrowed: Debounced<BTreeMap<Ipv4Addr, Mtu>>,
    latest_errors: watch::Receiver<LatestErrors>,
    errors: Debounced<()>,
    reports: Reports,
    troubles: Troubles,
    /// The configuration file.
    pub watch: ConfigWatch,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Wakes {
    /// Listens to all of them from now on.
    ///
    /// # Errors
    /// If a signal cannot be listened to.
    pub fn new(
        events: Events,
        reports: Reports,
        underlay_errors: UnderlayErrors,
        troubles: Troubles,
        watch: ConfigWatch,
    ) -> Result<Self> {
        Ok(Self {
            events,
            kernel: Debounced::new(GATHER),
            rule_events: Announcements::of_nftables()
                .inspect_err(|error| tracing::warn!("{error:#}; changes are found every 10 s"))
                .ok(),
            rules: Debounced::new(RULES),
            // A kernel without xfrm has no policies either.
            policy_events: Announcements::of_xfrm().ok(),
            policies: Debounced::new(GATHER),
            latest_errors: underlay_errors.latest(),
            errors: Debounced::new(ERRORS),
            underlay_errors,
            narrowed: Debounced::new(PATHS),
            reports,
            troubles,
            watch,
            hangup: signal(SignalKind::hangup()).context("listening to SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("listening to SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening to SIGINT")?,
        })
    }

    /// Waits for the next wake.
    ///
    /// # Errors
    /// If the kernel closed a socket for good.
    pub async fn next(&mut self, alarms: Alarms) -> Result<Wake> {
        let leases = alarms.leases.unwrap_or(alarms.look);
        let resume = alarms.resume.unwrap_or(alarms.look);
        let report = alarms.report.unwrap_or(alarms.look);
        loop {
            tokio::select! {
                changes = self.events.changed() => {
                    let changes = changes?;
                    self.kernel.add(|gathered| gathered.append(changes));
                }
                () = self.kernel.due() => {
                    // What came while we slept, too.
                    let mut changes = self.kernel.take();
                    changes.append(self.events.pending());
                    return Ok(Wake::Kernel(changes));
                }
                Some(first) = self.reports.recv() => {
                    let mut reports = vec![first];
                    while let Ok(next) = self.reports.try_recv() {
                        reports.push(next);
                    }
                    return Ok(Wake::Sources(reports));
                }
                changed = changed(&mut self.rule_events) => {
                    changed?;
                    self.rules.add(|()| ());
                }
                changed = changed(&mut self.policy_events) => {
                    changed?;
                    self.policies.add(|()| ());
                }
                () = self.policies.due() => {
                    self.policies.take();
                    return Ok(Wake::Policies);
                }
                () = self.rules.due() => {
                    self.rules.take();
                    return Ok(Wake::Rules);
                }
                (node, mtu) = self.underlay_errors.narrowed() => {
                    self.narrowed.add(|nodes| {
                        let least = nodes.entry(node).or_insert(mtu);
                        *least = mtu.min(*least);
                    });
                }
                () = self.narrowed.due() => return Ok(Wake::Narrowed(self.narrowed.take())),
                Ok(()) = self.latest_errors.changed() => self.errors.add(|()| ()),
                () = self.errors.due() => {
                    self.errors.take();
                    return Ok(Wake::UnderlayError);
                }
                trouble = self.troubles.changed() => return Ok(Wake::Http(trouble)),
                () = self.watch.changed() => return Ok(Wake::File),
                _ = self.hangup.recv() => return Ok(Wake::Hangup),
                _ = self.terminate.recv() => return Ok(Wake::Stop("SIGTERM")),
                _ = self.interrupt.recv() => return Ok(Wake::Stop("SIGINT")),
                () = sleep_until(alarms.look) => return Ok(Wake::Look),
                () = sleep_until(resume), if alarms.resume.is_some() => return Ok(Wake::Resume),
                () = sleep_until(alarms.check) => return Ok(Wake::Check),
                () = sleep_until(report), if alarms.report.is_some() => {
                    return Ok(Wake::ReportDue);
                }
                () = sleep_until(leases), if alarms.leases.is_some() => {
                    return Ok(Wake::LeasesDue);
                }
            }
        }
    }
}

/// As [`Announcements::changed`]; without events for ever.
async fn changed(events: &mut Option<Announcements>) -> Result<()> {
    match events {
        Some(events) => events.changed().await,
        None => std::future::pending().await,
    }
}
