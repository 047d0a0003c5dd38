//! Wire → pod: check the outer header, the inner one, the sender's right to
//! that source; take the outer header off; deliver.
//!
//! What we do not know for ours goes up untouched: the kernel's rules judge it. Only a proven lie
//! is dropped. What we take passes by the host's rules about outer packets and by xfrm, so the
//! daemon gives us no routes to nodes that IPsec protects (docs/hosts.md).

mod beside_tunl0;
mod by_lease;
mod check;
mod deliver;
mod grant;
mod handover;
mod unwrap;

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_common::{
    Duty, Ipv4Be, NodeEntry, Reason, Verdict,
    ipv4::{Ipv4Header, OUTER_LENGTH, Room},
};

use self::handover::Vouched;
pub use self::{check::Checked, grant::into_pod};
use crate::{
    count,
    exit::{Exit, Steps},
    flow, helpers, lease, maps,
    packet::{ETHERNET, Ethernet, Frame},
    settings, skb,
};

/// Where the inner header is while the outer one is on.
const INNER: usize = ETHERNET + OUTER_LENGTH;
/// Both IP headers, and what tells the flow.
pub const ALL_HEADERS: u32 = (INNER + flow::HEADERS) as u32;

/// From the NIC (TC ingress): wrapped, or unwrapped and vouched for by [`xdp`].
#[inline(always)]
pub fn tc(ctx: &TcContext) -> Exit {
    if maps::is_try_over() {
        return Exit::Left(Reason::DecapTryOver);
    }
    match handover::take(ctx) {
        Vouched::For(node) => handed_over(ctx, node),
        Vouched::Nothing => encapsulated(ctx),
    }
    .into()
}

/// With its outer header, as the wire brought it.
#[inline(always)]
fn encapsulated(ctx: &TcContext) -> Steps {
    let frame = Frame::linear(ctx, ALL_HEADERS);
    let outer = check::ipip(frame, skb::is_in_vlan(ctx))
        .map_err(|reason| handover::lost(ctx, frame, reason))?;
    addressed_to_us(ctx, frame, &outer).map_err(|reason| counted(reason, &outer))?;
    let room = room(ctx);
    // Once, for the lease and for when the node was last seen.
    let now = helpers::now();
    let mut slot = lease::Slot::uninit();
    let lookup = by_lease::lookup(frame, INNER, outer.source(), now, &mut slot);
    let checked = check::all(ctx, frame, &outer, room, None, lookup.vouched())
        .map_err(|reason| counted(reason, &outer))?;
    let stale = stays_a_tunnel_packet(ctx, &checked.inner);
    if stale && !settings::tunnel_has_ethernet() {
        return Err(Reason::DecapGsoToTunl0);
    }
    let to_stack = if stale { Some(Reason::DecapGsoToStack) } else { None };
    unwrap::tc(ctx, &checked)?;
    if checked.suspicion.is_some() {
        count::forged(checked.node);
    }
    let suspicion = checked.suspicion.or(to_stack);
    deliver::deliver(ctx, &checked.inner, Some(checked.node), suspicion, lookup, now)
}

/// A lie about the inner source is counted for the node that sent it, too.
#[inline(always)]
fn counted(reason: Reason, outer: &Ipv4Header) -> Reason {
    if reason.is_forged_by_node()
        && let Some(NodeEntry { index, .. }) = maps::node(outer.source())
    {
        count::forged(index);
    }
    reason
}

/// Whether [`encapsulated`] goes on, before anything is looked up.
#[inline(always)]
fn addressed_to_us(ctx: &TcContext, frame: Frame, outer: &Ipv4Header) -> Result<(), Reason> {
    if !skb::is_for_host(ctx) {
        return Err(beside_tunl0::not_for_host(ctx, outer));
    }
    beside_tunl0::refuse(ctx, frame, outer)
}

/// From the outer header to the end of the frame.
#[inline(always)]
fn room(ctx: &TcContext) -> Room {
    let length = skb::length(ctx) - ETHERNET as u32;
    if skb::gso_size(ctx) == 0 { Room::bytes(length) } else { Room::UNKNOWN }
}

/// What [`tc`] would make of a tunnel packet without leases. It only looks.
#[inline(always)]
pub fn judge(ctx: &TcContext, frame: Frame, outer: &Ipv4Header) -> Result<Checked, Reason> {
    addressed_to_us(ctx, frame, outer)?;
    check::all(ctx, frame, outer, room(ctx), None, None)
}

/// Returns whether the stack may forward the packet while NICs and the next tunnel take it for a
/// tunnel packet still: GRO has merged it as one, before 7.3 no flag of the helper takes that back
/// (`net/core/filter.c`, `bpf_skb_net_shrink`), and it is not for a pod of ours, which takes it
/// whole. What is for this host may be an answer that a Service translates back and sends on.
#[inline(always)]
fn stays_a_tunnel_packet(ctx: &TcContext, inner: &Ipv4Header) -> bool {
    settings::unwrap_flags() == 0
        && skb::gso_size(ctx) != 0
        && maps::endpoint(inner.destination()).is_none()
}

/// What XDP has checked and unwrapped lacks only its delivery. It is no longer
/// what came from the wire, so what turns out not to be ours cannot be passed up.
#[inline(always)]
fn handed_over(ctx: &TcContext, node: Ipv4Be) -> Steps {
    // A tag the NIC took out of the frame is unknown to XDP.
    if skb::is_in_vlan(ctx) || !skb::is_for_host(ctx) {
        return Err(Reason::DecapHandoverStray);
    }
    helpers::drop_priority_tag(ctx);
    let frame = Frame::linear(ctx, (ETHERNET + flow::HEADERS) as u32);
    let inner = frame.ipv4(ETHERNET).ok_or(Reason::DecapHandoverStray)?;
    let now = helpers::now();
    let mut slot = lease::Slot::uninit();
    let lookup = by_lease::lookup(frame, ETHERNET, node, now, &mut slot);
    let index = lookup.vouched().or_else(|| maps::node(node).map(|entry| entry.index));
    deliver::deliver(ctx, &inner, index, None, lookup, now)
}

/// From the NIC before an skb exists. `None` leaves the packet to [`tc`].
///
/// Metadata is the handover to [`tc`]; where the driver has none or may lose it, or the packet
/// is suspect, or merely not ours, it stays as it is. So does a frame with a tag in it: the kernel
/// takes the tag out before [`tc`] sees the packet.
#[inline(always)]
pub fn xdp(ctx: &XdpContext) -> Option<Reason> {
    if maps::is_try_over() {
        return None;
    }
    let frame = Frame::of_xdp(ctx);
    let outer = check::ipip(frame, false).ok()?;
    let ethernet: Ethernet = frame.read(0)?;
    let length = frame.length() - ETHERNET as u32;
    let checked =
        match check::all(ctx, frame, &outer, Room::bytes(length), Some(ethernet.destination), None)
        {
            Ok(checked) if checked.suspicion.is_none() => checked,
            Err(reason) if reason.verdict() == Verdict::Dropped => {
                return Some(counted(reason, &outer));
            }
            _ => return None,
        };
    let link = maps::link(helpers::xdp_ifindex(ctx)).filter(|link| !link.is_given_up())?;
    if handover::reserve(ctx).is_err() {
        return Some(Reason::XdpUnable);
    }
    let tick = helpers::tick();
    match link.duty_in(tick).unwrap_or_else(|| link.ask(tick, helpers::now())) {
        Duty::Leave => None,
        Duty::Mark => {
            handover::mark(ctx);
            Some(Reason::XdpMarked)
        }
        Duty::Decapsulate if unwrap::xdp(ctx, ethernet, &checked).is_err() => {
            Some(Reason::XdpUnable)
        }
        Duty::Decapsulate => {
            handover::sign(ctx, outer.source());
            Some(Reason::XdpUnwrapped)
        }
    }
}
