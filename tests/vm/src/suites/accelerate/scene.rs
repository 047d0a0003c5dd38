//! A node of Felix's, with tunless or not yet.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{Daemon, Lab, LabBuilder, Node, trace::Snapshot};

use super::{super::counted::Counted, felix};
use crate::{
    TUNLESS,
    checks::Outcome,
    suites::smoke::{config, pings},
    tunl0::{self, Owner},
};

/// How long a thing may take to come about.
pub const SOON: Duration = Duration::from_secs(120);

/// Starts tunless, or, while [`POWERLESS`] is there, lets it have no BPF.
const WRAPPER: &str = "/tmp/tunless-wrapper";
const POWERLESS: &str = "/tmp/tunless-powerless";

/// What `verified` may change of others' while it runs: README says so.
const RELAXED: [&str; 4] = [
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_ignore_invalid_rst",
    "nf_conntrack_tcp_timeout_unacknowledged",
    "nf_conntrack_tcp_timeout_max_retrans",
];

/// node2 is Felix's; tunl0 leads both ways.
pub fn lab(owner: Owner) -> Result<Lab> {
    lab_of(Lab::new(), owner)
}

/// [`lab`], otherwise as `builder` says.
pub fn lab_of(builder: LabBuilder, owner: Owner) -> Result<Lab> {
    let script = format!(
        "#!/bin/bash\n\
         if [ -e {POWERLESS} ]; then\n\
         exec setpriv --bounding-set=-bpf,-sys_admin,-perfmon {TUNLESS} \"$@\"\n\
         fi\n\
         exec {TUNLESS} \"$@\"\n"
    );
    fs::write(WRAPPER, script).context(WRAPPER)?;
    fs::set_permissions(WRAPPER, fs::Permissions::from_mode(0o755)).context(WRAPPER)?;
    grant_power()?;
    let lab = builder.tunless(WRAPPER).build()?;
    tunl0::raise_for(owner, &lab.node1, &lab.node2)?;
    tunl0::raise_for(owner, &lab.node2, &lab.node1)?;
    felix::rules(&lab.node2, &lab.node1)?;
    pings(&lab)?;
    Ok(lab)
}

/// From now on a daemon that starts may not load programs.
pub fn take_power() -> Result<()> {
    fs::write(POWERLESS, "").context(POWERLESS)
}

/// From now on it may.
pub fn grant_power() -> Result<()> {
    if Path::new(POWERLESS).exists() {
        fs::remove_file(POWERLESS).context(POWERLESS)?;
    }
    Ok(())
}

/// tunless on node2.
pub fn start(lab: &Lab) -> Result<Daemon> {
    Daemon::start(&lab.node2, &yaml(lab))
}

/// Its configuration.
pub fn yaml(lab: &Lab) -> String {
    config(&lab.node2, &lab.node1, "accelerate", "verified")
}

/// Waits until tunless carries flows on the fast path, both ways, and tunl0
/// nothing: packets since now are counted so.
pub fn works(daemon: &Daemon) -> Result<Outcome> {
    let end = Instant::now() + SOON;
    daemon.wait_json(&["status"], SOON, |status| status["ready"] == true)?;
    let before = Counted::now(daemon)?;
    loop {
        let counted = before.since(daemon)?;
        let fast = counted.has(&[Reason::PodEncapsulated, Reason::DecapToPod]);
        match fast {
            Ok(()) => return Ok(Outcome::GOOD),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// As [`pings`], and the counters say that tunless carried them.
pub fn carries_pings(lab: &Lab, daemon: &Daemon) -> Result<Outcome> {
    let before = Counted::now(daemon)?;
    pings(lab)?;
    let counted = before.since(daemon)?;
    counted.has(&[Reason::HostEncapsulated, Reason::DecapNoPortsToStack])?;
    counted.nothing_for_tunl0()?;
    Ok(Outcome::GOOD)
}

/// That a node's links, addresses, routes and rules are as before, but for what
/// tunless may add: its nft table, its filters, its sysctls.
pub fn untouched(before: &Snapshot, node: &Node) -> Result<Outcome> {
    let is_ours = |line: &String| {
        let adds = |section: &str| line.starts_with(&format!("+ {section}"));
        RELAXED.iter().any(|name| line.contains(name))
            || adds("nft -s list ruleset: ")
            || adds("tc ")
    };
    let mut difference = before.difference(&Snapshot::take(&node.netns)?);
    difference.retain(|line| !is_ours(line));
    ensure!(difference.is_empty(), "changed: {}", difference.join("; "));
    Ok(Outcome::GOOD)
}

/// That a node is wholly as before.
pub fn restored(before: &Snapshot, node: &Node) -> Result<Outcome> {
    let difference = before.difference(&Snapshot::take(&node.netns)?);
    ensure!(difference.is_empty(), "left behind: {}", difference.join("; "));
    Ok(Outcome::GOOD)
}

/// A link and its counters as `ip -j -s link` shows them.
pub fn link(node: &Node, name: &str) -> Result<Option<Value>> {
    let links: Value = serde_json::from_str(&node.netns.ip("-j -s link show")?)?;
    let links = links.as_array().context("no list of links")?;
    Ok(links.iter().find(|link| link["ifname"] == name).cloned())
}

/// Waits for something.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + SOON;
    while !holds()? {
        if Instant::now() > end {
            bail!("not within {SOON:?}: {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The end of everything; nothing may have been amiss.
pub fn finish(lab: &Lab, daemon: Daemon) -> Result<()> {
    daemon.finish()?;
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}
