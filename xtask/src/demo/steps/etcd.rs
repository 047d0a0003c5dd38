//! Routes that come from Calico's keys in etcd.

use anyhow::{Context as _, Result, ensure};
use tunless_lab::calico::{block, block_key};

use super::{Step, await_route, expect, find, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "Where the routes come from: Calico's datastore in etcd",
    why: "No file names the other node's block here. An etcd on the router holds what Calico keeps \
          of nodes, pools and blocks; tunless on both nodes watches these keys.",
    show,
};

/// Another block, which node1 has for a while.
const ANOTHER: &str = "10.20.50.0/26";

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (place, router) = (stage.node2.place.clone(), stage.router.clone());
    let peer = stage.node1.node.clone();
    let address = peer.ip.to_string();
    let text = line(page, &router, "etcdctl get --prefix --keys-only /calico")?;
    expect(&text, &[&block_key(peer.block)])?;
    await_route(stage, peer.block, true)?;
    let text = line(page, &place, "tunless routes list")?;
    expect(&text, &[peer.block, &address, "etcd", "active"])?;

    page.remark("Calico gives node1 another block:");
    let etcd = stage.etcd.as_ref().context("no etcd runs")?;
    page.typed(&router.name, &format!("etcdctl put {} '{{…}}'", block_key(ANOTHER)));
    etcd.store(&block(ANOTHER, peer.name, &[]))?;
    await_route(stage, ANOTHER, true)?;
    let text = line(page, &place, "tunless routes list")?;
    expect(&text, &[ANOTHER, &address, "etcd"])?;
    page.remark("and takes it back:");
    line(page, &router, &format!("etcdctl del {}", block_key(ANOTHER)))?;
    await_route(stage, ANOTHER, false)?;
    let text = line(page, &place, "tunless routes list")?;
    ensure!(find(&text, &[ANOTHER]).is_none(), "{ANOTHER} is still there");
    Ok("A block that Calico gives to a node is routed there, as long as it is the node's."
        .to_owned())
}
