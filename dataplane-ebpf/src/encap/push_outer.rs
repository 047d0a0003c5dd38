//! The outer header goes on.

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    Ipv4Be, Reason,
    ipv4::{Ipv4Header, OUTER_LENGTH},
};

use super::{Reasons, inner::Inner};
use crate::{
    helpers::{self, NoRoom},
    packet::{ETHERNET, Frame},
    settings, skb,
};

/// Opens room and writes the outer header, behind an Ethernet header that is put
/// there if the device has none (tunl0). On an error the packet is as it was,
/// but for padding behind its end.
#[inline(always)]
pub fn push(
    ctx: &TcContext,
    inner: &Inner,
    node: Ipv4Be,
    ttl: u8,
    reasons: &Reasons,
) -> Result<(), Reason> {
    // Ethernet padding must not travel as if it were payload.
    let frame_length = inner.at as u32 + inner.length;
    if skb::length(ctx) > frame_length {
        helpers::trim(ctx, frame_length).map_err(|_| reasons.cannot_encapsulate)?;
    }
    helpers::open_room(ctx).map_err(|no_room| match no_room {
        NoRoom::AlreadyEncapsulated => reasons.already_encapsulated,
        NoRoom::Other => reasons.cannot_encapsulate,
    })?;
    helpers::drop_priority_tag(ctx);
    if inner.at == 0 && helpers::prepend_ethernet(ctx).is_err() {
        // No memory. The stack gets back what it gave.
        return match helpers::close_room(ctx) {
            Ok(()) => Err(reasons.cannot_encapsulate),
            Err(_) => Err(Reason::HostCannotEncapsulate),
        };
    }
    let outer = header(inner, ttl, node);
    // There is room: the Ethernet and the inner header were readable before.
    Frame::of_tc(ctx).write_ipv4(ETHERNET, &outer).ok_or(reasons.cannot_encapsulate)
}

/// The outer header for a packet to that node.
#[inline(always)]
pub fn header(inner: &Inner, ttl: u8, node: Ipv4Be) -> Ipv4Header {
    Ipv4Header::outer(inner.header.tos(), ttl, inner.length, settings::node(), node)
}

/// The hop we are. Only after the push: had that failed, the stack would take
/// the packet and count the hop itself.
#[inline(always)]
pub fn decrement_inner_ttl(ctx: &TcContext) {
    Frame::of_tc(ctx).decrement_ttl(ETHERNET + OUTER_LENGTH);
}
