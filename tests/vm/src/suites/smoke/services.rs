//! Flows to a Service are leased where they are translated: tunless on node2, tunl0 on node1.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab,
    ipvs::kube_proxy_ipvs,
    service::{Protocol, Service, kube_proxy},
    traffic::{conversation::Conversation, tcp},
};

use super::interop::{config, finish};
use crate::{
    suites::{Case, Guest, counted::Counted, hosts::until},
    tunl0,
};

/// Without tunl0 on our side, and beside it.
pub const CASES: &[Case] = &[
    Case { name: "services_to_tunl0", loads_tunless: true, run: replace },
    Case { name: "accelerate_services_to_tunl0", loads_tunless: true, run: accelerate },
    Case { name: "services_by_ipvs", loads_tunless: true, run: by_ipvs },
];

const PORT: u16 = 5301;
const SOON: Duration = Duration::from_secs(120);
/// What tells of leases, given by either hook.
const GRANTED: [Reason; 4] = [
    Reason::HostLeaseGranted,
    Reason::HostServiceLeaseGranted,
    Reason::GrantGiven,
    Reason::GrantServiceGiven,
];
/// What tells that both directions were leased, and translated by the leases.
const REASONS: [Reason; 4] = [
    Reason::HostServiceLeaseGranted,
    Reason::GrantServiceGiven,
    Reason::PodServiceEncapsulated,
    Reason::DecapServiceToPod,
];

fn replace(_: &Guest) -> Result<()> {
    run("replace")
}

fn accelerate(_: &Guest) -> Result<()> {
    run("accelerate")
}

fn run(mode: &str) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    if mode == "accelerate" {
        tunl0::raise(node2, node1)?;
    }
    let yaml = config(node2, node1, mode, "verified") + "leases: {seconds: 2}\n";
    let mut daemon = Daemon::start(node2, &yaml)?;
    by_service(&lab, &daemon)?;
    daemon.terminate()?;
    daemon.restart()?;
    by_service(&lab, &daemon).context("after a restart of the daemon")?;
    finish(&lab, daemon)
}

/// TCP and UDP by a Service, until leases carry both ways, and bulk both ways.
fn by_service(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let (client, server) = (lab.perf(), lab.sit());
    let address: SocketAddrV4 = "10.10.48.7:53".parse()?;
    let services = [Protocol::Udp, Protocol::Tcp].map(|protocol| Service {
        name: format!("default/{protocol:?}").to_lowercase(),
        protocol,
        address,
        endpoints: vec![SocketAddrV4::new(server.ip, PORT)],
    });
    kube_proxy(&lab.node2.netns, &services)?;
    for Service { protocol, .. } in &services {
        daemon.cli(&["counters", "flush"])?;
        let talk = Conversation::start(*protocol, &client.netns, address, &server.netns, PORT)?;
        for reason in REASONS {
            until(|| {
                let packets = packets(daemon, reason)?;
                ensure!(packets > 0, "{protocol:?}: no packet was counted as {reason}");
                Ok(())
            })?;
        }
        ensure!(talk.wait_for(20, SOON), "{protocol:?}: no answer by leases");
        let seen = talk.seen().context("the server saw no client")?;
        ensure!(seen.ip() == client.ip, "the server saw {seen}");
    }
    for server_sends in [false, true] {
        let options = tcp::Options { mebibytes: 2, server_sends, ..tcp::Options::default() };
        tcp::bulk(&client.netns, address, &server.netns, PORT, &options)?;
    }
    Ok(())
}

/// IPVS translates without the bits by which conntrack would tell of it: its flows look like pods' own, and
/// by their tags alone they are no such flows. So they get no leases, also while the very pod behind the
/// Service is leased to the same client.
fn by_ipvs(_: &Guest) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    let yaml = config(node2, node1, "replace", "verified") + "leases: {seconds: 2}\n";
    let daemon = Daemon::start(node2, &yaml)?;
    let (client, server) = (lab.perf(), lab.sit());
    let address: SocketAddrV4 = "10.10.48.9:53".parse()?;
    let behind = SocketAddrV4::new(server.ip, PORT);
    let start = |protocol, to| {
        Conversation::start(protocol, &client.netns, to, &server.netns, PORT)
            .with_context(|| format!("{protocol:?} to {to}"))
    };
    let services = [Protocol::Udp, Protocol::Tcp].map(|protocol| Service {
        name: String::new(),
        protocol,
        address,
        endpoints: vec![behind],
    });
    kube_proxy_ipvs(&node2.netns, &services)?;
    for Service { protocol, .. } in &services {
        let direct = start(*protocol, behind)?;
        until(|| {
            ensure!(leased_to(&daemon, direct.client)? == 2, "{protocol:?}: no leases of the pod");
            Ok(())
        })?;
        ensure!(direct.wait_for(20, SOON), "{protocol:?}: no answer by leases");
        drop(direct);
        let before = Counted::now(&daemon)?;
        let talk = start(*protocol, address)?;
        // Longer than a lease, as each of its packets asks for one.
        ensure!(talk.wait_for(400, SOON), "{protocol:?}: no answers by IPVS");
        ensure!(leased_to(&daemon, talk.client)? == 0, "{protocol:?}: IPVS' flow has a lease");
        let seen = talk.seen().context("the server saw no client")?;
        ensure!(seen == talk.client.into(), "the server saw {seen}, not {}", talk.client);
        drop(talk);
        let counted = before.since(&daemon)?;
        counted.lacks(&GRANTED)?;
        for reason in [Reason::HostUnproven, Reason::GrantUnproven] {
            let packets = counted.packets(reason);
            ensure!(packets >= 300, "{packets} packets were counted as {reason}: {counted:?}");
        }
        counted.nothing_dropped()?;
    }
    finish(&lab, daemon)
}

/// How many leases have this end.
fn leased_to(daemon: &Daemon, end: SocketAddrV4) -> Result<usize> {
    let answer = daemon.cli_json(&["leases", "list"])?;
    let items = answer["items"].as_array().context("no leases are listed")?;
    let end = end.to_string();
    let ends_there = |item: &&Value| item["source"] == end || item["destination"] == end;
    Ok(items.iter().filter(ends_there).count())
}

fn packets(daemon: &Daemon, reason: Reason) -> Result<u64> {
    let counters = daemon.cli_json(&["counters", "list"])?;
    let items = counters["items"].as_array().context("no counters are listed")?;
    let item = items.iter().find(|item| item["reason"] == reason.as_str());
    Ok(item.and_then(|item| item["packets"].as_u64()).unwrap_or(0))
}
