//! The node's NIC in a VRF: left to tunl0 where the kernel has a route for it, named where not.

use anyhow::{Result, ensure};
use tunless_lab::{
    Daemon, Lab, Node,
    addr::{CALI_MAC, POD_GATEWAY, mac_text},
    sent::IPIP,
};

use super::{
    super::{
        Case,
        counted::Counted,
        smoke::interop::{finish, pings, transfer},
    },
    scene::{ACCELERATE, REPLACE, ensure_refused, ensure_silent, until, wait_problem},
};
use crate::tunl0;

/// In both modes, and what the file may name.
pub const CASES: &[Case] = &[
    Case { name: "vrf_tunl0_alone", loads_tunless: false, run: |_| tunl0_alone() },
    Case { name: "vrf_accelerate", loads_tunless: true, run: |_| accelerate() },
    Case { name: "vrf_replace", loads_tunless: true, run: |_| replace() },
    Case { name: "vrf_refused", loads_tunless: true, run: |_| refused() },
];

const WHY: &str = "in the VRF blue";

/// Puts node2's NIC into a VRF of its own, with the default route.
fn lab() -> Result<Lab> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let Node { netns, gateway, .. } = &lab.node2;
    netns.ip_batch(&format!(
        "link add blue type vrf table 10\n\
         link set blue up\n\
         link set eth0 down\n\
         link set eth0 master blue\n\
         link set eth0 up\n\
         route add default via {gateway} dev eth0 table 10\n"
    ))?;
    // Proxy ARP answers a pod only where the main table has a route to its gateway.
    let gateway = format!("{POD_GATEWAY} lladdr {}", mac_text(CALI_MAC));
    lab.perf().netns.ip(&format!("neigh replace {gateway} dev eth0 nud permanent"))?;
    lab.count_sent(&[IPIP])?;
    Ok(lab)
}

/// Lets the main table, by which tunl0 sends, know the way to node1 (a leaked route).
fn leak(lab: &Lab) -> Result<()> {
    let Node { netns, gateway, .. } = &lab.node2;
    let to = lab.node1.ip;
    netns.ip(&format!("route add {to}/32 via {gateway} dev eth0 onlink")).map(drop)
}

/// What the others are compared with.
fn tunl0_alone() -> Result<()> {
    let lab = lab()?;
    leak(&lab)?;
    tunl0::raise_on_both(&lab)?;
    pings(&lab)?;
    transfer(lab.perf(), lab.sit())
}

/// Whatever tunl0 carries it goes on carrying; without a route in the main table that is nothing.
fn accelerate() -> Result<()> {
    let lab = lab()?;
    leak(&lab)?;
    tunl0::raise_on_both(&lab)?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    let mut daemon = Daemon::start(node2, &ACCELERATE.config(node2, node1))?;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill9()?;
            daemon.restart()?;
        }
        until(|| pings(&lab))?;
        let (before, sent) = (Counted::now(&daemon)?, lab.sent("node2", IPIP)?);
        pings(&lab)?;
        transfer(lab.perf(), lab.sit())?;
        transfer(lab.sit(), lab.perf())?;
        ensure!(before.since(&daemon)?.encapsulated() == (0, 0), "tunless encapsulated");
        ensure!(lab.sent("node2", IPIP)? > sent, "by what way?");
        wait_problem(&daemon, "left-to-tunl0", WHY)?;
        let status = daemon.cli_json(&["status"])?;
        ensure!(status["ready"] == true, "{status}");
    }
    node2.netns.ip(&format!("route del {}/32", node1.ip))?;
    wait_problem(&daemon, "node-unreachable", WHY)?;
    daemon.kill9()?;
    daemon.restart()?;
    wait_problem(&daemon, "node-unreachable", WHY)?;
    leak(&lab)?;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill9()?;
            daemon.restart()?;
        }
        wait_problem(&daemon, "left-to-tunl0", WHY)?;
        until(|| pings(&lab))?;
    }
    finish(&lab, daemon)
}

/// Nothing is sent, whether the main table has a route or not, and `status` names the VRF.
fn replace() -> Result<()> {
    let lab = lab()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    // Without a route in the main table nothing else names the address.
    let config = REPLACE.config(node2, node1);
    let config = config.replace("node: {", &format!("node: {{address: {}, ", node2.ip));
    let mut daemon = Daemon::start(node2, &config)?;
    for is_leaked in [false, true] {
        if is_leaked {
            leak(&lab)?;
            daemon.kill9()?;
            daemon.restart()?;
        }
        wait_problem(&daemon, "node-unreachable", WHY)?;
        wait_problem(&daemon, "all-routes-unreachable", "")?;
        let sent = lab.sent("node2", IPIP)?;
        ensure_silent(&lab)?;
        ensure!(lab.sent("node2", IPIP)? == sent, "node2 sent");
    }
    finish(&lab, daemon)
}

/// The file may not name such a link, in either mode.
fn refused() -> Result<()> {
    for setup in [REPLACE, ACCELERATE] {
        let lab = lab()?;
        leak(&lab)?;
        let (node1, node2) = (&lab.node1, &lab.node2);
        tunl0::raise(node1, node2)?;
        let is_beside = setup.mode == ACCELERATE.mode;
        if is_beside {
            tunl0::raise(node2, node1)?;
        }
        let links = [("eth0", "eth0 is in the VRF blue"), ("blue", "blue is a VRF")];
        ensure_refused(&lab, node2, &setup.config(node2, node1), &links, || {
            if is_beside { until(|| pings(&lab)) } else { ensure_silent(&lab) }
        })?;
    }
    Ok(())
}
