//! An unwrapped packet goes into its pod, or to the stack by way of the tunnel
//! device, as if it had arrived there.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Endpoint, Ipv4Be, Reason, ipv4::Ipv4Header};

use crate::{
    Redirected, TcExit, count, kernel, maps,
    packet::{ETHERNET, Ethernet, Frame},
    settings,
};

/// `suspicion` forbids the fast path and is the reason to count.
#[inline(always)]
pub fn deliver(
    ctx: &TcContext,
    inner: &Ipv4Header,
    node: Ipv4Be,
    suspicion: Option<Reason>,
) -> TcExit {
    // Padding is not the node's. Of a GSO packet the length field says nothing.
    let bytes = match kernel::gso_size(ctx) {
        0 => inner.total_length(),
        _ => kernel::length(ctx) - ETHERNET as u32,
    };
    count::decap(node, bytes);
    let way = match suspicion {
        Some(reason) => Err(reason),
        None => local_pod(inner),
    };
    Ok(match way {
        Ok(endpoint) => Redirected { reason: Reason::ToPod, action: to_pod(ctx, &endpoint) },
        Err(reason) => Redirected { reason, action: to_stack(ctx) },
    })
}

/// The pod to put it into, or why the stack gets it.
#[inline(always)]
fn local_pod(inner: &Ipv4Header) -> Result<Endpoint, Reason> {
    if !settings::is_trusted() {
        return Err(Reason::ToStack);
    }
    if inner.ttl <= 1 {
        return Err(Reason::TtlToStack);
    }
    if inner.has_options() {
        return Err(Reason::OptionsToStack);
    }
    if inner.is_fragment() {
        return Err(Reason::FragmentToStack);
    }
    match maps::endpoint(inner.destination) {
        Some(endpoint) if endpoint.pod.is_known() => Ok(endpoint),
        _ => Err(Reason::NoEndpointToStack),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext, endpoint: &Endpoint) -> i32 {
    let frame = Frame::of_tc(ctx);
    let _ = frame.edit(ETHERNET, Ipv4Header::decrement_ttl);
    let _ = frame.edit(0, |header: &mut Ethernet| header.address(endpoint.pod, endpoint.host));
    kernel::redirect_peer(endpoint.ifindex)
}

#[inline(always)]
fn to_stack(ctx: &TcContext) -> i32 {
    let _ = Frame::of_tc(ctx)
        .edit(0, |header: &mut Ethernet| header.deliver_to(settings::tunnel_mac()));
    kernel::forget_hash(ctx);
    kernel::redirect_ingress(settings::tunnel_ifindex())
}
