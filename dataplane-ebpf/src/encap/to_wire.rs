//! Out of the NIC that leads to the node.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Hop, NodeIndex};

use super::inner::Inner;
use crate::{count, helpers, packet::Frame};

/// With the next hop's MAC while the daemon knows it to be valid, else by way
/// of the kernel's neighbour table, which resolves it. Counts it for `node`. Returns the action.
#[inline(always)]
pub fn send(ctx: &TcContext, inner: &Inner, node: NodeIndex, hop: &Hop) -> i32 {
    count::encap(node, inner.length);
    if !hop.destination.is_known() {
        return helpers::redirect_neigh(hop.ifindex);
    }
    Frame::of_tc(ctx).address_ipv4(hop);
    helpers::redirect(hop.ifindex)
}
