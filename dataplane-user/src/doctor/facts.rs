//! Rows of what was looked at and is as it should be.

use std::{collections::BTreeSet, fs, path::Path};

use aya::{programs::ProgramType, sys::is_program_supported};
use rustix::thread::{CapabilitySet, capabilities};

use super::{Check, Row, Verdict};
use crate::{
    bpf::Attachment,
    clock,
    config::Fastpath,
    daemon::{
        outside::Outside,
        preview::Preview,
        report::{Decided, State},
    },
    output,
    sources::status::SourceStatus,
};

/// The kernel, and what it is asked for before programs are loaded.
pub fn kernel() -> Row {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let needed = [(ProgramType::SchedClassifier, "TC"), (ProgramType::Xdp, "XDP")];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|(kind, _)| is_program_supported(*kind).is_ok_and(|is_supported| !is_supported))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Row::pass(
            Check::Kernel,
            format!("{release} runs programs of the types TC and XDP"),
        );
    }
    let what = format!("the kernel {release} runs no programs of the type {}", missing.join(", "));
    Row::new(Check::Kernel, Verdict::Fail, "", what)
        .remedy("boot a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF")
}

/// What this command itself may do.
pub fn capabilities_of(effective: CapabilitySet) -> Row {
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    ];
    let lacking = needed.iter().filter(|(needed, _)| !effective.contains(*needed));
    let lacking: Vec<&str> = lacking.map(|(_, name)| *name).collect();
    if lacking.is_empty() {
        return Row::pass(Check::Capabilities, "CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW");
    }
    let what = format!("this command lacks {}: it sees or sends less", lacking.join(", "));
    Row::new(Check::Capabilities, Verdict::Warn, "", what).remedy("run it as root on the host")
}

/// [`capabilities_of`] this process.
pub fn capabilities_here() -> Row {
    capabilities_of(capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective))
}

/// What the daemon would use where it was never started.
pub fn foreseen(config: &Path, preview: &Preview) -> Vec<Row> {
    let mut rows = Vec::new();
    if let (Some(node), Some(ground)) = (preview.node, preview.node_ground) {
        rows.push(Row::pass(Check::Node, format!("the daemon would use {node} ({ground})")));
    }
    if let Some(mode) = preview.mode {
        let address = preview.tunnel_address.map(|address| address.to_string());
        let address = address.unwrap_or_else(|| "without address".to_owned());
        let (device, mtu) = (mode.device(), preview.tunnel_mtu.unwrap_or_default());
        rows.push(Row::pass(Check::Tunnel, format!("it would be {device} {address} mtu {mtu}")));
    }
    let (file, routes) = (config.display(), output::count(preview.routes, "route"));
    rows.push(Row::pass(Check::Configuration, format!("{file} is fine here; it makes {routes}")));
    rows
}

/// The row of a check that found nothing wrong; `None` if it is none of this node's, or has rows
/// of its own in any case.
pub fn fact(check: Check, outside: &Outside) -> Option<Row> {
    let pass = |what: String| Some(Row::pass(check, what));
    let decided = outside.decided();
    match check {
        Check::Kernel
        | Check::Capabilities
        | Check::Hooks
        | Check::Wireguard
        | Check::RpFilter
        | Check::Maps
        | Check::Spoofs
        | Check::Delivery
        | Check::Peers
        | Check::PeerPlain
        | Check::PeerTunnel
        | Check::PeerPod
        | Check::PeerMtu
        | Check::PeerOffloads
        | Check::PeerRoundTrip => None,
        Check::Pins => outside.maps.as_ref().and_then(|_| pass("the maps can be read".to_owned())),
        Check::Programs => decided.and_then(|decided| pass(programs(decided, outside))),
        Check::Daemon => {
            daemon(outside.running?, outside.state.as_ref()?).map(|what| Row::pass(check, what))
        }
        Check::Configuration => {
            let config = &outside.state.as_ref()?.config;
            pass(format!("{} is active", config.path.display()))
        }
        Check::Node => decided.and_then(|it| pass(format!("{} ({})", it.node, it.node_ground))),
        Check::Tunnel => decided.and_then(|decided| pass(tunnel(decided))),
        Check::Sources => {
            let sources = &outside.state.as_ref()?.sources.sources;
            pass(sources.iter().map(source).collect::<Vec<_>>().join("; "))
        }
        Check::Routes => outside.routes.as_ref().and_then(|routes| {
            let count = routes.values().filter(|route| route.is_destination()).count();
            let count = output::count(count, "route");
            pass(format!("{count}; no kernel route of others takes their packets elsewhere"))
        }),
        Check::Forwarding => decided.and_then(|decided| {
            let pods = output::count(decided.pods.len(), "pod interface");
            pass(format!("on for {} and {pods}", decided.tunnel.interface))
        }),
        Check::Mtu => decided.and_then(|decided| pass(mtu(decided, outside))),
        Check::Netfilter => decided
            .filter(|it| it.marks)
            .and_then(|_| pass("the nft table `ip tunless` is there".to_owned())),
        Check::Sysctls => decided.filter(|it| it.marks).and_then(|_| {
            let count = output::count(outside.seen.sysctls.len(), "sysctl");
            pass(format!("{count} of conntrack as leased flows need them"))
        }),
        Check::Leases => decided.and_then(|decided| pass(leases(decided, outside))),
        Check::Xdp => decided.and_then(|decided| pass(xdp(decided))),
        Check::Cpus => outside.maps.as_ref().and_then(|maps| {
            let counted = maps.decapsulated_by_cpu().ok()?;
            let busy = counted.iter().filter(|packets| **packets > 0).count();
            pass(format!(
                "{} of {} decapsulated packets",
                busy,
                output::count(counted.len(), "CPU")
            ))
        }),
        Check::Ipsec => {
            decided.and_then(|_| pass("no IPsec policy covers encapsulated packets".to_owned()))
        }
    }
}

fn programs(decided: &Decided, outside: &Outside) -> String {
    let is_live = |at: &&Attachment| outside.seen.links.get(at).is_some_and(|link| link.is_live);
    let wanted = decided.attachments.len();
    let live = decided.attachments.iter().filter(is_live).count();
    let is_filter = outside.seen.links.values().any(|link| link.is_filter);
    let by = if is_filter { "clsact filters" } else { "links" };
    format!("{live} of {wanted} attached as the kernel shows it, by {by}")
}

fn daemon(pid: u32, state: &State) -> Option<String> {
    let ago = clock::monotonic().as_secs_f64() - state.heartbeat;
    let version = &state.version;
    (ago >= 0.0)
        .then(|| format!("version {version} runs (pid {pid}), compared everything {ago:.1}s ago"))
}

fn tunnel(decided: &Decided) -> String {
    let tunnel = &decided.tunnel;
    let address = tunnel.address.map_or_else(|| "without address".to_owned(), |it| it.to_string());
    let (mode, ground) = (decided.mode_name(), &decided.mode_ground);
    format!("{} {address}, mode {mode} ({ground})", tunnel.interface)
}

fn source(source: &SourceStatus) -> String {
    let claims = output::count(source.claims, "claim");
    format!("{} {}, {claims}", source.source, source.state.as_str())
}

fn mtu(decided: &Decided, outside: &Outside) -> String {
    let links = &outside.host.links;
    let sizes = |indices: &BTreeSet<_>| -> BTreeSet<u32> {
        indices.iter().filter_map(|index| Some(links.get(index)?.mtu.0)).collect()
    };
    let range = |sizes: &BTreeSet<u32>| match (sizes.first(), sizes.last()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        _ => "none".to_owned(),
    };
    let underlay: BTreeSet<_> = decided
        .attachments
        .iter()
        .map(|at| at.ifindex)
        .filter(|index| !decided.pods.contains(index) && *index != decided.tunnel.ifindex)
        .collect();
    format!(
        "{} {}, underlay {}, pods {}",
        decided.tunnel.interface,
        decided.tunnel.mtu,
        range(&sizes(&underlay)),
        range(&sizes(&decided.pods))
    )
}

fn leases(decided: &Decided, outside: &Outside) -> String {
    let good = outside.maps.as_ref().and_then(|maps| maps.good_leases(clock::monotonic()).ok());
    match (decided.fastpath, good) {
        (Fastpath::Verified, Some(good)) => {
            format!("{} on the fast path", output::count(good.len(), "flow"))
        }
        (fastpath, _) => format!("the fast path is {}", fastpath.as_str()),
    }
}

fn xdp(decided: &Decided) -> String {
    let with =
        decided.attachments.iter().filter(|at| at.program == dataplane_common::Program::DecapXdp);
    match with.count() {
        0 => "TC decapsulates; nothing asks for XDP".to_owned(),
        count => format!("{} decapsulated by XDP", output::count(count, "link")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let all = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
        assert_eq!(capabilities_of(all).verdict, Verdict::Pass);
        let row = capabilities_of(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
        assert_eq!(row.verdict, Verdict::Warn);
        assert!(row.what.contains("lacks CAP_NET_RAW:"), "{}", row.what);
    }
}
