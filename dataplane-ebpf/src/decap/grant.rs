//! Leases on the way in: granted where the stack hands a packet to a pod.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Direction, Endpoint, Flow, Mtu, NodeEntry, Reason};

use crate::{
    exit::Exit,
    flow::{self, Seen},
    lease::{self, Approval, Epoch, Request, Settled},
    maps,
    packet::{ETHERNET, Frame},
    routes, settings, skb,
};

/// Settles the lease of a packet that netfilter let into a pod. It passes in
/// any case; what it came from, netfilter has judged.
#[inline(always)]
pub fn into_pod(ctx: &TcContext) -> Exit {
    Exit::Left(settle(ctx))
}

#[inline(always)]
fn settle(ctx: &TcContext) -> Reason {
    if maps::is_try_over() {
        return Reason::GrantTryOver;
    }
    let approval = Approval::take(ctx);
    let Some(seen) = seen(ctx) else { return Reason::GrantNoFlow };
    match lease::settle(ctx, &seen, approval, |flow| request(ctx, flow)) {
        Settled::Granted => Reason::GrantGiven,
        Settled::ServiceGranted => Reason::GrantServiceGiven,
        Settled::UnansweredGranted => Reason::GrantUnansweredGiven,
        Settled::Leased => Reason::GrantLeased,
        Settled::Unmarked => Reason::GrantUnmarked,
        Settled::Unanswered => Reason::GrantUnanswered,
        Settled::Unproven => Reason::GrantUnproven,
        Settled::Control => Reason::GrantConnectionControl,
    }
}

#[inline(always)]
fn seen(ctx: &TcContext) -> Option<Seen> {
    let frame = Frame::linear(ctx, (ETHERNET + flow::HEADERS) as u32);
    if !frame.is_ipv4()? || skb::is_in_vlan(ctx) {
        return None;
    }
    let header = frame.ipv4(ETHERNET)?;
    if !header.is_ipv4() {
        return None;
    }
    flow::read(frame, ETHERNET, &header, Direction::Decap).ok()
}

/// Only what came through the tunnel device, into the pod of this very interface.
#[inline(always)]
fn request(ctx: &TcContext, flow: &Flow) -> Option<Request> {
    if skb::ingress_ifindex(ctx) != settings::tunnel_ifindex() {
        return None;
    }
    // Before anything is looked up that the lease will hold. The source is that of the wire.
    let epoch = Epoch::read(flow.source, flow.destination);
    let Endpoint { hop } = maps::endpoint(flow.destination)?;
    if hop.ifindex != skb::ifindex(ctx) || !hop.destination.is_known() {
        return None;
    }
    // The source check let it in because of this route.
    let route = routes::route(flow.source)?;
    if route.is_local() {
        return None;
    }
    let NodeEntry { address, index, .. } = maps::node(route.node)?;
    Some(Request { epoch, node: address, index, endpoint: hop.ifindex, hop, mtu: Mtu(0) })
}
