//! The outer header comes off; the inner one learns of congestion outside.

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_common::{Handover, Reason, ipv4::OUTER_LENGTH};

use super::check::Checked;
use crate::{
    helpers,
    packet::{ETHERNET, Ethernet, Frame},
    settings,
};

/// From an skb. On an error the packet is as it was.
#[inline(always)]
pub fn tc(ctx: &TcContext, checked: &Checked) -> Result<(), Reason> {
    helpers::close_room(ctx).map_err(|_| Reason::DecapCannotUnwrap)?;
    helpers::drop_priority_tag(ctx);
    mark_congestion(Frame::of_tc(ctx), checked);
    Ok(())
}

/// From an XDP frame, whose Ethernet header has to move along by hand. Its source becomes that of
/// [`Handover::source_mac`].
#[inline(always)]
pub fn xdp(ctx: &XdpContext, ethernet: Ethernet, checked: &Checked) -> Result<(), i64> {
    helpers::xdp_adjust_head(ctx, OUTER_LENGTH as i32)?;
    let frame = Frame::of_xdp(ctx);
    let _ = frame.edit(0, |header: &mut Ethernet| {
        *header = ethernet;
        header.source = Handover::source_mac(settings::secret());
    });
    mark_congestion(frame, checked);
    Ok(())
}

#[inline(always)]
fn mark_congestion(frame: Frame, checked: &Checked) {
    if checked.tos != checked.inner.tos() {
        let mut inner = checked.inner;
        inner.set_tos(checked.tos);
        let _ = frame.write_ipv4(ETHERNET, &inner);
    }
}
