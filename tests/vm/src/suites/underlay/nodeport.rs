//! A `NodePort` of node2 whose pod is on node1 (`externalTrafficPolicy: Cluster`): what the pod answers
//! arrives at node2 in merged packets, and leaves by the same NIC without a tunnel.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use dataplane_common::Reason;
use nix::sys::utsname::uname;
use tunless_lab::{Daemon, Lab, Netns, capture::Capture, frame::Direction, traffic::tcp};

use super::super::{
    Case,
    counted::Counted,
    smoke::interop::{config, finish, pings},
};
use crate::{Kernel, tunl0};

/// In both modes.
pub const CASES: &[Case] = &[
    Case { name: "nodeport_replace_off", loads_tunless: true, run: |_| answers(REPLACE) },
    Case { name: "nodeport_accelerate_verified", loads_tunless: true, run: |_| answers(BESIDE) },
];

/// How node2 is set up, and what is counted there.
#[derive(Clone, Copy)]
struct Setup {
    mode: &'static str,
    fastpath: &'static str,
    /// Packets that leave nothing of the tunnel behind: for the kernel, which translates them back.
    delivered: Reason,
    /// Merged packets, on kernels that cannot take the tunnel's state out of them.
    stale: Reason,
}

const REPLACE: Setup = Setup {
    mode: "replace",
    fastpath: "off",
    delivered: Reason::DecapToStack,
    stale: Reason::DecapGsoToStack,
};
const BESIDE: Setup = Setup {
    mode: "accelerate",
    fastpath: "verified",
    delivered: Reason::DecapNoLeaseToStack,
    stale: Reason::DecapGsoToTunl0,
};
const NODE_PORT: u16 = 30_080;
const PORT: u16 = 8080;
const MEBIBYTES: u64 = 2;
/// An Ethernet header, and the underlay's MTU.
const FRAME: usize = 14 + 1500;

fn answers(setup: Setup) -> Result<()> {
    let Setup { mode, fastpath, .. } = setup;
    let lab = Lab::new().fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    if mode == "accelerate" {
        tunl0::raise(node2, node1)?;
    }
    translate(&node2.netns, node2.ip, lab.sit().ip)?;
    // What is still marked as a tunnel packet is then cut before it leaves.
    node2.netns.exec("ethtool", &["-K", "eth0", "tx-ipxip4-segmentation", "off"])?;
    let text = config(node2, node1, mode, fastpath);
    let mut daemon = Daemon::start(node2, &format!("{text}underlay: {{decap: tc}}\n"))?;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill9()?;
            daemon.restart()?;
        }
        pings(&lab)?;
        fetch(&lab, &daemon, setup)?;
    }
    finish(&lab, daemon)
}

/// As kube-proxy does for a `NodePort`.
fn translate(node: &Netns, address: Ipv4Addr, pod: Ipv4Addr) -> Result<()> {
    let rules = format!(
        "table ip nodeport {{\n\
         chain to {{ type nat hook prerouting priority -100;\n\
         ip daddr {address} tcp dport {NODE_PORT} dnat to {pod}:{PORT}\n}}\n\
         chain from {{ type nat hook postrouting priority 100;\n\
         ip daddr {pod} tcp dport {PORT} masquerade\n}}\n}}\n"
    );
    node.exec_with_input("nft", &["-f", "-"], &rules).map(drop)
}

/// A client behind the router fetches from the pod; checks what is counted and what leaves.
fn fetch(lab: &Lab, daemon: &Daemon, setup: Setup) -> Result<()> {
    let before = Counted::now(daemon)?;
    let wire = Capture::wire(&lab.router, &lab.node2)?;
    let options = tcp::Options { mebibytes: MEBIBYTES, server_sends: true, ..Default::default() };
    let to = SocketAddrV4::new(lab.node2.ip, NODE_PORT);
    tcp::bulk(&lab.router, to, &lab.sit().netns, PORT, &options)?;
    let frames = wire.stop()?;
    let counted = before.since(daemon)?;
    counted.nothing_dropped()?;
    let sent = frames.iter().filter(|frame| frame.direction == Direction::In);
    let is_whole = sent.map(|frame| frame.bytes.len()).max() > Some(FRAME);
    if Kernel::forgets_tunnel(&release()?) {
        counted.lacks(&[setup.stale])?;
        counted.has_bytes(setup.delivered, MEBIBYTES << 20)?;
        ensure!(is_whole, "packets were cut, as if they were still of a tunnel");
    } else {
        counted.has_bytes(setup.stale, MEBIBYTES << 19)?;
        // tunl0 takes the state out as well.
        ensure!(is_whole == (setup.mode == BESIDE.mode), "whole: {is_whole}");
    }
    Ok(())
}

fn release() -> Result<String> {
    Ok(uname()?.release().to_string_lossy().into_owned())
}
