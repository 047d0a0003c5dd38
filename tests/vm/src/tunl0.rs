//! The kernel's own IP-in-IP, set up as Felix and BIRD do.
//!
//! With the module ipip every network namespace has a `tunl0`: no fixed remote
//! end, the next hop of the route is where a packet goes.

use anyhow::{Context as _, Result};
use tunless_lab::{Lab, Node};

/// BIRD's routes bear Calico's protocol number.
const PROTOCOL: u8 = 80;

/// The MTU of tunl0 over an underlay of 1500.
const MTU: u32 = 1480;

/// Brings tunl0 up on `node`, with a route to the pods of `peer`.
pub fn raise(node: &Node, peer: &Node) -> Result<()> {
    let Node { tunnel, label, .. } = node;
    node.netns
        .ip_batch(&format!(
            "addr add {tunnel}/32 dev tunl0\n\
             link set tunl0 mtu {MTU} up\n"
        ))
        .with_context(|| format!("cannot bring tunl0 up on {label}"))?;
    route_to(node, peer)
}

/// A further route over tunl0, to the pods of `peer`.
pub fn route_to(node: &Node, peer: &Node) -> Result<()> {
    let Node { block, ip, .. } = peer;
    node.netns
        .ip(&format!("route replace {block} via {ip} dev tunl0 onlink proto {PROTOCOL}"))
        .map(drop)
}

/// [`raise`] on both nodes of a lab.
pub fn raise_on_both(lab: &Lab) -> Result<()> {
    raise(&lab.node1, &lab.node2)?;
    raise(&lab.node2, &lab.node1)
}
