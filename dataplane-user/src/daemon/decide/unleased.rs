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
    kernel::{Flowtable, Host},
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
    problems.extend(limits.flowtable.as_ref().map(offloaded));
    problems.extend(unreadable(&limits.unreadable));
    problems
}

/// Established packets skip the rules that grant leases.
fn offloaded(flowtable: &Flowtable) -> Problem {
    let Flowtable { table, name, .. } = flowtable;
    let what = format!(
        "the nft flowtable {name} (table {table}) has interfaces of pods: it takes established packets \
         past the rules that grant leases, so hardly any packet is leased"
    );
    let remedy = "choose one of the two: in Calico's FelixConfiguration set nftablesFlowTableOffload to \
                  Disabled, or here `fastpath: off`";
    Problem::new(Code::Flowtable, name, what).remedy(remedy)
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

#[cfg(test)]
mod tests {
    use dataplane_common::{Endpoint, Hop};

    use super::*;
    use crate::{
        desired::{Paths, TunnelMode},
        kernel::Link,
        netfilter::limits::{Kind, Limit},
    };

    const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 7);

    fn host() -> Host {
        let link = |name: &str| Link { name: name.into(), ..Link::default() };
        let links = [(7, "cali7"), (8, "cali8")].map(|(index, name)| (IfIndex(index), link(name)));
        Host { links: links.into(), ..Host::default() }
    }

    fn facts(pods: impl IntoIterator<Item = (Ipv4Addr, u32)>) -> Facts {
        let node = Ipv4Addr::new(172, 16, 36, 10);
        let (config, paths) = (crate::config::Config::default(), Paths::new());
        let mut facts = Facts::find(TunnelMode::Replace, node, &config, &host(), &paths);
        facts.pods = pods
            .into_iter()
            .map(|(address, index)| {
                let hop = Hop { ifindex: IfIndex(index), ..Hop::default() };
                (address, Endpoint { hop })
            })
            .collect();
        facts
    }

    #[test]
    fn each_reason_leaves_a_pod_without_leases() {
        let facts = facts([(POD, 7), (Ipv4Addr::new(10, 20, 42, 8), 8)]);
        let (mut host, mut fitness, mut limits) = (host(), Fitness::default(), Limits::default());
        assert_eq!(unleased(&facts, &host, &fitness, &limits), BTreeMap::new());
        limits.remarked.insert(POD.into());
        let limit = Limit { kind: Kind::PacketRate, direction: "ingress" };
        limits.by_interface.insert("cali7".to_owned(), [limit.clone()].into());
        // Of a pod that is gone.
        limits.by_interface.insert("cali9".to_owned(), [limit].into());
        host.shaped.insert(IfIndex(7));
        fitness.filtered.insert(IfIndex(7));
        let found = unleased(&facts, &host, &fitness, &limits);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&POD]);
        let problems = problems(&facts, &host, &fitness, &limits, Fastpath::Verified);
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!((problem.code, problem.subject.as_str()), (Code::PodUnleased, "10.20.42.7"));
        for said in ["cali7", "ingress packet rate", "egress DSCP", "qdisc", "filter"] {
            assert!(problem.what.contains(said), "no {said} in {}", problem.what);
        }
    }

    #[test]
    fn many_pods_are_summed_up_and_nothing_is_said_without_leases() {
        let pods = (0..30).map(|n| (Ipv4Addr::new(10, 20, 42, n), 7));
        let (facts, mut host, fitness) = (facts(pods), host(), Fitness::default());
        host.shaped.insert(IfIndex(7));
        let mut limits = Limits::default();
        limits.unreadable.insert("iptables-legacy-save: not found".to_owned());
        limits.flowtable = Some(Flowtable {
            table: "calico".to_owned(),
            name: "offload".to_owned(),
            devices: vec!["cali7".to_owned()],
        });
        let found = problems(&facts, &host, &fitness, &limits, Fastpath::Verified);
        let count = |code| found.iter().filter(|it| it.code == code).count();
        assert_eq!(count(Code::PodUnleased), LISTED + 1);
        assert_eq!((count(Code::Flowtable), count(Code::LimitsUnreadable)), (1, 1));
        assert!(found.iter().any(|it| it.text().contains("nftablesFlowTableOffload")));
        for configured in [Fastpath::Off, Fastpath::Trusted] {
            assert_eq!(problems(&facts, &host, &fitness, &limits, configured), []);
        }
        let fitness = Fitness { refusal: Some(String::new()), ..fitness };
        assert_eq!(problems(&facts, &host, &fitness, &limits, Fastpath::Verified), []);
    }
}
