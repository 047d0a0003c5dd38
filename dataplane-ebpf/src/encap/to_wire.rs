//! Out of the NIC that leads to the node.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Ipv4Be, Node};

use super::inner::Inner;
use crate::{
    count, kernel,
    packet::{Ethernet, Frame},
};

/// With the next hop's MAC while the daemon knows it to be valid, else by way
/// of the kernel's neighbour table, which resolves it. Returns the action.
#[inline(always)]
pub fn send(ctx: &TcContext, inner: &Inner, address: Ipv4Be, node: &Node) -> i32 {
    count::encap(address, inner.length);
    if !node.next_hop.is_known() {
        return kernel::redirect_neigh(node.ifindex);
    }
    let _ = Frame::of_tc(ctx)
        .edit(0, |ethernet: &mut Ethernet| ethernet.send(node.next_hop, node.source));
    kernel::redirect(node.ifindex)
}
