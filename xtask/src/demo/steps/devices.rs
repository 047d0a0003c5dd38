//! Which interfaces there are, and which are not.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{Step, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "No tunl0: what the nodes have instead",
    why: "The kernel's tunnel is a device of type ipip named tunl0. tunless has one device, \
          tunless0, where the kernel hands over packets for remote pods. It is one end of a plain \
          veth pair; the eBPF program on it does the wrapping, the other end only drops what \
          would get past it.",
    show,
};

/// What a node has, with one pod.
fn expected(cali: &str) -> BTreeSet<&str> {
    BTreeSet::from(["lo", "eth0", cali, "tunless0", "tunless0-peer"])
}

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    for host in stage.hosts() {
        let text = line(page, &host.place, "ip -br link")?;
        let links = names(&text);
        let (node, wanted) = (host.node.label, expected(&host.pod.cali));
        ensure!(links == wanted, "{node} has the interfaces {links:?}, not {wanted:?}");
        let text = line(page, &host.place, "ip -d link show type ipip")?;
        page.remark("(it prints nothing: there is no such device)");
        // With the kernel's module loaded there is a tunl0 everywhere, but down.
        ensure!(!text.contains("UP"), "an ipip device is up on {node}");
    }
    Ok("No node has an ipip device; tunless0 and its other end are all that tunless added.".into())
}

/// The names in `ip -br link`, without the peer after `@`.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.split_whitespace().next()?.split('@').next()).collect()
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn names_are_read_without_their_peers() {
        let text = "lo               UNKNOWN  00:00:00:00:00:00 <LOOPBACK,UP,LOWER_UP>\n\
                    eth0@if3         UP       02:00:ac:10:24:0a <BROADCAST,MULTICAST,UP>\n";
        assert_eq!(names(text).into_iter().collect::<Vec<_>>(), ["eth0", "lo"]);
    }
}
