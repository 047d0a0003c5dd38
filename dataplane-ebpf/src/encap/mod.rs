//! Pod → wire: find the node, see that the packet fits, put the outer header
//! on, send it.
//!
//! The same steps serve both hooks; they differ in what they ask first and in
//! what a "no" means. [`pod`] lets the stack have what it does not take. Behind
//! [`host`] there is nobody: a plain packet must not leave, so a "no" drops.

mod inner;
mod leased;
mod node;
mod push_outer;
mod sender;
mod suitable;
mod to_wire;

use aya_ebpf::programs::TcContext;
use dataplane_common::Reason;

use crate::{Redirected, TcExit, kernel, maps, settings};

/// From a pod's interface (TC ingress of `cali*`).
#[inline(always)]
pub fn pod(ctx: &TcContext) -> TcExit {
    if settings::is_verified() { verified(ctx) } else { trusted(ctx) }
}

/// By a lease, which knows all that there is to look up.
#[inline(always)]
fn verified(ctx: &TcContext) -> TcExit {
    // What a pod's own programs may have left there proves nothing.
    kernel::set_proof(ctx, 0);
    let inner = inner::parse(ctx, &POD)?;
    let leased = leased::find(ctx, &inner)?;
    let ttl = suitable::hop(&inner)?;
    suitable::fits(&inner, &leased.way, &POD)?;
    push_outer::push(ctx, &inner, leased.node, ttl, &POD)?;
    push_outer::decrement_inner_ttl(ctx);
    let action = to_wire::send(ctx, &inner, leased.node, &leased.way);
    leased.count(inner.length);
    Ok(Redirected { reason: Reason::PodEncapsulated, action })
}

/// To any known route, whoever would have forbidden it.
#[inline(always)]
fn trusted(ctx: &TcContext) -> TcExit {
    let inner = inner::parse(ctx, &POD)?;
    sender::owns_source(ctx, &inner)?;
    let (address, node) = node::find(&inner, &POD)?;
    let ttl = suitable::hop(&inner)?;
    suitable::fits(&inner, &node, &POD)?;
    suitable::for_fast_path(&inner)?;
    suitable::leaves_connections_alone(&inner)?;
    push_outer::push(ctx, &inner, address, ttl, &POD)?;
    push_outer::decrement_inner_ttl(ctx);
    let action = to_wire::send(ctx, &inner, address, &node);
    Ok(Redirected { reason: Reason::PodEncapsulated, action })
}

/// From the stack (TC egress of the tunnel device). Forwarding has taken its
/// hop off the TTL already; a packet of this host's own keeps it.
#[inline(always)]
pub fn host(ctx: &TcContext) -> TcExit {
    // Before the route and the node are looked up, see `lease::settle`.
    let epoch = if settings::is_verified() { maps::epoch() } else { 0 };
    let inner = inner::parse(ctx, &HOST)?;
    let (address, node) = node::find(&inner, &HOST)?;
    if inner.header.ttl == 0 {
        return Err(Reason::HostTtlExpired);
    }
    suitable::fits(&inner, &node, &HOST)?;
    let reason = if settings::is_verified() {
        leased::settle(ctx, &inner, epoch, address, &node)
    } else {
        Reason::HostEncapsulated
    };
    push_outer::push(ctx, &inner, address, inner.header.ttl, &HOST)?;
    let action = to_wire::send(ctx, &inner, address, &node);
    Ok(Redirected { reason, action })
}

/// The reasons of one hook for the "no" of a shared step.
struct Reasons {
    truncated: Reason,
    not_ipv4: Reason,
    bad_header: Reason,
    no_route: Reason,
    node_unreachable: Reason,
    too_big: Reason,
    already_encapsulated: Reason,
    cannot_encapsulate: Reason,
}

const POD: Reasons = Reasons {
    truncated: Reason::PodTruncated,
    not_ipv4: Reason::PodNotIpv4,
    bad_header: Reason::PodBadHeader,
    no_route: Reason::PodNoRoute,
    node_unreachable: Reason::PodNodeUnreachable,
    too_big: Reason::PodTooBig,
    already_encapsulated: Reason::PodAlreadyEncapsulated,
    cannot_encapsulate: Reason::PodCannotEncapsulate,
};

const HOST: Reasons = Reasons {
    truncated: Reason::HostTruncated,
    not_ipv4: Reason::HostNotIpv4,
    bad_header: Reason::HostBadHeader,
    no_route: Reason::HostNoRoute,
    node_unreachable: Reason::HostNodeUnreachable,
    too_big: Reason::HostTooBig,
    already_encapsulated: Reason::HostAlreadyEncapsulated,
    cannot_encapsulate: Reason::HostCannotEncapsulate,
};
