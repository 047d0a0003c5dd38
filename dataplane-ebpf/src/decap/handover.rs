//! How `decap_xdp` hands over to `decap_tc` what it has checked and decapsulated.
//!
//! XDP metadata lies in front of the frame, survives into the skb, and keeps GRO from merging packets
//! that differ in it. Whether it survives is the driver's affair, and no driver tells: so packets are
//! at first only marked, and all later ones bear a source MAC by which they are recognized if their
//! metadata is lost. [`dataplane_common::link`] is the whole of it.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_common::{Handover, Ipv4Be, Reason};

use crate::{
    helpers, maps,
    packet::{Ethernet, Frame, Header},
    settings, skb,
};

/// What `decap_xdp` vouches for.
#[derive(Clone, Copy)]
pub enum Vouched {
    /// The packet is as it came from the wire.
    Nothing,
    /// It was checked, decapsulated, and came from this node.
    For(Ipv4Be),
}

/// [`Handover`] with the alignment metadata has.
#[derive(Clone, Copy)]
#[repr(C, packed(2))]
struct PackedHandover {
    secret: u32,
    node: u32,
}

// SAFETY: `repr(C, packed(2))` of two numbers of four bytes.
unsafe impl Header for PackedHandover {}

impl From<Handover> for PackedHandover {
    #[inline(always)]
    fn from(handover: Handover) -> Self {
        Self { secret: handover.secret, node: handover.node.0 }
    }
}

impl From<PackedHandover> for Handover {
    #[inline(always)]
    fn from(packed: PackedHandover) -> Self {
        Self { secret: packed.secret, node: Ipv4Be(packed.node) }
    }
}

/// Makes room for the handover before the packet is touched; unsigned, so that
/// leftover bytes are not taken for one.
#[inline(always)]
pub fn reserve(ctx: &XdpContext) -> Result<(), i64> {
    helpers::xdp_adjust_meta(ctx, -(size_of::<Handover>() as i32))?;
    write(ctx, Handover::default());
    Ok(())
}

/// Signs: checked, decapsulated, came from `node`.
#[inline(always)]
pub fn sign(ctx: &XdpContext, node: Ipv4Be) {
    write(ctx, Handover::signed(settings::secret(), node));
}

/// Marks a packet that stays as it is.
#[inline(always)]
pub fn mark(ctx: &XdpContext) {
    write(ctx, Handover::mark(settings::secret()));
}

/// Takes what `decap_xdp` left: what it vouches for. What it wrote is erased, because metadata stays
/// with the packet into the pod.
#[inline(always)]
pub fn take(ctx: &TcContext) -> Vouched {
    let metadata = Frame::metadata_of_tc(ctx);
    let Some(packed) = metadata.read::<PackedHandover>(0) else { return Vouched::Nothing };
    let (handover, secret) = (Handover::from(packed), settings::secret());
    // Zero is what `reserve` leaves, and no secret.
    let is_signed = secret != 0 && handover.secret == secret;
    let is_marked = secret != 0 && handover == Handover::mark(secret);
    if !is_signed && !is_marked {
        return Vouched::Nothing;
    }
    let _ = metadata.edit(0, |packed| *packed = PackedHandover::from(Handover::default()));
    if let Some(link) = maps::link(skb::ifindex(ctx)) {
        if skb::is_in_vlan(ctx) {
            link.find_tagged();
        } else {
            link.answer(helpers::now());
        }
    }
    if is_signed { Vouched::For(handover.node) } else { Vouched::Nothing }
}

/// Returns why a frame that holds no tunnel packet is left: that is `reason`, unless it was
/// decapsulated by `decap_xdp` and has lost its metadata. Passed up it would be one of a pod on the
/// NIC, which no rule about the tunnel device sees.
#[inline(always)]
pub fn lost(ctx: &TcContext, frame: Frame, reason: Reason) -> Reason {
    let secret = settings::secret();
    // Not before: the compiler would read the MACs of every packet.
    compiler_fence(Ordering::SeqCst);
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return reason };
    if secret == 0 || !ethernet.source.is(Handover::source_mac(secret)) {
        return reason;
    }
    // On a link that XDP was just taken off there is no entry.
    if let Some(link) = maps::link(skb::ifindex(ctx)) {
        link.lose();
    }
    Reason::DecapHandoverLost
}

#[inline(always)]
fn write(ctx: &XdpContext, handover: Handover) {
    let _ = Frame::metadata_of_xdp(ctx).edit(0, |packed| *packed = PackedHandover::from(handover));
}
