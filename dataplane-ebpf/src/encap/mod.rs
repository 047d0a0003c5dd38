//! Pod → wire: find the node, see that the packet fits, put the outer header
//! on, send it.
//!
//! The same steps serve both hooks; they differ in what they ask first and in
//! what a "no" means. [`pod`] lets the stack have what it does not take. Behind
//! [`host`] there is nobody: a plain packet must not leave, so a "no" drops;
//! unless the device is tunl0, which then encapsulates itself.

mod by_lease;
mod inner;
mod node;
mod push_outer;
mod sender;
mod suitable;
mod to_wire;

use aya_ebpf::programs::TcContext;
use dataplane_common::{NodeEntry, Reason, ipv4::Ipv4Header};

pub use self::inner::Inner;
use crate::{
    exit::{Exit, Sent, Steps},
    lease::{Approval, Epoch, Slot},
    maps,
    packet::{ETHERNET, Frame},
    settings, skb,
};

/// From a pod's interface (TC ingress of `cali*`).
#[inline(always)]
pub fn pod(ctx: &TcContext) -> Exit {
    if maps::is_try_over() {
        return Exit::Left(Reason::PodTryOver);
    }
    if settings::is_verified() { verified(ctx) } else { trusted(ctx) }.into()
}

/// By a lease, which knows all that there is to look up.
#[inline(always)]
fn verified(ctx: &TcContext) -> Steps {
    // What a pod's own programs may have left there proves nothing.
    skb::set_flow_tag(ctx, 0);
    let inner = inner::parse(ctx, inner::frame(ctx, ETHERNET), ETHERNET, &POD)?;
    addressed_to_host(ctx)?;
    let mut slot = Slot::uninit();
    let hit = by_lease::lookup(ctx, &inner, &mut slot)?;
    let ttl = suitable::hop(&inner)?;
    suitable::fits(&inner, hit.mtu, &POD)?;
    suitable::checksum(&inner)?;
    push_outer::push(ctx, &inner, hit.node, ttl, &POD)?;
    push_outer::decrement_inner_ttl(ctx);
    let reason = by_lease::translate(ctx, hit)?;
    let action = to_wire::send(ctx, &inner, hit.index, &hit.hop);
    hit.count(inner.length);
    Ok(Sent { reason, action })
}

/// To any known route, whoever would have forbidden it.
#[inline(always)]
fn trusted(ctx: &TcContext) -> Steps {
    let inner = inner::parse(ctx, inner::frame(ctx, ETHERNET), ETHERNET, &POD)?;
    addressed_to_host(ctx)?;
    sender::owns_source(ctx, &inner)?;
    let NodeEntry { address, node, index } = node::lookup(&inner, &POD)?;
    let ttl = suitable::hop(&inner)?;
    suitable::fits(&inner, node.mtu, &POD)?;
    suitable::for_fast_path(&inner)?;
    suitable::checksum(&inner)?;
    suitable::leaves_connections_alone(&inner)?;
    push_outer::push(ctx, &inner, address, ttl, &POD)?;
    push_outer::decrement_inner_ttl(ctx);
    let action = to_wire::send(ctx, &inner, index, &node.hop);
    Ok(Sent { reason: Reason::PodEncapsulated, action })
}

/// A router forwards what a host sends to it, and neither broadcasts, multicasts nor frames for
/// other machines (RFC 1812 §5.3.4).
#[inline(always)]
fn addressed_to_host(ctx: &TcContext) -> Result<(), Reason> {
    if skb::is_for_host(ctx) { Ok(()) } else { Err(Reason::PodNotForHost) }
}

/// From the stack (TC egress of the tunnel device). Forwarding has taken its
/// hop off the TTL already; a packet of this host's own keeps it.
#[inline(always)]
pub fn host(ctx: &TcContext) -> Exit {
    // Constants, not the setting: offsets the compiler knows are offsets the
    // verifier can follow, and it skips the branch that is not ours.
    if settings::tunnel_has_ethernet() {
        from_stack(ctx, ETHERNET, &HOST)
    } else if maps::is_try_over() {
        Err(Reason::Tunl0TryOver)
    } else {
        from_stack(ctx, 0, &TUNL0)
    }
    .into()
}

/// What is counted, as if every device had an Ethernet header.
#[inline(always)]
pub fn frame_length(ctx: &TcContext) -> u32 {
    let missing = if settings::tunnel_has_ethernet() { 0 } else { ETHERNET as u32 };
    skb::length(ctx) + missing
}

#[inline(always)]
fn from_stack(ctx: &TcContext, at: usize, reasons: &Reasons) -> Steps {
    let approval = settings::is_verified().then(|| Approval::take(ctx));
    let inner = inner::parse(ctx, inner::frame(ctx, at), at, reasons)?;
    // Before anything is looked up that a lease will hold.
    let asks = approval
        .map(|approval| (approval, Epoch::read(inner.header.destination(), inner.header.source())));
    let to = destined(&inner, reasons)?;
    let NodeEntry { address, node, index } = to;
    let reason = match asks {
        Some((approval, epoch)) => by_lease::settle(ctx, &inner, approval, epoch, &to),
        None => Reason::HostEncapsulated,
    };
    push_outer::push(ctx, &inner, address, inner.header.ttl(), reasons)?;
    let action = to_wire::send(ctx, &inner, index, &node.hop);
    Ok(Sent { reason, action })
}

/// The node, if the packet may be wrapped for it.
#[inline(always)]
fn destined(inner: &Inner, reasons: &Reasons) -> Result<NodeEntry, Reason> {
    let to = node::lookup(inner, reasons)?;
    if inner.header.ttl() == 0 {
        return Err(reasons.ttl_expired);
    }
    suitable::fits(inner, to.node.mtu, reasons)?;
    Ok(to)
}

/// What [`host`] would do.
pub struct Planned {
    pub inner: Inner,
    pub to: NodeEntry,
    pub outer: Ipv4Header,
}

/// What [`host`] would do on tunl0 with the packet whose inner header is `at` bytes into the frame, which
/// tunl0 has wrapped already. It only looks.
#[inline(always)]
pub fn plan(ctx: &TcContext, frame: Frame, at: usize) -> Result<Planned, Reason> {
    let inner = inner::parse(ctx, frame, at, &TUNL0)?;
    let to = destined(&inner, &TUNL0)?;
    let outer = push_outer::header(&inner, inner.header.ttl(), to.address);
    Ok(Planned { inner, to, outer })
}

/// The reasons of one hook for the "no" of a shared step.
struct Reasons {
    truncated: Reason,
    /// TCP that ends before its flags, if that is a "no".
    tcp_truncated: Option<Reason>,
    not_ipv4: Reason,
    bad_header: Reason,
    no_route: Reason,
    /// For what travels plain, if that is a "no".
    direct: Option<Reason>,
    node_unreachable: Reason,
    ttl_expired: Reason,
    too_big: Reason,
    already_encapsulated: Reason,
    cannot_encapsulate: Reason,
}

const POD: Reasons = Reasons {
    truncated: Reason::PodTruncated,
    tcp_truncated: Some(Reason::PodTruncated),
    not_ipv4: Reason::PodNotIpv4,
    bad_header: Reason::PodBadHeader,
    no_route: Reason::PodNoRoute,
    direct: Some(Reason::PodDirect),
    node_unreachable: Reason::PodNodeUnreachable,
    ttl_expired: Reason::PodTtlExpired,
    too_big: Reason::PodTooBig,
    already_encapsulated: Reason::PodAlreadyEncapsulated,
    cannot_encapsulate: Reason::PodCannotEncapsulate,
};

const HOST: Reasons = Reasons {
    truncated: Reason::HostTruncated,
    tcp_truncated: None,
    not_ipv4: Reason::HostNotIpv4,
    bad_header: Reason::HostBadHeader,
    no_route: Reason::HostNoRoute,
    // The kernel's route to the tunnel device was looked up before it became direct.
    direct: None,
    node_unreachable: Reason::HostNodeUnreachable,
    ttl_expired: Reason::HostTtlExpired,
    too_big: Reason::HostTooBig,
    already_encapsulated: Reason::HostAlreadyEncapsulated,
    cannot_encapsulate: Reason::HostCannotEncapsulate,
};

const TUNL0: Reasons = Reasons {
    truncated: Reason::Tunl0Truncated,
    tcp_truncated: None,
    not_ipv4: Reason::Tunl0NotIpv4,
    bad_header: Reason::Tunl0BadHeader,
    no_route: Reason::Tunl0NoRoute,
    direct: None,
    node_unreachable: Reason::Tunl0NodeUnreachable,
    ttl_expired: Reason::Tunl0TtlExpired,
    too_big: Reason::Tunl0TooBig,
    already_encapsulated: Reason::Tunl0AlreadyEncapsulated,
    cannot_encapsulate: Reason::Tunl0CannotEncapsulate,
};
