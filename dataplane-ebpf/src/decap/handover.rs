//! How `decap_xdp` tells `decap_tc` that it has checked and unwrapped a packet.
//!
//! XDP metadata lies in front of the frame, survives into the skb, and keeps
//! GRO from merging packets that differ in it. A plain packet without it was
//! checked by nobody.

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_common::{Handover, Ipv4Be};

use crate::{
    helpers,
    packet::{Frame, PackedHandover},
    settings,
};

/// Makes room for the proof before the packet is touched; unsigned, lest
/// leftover bytes be taken for one.
#[inline(always)]
pub fn reserve(ctx: &XdpContext) -> Result<(), i64> {
    helpers::xdp_adjust_meta(ctx, -(size_of::<Handover>() as i32))?;
    write(ctx, Handover::default());
    Ok(())
}

/// Signs: checked, unwrapped, came from `node`.
#[inline(always)]
pub fn sign(ctx: &XdpContext, node: Ipv4Be) {
    write(ctx, Handover { secret: settings::secret(), node });
}

/// The node the packet came from, if `decap_xdp` vouches for it.
#[inline(always)]
pub fn read(ctx: &TcContext) -> Option<Ipv4Be> {
    let packed: PackedHandover = Frame::metadata_of_tc(ctx).read(0)?;
    let handover = Handover::from(packed);
    // Zero is what `reserve` leaves, and no secret.
    (handover.secret != 0 && handover.secret == settings::secret()).then_some(handover.node)
}

#[inline(always)]
fn write(ctx: &XdpContext, handover: Handover) {
    let _ = Frame::metadata_of_xdp(ctx).edit(0, |proof| *proof = PackedHandover::from(handover));
}
