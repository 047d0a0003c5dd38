//! Beside tunl0, changing nothing: what would tunless have made of this packet?
//!
//! The same steps as in [`crate::encap`] and [`crate::decap`], as far as they only look. Their reason is
//! counted in `WOULD`, where no packet was theirs to count in `COUNTERS`; what that says about switching
//! tunless on is a [`Finding`]. Nothing is pulled, marked or written into a packet.

mod compare;
mod hops;
mod sample;

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    Direction, NodeEntry, Reason, Verdict,
    ipv4::{OUTER_LENGTH, PROTOCOL_IPIP},
    shadow::Finding,
};

use crate::{
    count,
    decap::{self, Checked},
    encap,
    packet::{ETHERNET, Frame},
    settings, skb,
};

/// Where the inner header is.
const INNER: usize = ETHERNET + OUTER_LENGTH;

/// What leaves by an underlay interface (TC egress).
#[inline(always)]
pub fn out(ctx: &TcContext) {
    let finding = match sent(ctx) {
        Ok(finding) => finding,
        Err(reason) => {
            count::would(reason, skb::length(ctx));
            Finding::OutLeft
        }
    };
    count::finding(finding, skb::length(ctx));
}

/// The finding, or why tunless would have left the packet to tunl0.
#[inline(always)]
fn sent(ctx: &TcContext) -> Result<Finding, Reason> {
    if !skb::is_ipv4(ctx) || skb::is_in_vlan(ctx) {
        return Ok(Finding::OutAside);
    }
    let frame = Frame::of_tc(ctx);
    let Some(theirs) = frame.ipv4(ETHERNET) else { return Ok(Finding::OutUnreadable) };
    if theirs.protocol() != PROTOCOL_IPIP || theirs.source() != settings::node() {
        return Ok(Finding::OutAside);
    }
    if theirs.has_options() || theirs.is_fragment() {
        return Ok(Finding::OutShape);
    }
    if !is_readable(ctx, frame) {
        return Ok(Finding::OutUnreadable);
    }
    let encap::Planned { inner, to, outer: ours } = encap::plan(ctx, frame, INNER)?;
    count::would(Reason::HostEncapsulated, skb::length(ctx));
    sample::take(frame, &inner.header, Direction::Encap, inner.length);
    let NodeEntry { address, node, .. } = to;
    let finding = if theirs.destination() != address {
        Finding::OutNode
    } else if skb::ifindex(ctx) != node.hop.ifindex {
        Finding::OutLink
    } else if compare::is_other_mac(frame, &node.hop) {
        Finding::OutNextHop
    } else {
        compare::headers(&theirs, &ours, &inner.header, skb::gso_size(ctx) != 0)
    };
    if !matches!(finding, Finding::OutSame | Finding::OutKnown) {
        compare::keep(ctx, finding, &theirs, &ours, &inner.header);
    }
    Ok(finding)
}

/// What arrives by an underlay interface (TC ingress).
#[inline(always)]
pub fn into(ctx: &TcContext) {
    let finding = received(ctx);
    count::finding(finding, skb::length(ctx));
}

#[inline(always)]
fn received(ctx: &TcContext) -> Finding {
    if !skb::is_ipv4(ctx) || skb::is_in_vlan(ctx) {
        return Finding::InAside;
    }
    let frame = Frame::of_tc(ctx);
    let Some(outer) = frame.ipv4(ETHERNET) else { return Finding::InUnreadable };
    if outer.protocol() != PROTOCOL_IPIP {
        return Finding::InAside;
    }
    if !is_readable(ctx, frame) {
        return Finding::InUnreadable;
    }
    match decap::judge(ctx, frame, &outer) {
        Ok(Checked { inner, node, suspicion, .. }) => {
            count::would(suspicion.unwrap_or(Reason::DecapToStack), skb::length(ctx));
            sample::take(frame, &inner, Direction::Decap, inner.total_length());
            if hops::is_other_ttl(node, &outer, &inner) {
                compare::keep(ctx, Finding::InTtl, &outer, &outer, &inner);
                return Finding::InTtl;
            }
            Finding::InSame
        }
        Err(reason) => {
            count::would(reason, skb::length(ctx));
            if !matches!(reason.verdict(), Verdict::Dropped) {
                return Finding::InLeft;
            }
            if let Some(inner) = frame.ipv4(INNER) {
                compare::keep(ctx, Finding::InDropped, &outer, &outer, &inner);
            }
            Finding::InDropped
        }
    }
}

/// Whether the headers that are looked at can be read as they lie. They all but always can; a program
/// that serves would pull them together.
#[inline(always)]
fn is_readable(ctx: &TcContext, frame: Frame) -> bool {
    frame.length() >= decap::ALL_HEADERS || frame.length() == skb::length(ctx)
}
