//! Behind netfilter: grant a lease, or end it.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Flow, Hop, Ipv4Be, Lease};

use super::find;
use crate::{flow::Seen, kernel, maps, settings};

/// What netfilter says of a packet.
pub struct Word {
    is_marked: bool,
    /// Read before whatever a lease will hold is looked up: a change in between
    /// makes the lease void, not wrong.
    epoch: u32,
}

impl Word {
    /// Takes it out of the skb: nobody behind us shall see our mark.
    #[inline(always)]
    pub fn take(ctx: &TcContext) -> Self {
        Self { is_marked: kernel::take_mark(ctx, settings::mark()), epoch: maps::epoch() }
    }
}

/// Who would use the lease.
pub struct Claim {
    /// The other node.
    pub node: Ipv4Be,
    /// The local pod's interface.
    pub endpoint: u32,
    /// Where packets go.
    pub hop: Hop,
    /// As in [`Lease::mtu`].
    pub mtu: u32,
}

/// What became of the flow's lease.
pub enum Settled {
    /// There is a new one, or the old one was renewed.
    Granted,
    /// There is one; this packet came by the stack all the same.
    Leased,
    /// None: netfilter did not mark the packet.
    Unmarked,
    /// None: not the packet an ingress hook of ours saw, or nobody's to claim.
    Unproven,
    /// None: a connection begins or ends.
    Control,
}

/// Grants or revokes, by what netfilter and our ingress hook left in the skb.
#[inline(always)]
pub fn settle(
    ctx: &TcContext,
    seen: &Seen,
    word: &Word,
    claim: impl FnOnce() -> Option<Claim>,
) -> Settled {
    let flow = &seen.flow;
    if seen.is_control {
        revoke(flow);
        return Settled::Control;
    }
    if !word.is_marked {
        revoke(flow);
        return Settled::Unmarked;
    }
    let proof = kernel::proof(ctx);
    if proof != 0 && proof != flow.proof(settings::secret()) {
        // Translated behind conntrack's back: what the flow had, it had rightly
        // only for packets that were not.
        revoke(flow);
        return Settled::Unproven;
    }
    let now = kernel::now();
    if find(flow, now).is_ok() {
        return Settled::Leased;
    }
    if proof == 0 {
        return Settled::Unproven;
    }
    match claim() {
        Some(claim) => grant(flow, word.epoch, now, &claim),
        None => Settled::Unproven,
    }
}

#[inline(always)]
fn grant(flow: &Flow, epoch: u32, now: u64, claim: &Claim) -> Settled {
    // A renewal goes on counting.
    let (packets, bytes) = maps::lease(flow).map_or((0, 0), |old| (old.packets, old.bytes));
    let lease = Lease {
        destination: flow.destination,
        epoch,
        expires: now + settings::lease(),
        packets,
        bytes,
        node: claim.node,
        endpoint: claim.endpoint,
        hop: claim.hop,
        mtu: claim.mtu,
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
