//! Flows to a Service are leased where they are translated: tunless on node2, tunl0 on node1.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{
    Daemon, Lab,
    service::{Protocol, Service, kube_proxy},
    traffic::{conversation::Conversation, tcp},
};

use super::interop::{config, finish};
use crate::{
    suites::{Case, Guest, hosts::until},
    tunl0,
};

/// Without tunl0 on our side, and beside it.
pub const CASES: &[Case] = &[
    Case { name: "services_to_tunl0", loads_tunless: true, run: replace },
    Case { name: "accelerate_services_to_tunl0", loads_tunless: true, run: accelerate },
];

const PORT: u16 = 5301;
const SOON: Duration = Duration::from_secs(30);
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
    let yaml = config(node2, node1, mode, "verified") + "leases: {services: true, seconds: 2}\n";
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

fn packets(daemon: &Daemon, reason: Reason) -> Result<u64> {
    let counters = daemon.cli_json(&["counters", "list"])?;
    let items = counters["items"].as_array().context("no counters are listed")?;
    let item = items.iter().find(|item| item["reason"] == reason.as_str());
    Ok(item.and_then(|item| item["packets"].as_u64()).unwrap_or(0))
}
