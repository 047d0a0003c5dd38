//! The status for people.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Detail, FastpathShare, Status};
use crate::{
    config::Fastpath,
    daemon::report::{Level, Problem, unix_now},
    output,
    sources::status::State,
};

/// So many interfaces are named before the rest is counted.
const NAMED: usize = 3;
/// Of fewer decapsulated packets the share of a CPU says nothing.
const COUNTED: u64 = 1_000;
/// From this share on, or one and a half times its part of few CPUs, one does more than others.
const UNEVEN: f64 = 0.5;

/// The status, ended by a newline.
pub fn text(status: &Status, detail: Detail) -> String {
    let mut text = format!("ready:      {}\n", if status.ready { "yes" } else { "NO" });
    if detail == Detail::Brief {
        return brief(status);
    }
    for (position, problem) in status.problems.iter().enumerate() {
        let head = if position == 0 { "problems:" } else { "" };
        let _ = writeln!(text, "{head:<12}{}", line(problem));
    }
    let unknown = || "unknown".to_owned();
    let _ = writeln!(text, "daemon:     {}", daemon(status));
    if status.shadow {
        text.push_str(
            "mode:       shadow (tunl0 carries every packet, tunless only looks: `tunless shadow report`)\n",
        );
    } else if let (Some(mode), Some(fastpath), Some(spoof)) =
        (status.mode, status.fastpath, status.spoof)
    {
        let ground = status.mode_ground.as_deref().unwrap_or("?");
        let (mode, fastpath, spoof) = (mode.as_str(), fastpath.as_str(), spoof.as_str());
        let _ =
            writeln!(text, "mode:       {mode} ({ground}), fast path {fastpath}, spoofs {spoof}");
    }
    if let Some(node) = status.node {
        let ground = status.node_ground.as_deref().unwrap_or("?");
        let _ = writeln!(text, "node:       {node} ({ground})");
    }
    if let Some(tunnel) = &status.tunnel {
        let address =
            tunnel.address.map_or_else(|| "without address".to_owned(), |it| it.to_string());
        let _ = writeln!(text, "tunnel:     {} {address} mtu {}", tunnel.interface, tunnel.mtu);
    }
    if !status.shadow && status.fastpath.is_some_and(|fastpath| fastpath != Fastpath::Off) {
        let percent = |share: Option<f64>, of_services: Option<f64>, direction: &str| match share {
            Some(share) => format!(
                "{:.2} % of {direction} packets{}",
                share * 100.0,
                match of_services {
                    Some(part) if part > 0.0 => format!(" (Services {:.2} %)", part * 100.0),
                    _ => String::new(),
                }
            ),
            None => format!("no {direction} packet yet"),
        };
        let FastpathShare { encap, decap, services } = &status.fastpath_share;
        let _ = writeln!(
            text,
            "fast path:  {}, {}; {} leased",
            percent(*encap, services.encap, "encap"),
            percent(*decap, services.decap, "decap"),
            output::count(status.leased_flows.unwrap_or(0), "flow")
        );
    }
    if let Some(cpus) = cpus(status) {
        let _ = writeln!(text, "cpus:       {cpus}");
    }
    if status.fastpath == Some(Fastpath::Verified) {
        for (position, (name, value)) in status.sysctls.iter().enumerate() {
            let head = if position == 0 { "sysctls:" } else { "" };
            let value = value.map_or_else(|| "missing".to_owned(), |value| value.to_string());
            let _ = writeln!(text, "{head:<12}{name} = {value}");
        }
    }
    let count = |number: Option<usize>, noun| {
        number.map_or_else(unknown, |number| output::count(number, noun))
    };
    if status.has_maps() {
        let _ = writeln!(
            text,
            "tables:     {}, {}, {}",
            count(status.routes, "route"),
            count(status.nodes, "node"),
            count(status.endpoints, "endpoint")
        );
    }
    sources(&mut text, status);
    match detail {
        Detail::Wide => all_programs(&mut text, status),
        Detail::Brief | Detail::Usual => programs(&mut text, status),
    }
    text
}

/// How decapsulation is spread over the CPUs, where that is worth a line.
fn cpus(status: &Status) -> Option<String> {
    let counted = &status.decapsulated_by_cpu;
    let sum: u64 = counted.iter().sum();
    let (cpu, most) = counted.iter().enumerate().max_by_key(|(_, packets)| **packets)?;
    let share = *most as f64 / sum.max(1) as f64;
    let uneven = UNEVEN.max(1.5 / counted.len() as f64);
    let is_worth_a_line = counted.len() > 1 && sum >= COUNTED && share >= uneven;
    let share = is_worth_a_line
        .then(|| format!("CPU {cpu} of {} did {:.0} % of decap", counted.len(), share * 100.0));
    let spread = status.spread.as_ref();
    let spread = spread.map(|cpus| format!("received packets are spread over {}", cpus.ranges()));
    let parts: Vec<String> = share.into_iter().chain(spread).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// One line.
fn brief(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "NOT ready" };
    let serious: Vec<&Problem> =
        status.problems.iter().filter(|problem| problem.level > Level::Info).collect();
    match serious.split_first() {
        None => format!("{ready}\n"),
        Some((first, rest)) => {
            let more = match rest.len() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("{ready}; {}{more}\n", line(first))
        }
    }
}

fn line(problem: &Problem) -> String {
    let age = problem.since.map(|since| unix_now().saturating_sub(since));
    let since = age
        .filter(|age| *age > 0)
        .map_or_else(String::new, |age| format!(" (for {})", output::age(age)));
    format!("{}: {}{since}", problem.level.as_str(), problem.text())
}

fn daemon(status: &Status) -> String {
    match (status.daemon.running, status.daemon.last_round_seconds) {
        (true, Some(ago)) => format!(
            "running (pid {}), last checked everything {ago:.1}s ago",
            status.daemon.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
        ),
        (true, None) => "running, nothing reported yet".to_owned(),
        (false, _) if status.has_maps() => {
            "not running; forwarding does not need it, changes do".to_owned()
        }
        (false, _) => "not running".to_owned(),
    }
}

fn sources(text: &mut String, status: &Status) {
    let sources = status.sources.iter().flat_map(|sources| &sources.sources);
    for (position, source) in sources.enumerate() {
        let head = if position == 0 { "sources:" } else { "" };
        let since = match (source.state, source.stale_since) {
            (State::Stale, Some(since)) => {
                format!(" since {} ago", output::age(unix_now().saturating_sub(since)))
            }
            _ => String::new(),
        };
        let claims = output::count(source.claims, "claim");
        let state = source.state.as_str();
        let reads = source.reads.map_or_else(String::new, |reads| format!("; {reads}"));
        let name = source.source.as_str();
        let _ = writeln!(text, "{head:<12}{name:<11} {state}{since}, {claims}{reads}");
    }
}

/// What is attached is grouped by program, what is not is listed.
fn programs(text: &mut String, status: &Status) {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for at in status.attachments.iter().filter(|at| at.live) {
        groups.entry(at.program).or_default().push(&at.interface);
    }
    let mut head = "programs:";
    for (program, interfaces) in groups {
        let named = interfaces.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let on = match interfaces.len() {
            many if many > NAMED => format!("{} ({named}, …)", output::count(many, "interface")),
            _ => named,
        };
        let _ = writeln!(text, "{head:<12}{program:<11} on {on}");
        head = "";
    }
    for at in status.attachments.iter().filter(|at| !at.live) {
        let _ = writeln!(text, "{head:<12}{:<11} on {}  NOT ATTACHED", at.program, at.interface);
        head = "";
    }
}

fn all_programs(text: &mut String, status: &Status) {
    for (position, at) in status.attachments.iter().enumerate() {
        let head = if position == 0 { "programs:" } else { "" };
        let gone = if at.live { "" } else { "  NOT ATTACHED" };
        let _ = writeln!(text, "{head:<12}{:<11} {} {}{gone}", at.program, at.interface, at.hook);
    }
}
