//! What we leave to tunl0 is not unwrapped without our source check.
//!
//! tunl0 takes what programs cannot: fragments, options, frames to many, packets to another address
//! of this host. It, and Calico's rules in front of it, ask only whether the sender is a node. So a
//! node that lies about the inner source would shape its packets such that we leave them.

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    Reason, Verdict,
    ipv4::{Ipv4Header, PROTOCOL_IPIP},
};

use super::{INNER, check};
use crate::{maps, packet::Frame, settings, skb, wide::on_this_branch};

/// Whether tunl0 may unwrap what we leave, and we are to see to it that it is no lie: in `replace`
/// nothing unwraps it, and with `spoof: stack` the kernel is to judge.
#[inline(always)]
fn is_to_judge() -> bool {
    !settings::tunnel_has_ethernet() && !settings::spoofs_go_to_stack()
}

/// Returns why a tunnel packet in a frame for other machines is left, or dropped.
#[inline(always)]
pub fn not_for_host(ctx: &TcContext, outer: &Ipv4Header) -> Reason {
    if is_to_judge() && skb::is_for_many(ctx) && maps::node(outer.source()).is_some() {
        Reason::DecapNodeToMany
    } else {
        Reason::DecapNotForHost
    }
}

/// Refuses a packet that the checks would leave to tunl0, though no honest node sends it. It is
/// asked before them, so that the verifier need not follow their errors.
#[inline(always)]
pub fn refuse(ctx: &TcContext, frame: Frame, outer: &Ipv4Header) -> Result<(), Reason> {
    if !is_to_judge() {
        return Ok(());
    }
    let inner = frame.ipv4(INNER);
    let is_twice = inner.is_some_and(|inner| on_this_branch(inner.protocol()) == PROTOCOL_IPIP);
    let is_plain = !outer.has_options() && !outer.is_fragment();
    if is_plain && !is_twice && outer.destination() == settings::node() {
        return Ok(());
    }
    if !outer.is_ipv4() || maps::node(outer.source()).is_none() {
        return Ok(());
    }
    if outer.has_options() {
        return Err(Reason::DecapNodeOptions);
    }
    if outer.is_fragment() {
        if outer.splits_next_header() {
            return Err(Reason::DecapNodeShortFragment);
        }
        if outer.fragment_offset() != 0 {
            // There is no header to judge: the first fragment had it.
            return Ok(());
        }
    }
    let Some(inner) = inner else { return Ok(()) };
    if let Err(lie) = check::source(ctx, outer.source(), inner.source())
        && lie.verdict() == Verdict::Dropped
    {
        return Err(lie);
    }
    // tunl0 would take off the second header, too. A pod has its own use for one.
    if is_twice
        && maps::node(inner.source()).is_some()
        && maps::endpoint(inner.destination()).is_none()
    {
        return Err(Reason::DecapNodeTwice);
    }
    Ok(())
}
