//! What XDP is for: the kernel's GRO finds plain TCP, and merges it.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{Daemon, Lab, traffic::tcp};

use super::{Counters, ensure_native};
use crate::{
    suites::{Case, smoke::interop::config},
    tunl0,
};

/// On both ways of delivery.
pub const CASES: &[Case] = &[
    Case { name: "gro_merges_to_stack", loads_tunless: true, run: |_| merges("off") },
    Case { name: "gro_merges_to_pod", loads_tunless: true, run: |_| merges("trusted") },
];

/// The underlay's MTU.
const MTU: u64 = 1500;
const PORT: u16 = 5203;

/// A bulk of one direction, from tunl0's pod to ours: what arrives on the wire
/// arrives at the pod in fewer, larger pieces.
fn merges(fastpath: &str) -> Result<()> {
    let lab = Lab::new().nics(true).fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    let daemon = Daemon::start(node2, &config(node2, node1, "replace", fastpath))?;
    ensure_native(node2, &daemon)?;
    let before = Counters::of(&daemon)?;

    let (client, server) = (lab.sit(), lab.perf());
    let address = SocketAddrV4::new(server.ip, PORT);
    let options = tcp::Options { mebibytes: 4, ..tcp::Options::default() };
    tcp::bulk(&client.netns, address, &server.netns, PORT, &options)?;

    let after = Counters::of(&daemon)?;
    let unwrapped = after.packets(Reason::XdpUnwrapped)? - before.packets(Reason::XdpUnwrapped)?;
    let (packets, bytes) = {
        let (now, then) = (after.delivered(), before.delivered());
        (now.0 - then.0, now.1 - then.1)
    };
    let told = format!("{unwrapped} unwrapped, delivered as {packets} of {bytes} bytes");
    println!("{told}");
    ensure!(packets > 0, "nothing was delivered: {told}");
    // On average more than one and a half full packets in each.
    ensure!(2 * bytes > 3 * MTU * packets, "the inner TCP was not merged: {told}");
    ensure!(2 * unwrapped > 3 * packets, "the inner TCP was not merged: {told}");
    daemon.finish()?;
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}
