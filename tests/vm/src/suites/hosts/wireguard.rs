//! WireGuard between the nodes: left to tunl0, or refused by name.

use anyhow::{Result, ensure};
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Node,
    capture::Capture,
    frame::{Frame, protocol},
};

use super::{
    super::{
        Case,
        counted::Counted,
        smoke::interop::{finish, pings, transfer},
    },
    scene::{ACCELERATE, REPLACE, ensure_refused, ensure_silent, problems, until, wait_problem},
};
use crate::tunl0;

/// In both modes, and what the file may name.
pub const CASES: &[Case] = &[
    Case { name: "wireguard_accelerate", loads_tunless: true, run: |_| accelerate() },
    Case { name: "wireguard_replace", loads_tunless: true, run: |_| replace() },
    Case { name: "wireguard_refused", loads_tunless: true, run: |_| refused() },
];

/// Any 32 bytes are a private key; these are public now.
const KEYS: [&str; 2] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
];
const ADDRESSES: [[u8; 4]; 2] = [[10, 99, 0, 1], [10, 99, 0, 2]];
const PORT: u16 = 51820;
/// Of tunl0 and of pods' paths: WireGuard takes 80 bytes, IPIP 20.
const MTU: u32 = 1400;
const WHY: &str = "wg0, which has no Ethernet header";

/// Joins the nodes by WireGuard. Returns them with the addresses that they have there.
fn join(lab: &Lab) -> Result<[Node; 2]> {
    let mut nodes = [lab.node1.clone(), lab.node2.clone()];
    for (at, node) in nodes.iter().enumerate() {
        let other = 1 - at;
        let endpoint = format!("{}:{PORT}", nodes[other].ip);
        let public = node.netns.exec_with_input("wg", &["pubkey"], KEYS[other])?;
        node.netns.ip("link add wg0 type wireguard")?;
        let own = ["set", "wg0", "listen-port", "51820", "private-key", "/dev/stdin"];
        let peer = ["peer", public.trim(), "allowed-ips", "0.0.0.0/0", "endpoint", &endpoint];
        node.netns.exec_with_input("wg", &[&own[..], &peer].concat(), KEYS[at])?;
        let address = std::net::Ipv4Addr::from(ADDRESSES[at]);
        node.netns.ip_batch(&format!("addr add {address}/24 dev wg0\nlink set wg0 up\n"))?;
    }
    for (node, address) in nodes.iter_mut().zip(ADDRESSES) {
        node.ip = address.into();
    }
    Ok(nodes)
}

fn raise_tunl0(node: &Node, peer: &Node) -> Result<()> {
    tunl0::raise(node, peer)?;
    node.netns.ip(&format!("link set tunl0 mtu {MTU}")).map(drop)
}

fn is_wireguard(frame: &Frame) -> bool {
    frame.outer().is_some_and(|(ip, udp)| {
        ip.protocol == protocol::UDP && udp.get(2..4) == Some(&PORT.to_be_bytes())
    })
}

/// Checks that the wire carried WireGuard's packets and no other IPv4.
fn ensure_encrypted(wire: Capture) -> Result<()> {
    let frames = wire.stop()?;
    let mut ipv4 = frames.iter().filter(|frame| frame.outer().is_some()).peekable();
    ensure!(ipv4.peek().is_some(), "nothing was on the wire");
    let clear = ipv4.find(|frame| !is_wireguard(frame));
    ensure!(clear.is_none(), "in the clear: {}", clear.map_or_else(String::new, Frame::to_string));
    Ok(())
}

/// tunl0 carries all, and `status` names the routes that it has.
fn accelerate() -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let [node1, node2] = join(&lab)?;
    raise_tunl0(&node1, &node2)?;
    raise_tunl0(&node2, &node1)?;
    let mut daemon = Daemon::start(&node2, &ACCELERATE.config(&node2, &node1))?;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill9()?;
            daemon.restart()?;
        }
        let wire = Capture::wire(&lab.router, &lab.node2)?;
        until(|| pings(&lab))?;
        let before = Counted::now(&daemon)?;
        pings(&lab)?;
        transfer(lab.perf(), lab.sit())?;
        transfer(lab.sit(), lab.perf())?;
        ensure!(before.since(&daemon)?.encapsulated() == (0, 0), "tunless encapsulated");
        ensure_encrypted(wire)?;
        wait_problem(&daemon, "left-to-tunl0", WHY)?;
        let status = daemon.cli_json(&["status"])?;
        ensure!(status["ready"] == true, "{status}");
        let others: Vec<&Value> =
            problems(&status).filter(|problem| problem["level"] != "info").collect();
        ensure!(others.is_empty(), "{others:?}");
    }
    finish(&lab, daemon)
}

/// Without tunl0 nothing is sent, by any link, and `status` names the node.
fn replace() -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let [node1, node2] = join(&lab)?;
    raise_tunl0(&node1, &node2)?;
    let mut daemon = Daemon::start(&node2, &REPLACE.config(&node2, &node1))?;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill9()?;
            daemon.restart()?;
        }
        wait_problem(&daemon, "node-unreachable", WHY)?;
        wait_problem(&daemon, "all-routes-unreachable", "")?;
        let wire = Capture::wire(&lab.router, &lab.node2)?;
        ensure_silent(&lab)?;
        ensure_encrypted(wire)?;
    }
    finish(&lab, daemon)
}

/// The file may not name such a link, in either mode.
fn refused() -> Result<()> {
    for setup in [REPLACE, ACCELERATE] {
        let lab = Lab::new().fabric_filter(true).build()?;
        let [node1, node2] = join(&lab)?;
        raise_tunl0(&node1, &node2)?;
        let is_beside = setup.mode == ACCELERATE.mode;
        if is_beside {
            raise_tunl0(&node2, &node1)?;
        }
        let links = [("wg0", "wg0 has no Ethernet header")];
        ensure_refused(&lab, &node2, &setup.config(&node2, &node1), &links, || {
            if is_beside { until(|| pings(&lab)) } else { ensure_silent(&lab) }
        })?;
    }
    Ok(())
}
