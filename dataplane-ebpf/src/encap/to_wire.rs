//! Out of the NIC that leads to the node.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Hop, Ipv4Be};

use super::inner::Inner;
use crate::{count, helpers, packet::Frame};

/// With the next hop's MAC while the daemon knows it to be valid, else by way
/// of the kernel's neighbour table, which resolves it. Returns the action.
#[inline(always)]
pub fn send(ctx: &TcContext, inner: &Inner, address: Ipv4Be, hop: &Hop) -> i32 {
    count::encap(address, inner.length);
    if !hop.destination.is_known() {
        return helpers::redirect_neigh(hop.ifindex);
    }
    Frame::of_tc(ctx).address_ipv4(hop);
    helpers::redirect(hop.ifindex)
}
