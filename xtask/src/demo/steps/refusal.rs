//! Why `trusted` and Services exclude each other.

use anyhow::{Result, ensure};
use tunless_lab::service::{kube_proxy, remove_rules};

use super::{Step, expect, line, try_line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "`fastpath: trusted` is refused where Services or NetworkPolicy are",
    why: "With `trusted` pod packets pass the kernel's stack by: faster, but kube-proxy's and \
          Calico's rules never see them. So a ClusterIP would lead nowhere, and NetworkPolicy \
          would silently do nothing. tunless looks for such rules and refuses, unless told that \
          nobody relies on them. Here kube-proxy comes to node2, and the file is checked there:",
    show,
};

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let netns = &stage.node2.node.netns;
    kube_proxy(netns, &stage.services())?;
    let place = &stage.node2.place;
    line(page, place, "iptables-save -t nat | grep DNAT")?;
    let said = try_line(page, place, "tunless config validate --here")?;
    // The demo goes on without them.
    remove_rules(netns)?;
    ensure!(!said.success, "the file was accepted");
    expect(&said.text, &["trusted", "kube-proxy"])?;
    Ok("tunless named what it had found and what to do. It would not start on this file."
        .to_owned())
}
