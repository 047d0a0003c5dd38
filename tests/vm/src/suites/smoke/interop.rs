//! tunless on node2, the kernel's tunl0 on node1.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{
    Daemon, Lab, Node, Pod,
    traffic::{ping, tcp, udp},
};

use crate::{
    suites::{Case, Guest},
    tunl0,
};

/// Both ways with each fast path, without tunl0 on our side and beside it.
pub const CASES: &[Case] = &[
    Case { name: "fastpath_off_to_tunl0", loads_tunless: true, run: off },
    Case { name: "fastpath_trusted_to_tunl0", loads_tunless: true, run: trusted },
    Case { name: "fastpath_verified_to_tunl0", loads_tunless: true, run: verified },
    Case { name: "accelerate_off_to_tunl0", loads_tunless: true, run: accelerate_off },
    Case { name: "accelerate_verified_to_tunl0", loads_tunless: true, run: accelerate_verified },
];

/// Enough for slow start and segmentation, little enough for an emulator.
const MEBIBYTES: u64 = 2;
const PORT: u16 = 5201;
/// What tells of leases, in both directions.
const LEASED: &[Reason] =
    &[Reason::HostLeaseGranted, Reason::GrantGiven, Reason::PodEncapsulated, Reason::DecapToPod];

fn off(_: &Guest) -> Result<()> {
    both_ways("replace", "off", &[Reason::HostEncapsulated, Reason::DecapToStack])
}

fn trusted(_: &Guest) -> Result<()> {
    both_ways("replace", "trusted", &[Reason::PodEncapsulated, Reason::DecapToPod])
}

fn verified(_: &Guest) -> Result<()> {
    both_ways("replace", "verified", LEASED)
}

fn accelerate_off(_: &Guest) -> Result<()> {
    both_ways("accelerate", "off", &[Reason::HostEncapsulated, Reason::DecapToStack])
}

fn accelerate_verified(_: &Guest) -> Result<()> {
    both_ways("accelerate", "verified", LEASED)
}

/// Everything between a pod of each node; `reasons` tell that packets took the
/// way they were meant to.
fn both_ways(mode: &str, fastpath: &str, reasons: &[Reason]) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    tunl0::raise(&lab.node1, &lab.node2)?;
    if mode == "accelerate" {
        tunl0::raise(&lab.node2, &lab.node1)?;
    }
    let yaml = config(&lab.node2, &lab.node1, mode, fastpath);
    let daemon = Daemon::start(&lab.node2, &yaml)?;

    pings(&lab)?;
    for (client, server) in [(lab.perf(), lab.sit()), (lab.sit(), lab.perf())] {
        let way = format!("{} to {}", client.name, server.name);
        transfer(client, server).with_context(|| format!("TCP from {way}"))?;
        datagram(client, server).with_context(|| format!("UDP from {way}"))?;
    }

    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    let counters = daemon.cli_json(&["counters", "list"])?;
    let items = counters["items"].as_array().context("no counters are listed")?;
    for reason in reasons {
        let item = items.iter().find(|item| item["reason"] == reason.as_str());
        let packets = item.and_then(|item| item["packets"].as_u64());
        ensure!(packets > Some(0), "no packet was counted as {reason}: {counters}");
    }
    daemon.finish()?;
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// The configuration of `node`, with one route.
pub fn config(node: &Node, peer: &Node, mode: &str, fastpath: &str) -> String {
    let Node { name, tunnel, .. } = node;
    format!(
        "node: {{name: {name}, tunnel_address: {tunnel}}}\n\
         mode: {mode}\n\
         fastpath: {fastpath}\n\
         routes:\n  static:\n    - {{cidr: {}, node: {}}}\n",
        peer.block, peer.ip
    )
}

/// Both pods ping each other; one hop at each node leaves 62 of 64.
pub fn pings(lab: &Lab) -> Result<()> {
    for (from, to) in [(lab.perf(), lab.sit()), (lab.sit(), lab.perf())] {
        let report = ping::ping(&from.netns, to.ip, &ping::Options::default())?;
        ensure!(report.all_answered(), "not every ping was answered:\n{}", report.text);
        ensure!(report.ttl() == Some(62), "the answers' TTL is not 62:\n{}", report.text);
    }
    Ok(())
}

/// Ends a case: no pod's packet left without a tunnel, and nothing stays behind.
pub fn finish(lab: &Lab, daemon: Daemon) -> Result<()> {
    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    daemon.finish()?;
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// A TCP transfer, whose server sees the client's own address.
pub fn transfer(client: &Pod, server: &Pod) -> Result<()> {
    let address = SocketAddrV4::new(server.ip, PORT);
    let options = tcp::Options { mebibytes: MEBIBYTES, ..tcp::Options::default() };
    let report = tcp::bulk(&client.netns, address, &server.netns, PORT, &options)?;
    ensure!(*report.peer.ip() == client.ip, "the server saw {}", report.peer);
    Ok(())
}

/// A UDP datagram and its answer, likewise.
pub fn datagram(client: &Pod, server: &Pod) -> Result<()> {
    let address = SocketAddrV4::new(server.ip, PORT);
    let options = udp::Options::default();
    let report = udp::exchange(&client.netns, address, &server.netns, PORT, &options)?;
    ensure!(*report.seen.ip() == client.ip, "the server saw {}", report.seen);
    Ok(())
}
