//! What is wrong with what was decided.

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_common::{IfIndex, Mtu};

use super::{ChosenMode, Decider, no_xdp, own_node, undecided, unleased};
use crate::{
    config::{Config, Mode, TunnelMtu},
    daemon::report::{Code, Problem},
    desired::{self, Facts, RouteTables, TunnelMode, links::Unfit},
    kernel::{Host, Link, TUNL0, TUNNEL},
    netfilter::{Obstacle, outer::OuterRules, unanswered},
    output::count,
    sources::{
        SourceKind,
        status::{SourceStatus, SourcesStatus, State},
    },
};

/// So many problems of a kind are listed one by one.
const LISTED: usize = 20;

/// What is wrong with a decision, or with the lack of one; for its routes see [`tables`].
#[must_use]
pub fn decision(decider: &Decider, host: &Host) -> Vec<Problem> {
    let path = &decider.file().path;
    let mut problems = Vec::new();
    match decider.last() {
        Some(last) => {
            problems.extend(ground(decider, last.mode, &last.facts, host));
        }
        None => {
            problems.push(undecided::problem(decider, host, path));
            let config = &decider.file().config;
            problems.extend(own_node::problems(&decider.own_nodes(), config, host, None));
        }
    }
    if let Some(refusal) = &decider.fitness().refusal {
        problems.push(Problem::new(
            Code::FastpathWithheld,
            "",
            format!("the fast path is withheld, so every packet takes the stack path: {refusal}"),
        ));
    }
    problems
}

/// What is wrong with the mode, the MTU and the address that the host and the file come to.
#[must_use]
pub fn ground(decider: &Decider, chosen: ChosenMode, facts: &Facts, host: &Host) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(mode(decider, chosen, host));
    problems.extend(mtu(&decider.file().config, facts, host));
    problems.extend(workloads(&decider.file().config, host));
    problems.extend(other_tunnels(&decider.file().config, host));
    problems.extend(no_xdp::problems(&decider.file().config, decider.memory(), facts, host));
    let fastpath = decider.file().config.fastpath;
    let (fitness, limits) = (decider.fitness(), decider.limits());
    problems.extend(unleased::problems(facts, host, fitness, limits, fastpath));
    if fitness.refusal.is_none() {
        problems.extend(fitness.services.against.iter().map(services_withheld));
        problems.extend(fitness.unanswered.against.iter().map(unanswered_withheld));
    }
    problems.extend(decider.outer_rules().iter().map(outer_rules));
    let own = decider.own_nodes();
    problems.extend(own_node::problems(&own, &decider.file().config, host, Some(facts)));
    if decider.claims().silent().any(SourceKind::is_datastore) {
        // It may know the tunnel address, and the blocks.
        return problems;
    }
    let knows_borrowed = decider.claims().without_borrowed().next().is_none();
    let table = decider.table();
    problems.extend(own_node::foreign_tunnel_address(&own, table, facts, knows_borrowed));
    if facts.tunnel.address.is_none() {
        problems.push(
            Problem::new(
                Code::NoTunnelAddress,
                facts.mode.device(),
                "this host has no tunnel address: it talks to remote pods from its node address, \
                 and their answers will not come through the tunnel",
            )
            .remedy("have Calico allocate one, or set node.tunnel_address"),
        );
    }
    problems
}

/// Encapsulated packets of a node arrive where no program of ours is. `unfit`: why none can be there.
#[must_use]
pub fn heard_elsewhere(
    link: &Link,
    unfit: Option<&Unfit>,
    sender: Ipv4Addr,
    mode: TunnelMode,
) -> Problem {
    let fate = match mode {
        TunnelMode::Replace => "they are lost",
        TunnelMode::Accelerate => "tunl0 takes them, slower and without checking their source",
    };
    let what = format!(
        "encapsulated packets of node {sender} arrive on {}, where no program of tunless is: {fate}",
        link.name
    );
    let name = &link.name;
    let remedy = match unfit {
        None => format!("list all links of the underlay in underlay.interfaces, {name} too"),
        Some(unfit) => format!("let the node send by another link: {name} {}", unfit.text()),
    };
    Problem::new(Code::IpipElsewhere, &link.name, what).remedy(remedy)
}

/// Something for which flows of Services get no leases.
fn services_withheld(obstacle: &Obstacle) -> Problem {
    let what = format!("flows to Services are not leased, so they take the stack path: {obstacle}");
    Problem::new(Code::ServicesWithheld, "", what).remedy(obstacle.remedy())
}

/// Something for which UDP flows that get no answer are not leased.
fn unanswered_withheld(obstacle: &unanswered::Obstacle) -> Problem {
    let what = format!(
        "UDP flows that get no answer are not leased, so they take the stack path: {obstacle}"
    );
    Problem::new(Code::UnansweredWithheld, "", what).remedy(obstacle.remedy())
}

/// Rules that encapsulated packets pass by.
fn outer_rules(rules: &OuterRules) -> Problem {
    let OuterRules { table, chain, rules } = rules;
    let what = format!(
        "{} about encapsulated packets or about nodes in the chain {chain} (table {table}): what \
         tunless takes in and sends does not pass there",
        count(*rules, "rule")
    );
    let remedy = "to shut a node out, remove its routes (docs/hosts.md)";
    Problem::new(Code::OuterRules, format!("{table} {chain}"), what).remedy(remedy)
}

/// An MTU in the file that the underlay does not carry. Pods' packets that are too long for a
/// node are fragmented, or answered by ICMP, so none is lost.
fn mtu(config: &Config, facts: &Facts, host: &Host) -> Option<Problem> {
    let TunnelMtu::Bytes(configured) = config.mtu else { return None };
    let underlay = facts.underlay.iter().filter_map(|ifindex| host.links.get(ifindex));
    let narrowest = underlay.min_by_key(|link| link.mtu)?;
    let most = desired::inner(narrowest.mtu);
    if facts.mode != TunnelMode::Replace || configured <= most {
        return None;
    }
    let what = format!(
        "mtu: {configured} in the file is more than {} carries: {most} inside an outer header, of \
         its MTU of {}",
        narrowest.name, narrowest.mtu
    );
    let remedy = format!("use `mtu: auto`, or at most {most}, and the same for the pods");
    Some(Problem::new(Code::Mtu, &narrowest.name, what).remedy(remedy))
}

/// Names of pods' interfaces that no interface has: mostly a prefix whose `*` was forgotten.
fn workloads(config: &Config, host: &Host) -> Vec<Problem> {
    let names = || host.links.values().map(|link| link.name.as_str());
    let patterns = config.workloads.interfaces.iter().filter(|pattern| pattern.is_exact());
    let unused = patterns.filter(|pattern| !names().any(|name| pattern.matches(name)));
    unused
        .map(|pattern| {
            let what = format!(
                "workloads.interfaces has `{pattern}`, and no interface here has this very name, \
                 so it stands for none"
            );
            let remedy = format!("write `{pattern}*` if it is what the names begin with");
            Problem::new(Code::WorkloadInterface, pattern.to_string(), what).remedy(remedy)
        })
        .collect()
}

/// Routes of the protocols that `sources.kernel` reads, over IPIP devices whose routes it does not
/// read: kube-router's `tun-…` and `flannel.ipip`.
fn other_tunnels(config: &Config, host: &Host) -> Vec<Problem> {
    let Some(kernel) = &config.sources.kernel else { return Vec::new() };
    let routes = host.routes.iter().filter(|route| kernel.protocols.contains(&route.protocol));
    let devices: BTreeSet<IfIndex> =
        routes.flat_map(|route| route.next_hops().map(|hop| hop.0)).collect();
    let links = devices.iter().filter_map(|ifindex| host.links.get(ifindex));
    let others = links.filter(|link| {
        link.kind.as_deref() == Some("ipip") && link.name != TUNL0 && link.name != TUNNEL
    });
    let problem = |link: &Link| {
        let what = format!(
            "kernel: routes over {} are not read: of IPIP devices only {TUNL0} and {TUNNEL} count",
            link.name
        );
        Problem::new(Code::SourceObject, format!("kernel {}", link.name), what)
            .remedy("list what they lead to in routes.static, or take the protocol out")
    };
    others.take(LISTED).map(problem).collect()
}

/// What is wrong with routes and nodes.
#[must_use]
pub fn tables(tables: &RouteTables) -> Vec<Problem> {
    let mut problems = Vec::new();
    let unreachable = tables.out_of_reach();
    let is_unreachable = |node| unreachable.contains_key(&std::net::Ipv4Addr::from(node));
    let mut remote = tables.routes.values().filter(|route| route.is_destination()).peekable();
    let has_remote = remote.peek().is_some() || !tables.withheld.is_empty();
    if has_remote && remote.all(|route| is_unreachable(route.node)) {
        problems.push(Problem::new(
            Code::AllUnreachable,
            "",
            "no route is reachable: each node is listed with the reason",
        ));
    }
    let nodes = unreachable.iter().take(LISTED);
    problems.extend(
        nodes.map(|(node, why)| Problem::new(Code::Unreachable, node.to_string(), (*why).clone())),
    );
    problems.extend(more(Code::Unreachable, unreachable.len(), "node"));
    let narrow = tables.too_narrow.iter().take(LISTED);
    problems.extend(narrow.map(|(node, mtu)| too_narrow(*node, *mtu)));
    problems.extend(more(Code::PathMtu, tables.too_narrow.len(), "node"));
    let left = tables.left_to_tunl0.iter().take(LISTED);
    problems.extend(
        left.map(|(cidr, why)| Problem::new(Code::LeftToTunl0, cidr.to_string(), why.clone())),
    );
    problems.extend(more(Code::LeftToTunl0, tables.left_to_tunl0.len(), "route"));
    problems
}

fn too_narrow(node: Ipv4Addr, mtu: Mtu) -> Problem {
    let what = format!(
        "a router says that no more than {mtu} bytes pass to node {node}: less than \
         underlay.min_path_mtu, so it is not believed; if it is true, larger packets are lost"
    );
    let remedy = format!(
        "widen the underlay, or set underlay.min_path_mtu to {mtu}; else look for who forges ICMP \
         messages"
    );
    Problem::new(Code::PathMtu, node.to_string(), what).remedy(remedy)
}

pub(super) fn more(code: Code, count: usize, noun: &str) -> Option<Problem> {
    let more = count.checked_sub(LISTED).filter(|more| *more > 0)?;
    let plural = if more == 1 { "" } else { "s" };
    Some(Problem::new(
        code,
        format!("{noun}s beyond {LISTED}"),
        format!("{more} more {noun}{plural} likewise"),
    ))
}

/// Whether `auto` stays without a tunl0 that carries pods' routes.
fn mode(decider: &Decider, chosen: ChosenMode, host: &Host) -> Option<Problem> {
    let carried = host.tunl0_routes();
    let is_auto = decider.file().config.mode == Mode::Auto;
    if chosen.mode == TunnelMode::Accelerate || carried.is_empty() {
        return None;
    }
    let routes = decider.table().routes().iter();
    let mut lacking =
        routes.filter(|(cidr, route)| !route.is_direct && !carried.contains_key(cidr));
    let lacking = lacking.next().map(|(cidr, _)| cidr.to_string());
    let what = match (is_auto, lacking) {
        (true, Some(cidr)) => format!(
            "tunl0 carries routes to pods, but none to {cidr}, so `mode: auto` stays without tunl0"
        ),
        _ => "tunl0 carries routes to pods, but tunless works without it".to_owned(),
    };
    let remedy = "set `mode: accelerate` to work beside tunl0, or have Felix or BIRD remove its \
                  routes";
    Some(Problem::new(Code::Mode, TUNL0, what).remedy(remedy))
}

/// What is wrong with the sources of routes.
#[must_use]
pub fn sources(status: &SourcesStatus) -> Vec<Problem> {
    let mut problems: Vec<Problem> = status.sources.iter().flat_map(source).collect();
    let claims = status.alarms.iter();
    problems.extend(claims.map(|alarm| {
        let subject = alarm.split_whitespace().next().unwrap_or_default();
        Problem::new(Code::Claim, subject, alarm.clone())
    }));
    if status.more_alarms > 0 {
        let what = format!("{} more claims make no route", status.more_alarms);
        problems.push(Problem::new(Code::Claim, "others", what));
    }
    if status.sources.iter().all(|source| source.state == State::Synced && source.claims == 0) {
        problems.push(
            Problem::new(Code::NoRoutes, "", "no source has any route to remote pods")
                .remedy("list routes in `routes.static`, or configure `sources`"),
        );
    }
    problems
}

fn source(source: &SourceStatus) -> Vec<Problem> {
    let name = source.source.as_str();
    let why = source.reason.as_deref().unwrap_or("no answer yet");
    let mut problems = Vec::new();
    match source.state {
        State::Synced => {}
        State::Stale => {
            let what = format!("{name}: {why}; the routes it reported last stay active");
            problems.push(Problem {
                since: source.stale_since,
                ..Problem::new(Code::SourceStale, name, what)
            });
        }
        State::Waiting => {
            let what = format!(
                "{name}: has not reported its routes yet: {why}; no route is removed until it has"
            );
            problems.push(Problem::new(Code::SourceWaiting, name, what));
        }
    }
    problems.extend(source.problems.iter().map(|what| {
        let subject = format!("{name} {}", what.split(':').next().unwrap_or_default());
        Problem::new(Code::SourceObject, subject, format!("{name}: {what}"))
    }));
    if source.more_problems > 0 {
        let what = format!("{name}: {} more of that kind", source.more_problems);
        problems.push(Problem::new(Code::SourceObject, format!("{name} others"), what));
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::{KernelConfig, Pattern},
        kernel::KernelRoute,
    };

    #[test]
    fn a_name_that_no_interface_has_is_named() {
        let link = |name: &str| Link { name: name.into(), ..Link::default() };
        let host = Host {
            links: BTreeMap::from([
                (IfIndex(2), link("eth0")),
                (IfIndex(7), link("cali0123")),
                (IfIndex(8), link("tap0")),
            ]),
            ..Host::default()
        };
        for (patterns, found) in [
            (&["cali*"][..], &[][..]),
            (&["cali"], &["cali"]),
            (&["cali*", "tap0"], &[]),
            (&["cali*", "tap"], &["tap"]),
            (&["lxc*"], &[]),
        ] {
            let mut config = Config::default();
            config.workloads.interfaces = patterns.iter().copied().map(Pattern::from).collect();
            let problems = workloads(&config, &host);
            let subjects: Vec<_> = problems.iter().map(|it| it.subject.as_str()).collect();
            assert_eq!(subjects, found, "{patterns:?}");
            assert!(problems.iter().all(|it| it.text().contains("*` if it is what")));
        }
    }

    #[test]
    fn tunnels_whose_routes_are_not_read_are_named() {
        let link = |name: &str, kind: &str| Link {
            name: name.into(),
            kind: Some(kind.into()),
            ..Link::default()
        };
        let route = |ifindex, protocol| KernelRoute {
            destination: "10.20.42.0/26".parse().unwrap(),
            ifindex: Some(IfIndex(ifindex)),
            protocol,
            ..KernelRoute::default()
        };
        let mut multipath = route(0, 12);
        multipath.ifindex = None;
        multipath.hops = vec![(IfIndex(4), None)];
        let links = [
            (2, "eth0", "vlan"),
            (3, TUNL0, "ipip"),
            (4, "tun-1", "ipip"),
            (5, "flannel.ipip", "ipip"),
        ];
        let links = links.map(|(index, name, kind)| (IfIndex(index), link(name, kind)));
        let mut host = Host { links: links.into(), ..Host::default() };
        let mut config = Config::default();
        for (is_source, routes, found) in [
            (true, vec![route(2, 12), route(3, 80)], &[][..]),
            (
                true,
                vec![route(4, 12), route(4, 80), route(5, 12)],
                &["kernel tun-1", "kernel flannel.ipip"],
            ),
            (true, vec![multipath], &["kernel tun-1"]),
            (true, vec![route(4, 4)], &[]),
            (false, vec![route(4, 12)], &[]),
        ] {
            config.sources.kernel = is_source.then(KernelConfig::default);
            host.routes = routes;
            let problems = other_tunnels(&config, &host);
            let subjects: Vec<_> = problems.iter().map(|it| it.subject.as_str()).collect();
            assert_eq!(subjects, found, "{:?}", host.routes);
        }
    }

    #[test]
    fn a_link_that_cannot_be_underlay_is_not_asked_for() {
        let link = Link { name: "wg0".into(), ..Link::default() };
        let sender = Ipv4Addr::new(10, 99, 0, 1);
        for (unfit, expected) in [
            (None, "list all links of the underlay in underlay.interfaces, wg0 too"),
            (Some(Unfit::NoEthernet), "let the node send by another link: wg0 has no Ethernet"),
        ] {
            let problem = heard_elsewhere(&link, unfit.as_ref(), sender, TunnelMode::Replace);
            let remedy = problem.remedy.unwrap();
            assert!(remedy.starts_with(expected), "{remedy}");
        }
    }
}
