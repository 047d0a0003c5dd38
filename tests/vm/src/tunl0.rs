//! The kernel's own IP-in-IP, set up as Felix and BIRD do.
//!
//! With the module ipip every network namespace has a `tunl0`: no fixed remote
//! end, the next hop of the route is where a packet goes.

use anyhow::{Context as _, Result};
use tunless_lab::{Lab, Node};

/// The MTU of tunl0 over an underlay of 1500.
pub const MTU: u32 = 1480;

/// Whose routes lead over tunl0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Felix's, from Calico 3.33 on.
    Felix,
    /// BIRD's, before.
    Bird,
}

impl Owner {
    /// As `ip route` takes it.
    const fn protocol(self) -> &'static str {
        match self {
            Self::Felix => "80",
            Self::Bird => "bird",
        }
    }
}

/// Brings tunl0 up on `node`, with Felix's route to the pods of `peer`.
pub fn raise(node: &Node, peer: &Node) -> Result<()> {
    raise_for(Owner::Felix, node, peer)
}

/// [`raise`], with somebody's route. Where all is there already it changes
/// nothing, as Felix's reconciler.
pub fn raise_for(owner: Owner, node: &Node, peer: &Node) -> Result<()> {
    let Node { tunnel, label, .. } = node;
    node.netns
        .ip_batch(&format!(
            "addr replace {tunnel}/32 dev tunl0\n\
             link set tunl0 mtu {MTU} up\n"
        ))
        .with_context(|| format!("cannot bring tunl0 up on {label}"))?;
    route(owner, node, "replace", peer.block, peer)
}

/// Adds, deletes or replaces somebody's route over tunl0.
pub fn route(owner: Owner, node: &Node, verb: &str, cidr: &str, via: &Node) -> Result<()> {
    let protocol = owner.protocol();
    let way = format!("via {} dev tunl0 onlink proto {protocol}", via.ip);
    node.netns.ip(&format!("route {verb} {cidr} {way}")).map(drop)
}

/// What both keep for a node's own block: packets to no pod in it go nowhere.
pub fn own_block(owner: Owner, node: &Node) -> Result<()> {
    let (block, protocol) = (node.block, owner.protocol());
    node.netns.ip(&format!("route replace blackhole {block} proto {protocol}")).map(drop)
}

/// [`raise`] on both nodes of a lab.
pub fn raise_on_both(lab: &Lab) -> Result<()> {
    raise(&lab.node1, &lab.node2)?;
    raise(&lab.node2, &lab.node1)
}
