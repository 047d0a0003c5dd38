//! Leases on the way out: used at the pod's interface, granted at the tunnel device.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Direction, Ipv4Be, Node, Reason};

use super::inner::Inner;
use crate::{
    flow::{self, NoFlow, Seen},
    kernel,
    lease::{self, Claim, Leased, NoLease, Settled, Word},
    maps,
    packet::Frame,
    settings,
};

#[inline(always)]
fn seen(ctx: &TcContext, inner: &Inner) -> Result<Seen, NoFlow> {
    flow::read(Frame::of_tc(ctx), inner.at, &inner.header, Direction::Encap)
}

/// The lease this packet may use. If netfilter shall be asked for one, the
/// packet takes along what it looks like here.
#[inline(always)]
pub fn find(ctx: &TcContext, inner: &Inner) -> Result<Leased, Reason> {
    let Seen { flow, is_control } = seen(ctx, inner).map_err(|no_flow| match no_flow {
        NoFlow::Options => Reason::PodOptions,
        NoFlow::Fragment => Reason::PodFragment,
        NoFlow::NoPorts => Reason::PodNoPorts,
    })?;
    if is_control {
        return Err(Reason::PodConnectionControl);
    }
    let leased = lease::find(&flow, kernel::now()).map_err(|no_lease| {
        kernel::set_proof(ctx, flow.proof(settings::secret()));
        match no_lease {
            NoLease::Missing => Reason::PodNoLease,
            NoLease::Expired => Reason::PodLeaseExpired,
            NoLease::Outdated => Reason::PodLeaseOutdated,
        }
    })?;
    // Felix's rpfilter is skipped: a neighbour must not ride along.
    if leased.endpoint != kernel::ifindex(ctx) {
        return Err(Reason::PodForgedSource);
    }
    Ok(leased)
}

/// Settles the flow's lease by what netfilter made of the packet; the reason to count.
#[inline(always)]
pub fn settle(ctx: &TcContext, inner: &Inner, word: &Word, address: Ipv4Be, node: &Node) -> Reason {
    let Ok(seen) = seen(ctx, inner) else { return Reason::HostEncapsulated };
    let claim = || {
        let pod = maps::endpoint(inner.header.source)?;
        let came_from_it = pod.hop.ifindex == kernel::ingress_ifindex(ctx);
        came_from_it.then_some(Claim {
            node: address,
            endpoint: pod.hop.ifindex,
            hop: node.hop,
            mtu: node.mtu,
        })
    };
    match lease::settle(ctx, &seen, word, claim) {
        Settled::Granted => Reason::HostLeaseGranted,
        Settled::Leased => Reason::HostLeased,
        Settled::Unmarked => Reason::HostUnmarked,
        Settled::Unproven => Reason::HostUnproven,
        Settled::Control => Reason::HostConnectionControl,
    }
}
