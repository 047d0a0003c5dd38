//! May the configured fast path be had on this host?
//!
//! `trusted` skips netfilter, so it is refused where somebody relies on it;
//! `verified` follows netfilter, so it is refused where netfilter is not the
//! judge.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use dataplane_common::IfIndex;

use crate::{
    bpf::{Pins, foreign::Reader, links, programs::as_filters},
    config::{ConfigFile, Fastpath, LeasesConfig, Problem},
    daemon::decide::Fitness,
    desired,
    kernel::{Host, Kernel},
    netfilter::{self, MarkRules, ServiceFitness, UnansweredFitness, conntrack},
};

use super::{
    policy::{self, Finding},
    policy_routing,
    programs::{Foreign, Terms, foreign},
    rules::{self, Found},
};

/// How much of the host is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Depth<'a> {
    /// Everything: before a configuration is taken.
    Whole,
    /// What may have changed meanwhile and costs little to look at. For the rest, what was found before.
    Quick(&'a Fitness),
}

/// Returns what is to be known of a host that is fit for it.
///
/// # Errors
/// If the fast path must not be had: why, and what to do.
pub async fn judge(
    kernel: &Kernel,
    host: &Host,
    pins: &Pins,
    file: &ConfigFile,
    programs: &mut Reader,
    depth: Depth<'_>,
) -> Result<Fitness> {
    if file.config.fastpath != Fastpath::Verified {
        // Nothing is read of others.
        *programs = Reader::default();
    }
    match file.config.fastpath {
        Fastpath::Off => Ok(Fitness::default()),
        Fastpath::Trusted => refuse_untrusted(host, file).map(|()| Fitness::default()),
        Fastpath::Verified => judge_verified(kernel, host, pins, file, programs, depth).await,
    }
}

/// `trusted` and somebody else's rules exclude each other, unless the operator says otherwise.
fn refuse_untrusted(host: &Host, file: &ConfigFile) -> Result<()> {
    // That no policies are wanted says nothing about where packets go, nor how.
    if let Some(found) = policy_routing::of_pods(host) {
        bail!(
            "{}: fastpath: `trusted` would pass by {found}, which may send pods' packets another \
             way; use `fastpath: verified` or `fastpath: off`",
            file.path.display()
        );
    }
    if file.config.i_accept_no_network_policy {
        return Ok(());
    }
    let remedy = "use `fastpath: verified` or `fastpath: off`, or set \
                  `i_accept_no_network_policy: true` if nobody relies on NetworkPolicy or Services";
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

async fn judge_verified(
    kernel: &Kernel,
    host: &Host,
    pins: &Pins,
    file: &ConfigFile,
    programs: &mut Reader,
    depth: Depth<'_>,
) -> Result<Fitness> {
    let shown = file.path.display();
    let leases = &file.config.leases;
    let remedy = "or use `fastpath: off`";
    if matches!(depth, Depth::Whole) {
        netfilter::check(&probe(leases)).map_err(|error| {
            anyhow::anyhow!(
                "{shown}: fastpath: `verified` needs nftables with conntrack to judge flows: \
                 {error:#}; {remedy}"
            )
        })?;
    }
    for sysctl in conntrack::RELAXED {
        conntrack::read(sysctl.name).map_err(|error| {
            anyhow::anyhow!("{shown}: fastpath: `verified` needs conntrack: {error:#}; {remedy}")
        })?;
    }
    if let Err(error) = conntrack::check_lease(leases.seconds) {
        let path = ["leases".into(), "seconds".into()];
        file.refuse(vec![Problem::new(path, format!("{error:#}"), remedy)])?;
    }
    let pods = desired::local_pods(&file.config, host);
    let ours = links::list(pins)?.into_iter().map(|(_, link)| link.program_id).collect();
    let interfaces: BTreeSet<IfIndex> = pods.values().map(|pod| pod.hop.ifindex).collect();
    let terms = Terms {
        ours: &ours,
        accepted: &leases.accept_programs,
        as_filters: as_filters(file.config.attach),
    };
    let Foreign { program, filtered, misplaced } =
        foreign(kernel, host, &interfaces, programs, terms)
            .await
            .context("looking for programs of others on the pods' interfaces")?;
    if let Some(found) = program {
        bail!(
            "{shown}: fastpath: `verified` follows netfilter, but {found} may decide about pods' \
             packets here, as Felix's eBPF data plane does; if it only watches, list its name in \
             leases.accept_programs; else remove it, {remedy}"
        );
    }
    let found = rules::find(kernel, leases.service_mark()).await;
    let (services, unanswered) = judge_rules(leases, found.as_ref(), depth);
    let closing = match found {
        // The timer of an open connection may be as short as that of one that closes.
        Ok(found) if !found.services.timing.is_empty() => None,
        _ => conntrack::Timers::look().ok().and_then(conntrack::Timers::tell_closing),
    };
    Ok(Fitness { filtered, misplaced, services, unanswered, closing, refusal: None })
}

/// Returns what rules, and the kernel that has to take ours, say to leases that are not for every host.
fn judge_rules(
    leases: &LeasesConfig,
    found: Result<&Found, &anyhow::Error>,
    depth: Depth<'_>,
) -> (ServiceFitness, UnansweredFitness) {
    let bit = leases.service_mark();
    let (mut services, mut unanswered) = Default::default();
    if leases.services {
        services = ServiceFitness::look().with_rules(bit, found.map(|found| &found.services));
        let table = MarkRules { service_mark: Some(bit), ..probe(leases) };
        services = match depth {
            Depth::Whole => services.with_table(netfilter::check(&table)),
            Depth::Quick(before) => services.with_table_of(&before.services),
        };
    }
    if leases.unanswered_udp {
        unanswered = UnansweredFitness::default().with_rules(found.map(|found| &found.watching));
        if let Ok(found) = found {
            unanswered = unanswered.with_marking(bit, &found.services.marking);
        }
        let table = MarkRules { unanswered: Some(leases.unanswered_mark()), ..probe(leases) };
        unanswered = match depth {
            Depth::Whole => unanswered.with_table(netfilter::check(&table)),
            Depth::Quick(before) => unanswered.with_table_of(&before.unanswered),
        };
    }
    (services, unanswered)
}

/// Rules as small as they can be.
fn probe(leases: &LeasesConfig) -> MarkRules {
    MarkRules { mark: leases.mark, closing: Some(1), ..MarkRules::default() }
}
