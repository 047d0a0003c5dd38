//! Leases on the way out: used at the pod's interface, granted at the tunnel device.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Direction, Flow, NodeEntry, Reason, ipv4::OUTER_LENGTH};

use super::inner::Inner;
use crate::{
    flow::{self, Control, NoFlow, Seen},
    helpers,
    lease::{self, Approval, Epoch, Hit, Miss, Request, Settled, Slot, arrival, service},
    maps,
    packet::{ETHERNET, Frame},
    skb,
};

/// Where the inner header is once the outer one is on.
const INNER: usize = ETHERNET + OUTER_LENGTH;

#[inline(always)]
fn seen(ctx: &TcContext, inner: &Inner) -> Result<Seen, NoFlow> {
    flow::read(Frame::of_tc(ctx), inner.at, &inner.header, Direction::Encap)
}

/// The name of what keeps a pod's packet from the fast path.
#[inline(always)]
pub fn reason(no_flow: NoFlow) -> Reason {
    match no_flow {
        NoFlow::Options => Reason::PodOptions,
        NoFlow::Fragment => Reason::PodFragment,
        NoFlow::NoPorts => Reason::PodNoPorts,
    }
}

/// The lease this packet may use. If netfilter shall be asked for one, the
/// packet takes along what it looks like here.
#[inline(always)]
pub fn lookup<'a>(
    ctx: &TcContext,
    inner: &Inner,
    slot: &'a mut Slot,
) -> Result<&'a mut Hit, Reason> {
    let Seen { flow, control } = seen(ctx, inner).map_err(reason)?;
    if control != Control::None {
        arrival::note_control(ctx, &flow, control);
        return Err(Reason::PodConnectionControl);
    }
    let hit = lease::lookup(&flow, helpers::now(), slot).map_err(|miss| {
        arrival::note(ctx, &flow);
        match miss {
            Miss::Missing => Reason::PodNoLease,
            Miss::Expired => Reason::PodLeaseExpired,
            Miss::Outdated => Reason::PodLeaseOutdated,
        }
    })?;
    // Felix's rpfilter is skipped: a neighbour must not ride along.
    if hit.endpoint != skb::ifindex(ctx) {
        return Err(Reason::PodForgedSource);
    }
    Ok(hit)
}

/// Rewrites an encapsulated packet as conntrack would have, if its lease translates; the reason to count.
#[inline(always)]
pub fn translate(ctx: &TcContext, hit: &Hit) -> Result<Reason, Reason> {
    // Also where Services are leased no more: such leases may be left from a moment ago.
    if hit.translation.is_none() {
        return Ok(Reason::PodEncapsulated);
    }
    match service::translate(ctx, INNER, Direction::Encap, &hit.translation) {
        Ok(()) => Ok(Reason::PodServiceEncapsulated),
        Err(_) => Err(Reason::PodCannotTranslate),
    }
}

/// Settles the flow's lease by what netfilter made of the packet; the reason to count. `epoch` is that of
/// the packet's addresses, from before `to`, the node it goes to, was looked up.
#[inline(always)]
pub fn settle(
    ctx: &TcContext,
    inner: &Inner,
    approval: Approval,
    epoch: Epoch,
    to: &NodeEntry,
) -> Reason {
    let Ok(seen) = seen(ctx, inner) else { return Reason::HostEncapsulated };
    let request = |_: &Flow| {
        let pod = maps::endpoint(inner.header.source())?;
        let came_from_it = pod.hop.ifindex == skb::ingress_ifindex(ctx);
        came_from_it.then_some(Request {
            epoch,
            node: to.address,
            index: to.index,
            endpoint: pod.hop.ifindex,
            hop: to.node.hop,
            mtu: to.node.mtu,
        })
    };
    match lease::settle(ctx, &seen, approval, request) {
        Settled::Granted => Reason::HostLeaseGranted,
        Settled::ServiceGranted => Reason::HostServiceLeaseGranted,
        Settled::UnansweredGranted => Reason::HostUnansweredLeaseGranted,
        Settled::Leased => Reason::HostLeased,
        Settled::Unmarked => Reason::HostUnmarked,
        Settled::Unanswered => Reason::HostUnanswered,
        Settled::Unproven => Reason::HostUnproven,
        Settled::Control => Reason::HostConnectionControl,
    }
}
