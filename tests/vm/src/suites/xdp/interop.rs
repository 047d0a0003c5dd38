//! Everything that pods and hosts say to each other, unwrapped by XDP.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{
    Daemon, Lab, Node, Pod,
    traffic::{ping, tcp},
};

use super::{Counters, ensure_native};
use crate::{
    suites::{
        Case,
        smoke::interop::{config, datagram, pings, transfer},
    },
    tunl0,
};

/// Each fast path, with each kind of node at the other end.
pub const CASES: &[Case] = &[
    Case {
        name: "fastpath_off_to_tunless",
        loads_tunless: true,
        run: |_| run("off", Peer::Tunless),
    },
    Case { name: "fastpath_off_to_tunl0", loads_tunless: true, run: |_| run("off", Peer::Tunl0) },
    Case {
        name: "fastpath_trusted_to_tunless",
        loads_tunless: true,
        run: |_| run("trusted", Peer::Tunless),
    },
    Case {
        name: "fastpath_trusted_to_tunl0",
        loads_tunless: true,
        run: |_| run("trusted", Peer::Tunl0),
    },
    Case {
        name: "fastpath_verified_to_tunless",
        loads_tunless: true,
        run: |_| run("verified", Peer::Tunless),
    },
    Case {
        name: "fastpath_verified_to_tunl0",
        loads_tunless: true,
        run: |_| run("verified", Peer::Tunl0),
    },
];

/// The listener of [`from_host`].
const PORT: u16 = 5202;

/// What node1 runs; node2 runs tunless.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Tunless,
    Tunl0,
}

fn run(fastpath: &str, peer: Peer) -> Result<()> {
    let lab = Lab::new().nics(true).fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    // No word of `decap`: auto is the default.
    let daemon2 = Daemon::start(node2, &config(node2, node1, "replace", fastpath))?;
    ensure_native(node2, &daemon2)?;
    let daemon1 = match peer {
        Peer::Tunl0 => {
            tunl0::raise(node1, node2)?;
            None
        }
        Peer::Tunless => {
            let daemon = Daemon::start(node1, &config(node1, node2, "replace", fastpath))?;
            ensure_native(node1, &daemon)?;
            Some(daemon)
        }
    };

    pings(&lab)?;
    for (client, server) in [(lab.perf(), lab.sit()), (lab.sit(), lab.perf())] {
        let way = format!("{} to {}", client.name, server.name);
        transfer(client, server).with_context(|| format!("TCP from {way}"))?;
        datagram(client, server).with_context(|| format!("UDP from {way}"))?;
    }
    for (host, pod) in [(node2, lab.sit()), (node1, lab.perf())] {
        from_host(host, pod).with_context(|| format!("{} to {}", host.label, pod.name))?;
    }

    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    for daemon in daemon1.into_iter().chain([daemon2]) {
        let counters = Counters::of(&daemon)?;
        ensure!(
            counters.packets(Reason::XdpUnwrapped)? > 0,
            "XDP unwrapped nothing: {}",
            counters.0
        );
        for reason in [Reason::XdpUnable, Reason::DecapHandoverStray] {
            let packets = counters.packets(reason)?;
            ensure!(packets == 0, "{packets} packets were counted as {reason}");
        }
        let way = match fastpath {
            "off" => Reason::DecapToStack,
            _ => Reason::DecapToPod,
        };
        ensure!(counters.packets(way)? > 0, "no packet was counted as {way}: {}", counters.0);
        daemon.finish()?;
    }
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// A node itself speaks to a pod of the other one, from its tunnel address.
fn from_host(host: &Node, pod: &Pod) -> Result<()> {
    let report = ping::ping(&host.netns, pod.ip, &ping::Options::default())?;
    ensure!(report.all_answered(), "not every ping was answered:\n{}", report.text);
    let address = SocketAddrV4::new(pod.ip, PORT);
    let options = tcp::Options { mebibytes: 1, ..tcp::Options::default() };
    let report = tcp::bulk(&host.netns, address, &pod.netns, PORT, &options)?;
    ensure!(*report.peer.ip() == host.tunnel, "the server saw {}", report.peer);
    Ok(())
}
