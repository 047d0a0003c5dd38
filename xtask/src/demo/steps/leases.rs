//! A flow that skips the stack, with netfilter's consent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tunless_lab::addr::SERVICE_IP;

use super::{Step, expect, line};
use crate::{
    demo::{page::Page, shell::Running, stage::Stage},
    interrupt,
};

pub const STEP: Step = Step {
    title: "The fast path: leases, granted by netfilter",
    why: "With `fastpath: verified` the kernel's rules stay the judge. Once conntrack calls a flow \
          established and nobody translates it, it gets a lease: for five seconds its packets go \
          straight from the pod to the wire and from the wire into the pod. Then the next packet \
          has to ask again, so a new rule bites within a lease.",
    show,
};

/// iperf3's.
const PORT: u16 = 5201;
/// Time for a few hundred packets, and so for the first lease.
const UNDER_WAY: Duration = Duration::from_millis(700);

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (perf, sit) = (stage.lab.perf().ip, stage.lab.sit().ip);
    let node2 = &stage.node2.place;
    let server = "iperf3 --server --one-off --forceflush";
    page.typed(&stage.sit.name, &format!("{server} &"));
    let mut server = stage.sit.start(&format!("exec {server}"))?;
    server.wait_for("listening")?;
    let client = format!("iperf3 --client {sit} --time 2");
    page.typed(&stage.perf.name, &format!("{client} &"));
    let running = stage.perf.start(&format!("exec {client}"))?;
    interrupt::sleep(UNDER_WAY)?;

    let leases = line(page, node2, "tunless leases list")?;
    let (there, back) = (format!("{perf}:"), format!("{sit}:{PORT}"));
    expect(&leases, &["tcp", &there, &back, "encap"])?;
    expect(&leases, &["tcp", &there, &back, "decap"])?;
    ensure!(!leases.contains(&SERVICE_IP.to_string()), "a translated flow has a lease");
    finish(page, running)?;
    finish(page, server)?;

    let status = line(page, node2, "tunless status | grep -E 'fast path|sysctls|nf_conntrack'")?;
    expect(&status, &["fast path:", "encap", "decap"])?;
    page.remark("the nft table by which netfilter tells, behind every rule of others:");
    line(page, node2, "nft list table ip tunless")?;
    let status = stage.node2.daemon()?.cli_json(&["status"])?;
    let share = status["fastpath_share"]["encap"].as_f64().context("no share of the fast path")?;
    ensure!(share > 0.5, "only {:.1} % of the packets skipped the stack", share * 100.0);
    Ok(format!(
        "The transfer had a lease in each direction, {:.1} % of node2's packets to the wire \
         skipped the stack, and none of a flow that is translated, as to {SERVICE_IP}, did.",
        share * 100.0
    ))
}

/// What matters of what iperf3 has printed.
fn finish(page: &Page, running: Running) -> Result<()> {
    let said = running.finish()?;
    ensure!(said.success, "iperf3 failed: {}", said.text.trim());
    if let Some(received) = said.text.lines().find(|line| line.contains("receiver")) {
        page.printed(received);
    }
    Ok(())
}
