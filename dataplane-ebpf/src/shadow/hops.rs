//! Does a peer's tunnel inherit the inner TTL, as tunl0 does?
//!
//! On its way each router takes one off the outer TTL and none off the inner one. So between two nodes the
//! difference stays the same, unless the tunnel writes a TTL of its own.

use dataplane_common::{NodeIndex, ipv4::Ipv4Header, shadow::MOST_HOPS};

use crate::maps;

/// Marks an entry in which something was written.
const KNOWN: u32 = 1 << 8;

/// Whether the outer TTL is not what the inner one and the hops from that node come to.
#[inline(always)]
pub fn is_other_ttl(node: NodeIndex, outer: &Ipv4Header, inner: &Ipv4Header) -> bool {
    let hops = inner.ttl().wrapping_sub(outer.ttl());
    if hops > MOST_HOPS {
        return true;
    }
    let Some(known) = maps::hops(node) else { return false };
    let before = *known;
    // Another path may have become the way: one packet tells.
    *known = KNOWN | u32::from(hops);
    before & KNOWN != 0 && before != KNOWN | u32::from(hops)
}
