//! What the `tunless` command shows.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Step, expect, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "Looking into it: the `tunless` command",
    why: "No traffic is a riddle: every table that the eBPF programs use can be read, and every \
          packet they let pass, send or drop is counted by its reason.",
    show,
};

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (perf, sit) = (stage.lab.perf(), stage.lab.sit());
    let (node2, peer) = (&stage.node2, &stage.node1.node);
    let place = &node2.place;
    line(page, place, "tunless status")?;
    let text = line(page, place, "tunless routes list")?;
    expect(&text, &[peer.block, &peer.ip.to_string(), "active"])?;
    let text = line(page, place, &format!("tunless routes get {}", sit.ip))?;
    expect(&text, &[&peer.ip.to_string()])?;
    let text = line(page, place, "tunless endpoints list")?;
    expect(&text, &[&perf.ip.to_string(), &perf.cali])?;
    page.remark("each list also as JSON or YAML:");
    let text = line(page, place, "tunless nodes list -o yaml")?;
    expect(&text, &["node:", &peer.ip.to_string()])?;
    expect(&text, &["interface: eth0"])?;
    line(page, place, "tunless counters list")?;

    let status = node2.daemon()?.cli_json(&["status"])?;
    ensure!(status["ready"] == true, "the status is not ready");
    let counters = node2.daemon()?.cli_json(&["counters", "list"])?;
    let (sent, received) = (packets(&counters, "encap")?, packets(&counters, "decap")?);
    ensure!(sent > 0 && received > 0, "{sent} packets were wrapped and {received} unwrapped");
    Ok(format!(
        "node2 is ready, its tables name the pod, the block and the node at the other end, and it \
         has wrapped {sent} packets and unwrapped {received}."
    ))
}

/// How many went on by our hand, wrapped or unwrapped.
fn packets(counters: &Value, direction: &str) -> Result<u64> {
    let items = counters["items"].as_array().context("the counters are no list")?;
    Ok(items
        .iter()
        .filter(|item| item["direction"] == direction && item["verdict"] == "forwarded")
        .filter_map(|item| item["packets"].as_u64())
        .sum())
}
