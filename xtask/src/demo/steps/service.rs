//! A service of Kubernetes, by the address of its pod and by its own.

use anyhow::{Result, ensure};
use tunless_lab::addr::SERVICE_IP;

use super::{Step, expect, line};
use crate::demo::{capture::Capture, page::Page, server::PORT, stage::Stage};

pub const STEP: Step = Step {
    title: "An HTTP service, by pod IP and by ClusterIP",
    why: "A ClusterIP exists on no interface: kube-proxy's iptables rules on the client's node \
          replace it by a pod's address (DNAT). That has to happen before the packet is wrapped, \
          and the answer has to be translated back. All of it is the kernel's work: translated \
          flows always cross its stack, so these rules, and NetworkPolicy, work as ever.",
    show,
};

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (perf, sit) = (stage.lab.perf().ip, stage.lab.sit().ip);
    let node2 = &stage.node2.place;
    page.remark("First by the pod's own address:");
    fetch(page, stage, &sit.to_string())?;
    page.remark("Then by the ClusterIP, for which node2 has this rule:");
    line(page, node2, "iptables-save -t nat | grep DNAT")?;
    let wire = fetch(page, stage, &SERVICE_IP.to_string())?;
    ensure!(!wire.contains(&SERVICE_IP.to_string()), "the ClusterIP is on the wire");
    page.remark(
        "What node2 remembers of it: the address that was asked, and the pod that answered.",
    );
    let text = line(page, node2, &format!("conntrack -L -d {SERVICE_IP}"))?;
    expect(&text, &[&format!("dst={SERVICE_IP}"), &format!("src={sit} dst={perf}")])?;
    Ok(format!(
        "demo-hello-sit answered on both addresses and saw its client's own, {perf}; on the wire \
         {SERVICE_IP} had already become {sit}."
    ))
}

/// Fetches the page while the router watches; returns what went by.
fn fetch(page: &Page, stage: &Stage, address: &str) -> Result<String> {
    let (perf, sit) = (stage.lab.perf().ip, stage.lab.sit().ip);
    let (node2, node1) = (stage.node2.node.ip, stage.node1.node.ip);
    let port = &stage.node2.node.router_port;
    let capture = Capture::start(page, &stage.router, &format!("-tnqi {port} -c 2 ip proto 4"))?;
    let text = line(page, &stage.perf, &format!("curl -s http://{address}:{PORT}/"))?;
    expect(&text, &["hello from demo-hello-sit", &format!("client {perf}:")])?;
    let wire = capture.finish(page)?;
    let server = format!("{sit}.{PORT}");
    expect(
        &wire,
        &[&format!("{node2} > {node1}: "), &format!("{perf}."), &format!("> {server}:")],
    )?;
    expect(&wire, &[&format!("{node1} > {node2}: "), &server, &format!("> {perf}.")])?;
    Ok(wire)
}
