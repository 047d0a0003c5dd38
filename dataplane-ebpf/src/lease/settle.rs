//! Behind netfilter: grant a lease, or end it.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Flow, Hop, IfIndex, Ipv4Be, Lease, Mtu};

use super::lookup;
use crate::{flow::Seen, helpers, maps, settings, skb};

/// What netfilter says of a packet.
pub struct Approval {
    is_marked: bool,
    /// Read before whatever a lease will hold is looked up: a change in between
    /// makes the lease void, not wrong.
    epoch: u32,
}

impl Approval {
    /// Takes it out of the skb: nobody behind us shall see our mark.
    #[inline(always)]
    pub fn take(ctx: &TcContext) -> Self {
        Self { is_marked: skb::take_mark(ctx, settings::mark()), epoch: maps::epoch() }
    }
}

/// Whose lease it would be, and what it would hold.
pub struct Request {
    /// The other node.
    pub node: Ipv4Be,
    /// The local pod's interface.
    pub endpoint: IfIndex,
    /// Where packets go.
    pub hop: Hop,
    /// As in [`Lease::mtu`].
    pub mtu: Mtu,
}

/// What became of the flow's lease.
pub enum Settled {
    /// There is a new one, or the old one was renewed.
    Granted,
    /// There is one; this packet came by the stack all the same.
    Leased,
    /// None: netfilter did not mark the packet.
    Unmarked,
    /// None: not the packet that an ingress hook of ours saw, or none that a lease is for.
    Unproven,
    /// None: a connection begins or ends.
    Control,
}

/// Grants or revokes, by what netfilter and our ingress hook left in the skb.
#[inline(always)]
pub fn settle(
    ctx: &TcContext,
    seen: &Seen,
    approval: &Approval,
    request: impl FnOnce() -> Option<Request>,
) -> Settled {
    let flow = &seen.flow;
    if seen.is_control {
        revoke(flow);
        return Settled::Control;
    }
    if !approval.is_marked {
        revoke(flow);
        return Settled::Unmarked;
    }
    let tag = skb::flow_tag(ctx);
    if tag != 0 && tag != flow.tag(settings::secret()) {
        // Translated behind conntrack's back: what the flow had, it had rightly
        // only for packets that were not.
        revoke(flow);
        return Settled::Unproven;
    }
    let now = helpers::now();
    if lookup(flow, now).is_ok() {
        return Settled::Leased;
    }
    if tag == 0 {
        return Settled::Unproven;
    }
    match request() {
        Some(request) => grant(flow, approval.epoch, now, &request),
        None => Settled::Unproven,
    }
}

#[inline(always)]
fn grant(flow: &Flow, epoch: u32, now: u64, request: &Request) -> Settled {
    // A renewal goes on counting.
    let (packets, bytes) = maps::lease(flow).map_or((0, 0), |old| (old.packets, old.bytes));
    let lease = Lease {
        destination: flow.destination,
        epoch,
        expires: now + settings::lease(),
        packets,
        bytes,
        node: request.node,
        endpoint: request.endpoint,
        hop: request.hop,
        mtu: request.mtu,
        reserved: 0,
    };
    maps::grant(flow, &lease);
    Settled::Granted
}

/// Ends the leases of a flow and of its answers: netfilter wants to see both.
#[inline(always)]
fn revoke(flow: &Flow) {
    end(flow);
    end(&flow.reverse());
}

/// Most packets have no lease to end, and looking is cheaper than deleting.
#[inline(always)]
fn end(flow: &Flow) {
    if maps::lease(flow).is_some() {
        maps::revoke(flow);
    }
}
