//! What is wrong with what is at work: compares it with what the daemon decided. Pure, so that
//! the daemon and `tunless status` come to the same answer.

use super::{
    Code, Problem,
    forwarding::{Ways, forwarding},
    state::Decided,
};
use dataplane_common::Program;

use crate::{
    bpf::Attachment,
    config::Fastpath,
    daemon::{
        attempt,
        observe::{foreign::Foreign, health::Seen},
    },
    netfilter::conntrack::Found,
    output,
};

/// So many problems of a kind, or names in one, are listed one by one.
pub(super) const LISTED: usize = 20;

/// Compares what was decided with what was seen.
#[must_use]
pub fn check(decided: &Decided, seen: &Seen) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !seen.has_maps {
        problems.push(Problem::new(Code::PinsLost, "", "the pinned maps were removed"));
    }
    problems.extend(tunnel(decided, seen));
    problems.extend(attachments(&decided.attachments, seen));
    if decided.has_routes {
        let Decided { tunnel, pods, plain_underlay, .. } = decided;
        let (device, tunnel) = (tunnel.interface.as_str(), tunnel.ifindex);
        let ways = Ways { device, tunnel, pods, plain_underlay };
        problems.extend(forwarding(ways, &seen.not_forwarding, &seen.names));
    }
    if decided.fastpath == Fastpath::Verified && decided.marks {
        problems.extend(leases(seen));
    }
    problems.extend(seen.attempt.map(|(end, now)| attempt::problem(end, now)));
    problems.extend(seen.foreign.iter().take(LISTED).map(Problem::from));
    problems
}

impl From<&Foreign> for Problem {
    fn from(foreign: &Foreign) -> Self {
        Self::new(Code::ForeignRoute, foreign.destination.to_string(), foreign.to_string())
            .remedy(foreign.remedy())
    }
}

fn tunnel(decided: &Decided, seen: &Seen) -> Option<Problem> {
    let wanted = &decided.tunnel;
    let is_there = seen.names.get(&wanted.ifindex) == Some(&wanted.interface);
    (!is_there).then(|| {
        let device = &wanted.interface;
        Problem::new(
            Code::TunnelDeviceMissing,
            device,
            format!("the tunnel device {device} is gone"),
        )
    })
}

fn attachments(wanted: &[Attachment], seen: &Seen) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut pods = Vec::new();
    for at in wanted {
        if seen.links.get(at).is_some_and(|link| link.is_live) {
            continue;
        }
        let name = match seen.names.get(&at.ifindex) {
            Some(name) => name.clone(),
            // A pod that went; the daemon will forget it, if it runs.
            None if is_pods(at.program) => continue,
            None => format!("#{}", at.ifindex),
        };
        let program = at.program.as_str();
        if is_pods(at.program) {
            pods.push(format!("{program} on {name}"));
            continue;
        }
        let subject = format!("{program} {name}");
        let what = format!("{program} is no longer attached to {name}");
        problems.push(match at.program {
            Program::DecapXdp => {
                Problem::new(Code::XdpMissing, subject, what + ": TC decapsulates there")
            }
            _ => Problem::new(Code::ProgramMissing, subject, what),
        });
    }
    if !pods.is_empty() {
        let what =
            format!("{} not attached: these pods' packets take the stack path", listed(&pods));
        problems.push(Problem::new(Code::PodProgramMissing, "", what));
    }
    problems
}

fn is_pods(program: Program) -> bool {
    matches!(program, Program::EncapPod | Program::GrantDecap)
}

fn leases(seen: &Seen) -> Vec<Problem> {
    let mut problems = Vec::new();
    if seen.marks == Some(false) {
        problems.push(
            Problem::new(
                Code::MarkTable,
                "ip tunless",
                "the nft table `ip tunless` is missing, so no flow gets a lease and every packet \
                 takes the stack path",
            )
            .remedy("the daemon makes it again; start it if it is not running"),
        );
    }
    for (name, Found { value, needed }) in &seen.sysctls {
        if *value != Some(*needed) {
            let found = value.map_or_else(|| "missing".to_owned(), |value| value.to_string());
            let what = format!("{name} is {found}, but leased flows need it to be {needed}");
            problems.push(
                Problem::new(Code::Sysctl, *name, what)
                    .remedy(format!("run `sysctl -w net.netfilter.{name}={needed}`")),
            );
        }
    }
    problems
}

/// The first of some names, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// One line for `systemctl status`.
#[must_use]
pub fn summary(routes: usize, endpoints: usize, problems: &[Problem]) -> String {
    let tables =
        format!("{}, {}", output::count(routes, "route"), output::count(endpoints, "endpoint"));
    let mut serious = problems.iter().filter(|problem| problem.level > super::Level::Info);
    match serious.next() {
        None => tables,
        Some(first) => {
            let more = match serious.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let what = first.what.lines().next().unwrap_or_default();
            format!("{}: {what}{more}; {tables}", first.level.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::IfIndex;

    use super::*;
    use crate::{bpf::AttachedLink, daemon::report::Level};

    /// A missing program takes the node down only where its packets have no other way.
    #[test]
    fn a_missing_program_is_as_grave_as_what_it_leaves_undone() {
        let at = |program| Attachment { program, ifindex: IfIndex(2) };
        let live = AttachedLink { program_id: 1, is_live: true, is_filter: false };
        let names = [(IfIndex(2), "eth0".to_owned())];
        for (program, level) in [
            (Program::EncapHost, Level::Down),
            (Program::DecapTc, Level::Down),
            (Program::DecapXdp, Level::Degraded),
            (Program::EncapPod, Level::Degraded),
            (Program::GrantDecap, Level::Degraded),
        ] {
            for is_live in [false, true] {
                let links = [(at(program), AttachedLink { is_live, ..live })];
                let seen =
                    Seen { links: links.into(), names: names.clone().into(), ..Seen::default() };
                let problems = attachments(&[at(program)], &seen);
                let levels: Vec<Level> = problems.iter().map(|problem| problem.level).collect();
                let expected = if is_live { vec![] } else { vec![level] };
                assert_eq!(levels, expected, "{problems:?}");
            }
        }
    }
}
