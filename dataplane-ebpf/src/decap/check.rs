//! Everything a packet has to be before its outer header comes off, in order.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::warn;
use dataplane_common::{
    Ipv4Be, Mac, Mtu, Node, NodeEntry, NodeIndex, Reason, ecn,
    ipv4::{self, Ipv4Header, OUTER_LENGTH, PROTOCOL_IPIP, Room},
    source::{self, Source},
};

use crate::{
    helpers, maps,
    packet::{ETHERNET, Frame},
    routes, settings,
};

/// A packet that may be unwrapped.
pub struct Checked {
    pub inner: Ipv4Header,
    /// Where the sender is counted.
    pub node: NodeIndex,
    /// The inner TOS byte with the congestion marks of both headers.
    pub tos: u8,
    /// A proven lie that `spoof: stack` lets the kernel judge: why.
    pub suspicion: Option<Reason>,
}

/// Whether it is IPIP at all; the outer header if so.
#[inline(always)]
pub fn ipip(frame: Frame, is_in_vlan: bool) -> Result<Ipv4Header, Reason> {
    if !frame.is_ipv4().ok_or(Reason::DecapOuterTruncated)? || is_in_vlan {
        return Err(Reason::DecapNotIpv4);
    }
    let outer = frame.ipv4(ETHERNET).ok_or(Reason::DecapOuterTruncated)?;
    if outer.protocol() != PROTOCOL_IPIP {
        return Err(Reason::DecapNotIpip);
    }
    Ok(outer)
}

/// `room`: from the outer header to the end of the frame. `frame_for`: the MAC
/// it is addressed to, where the kernel has not told yet whose that is (XDP);
/// it has to be the one we send to that node from. `vouched`: a lease says that
/// the node that is counted there may send from this source.
#[inline(always)]
pub fn all(
    ctx: &impl EbpfContext,
    frame: Frame,
    outer: &Ipv4Header,
    room: Room,
    frame_for: Option<Mac>,
    vouched: Option<NodeIndex>,
) -> Result<Checked, Reason> {
    ipv4::check_outer(outer, room)?;
    if outer.destination() != settings::node() {
        return Err(Reason::DecapOtherDestination);
    }
    let (node, mtu) = match vouched {
        Some(node) => (node, Mtu(0)),
        None => {
            let NodeEntry { node, index, .. } =
                maps::node(outer.source()).ok_or(Reason::DecapUnknownNode)?;
            if frame_for.is_some_and(|mac| !mac.is(node.hop.source)) {
                return Err(Reason::DecapNotForHost);
            }
            (index, node.mtu)
        }
    };

    // The outer length, not the frame's: padding is not ours to deliver.
    let carried = room.behind_header(outer.total_length());
    if !carried.has_header() {
        return Err(Reason::DecapInnerTruncated);
    }
    let inner = frame.ipv4(ETHERNET + OUTER_LENGTH).ok_or(Reason::DecapInnerTruncated)?;
    ipv4::check_inner(&inner, carried)?;
    let suspicion =
        if vouched.is_some() { None } else { source(ctx, outer.source(), inner.source())? };
    // No source is a protected node's own until the kernel has compared the packet with its IPsec
    // policies.
    if helpers::kept(&mtu) == Node::PROTECTED.mtu {
        return Err(Reason::DecapSourceUnknown);
    }
    let tos = ecn::decap(outer.tos(), inner.tos()).ok_or(Reason::DecapEcnViolation)?;
    if inner.ttl() == 0 {
        return Err(Reason::DecapInnerTtlZero);
    }
    Ok(Checked { inner, node, tos, suspicion })
}

/// The source check. A lie is an error, or a suspicion where the stack shall judge: as configured,
/// or because a pod may have moved since the daemon died.
#[inline(always)]
pub fn source(
    ctx: &impl EbpfContext,
    outer: Ipv4Be,
    inner: Ipv4Be,
) -> Result<Option<Reason>, Reason> {
    let (drop, stack) = match source::judge(outer, inner, routes::route(inner)) {
        Source::Belongs => return Ok(None),
        Source::Unknown => return Err(Reason::DecapSourceUnknown),
        Source::Martian => (Reason::DecapMartianSource, Reason::DecapMartianToStack),
        Source::Ours => (Reason::DecapOwnSource, Reason::DecapOwnToStack),
        Source::OtherNode => (Reason::DecapForgedSource, Reason::DecapForgedToStack),
    };
    // Off unless the loader set AYA_LOG_LEVEL: an attacker must not buy CPU with it.
    warn!(ctx, "node {:i} sent a packet from {:i}", u32::from_be(outer.0), u32::from_be(inner.0));
    let may_be_true = settings::spoofs_go_to_stack()
        || (!matches!(drop, Reason::DecapMartianSource) && !maps::are_kept());
    if may_be_true { Ok(Some(stack)) } else { Err(drop) }
}
