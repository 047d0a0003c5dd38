//! Without any route in the file: tunless follows those that Felix or BIRD keeps over
//! tunl0 (`sources.kernel`).

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use serde_json::{Value, json};
use tunless_lab::{Daemon, Lab, Node, Pod, traffic::ping};

use super::{
    super::counted::Counted,
    events::reload_ipip,
    felix,
    scene::{carries_pings, finish, lab_of, until, works},
    streams::Streams,
};
use crate::{
    checks::Outcome,
    suites::{Guest, smoke::interop::transfer},
    tunl0::{self, Owner},
};

/// `mode: accelerate`, and the daemon is there before the routes.
pub fn felix(guest: &Guest) -> Result<()> {
    followed(guest, Owner::Felix, "accelerate")
}

/// `mode: auto`, which finds BIRD's routes.
pub fn bird(guest: &Guest) -> Result<()> {
    followed(guest, Owner::Bird, "auto")
}

fn followed(guest: &Guest, owner: Owner, mode: &str) -> Result<()> {
    let lab = three_nodes(owner)?;
    let Lab { node1, node2, .. } = &lab;
    let node3 = lab.node3.as_ref().context("there is no node3")?;
    // What moves: an address of node1's block, on node3.
    let moved = node3.add_pod("moved", Lab::pod_ip(node1, 50))?;
    let borrowed = format!("{}/32", moved.ip);
    let route = |verb: &str, cidr: &str, via: &Node| tunl0::route(owner, node2, verb, cidr, via);

    if owner == Owner::Felix {
        route("del", node1.block, node1)?;
    }
    let mut daemon = Daemon::start(node2, &yaml(node2, mode))?;
    if owner == Owner::Felix {
        listed(&daemon, &json!([]))?;
        route("add", node1.block, node1)?;
    }
    let one = json!([[node1.block, node1.ip, "kernel", "ipip"]]);
    guest.checks.check("listed", || listed(&daemon, &one));
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    guest.checks.check("tcp", || carries_tcp(&lab, &daemon));

    guest.checks.check("followed", || {
        // A borrowed address, and a block of our own, which is no route to anywhere.
        route("add", &borrowed, node3)?;
        tunl0::own_block(owner, node2)?;
        let both = json!([
            [node1.block, node1.ip, "kernel", "ipip"],
            [borrowed, node3.ip, "kernel", "ipip"]
        ]);
        listed(&daemon, &both)?;
        reaches(&lab, &daemon, &moved)?;
        route("del", &borrowed, node3)?;
        listed(&daemon, &one)?;
        // A next hop that changes, and changes back.
        streams.flow()?;
        Ok(Outcome::GOOD)
    });
    // Nothing of it concerned them.
    guest.checks.check("loss", || streams.lost());

    guest.checks.check("next hop", || {
        for (node, pod) in [(node3, &moved), (node1, lab.sit())] {
            route("replace", node1.block, node)?;
            listed(&daemon, &json!([[node1.block, node.ip, "kernel", "ipip"]]))?;
            reaches(&lab, &daemon, pod)?;
        }
        Ok(Outcome::GOOD)
    });
    guest.checks.check("restart", || {
        let streams = Streams::start(&lab)?;
        daemon.kill9()?;
        daemon.restart()?;
        listed(&daemon, &one)?;
        works(&daemon)?;
        streams.lost()
    });
    guest.checks.check("removed", || {
        nothing_plain(&lab)?;
        route("del", node1.block, node1)?;
        listed(&daemon, &json!([]))?;
        let nodes = daemon.cli_json(&["nodes", "list"])?["items"].clone();
        ensure!(nodes == json!([]), "a node without routes is left: {nodes}");
        let options = ping::Options { count: 1, ..ping::Options::default() };
        let report = ping::ping(&lab.perf().netns, lab.sit().ip, &options)?;
        ensure!(report.received == 0, "there is another way:\n{}", report.text);
        route("add", node1.block, node1)?;
        listed(&daemon, &one)?;
        carries_pings(&lab, &daemon)
    });
    finish(&lab, daemon)
}

/// tunl0 goes with all its routes, and comes back under another number.
pub fn tunl0_replaced(guest: &Guest) -> Result<()> {
    let lab = three_nodes(Owner::Felix)?;
    let Lab { node1, node2, .. } = &lab;
    let daemon = Daemon::start(node2, &yaml(node2, "accelerate"))?;
    let one = json!([[node1.block, node1.ip, "kernel", "ipip"]]);
    guest.checks.check("listed", || listed(&daemon, &one));
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    drop(streams);
    reload_ipip(&lab, || tunl0::raise(node1, node2))?;
    guest.checks.check("reported", || {
        let not_ready = || Ok(daemon.cli(&["status", "--strict"])?.status == Some(3));
        until("`tunless status` says that something is missing", not_ready)?;
        Ok(Outcome::GOOD)
    });
    felix::reconcile(node2, node1)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works again", || works(&daemon));
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    guest.checks.check("followed", || {
        // The route of the new tunl0, not what is left of the old one's.
        tunl0::route(Owner::Felix, node2, "del", node1.block, node1)?;
        listed(&daemon, &json!([]))?;
        tunl0::route(Owner::Felix, node2, "add", node1.block, node1)?;
        listed(&daemon, &one)
    });
    drop(streams);
    finish(&lab, daemon)
}

/// As the other cases' lab, with a node3, and a fabric that counts plain packets.
fn three_nodes(owner: Owner) -> Result<Lab> {
    let lab = lab_of(Lab::new().third_node(true).fabric_filter(true), owner)?;
    let node3 = lab.node3.as_ref().context("there is no node3")?;
    tunl0::raise_for(owner, node3, &lab.node2)?;
    Ok(lab)
}

/// No route in it.
fn yaml(node: &Node, mode: &str) -> String {
    let Node { name, tunnel, .. } = node;
    format!(
        "node: {{name: {name}, tunnel_address: {tunnel}}}\n\
         mode: {mode}\nfastpath: verified\nsources: {{kernel: {{}}}}\n"
    )
}

/// Waits until `tunless routes list` shows exactly these: prefix, node, source, encap.
fn listed(daemon: &Daemon, expected: &Value) -> Result<Outcome> {
    let mut found = Value::Null;
    until("the routes are those of the kernel", || {
        let answer = daemon.cli_json(&["routes", "list"])?;
        let items = answer["items"].as_array().context("no routes are listed")?;
        let four =
            |item: &Value| json!([item["cidr"], item["node"], item["source"], item["encap"]]);
        found = items.iter().map(four).collect();
        Ok(found == *expected)
    })
    .with_context(|| format!("{expected} was expected, not {found}"))?;
    Ok(Outcome::GOOD)
}

/// That the pod of node2 and this one reach each other, by us alone.
fn reaches(lab: &Lab, daemon: &Daemon, pod: &Pod) -> Result<()> {
    let before = Counted::now(daemon)?;
    for (from, to) in [(lab.perf(), pod), (pod, lab.perf())] {
        let report = ping::ping(&from.netns, to.ip, &ping::Options::default())?;
        ensure!(report.all_answered(), "not every ping was answered:\n{}", report.text);
    }
    let counted = before.since(daemon)?;
    counted.has(&[Reason::HostEncapsulated, Reason::DecapNoPortsToStack])?;
    counted.nothing_for_tunl0()?;
    counted.nothing_dropped()
}

fn carries_tcp(lab: &Lab, daemon: &Daemon) -> Result<Outcome> {
    let before = Counted::now(daemon)?;
    transfer(lab.perf(), lab.sit()).context("TCP from node2")?;
    transfer(lab.sit(), lab.perf()).context("TCP to node2")?;
    let counted = before.since(daemon)?;
    counted.has_bytes(Reason::PodEncapsulated, 1 << 20)?;
    counted.has_bytes(Reason::DecapToPod, 1 << 20)?;
    counted.nothing_dropped()?;
    Ok(Outcome::GOOD)
}

fn nothing_plain(lab: &Lab) -> Result<()> {
    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    Ok(())
}
