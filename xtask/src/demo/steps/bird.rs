//! Routes that come from BIRD, and go with it.

use anyhow::{Result, ensure};

use super::{Step, await_route, await_sessions, expect, find, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "Where the routes come from: BIRD",
    why: "No file names the other node's block here. On each node runs a BIRD, announces the \
          node's own block by BGP, and learns the other's. BIRD itself would route to it by the \
          router, which knows no pod; but the BGP next hop is the node that announced the block. \
          That is what tunless reads, from BIRD's control socket.",
    show,
};

/// Another block, which node1 announces for a while.
const ANOTHER: &str = "10.20.50.0/26";

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (place, peer) = (stage.node2.place.clone(), stage.node1.node.clone());
    await_sessions(stage)?;
    let text = line(page, &place, "birdc show protocols")?;
    expect(&text, &[peer.label, "BGP", "Established"])?;
    // A session is up before the first route comes over it.
    await_route(stage, peer.block, true)?;
    let text = line(page, &place, &format!("birdc show route all {}", peer.block))?;
    let address = peer.ip.to_string();
    expect(&text, &["BGP.next_hop:", &address])?;
    let text = line(page, &place, "tunless routes list")?;
    expect(&text, &[peer.block, &address, "bird", "active"])?;

    page.remark("node1 gets another block, and announces it:");
    let block = format!("route {ANOTHER} blackhole;   # added to bird.conf");
    page.typed(&stage.node1.place.name, &block);
    page.typed(&stage.node1.place.name, "birdc configure");
    stage.birds[1].announce(&[peer.block, ANOTHER])?;
    await_route(stage, ANOTHER, true)?;
    let text = line(page, &place, "tunless routes list")?;
    expect(&text, &[ANOTHER, &address, "bird"])?;
    page.remark("and gives it back:");
    page.typed(&stage.node1.place.name, "birdc configure");
    stage.birds[1].announce(&[peer.block])?;
    await_route(stage, ANOTHER, false)?;
    let text = line(page, &place, "tunless routes list")?;
    ensure!(find(&text, &[ANOTHER]).is_none(), "{ANOTHER} is still there");
    Ok("What a node announces the other routes to it, as long as it announces it.".to_owned())
}
