//! Route tables of pods and nodes.

use anyhow::Result;
use tunless_lab::addr::POD_GATEWAY;

use super::{Step, expect, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "The routes that led it there",
    why: "A pod sends everything to 169.254.1.1, an address nobody has: its node answers for it \
          (proxy ARP), with the MAC ee:ee:ee:ee:ee:ee. All of that is as Calico makes it. On a \
          node, a route leads to the other node's block of pods. With the kernel's tunnel it \
          would say `dev tunl0`. (`proto 116` is how tunless knows \
          the routes that it made. The `unreachable` one behind is for the day the device is gone: \
          pods' packets must never take the default route instead.)",
    show,
};

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    for pod in [&stage.perf, &stage.sit] {
        let text = line(page, pod, "ip route")?;
        expect(&text, &["default via", &POD_GATEWAY.to_string(), "dev eth0"])?;
    }
    let text = line(page, &stage.perf, "ip neigh")?;
    expect(&text, &[&POD_GATEWAY.to_string(), "ee:ee:ee:ee:ee:ee"])?;

    let [node2, node1] = stage.hosts();
    for (host, peer) in [(node2, node1), (node1, node2)] {
        let text = line(page, &host.place, "ip route")?;
        let tunnel = host.node.tunnel.to_string();
        expect(&text, &[peer.node.block, "dev tunless0", "src", &tunnel])?;
        let pod = &host.pod;
        expect(&text, &[&format!("{} dev {}", pod.ip, pod.cali), "scope link"])?;
    }
    Ok("Each node reaches the other's pods by `dev tunless0`, and its own by their cali… \
        interface."
        .to_owned())
}
