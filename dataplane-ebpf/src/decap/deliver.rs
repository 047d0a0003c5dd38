//! An unwrapped packet goes into its pod, or to the stack by way of the tunnel
//! device, as if it had arrived there.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Hop, NodeIndex, Reason, ipv4::Ipv4Header};

use super::by_lease::{self, Lookup};
use crate::{
    count,
    exit::{Sent, Steps},
    flow, helpers, maps,
    packet::{ETHERNET, Ethernet, Frame},
    settings, skb,
};

/// Where an unwrapped packet goes.
enum Way {
    /// Into the pod, by the fast path.
    Pod(Hop),
    /// To the stack: why, and the tag it takes along (see [`Lookup`]).
    Stack { reason: Reason, tag: u16 },
}

/// `suspicion` forbids the fast path and is the reason to count; `node` is where the sender is counted, which
/// it is not if it is known no more.
#[inline(always)]
pub fn deliver(
    ctx: &TcContext,
    inner: &Ipv4Header,
    node: Option<NodeIndex>,
    suspicion: Option<Reason>,
    lookup: Lookup<'_>,
    now: u64,
) -> Steps {
    // Padding is not the node's. Of a GSO packet the length field says nothing.
    let bytes = match skb::gso_size(ctx) {
        0 => inner.total_length(),
        _ => skb::length(ctx) - ETHERNET as u32,
    };
    let (reason, tag) = match lookup {
        Lookup::Hit(hit) if inner.ttl() > 1 => match by_lease::translate(ctx, hit) {
            Ok(reason) => {
                hit.count(bytes);
                count::decap(hit.index, bytes, now);
                return Ok(to_pod(ctx, &hit.hop, reason));
            }
            Err(reason) => (reason, 0),
        },
        Lookup::Hit(_) => (Reason::DecapTtlToStack, 0),
        Lookup::Miss { reason, tag } => (reason, tag),
    };
    if let Some(node) = node {
        count::decap(node, bytes, now);
    }
    Ok(match without_lease(inner, suspicion, reason, tag) {
        Way::Pod(pod) => to_pod(ctx, &pod, Reason::DecapToPod),
        Way::Stack { reason, tag } => to_stack(ctx, reason, tag),
    })
}

/// The way of a packet that has no lease to go by, for `reason`.
#[inline(always)]
fn without_lease(inner: &Ipv4Header, suspicion: Option<Reason>, reason: Reason, tag: u16) -> Way {
    match suspicion {
        Some(reason) => Way::Stack { reason, tag: 0 },
        None if settings::is_trusted() => trusted(inner),
        None => Way::Stack { reason, tag },
    }
}

/// The way of a packet that may enter its pod without asking netfilter.
#[inline(always)]
fn trusted(inner: &Ipv4Header) -> Way {
    let stack = |reason| Way::Stack { reason, tag: 0 };
    if inner.ttl() <= 1 {
        return stack(Reason::DecapTtlToStack);
    }
    if let Some(no_flow) = flow::special(inner) {
        return stack(by_lease::reason(no_flow));
    }
    match maps::endpoint(inner.destination()) {
        Some(endpoint) if endpoint.hop.destination.is_known() => Way::Pod(endpoint.hop),
        _ => stack(Reason::DecapNoEndpointToStack),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext, pod: &Hop, reason: Reason) -> Sent {
    let frame = Frame::of_tc(ctx);
    frame.decrement_ttl(ETHERNET);
    frame.address(pod);
    Sent { reason, action: helpers::redirect_peer(pod.ifindex) }
}

#[inline(always)]
fn to_stack(ctx: &TcContext, reason: Reason, tag: u16) -> Sent {
    if settings::is_verified() {
        skb::set_flow_tag(ctx, tag);
    }
    // tunl0 has no MAC, and the kernel takes the header off on the way there.
    if settings::tunnel_has_ethernet() {
        let _ = Frame::of_tc(ctx)
            .edit(0, |header: &mut Ethernet| header.deliver_to(settings::tunnel_mac()));
    }
    helpers::forget_hash(ctx);
    Sent { reason, action: helpers::redirect_ingress(settings::tunnel_ifindex()) }
}
