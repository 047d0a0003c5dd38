//! An unwrapped packet goes into its pod, or to the stack by way of the tunnel
//! device, as if it had arrived there.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Ipv4Be, Mac, Reason, ipv4::Ipv4Header};

use super::leased::Lookup;
use crate::{
    Redirected, TcExit, count, kernel, maps,
    packet::{ETHERNET, Ethernet, Frame},
    settings,
};

/// A pod's interface and MACs.
struct Pod {
    ifindex: u32,
    pod: Mac,
    host: Mac,
}

/// Why the stack gets a packet, and the proof it takes along (see [`Lookup`]).
struct ToStack {
    reason: Reason,
    proof: u16,
}

impl From<Reason> for ToStack {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { reason, proof: 0 }
    }
}

/// `suspicion` forbids the fast path and is the reason to count.
#[inline(always)]
pub fn deliver(
    ctx: &TcContext,
    inner: &Ipv4Header,
    node: Ipv4Be,
    suspicion: Option<Reason>,
    lookup: Lookup,
    now: u64,
) -> TcExit {
    // Padding is not the node's. Of a GSO packet the length field says nothing.
    let bytes = match kernel::gso_size(ctx) {
        0 => inner.total_length(),
        _ => kernel::length(ctx) - ETHERNET as u32,
    };
    let (reason, proof) = match lookup {
        Lookup::Leased(leased) if inner.ttl > 1 => {
            let way = leased.way;
            // First, and apart from the others: carried beyond the next helper, what only a
            // lease has would be read on their way, too, which 6.1's verifier does not let pass.
            leased.count(bytes);
            count::decap(node, bytes, now);
            let pod = Pod { ifindex: way.ifindex, pod: way.next_hop, host: way.source };
            return Ok(Redirected { reason: Reason::ToPod, action: to_pod(ctx, &pod) });
        }
        Lookup::Leased(_) => (Reason::TtlToStack, 0),
        Lookup::NoLease { reason, proof } => (reason, proof),
    };
    count::decap(node, bytes, now);
    let way = match suspicion {
        Some(reason) => Err(reason.into()),
        None if settings::is_verified() => Err(ToStack { reason, proof }),
        None => local_pod(inner).map_err(Into::into),
    };
    Ok(match way {
        Ok(pod) => Redirected { reason: Reason::ToPod, action: to_pod(ctx, &pod) },
        Err(ToStack { reason, proof }) => {
            if settings::is_verified() {
                kernel::set_proof(ctx, proof);
            }
            Redirected { reason, action: to_stack(ctx) }
        }
    })
}

/// The pod to put it into without asking anybody, or why the stack gets it.
#[inline(always)]
fn local_pod(inner: &Ipv4Header) -> Result<Pod, Reason> {
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
        Some(endpoint) if endpoint.pod.is_known() => {
            Ok(Pod { ifindex: endpoint.ifindex, pod: endpoint.pod, host: endpoint.host })
        }
        _ => Err(Reason::NoEndpointToStack),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext, pod: &Pod) -> i32 {
    let frame = Frame::of_tc(ctx);
    let _ = frame.edit(ETHERNET, Ipv4Header::decrement_ttl);
    let _ = frame.edit(0, |header: &mut Ethernet| header.address(pod.pod, pod.host));
    kernel::redirect_peer(pod.ifindex)
}

#[inline(always)]
fn to_stack(ctx: &TcContext) -> i32 {
    // tunl0 has no MAC, and the kernel takes the header off on the way there.
    if settings::tunnel_has_ethernet() {
        let _ = Frame::of_tc(ctx)
            .edit(0, |header: &mut Ethernet| header.deliver_to(settings::tunnel_mac()));
    }
    kernel::forget_hash(ctx);
    kernel::redirect_ingress(settings::tunnel_ifindex())
}
