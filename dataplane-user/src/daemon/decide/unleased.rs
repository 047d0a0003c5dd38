//! Which pods get no leases, and why: something has to see each of their packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::IfIndex;

use super::{Fitness, problems::more};
use crate::{
    config::Fastpath,
    daemon::report::{Code, Problem},
    desired::Facts,
    kernel::Host,
    netfilter::limits::Limits,
};

/// A pod without leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unleased {
    /// Its interface.
    pub ifindex: IfIndex,
    /// What has to see its packets.
    pub why: Vec<String>,
}

/// Returns the pods that get no leases though no one excluded them in the file.
#[must_use]
pub fn unleased(
    facts: &Facts,
    host: &Host,
    fitness: &Fitness,
    limits: &Limits,
) -> BTreeMap<Ipv4Addr, Unleased> {
    let mut found = BTreeMap::new();
    for (address, pod) in &facts.pods {
        let ifindex = pod.hop.ifindex;
        let Some(link) = host.links.get(&ifindex) else { continue };
        let mut why: Vec<String> =
            limits.of(&link.name, *address).map(|limit| limit.to_string()).collect();
        if host.shaped.contains(&ifindex) {
            why.push("a qdisc that shapes or polices".to_owned());
        }
        if fitness.filtered.contains(&ifindex) {
            why.push("a filter of another program".to_owned());
        }
        if !why.is_empty() {
            found.insert(*address, Unleased { ifindex, why });
        }
    }
    found
}

/// So many pods are listed one by one.
const LISTED: usize = 20;

/// Lists them, and what could not be read.
#[must_use]
pub fn problems(
    facts: &Facts,
    host: &Host,
    fitness: &Fitness,
    limits: &Limits,
    configured: Fastpath,
) -> Vec<Problem> {
    if configured != Fastpath::Verified || fitness.refusal.is_some() {
        return Vec::new();
    }
    let unleased = unleased(facts, host, fitness, limits);
    let mut problems: Vec<Problem> = unleased
        .iter()
        .take(LISTED)
        .map(|(address, Unleased { ifindex, why })| {
            let name = host.links.get(ifindex).map_or("?", |link| link.name.as_str());
            let what = format!(
                "pod {address} ({name}) gets no leases, because each of its packets is subject to: {}",
                why.join(", ")
            );
            Problem::new(Code::PodUnleased, address.to_string(), what)
        })
        .collect();
    problems.extend(more(Code::PodUnleased, unleased.len(), "pod"));
    problems.extend(unreadable(&limits.unreadable));
    problems
}

fn unreadable(whys: &BTreeSet<String>) -> Option<Problem> {
    let why = whys.first()?;
    let what = format!(
        "limits that Calico puts on single pods cannot be read here, so leased flows may exceed \
         them: {why}"
    );
    let remedy = "make them readable, or list pods with such limits in leases.exclude";
    Some(Problem::new(Code::LimitsUnreadable, "", what).remedy(remedy))
}
