//! The packets between the nodes.

use anyhow::{Result, ensure};

use super::{Step, expect, line};
use crate::demo::{capture::Capture, page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "On the wire: a packet in a packet",
    why: "The router sees what really goes from node to node. A packet must have two IP headers, \
          one from node to node around one from pod to pod, and none may travel without the outer \
          one: that is what IP-in-IP is, and why the network in between need not know any pod.",
    show,
};

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (perf, sit) = (stage.lab.perf().ip, stage.lab.sit().ip);
    let (node2, node1) = (stage.node2.node.ip, stage.node1.node.ip);
    let port = &stage.node2.node.router_port;
    let capture = Capture::start(page, &stage.router, &format!("-tnvi {port} -c 2 ip proto 4"))?;
    line(page, &stage.perf, &format!("ping -c 1 {sit}"))?;
    let text = capture.finish(page)?;
    for (outer, inner, what) in [
        (format!("{node2} > {node1}: IP"), format!("{perf} > {sit}:"), "echo request"),
        (format!("{node1} > {node2}: IP"), format!("{sit} > {perf}:"), "echo reply"),
    ] {
        expect(&text, &[&outer])?;
        expect(&text, &[&inner, what])?;
    }
    page.remark("And how many packets of pods came by without an outer header?");
    line(page, &stage.router, "nft list counters")?;
    let plain = stage.lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods came by without an outer header");
    Ok(format!(
        "Outside {node2} and {node1}, the nodes; inside {perf} and {sit}, the pods. No packet \
         went without."
    ))
}
