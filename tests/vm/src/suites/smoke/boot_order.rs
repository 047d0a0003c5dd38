//! `mode: auto` beside Felix or BIRD, whichever of them, tunless and the node's address is first.
//!
//! node1 and node3 have tunl0 alone. On node2 the steps of an order are taken one by one; each
//! order ends with the same mode, and a flow that tunless carried alone loses nothing.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::{Daemon, Lab, Node};

use super::interop::pings;
use crate::{
    Kernel,
    checks::Outcome,
    suites::{Case, Guest, accelerate::Streams},
    tunl0::{self, Owner},
};

/// One order with each owner of routes; the suite `accelerate` has all of them.
pub const CASE: Case =
    Case { name: "auto_becomes_accelerate_in_any_order", loads_tunless: true, run: some };

const SOON: Duration = Duration::from_secs(120);
/// How long a node stays between two steps of its boot.
const HALF_BOOTED: Duration = Duration::from_millis(300);

/// What happens on a node while it boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The daemon starts.
    Tunless,
    /// The daemon is killed and starts again.
    Restart,
    /// Flows between the pods of node1 and node2 start; from now on none of their packets may be
    /// lost.
    Flows,
    /// tunl0 is up and has its address.
    Tunl0,
    /// The route to node1's pods over tunl0.
    First,
    /// The route to node3's pods over tunl0.
    Second,
    /// The underlay's address goes, as before DHCP.
    NoAddress,
    /// It comes.
    Address,
}

use Step::{Address, First, Flows, NoAddress, Restart, Second, Tunl0, Tunless};

const TUNLESS_FIRST: &[&[Step]] = &[
    &[Tunless, Flows, Tunl0, First, Second],
    &[Tunless, Flows, Tunl0, First, Restart, Second],
    &[Tunless, Tunl0, Second, Restart, First],
];
const TUNL0_FIRST: &[&[Step]] = &[
    &[Tunl0, Tunless, Flows, Second, First],
    &[Tunl0, First, Tunless, Flows, Second],
    &[Tunl0, First, Second, Tunless],
];
const ADDRESS_LATE: &[&[Step]] = &[
    &[NoAddress, Tunless, Address, Tunl0, First, Second],
    &[NoAddress, Tunl0, First, Second, Tunless, Address],
    &[NoAddress, Tunl0, Tunless, First, Second, Address],
];

fn some(guest: &Guest) -> Result<()> {
    beside(guest.kernel, Owner::Felix, &TUNLESS_FIRST[1..2])?;
    beside(guest.kernel, Owner::Bird, &ADDRESS_LATE[..1])
}

/// tunless starts before tunl0 is up.
pub fn tunless_first(guest: &Guest) -> Result<()> {
    guest.checks.check("accelerate", || beside_both(guest.kernel, TUNLESS_FIRST));
    Ok(())
}

/// tunl0 is up before tunless starts, with some of its routes.
pub fn tunl0_first(guest: &Guest) -> Result<()> {
    guest.checks.check("accelerate", || beside_both(guest.kernel, TUNL0_FIRST));
    Ok(())
}

/// The node's address comes last, or nearly.
pub fn address_late(guest: &Guest) -> Result<()> {
    guest.checks.check("accelerate", || beside_both(guest.kernel, ADDRESS_LATE));
    Ok(())
}

fn beside_both(kernel: Kernel, orders: &[&[Step]]) -> Result<Outcome> {
    beside(kernel, Owner::Felix, orders)?;
    beside(kernel, Owner::Bird, orders)?;
    Ok(Outcome::GOOD)
}

/// Felix replaces routes, BIRD adds them.
fn beside(kernel: Kernel, owner: Owner, orders: &[&[Step]]) -> Result<()> {
    let verb = match owner {
        Owner::Felix => "replace",
        Owner::Bird => "add",
    };
    let lab = Lab::new().third_node(true).fabric_filter(true).build()?;
    let node3 = lab.node3.as_ref().context("there is no node3")?;
    tunl0::raise(&lab.node1, &lab.node2)?;
    tunl0::raise(node3, &lab.node2)?;
    for order in orders {
        eprintln!("{owner:?}: {order:?}");
        play(&lab, kernel, (owner, verb), order)
            .with_context(|| format!("{owner:?}: {order:?}"))?;
        // As a node that has just booted.
        lab.node2.netns.ip_batch(&format!(
            "addr del {}/32 dev tunl0\n\
             link set tunl0 down\n",
            lab.node2.tunnel
        ))?;
    }
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// `kept`: whose routes, and the verb they are made with.
fn play(lab: &Lab, kernel: Kernel, kept: (Owner, &str), order: &[Step]) -> Result<()> {
    let (node1, node2) = (&lab.node1, &lab.node2);
    let node3 = lab.node3.as_ref().context("there is no node3")?;
    let (owner, verb) = kept;
    let mut daemon: Option<Daemon> = None;
    let mut flows = None;
    for step in order {
        match step {
            Tunless => daemon = Some(Daemon::start(node2, &yaml(node1, node2, node3))?),
            Restart => {
                let daemon = daemon.as_mut().context("no daemon runs yet")?;
                daemon.kill9()?;
                daemon.restart()?;
            }
            Flows => flows = Some(Streams::start(lab)?),
            Tunl0 => drop(node2.netns.ip_batch(&format!(
                "addr replace {}/32 dev tunl0\n\
                 link set tunl0 mtu {} up\n",
                node2.tunnel,
                tunl0::MTU
            ))?),
            First => tunl0::route(owner, node2, verb, node1.block, node1)?,
            Second => tunl0::route(owner, node2, verb, node3.block, node3)?,
            NoAddress => drop(node2.netns.ip(&format!("addr del {}/24 dev eth0", node2.ip))?),
            Address => drop(node2.netns.ip_batch(&format!(
                "addr add {}/24 dev eth0\n\
                 route replace default via {}\n",
                node2.ip, node2.gateway
            ))?),
        }
        if flows.is_some() {
            // What half of a boot looks like must carry packets, too.
            thread::sleep(HALF_BOOTED);
        }
    }
    let daemon = daemon.context("the order has no daemon")?;
    let is_there = |status: &serde_json::Value| {
        let has_none = status["problems"].as_array().is_some_and(Vec::is_empty);
        status["mode"] == "accelerate" && status["ready"] == true && has_none
    };
    daemon.wait_json(&["status"], SOON, is_there).context("the end is `accelerate`, and well")?;
    let ours = node2.netns.ip("route show proto 116")?;
    ensure!(ours.trim().is_empty(), "routes of ours are left beside tunl0's: {ours}");
    if let Some(flows) = flows {
        if kernel.has_tcx() {
            let (lost, sent) = flows.stop()?;
            ensure!(lost == [0, 0], "{lost:?} of {sent} packets were lost");
        } else {
            // tunl0 gets a clsact qdisc, and stops for that moment.
            flows.lost_with_qdiscs(kernel)?;
        }
    }
    pings(lab)?;
    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    daemon.finish()
}

fn yaml(node1: &Node, node2: &Node, node3: &Node) -> String {
    format!(
        "node: {{name: {}, tunnel_address: {}}}\n\
         mode: auto\n\
         fastpath: verified\n\
         routes:\n  static:\n    - {{cidr: {}, node: {}}}\n    - {{cidr: {}, node: {}}}\n",
        node2.name, node2.tunnel, node1.block, node1.ip, node3.block, node3.ip
    )
}
