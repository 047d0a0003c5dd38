//! `tunless try` beside a real tunl0: past its end the kernel has every packet, with a daemon and without.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use dataplane_common::Reason;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tunless_lab::{Daemon, Lab, Node, service::Protocol, traffic::conversation::Conversation};

use super::interop::{config, finish, pings};
use crate::{
    suites::{Case, Guest, counted::Counted},
    tunl0,
};

/// tunless on node2 beside tunl0, tunl0 alone on node1.
pub const CASE: Case = Case { name: "try_beside_tunl0", loads_tunless: true, run };

const SOON: Duration = Duration::from_secs(120);
const PORT: u16 = 7000;
/// Packets of [`pings`] that leave node2, and as many that arrive.
const PINGS: u64 = 6;
/// Each packet of [`pings`] as it meets every program once the try is over: what leaves a pod for the
/// other node and what arrives.
const OVER: [(Reason, u64); 4] = [
    (Reason::PodTryOver, PINGS),
    (Reason::Tunl0TryOver, PINGS),
    (Reason::DecapTryOver, PINGS),
    (Reason::GrantTryOver, PINGS),
];

fn run(_: &Guest) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise_on_both(&lab)?;
    let yaml = config(node2, node1, "auto", "verified");
    let mut daemon = Daemon::start_by(node2, &["try", "--for", "600m"], &yaml)?;
    has_problem(&daemon, Some("try-runs"))?;
    let status = daemon.cli_json(&["status"])?;
    ensure!(status["mode"] == "accelerate", "{status}");
    let (perf, sit) = (lab.perf(), lab.sit());
    let to = SocketAddrV4::new(sit.ip, PORT);
    let talk = Conversation::start(Protocol::Tcp, &perf.netns, to, &sit.netns, PORT)?;
    by_tunless(&lab, &daemon).context("while it is tried")?;
    let leased = |leases: &Value| leases["items"].as_array().is_some_and(|all| all.len() >= 2);
    daemon.wait_json(&["leases", "list"], SOON, leased)?;

    daemon.kill9()?;
    end_now(node2)?;
    ensure!(talk.wait_for(100, SOON), "the connection does not survive the end");
    drop(talk);
    by_tunl0(&lab, &daemon).context("over, the daemon killed")?;
    has_problem(&daemon, Some("try-over"))?;
    daemon.restart_by(&["run"])?;
    by_tunl0(&lab, &daemon).context("over, a daemon started")?;
    has_problem(&daemon, Some("try-over"))?;
    daemon.terminate()?;
    let again = daemon.cli(&["try", "--for", "5s"])?;
    ensure!(again.status == Some(1), "{again:?}");
    ensure!(again.stderr.contains("tunless try --keep"), "{}", again.stderr);
    by_tunl0(&lab, &daemon).context("over, refused another")?;

    let kept = daemon.cli(&["try", "--keep"])?;
    ensure!(kept.success() && kept.stderr.contains("no daemon runs"), "{kept:?}");
    by_tunless(&lab, &daemon).context("kept, no daemon")?;
    for what in ["kept", "kept, restarted"] {
        daemon.restart()?;
        has_problem(&daemon, None)?;
        by_tunless(&lab, &daemon).context(what)?;
        daemon.terminate()?;
    }
    ensure!(!daemon.cli(&["try", "--keep"])?.success(), "nothing is tried any more");

    ensure!(daemon.cli(&["detach"])?.success(), "detached");
    daemon.restart_by(&["try", "--for", "600m"])?;
    ensure!(daemon.cli(&["try", "--keep"])?.success(), "while it runs");
    has_problem(&daemon, None)?;
    by_tunless(&lab, &daemon).context("kept while it runs")?;
    daemon.terminate()?;

    ensure!(daemon.cli(&["detach"])?.success(), "detached");
    daemon.restart_by(&["try", "--for", "5s"])?;
    daemon.wait_end(SOON)?;
    ensure!(daemon.log().contains("the try is over"), "{}", daemon.log());
    by_tunl0(&lab, &daemon).context("over by its own clock")?;
    finish(&lab, daemon)
}

/// As if its time were up.
fn end_now(node: &Node) -> Result<()> {
    let pin = node.bpffs.join("serving/TRY");
    let mut end: Array<_, u64> = Map::Array(MapData::from_pin(pin)?).try_into()?;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    end.set(0, u64::try_from(now.as_nanos())?, 0)?;
    Ok(())
}

fn by_tunless(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let (before, tunl0) = (Counted::now(daemon)?, Tunl0::of(&lab.node2)?);
    pings(lab)?;
    let counted = before.since(daemon)?;
    counted.has(&[Reason::HostEncapsulated, Reason::DecapNoPortsToStack])?;
    counted.nothing_for_tunl0()?;
    counted.lacks(&OVER.map(|(reason, _)| reason))?;
    // What `encap_host` redirects tunl0 does not send.
    let sent = tunl0.since(&lab.node2)?.sent;
    ensure!(sent == 0, "tunl0 sent {sent} packets");
    Ok(())
}

fn by_tunl0(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let (before, tunl0) = (Counted::now(daemon)?, Tunl0::of(&lab.node2)?);
    pings(lab)?;
    let counted = before.since(daemon)?;
    counted.lacks(&[Reason::HostEncapsulated, Reason::DecapNoPortsToStack])?;
    for (reason, packets) in OVER {
        let found = counted.packets(reason);
        ensure!(found >= packets, "{found} packets as {reason}, at least {packets} were sent");
    }
    let Tunl0 { sent, received } = tunl0.since(&lab.node2)?;
    ensure!(sent >= PINGS && received >= PINGS, "tunl0 sent {sent} and received {received}");
    Ok(())
}

/// Waits until `status` has this problem of a try, or none.
fn has_problem(daemon: &Daemon, code: Option<&str>) -> Result<()> {
    let is_so = |status: &Value| {
        let problems = status["problems"].as_array().into_iter().flatten();
        let codes: Vec<_> = problems.filter_map(|problem| problem["code"].as_str()).collect();
        let tried: Vec<_> = codes.into_iter().filter(|code| code.starts_with("try-")).collect();
        tried == code.into_iter().collect::<Vec<_>>()
    };
    daemon.wait_json(&["status"], SOON, is_so).map(drop)
}

/// Packets that tunl0 itself has sent and received.
struct Tunl0 {
    sent: u64,
    received: u64,
}

impl Tunl0 {
    fn of(node: &Node) -> Result<Self> {
        let links: Value = serde_json::from_str(&node.netns.ip("-j -s link show tunl0")?)?;
        let packets = |way| links[0]["stats64"][way]["packets"].as_u64().context("no figure");
        Ok(Self { sent: packets("tx")?, received: packets("rx")? })
    }

    fn since(&self, node: &Node) -> Result<Self> {
        let now = Self::of(node)?;
        Ok(Self { sent: now.sent - self.sent, received: now.received - self.received })
    }
}
