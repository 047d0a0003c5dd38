//! Links on which XDP is wanted and does not decapsulate. TC does there: no packet is lost, but each
//! costs more.

use std::collections::BTreeSet;

use dataplane_common::IfIndex;

use super::{Memory, link_key};
use crate::{
    config::{Config, DecapHook},
    daemon::report::{Code, Problem},
    desired::{Facts, xdp},
    kernel::{Host, Link},
};

/// Returns a problem for each such link.
#[must_use]
pub fn problems(config: &Config, memory: &Memory, facts: &Facts, host: &Host) -> Vec<Problem> {
    let mut problems = given_up(config, memory, &facts.receiving, host);
    problems.extend(without_driver(config, &facts.underlay, host));
    problems
}

/// Links that have no driver to run XDP, though the file asks for it.
fn without_driver(config: &Config, underlay: &BTreeSet<IfIndex>, host: &Host) -> Vec<Problem> {
    if config.underlay.decap != DecapHook::Xdp {
        return Vec::new();
    }
    let links = underlay.iter().filter_map(|ifindex| host.links.get(ifindex));
    let problem = |link: &Link| {
        let (name, kind) = (&link.name, xdp::without_driver(link)?);
        let what = format!(
            "`decap: xdp` has no effect on {name}: {name} is {kind}, and decap_xdp needs a link with a \
             driver of its own, so TC decapsulates there"
        );
        let remedy = "`underlay: {decap: auto}` accepts it";
        Some(Problem::new(Code::XdpUnsupported, name, what).remedy(remedy))
    };
    links.filter_map(problem).collect()
}

/// Links on which XDP would decapsulate if what it hands over arrived.
fn given_up(
    config: &Config,
    memory: &Memory,
    receiving: &BTreeSet<IfIndex>,
    host: &Host,
) -> Vec<Problem> {
    let is_wanted = |link: &&Link| match config.underlay.decap {
        DecapHook::Tc => false,
        DecapHook::Xdp => true,
        DecapHook::Auto => link.kind.is_none(),
    };
    let links = receiving.iter().filter_map(|ifindex| host.links.get(ifindex)).filter(is_wanted);
    let failed = links.filter_map(|link| Some((link, memory.no_handover.get(&link_key(link))?)));
    failed
        .map(|(link, failure)| {
            let name = &link.name;
            let what = format!("on {name} {}, so TC decapsulates there", failure.text());
            let remedy = format!(
                "look for other programs on {name} (`tc filter show dev {name} ingress`, `bpftool \
                 net`) and packet sockets without a ring (`ss -0`); XDP is tried again after a \
                 reboot, `tunless detach`, or with another driver; `underlay: {{decap: tc}}` accepts \
                 it"
            );
            Problem::new(Code::XdpHandover, name, what).remedy(remedy)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::decide::handovers::Failure;

    #[test]
    fn links_that_xdp_is_taken_off_are_named_where_it_is_wanted() {
        let link = |name: &str| Link { name: name.into(), ..Link::default() };
        let veth = Link { kind: Some("veth".into()), ..link("eth2") };
        let links = [(IfIndex(2), link("eth0")), (IfIndex(3), link("eth1")), (IfIndex(4), veth)];
        let host = Host { links: links.into(), ..Host::default() };
        let [eth0, veth] = [2, 4].map(|index| link_key(&host.links[&IfIndex(index)]));
        let no_handover = [(eth0, Failure::Lost), (veth, Failure::Silent)];
        let memory = Memory { no_handover: no_handover.into(), ..Memory::default() };
        let mut config = Config::default();
        for (decap, receiving, found) in [
            (DecapHook::Auto, &[2, 3][..], &["eth0"][..]),
            (DecapHook::Xdp, &[2, 3, 4], &["eth0", "eth2"]),
            (DecapHook::Auto, &[3, 4], &[]),
            (DecapHook::Tc, &[2, 3, 4], &[]),
        ] {
            config.underlay.decap = decap;
            let receiving = receiving.iter().copied().map(IfIndex).collect();
            let problems = given_up(&config, &memory, &receiving, &host);
            let subjects: Vec<_> = problems.iter().map(|it| it.subject.as_str()).collect();
            assert_eq!(subjects, found, "{decap:?}");
            assert!(problems.iter().all(|it| it.code == Code::XdpHandover && it.remedy.is_some()));
        }
    }

    #[test]
    fn links_without_a_driver_are_named_where_xdp_is_asked_for() {
        let link = |name: &str, kind: Option<&str>| Link {
            name: name.into(),
            kind: kind.map(Into::into),
            ..Link::default()
        };
        let links = [link("eth0", None), link("bond0", Some("bond")), link("eth0.7", Some("vlan"))];
        let host = Host { links: (1..).map(IfIndex).zip(links).collect(), ..Host::default() };
        let mut config = Config::default();
        for (decap, underlay, found) in [
            (DecapHook::Xdp, &[1, 2, 3][..], &["bond0 is a bond", "eth0.7 is a VLAN"][..]),
            (DecapHook::Xdp, &[1], &[]),
            (DecapHook::Auto, &[1, 2, 3], &[]),
            (DecapHook::Tc, &[1, 2, 3], &[]),
        ] {
            config.underlay.decap = decap;
            let underlay = underlay.iter().copied().map(IfIndex).collect();
            let problems = without_driver(&config, &underlay, &host);
            assert_eq!(problems.len(), found.len(), "{decap:?}: {problems:?}");
            for (problem, words) in problems.iter().zip(found) {
                assert!(problem.code == Code::XdpUnsupported && problem.text().contains(words));
            }
        }
    }
}
