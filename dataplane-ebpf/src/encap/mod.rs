//! Pod → wire: find the node, see that the packet fits, put the outer header
//! on, send it.
//!
//! The same steps serve both hooks; they differ in what they ask first and in
//! what a "no" means. [`pod`] lets the stack have what it does not take. Behind
//! [`host`] there is nobody: a plain packet must not leave, so a "no" drops.

mod inner;
mod node;
mod push_outer;
mod sender;
mod suitable;
mod to_wire;

use aya_ebpf::programs::TcContext;
use dataplane_common::Reason;

use crate::{Redirected, TcExit};

/// From a pod's interface (TC ingress of `cali*`).
#[inline(always)]
pub fn pod(ctx: &TcContext) -> TcExit {
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
    let inner = inner::parse(ctx, &HOST)?;
    let (address, node) = node::find(&inner, &HOST)?;
    if inner.header.ttl == 0 {
        return Err(Reason::HostTtlExpired);
    }
    suitable::fits(&inner, &node, &HOST)?;
    push_outer::push(ctx, &inner, address, inner.header.ttl, &HOST)?;
    let action = to_wire::send(ctx, &inner, address, &node);
    Ok(Redirected { reason: Reason::HostEncapsulated, action })
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
