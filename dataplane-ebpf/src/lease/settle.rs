//! Behind netfilter: grant a lease, or end it.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Flow, Hop, IfIndex, Ipv4Be, Lease, Mtu, NodeIndex, Translation};

use super::{
    Epoch, arrival, revoke,
    service::{self, Shown},
    unanswered,
};
use crate::{
    flow::{Control, Seen},
    helpers, maps, settings, skb,
};

/// Of which flow netfilter would let all packets pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    Nothing,
    /// Of one that conntrack leaves as it is.
    Plain,
    /// Of one whose remote end conntrack translates, and nothing else.
    Service,
    /// Of a UDP flow that conntrack leaves as it is, and that has no answer yet.
    Unanswered,
}

impl Approval {
    /// Takes it out of the skb: no program behind us shall see our marks.
    #[inline(always)]
    pub fn take(ctx: &TcContext) -> Self {
        let unanswered = settings::unanswered_mark();
        let known = settings::mark() | settings::service_mark() | unanswered;
        let bits = skb::take_mark(ctx, known);
        if unanswered != 0 && bits == unanswered {
            Self::Unanswered
        } else if bits & settings::mark() != 0 {
            Self::Plain
        } else if settings::are_services_leased() && bits != 0 {
            Self::Service
        } else {
            Self::Nothing
        }
    }
}

/// Whose lease it would be, and what it would hold.
pub struct Request {
    /// Of the two pods, and from before the rest was looked up.
    pub epoch: Epoch,
    /// The other node.
    pub node: Ipv4Be,
    /// Where that node is counted.
    pub index: NodeIndex,
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
    /// As `Granted`, for a flow that conntrack translates for a Service.
    ServiceGranted,
    /// As `Granted`, for a UDP flow that has no answer.
    UnansweredGranted,
    /// There is one; this packet came by the stack all the same.
    Leased,
    /// None: netfilter did not mark the packet.
    Unmarked,
    /// None: the flow has no answer, and has not gone on for long enough, or there are too many such.
    Unanswered,
    /// None: not the packet that an ingress hook of ours saw, or none that a lease is for.
    Unproven,
    /// None: a connection begins or ends.
    Control,
}

/// Grants or revokes, by what netfilter and our ingress hook left in the skb. `request` is asked what
/// a lease under a flow would hold.
#[inline(always)]
pub fn settle(
    ctx: &TcContext,
    seen: &Seen,
    approval: Approval,
    request: impl FnOnce(&Flow) -> Option<Request>,
) -> Settled {
    let after = &seen.flow;
    let tag = skb::flow_tag(ctx);
    let secret = settings::secret();
    if seen.control != Control::None {
        end(ctx, after, tag);
        let may_ask = seen.control == Control::Accepts && approval == Approval::Plain;
        if !may_ask || tag != after.tag(secret) {
            return Settled::Control;
        }
    }
    match approval {
        Approval::Nothing => {
            end(ctx, after, tag);
            Settled::Unmarked
        }
        Approval::Plain | Approval::Unanswered if tag != 0 && tag != after.tag(secret) => {
            // Translated behind conntrack's back: what the flow had, it had rightly
            // only for packets that were not.
            end(ctx, after, tag);
            Settled::Unproven
        }
        Approval::Service if tag == 0 => Settled::Unproven,
        Approval::Unanswered if tag != 0 && !unanswered::may_be_leased(after) => {
            Settled::Unanswered
        }
        Approval::Plain | Approval::Unanswered => {
            match grant(after, Translation::NONE, tag != 0, request) {
                Settled::Granted if approval == Approval::Unanswered => Settled::UnansweredGranted,
                other => other,
            }
        }
        Approval::Service => match service::shown(after, tag, skb::ingress_ifindex(ctx)) {
            Shown::Lease { flow, translation } => match grant(&flow, translation, true, request) {
                Settled::Granted => Settled::ServiceGranted,
                other => other,
            },
            Shown::Nothing => Settled::Unproven,
            Shown::Otherwise => {
                end(ctx, after, tag);
                Settled::Unproven
            }
        },
    }
}

/// Gives `flow` a lease with this translation, or renews it.
#[inline(always)]
fn grant(
    flow: &Flow,
    translation: Translation,
    is_proven: bool,
    request: impl FnOnce(&Flow) -> Option<Request>,
) -> Settled {
    let now = helpers::now();
    let old = maps::lease(flow).map(|entry| Old::read(entry, flow));
    if let Some(old) = &old {
        if old.is_good_at(now) {
            if old.translation == translation {
                return Settled::Leased;
            }
            revoke::both_directions(flow);
            return Settled::Unproven;
        }
        if old.was_revoked_at(now) {
            return Settled::Unproven;
        }
    }
    if !is_proven {
        return Settled::Unproven;
    }
    let Some(Request { epoch, node, index, endpoint, hop, mtu }) = request(flow) else {
        return Settled::Unproven;
    };
    let expires = Lease::good_until(now + settings::lease(), flow);
    // A renewal goes on counting.
    let (packets, bytes) = match &old {
        Some(old) if old.is_own => (old.entry.packets, old.entry.bytes),
        _ => (0, 0),
    };
    let lease = Lease {
        flow: *flow,
        expires,
        packets,
        bytes,
        translation,
        slots: epoch.slots,
        epoch: epoch.sum,
        node,
        endpoint,
        hop,
        mtu,
        index,
    };
    match old {
        None => maps::grant(flow, &lease),
        Some(old) if old.may_be_renewed() && old.entry.leads_as(&lease) => {
            // Another CPU may have revoked it meanwhile. Should the memory have become another
            // flow's, that flow does not believe this.
            if maps::read_last(&old.entry.expires) == old.expires {
                old.entry.expires = expires;
            }
        }
        Some(_) => maps::replace(flow, &lease),
    }
    Settled::Granted
}

/// What was in a lease's place.
struct Old {
    entry: &'static mut Lease,
    expires: u64,
    is_current: bool,
    translation: Translation,
    /// It was the flow's, while the above was read.
    is_own: bool,
}

impl Old {
    #[inline(always)]
    fn read(entry: &'static mut Lease, flow: &Flow) -> Self {
        let is_current = maps::epochs().is_some_and(|epochs| Epoch::of(entry).is_current(epochs));
        let translation = entry.translation;
        let expires = maps::read_last(&entry.expires);
        let is_own = maps::is_still_of(entry, flow) && Lease::is_signed(expires, flow);
        Self { entry, expires, is_current, translation, is_own }
    }

    #[inline(always)]
    fn is_good_at(&self, now: u64) -> bool {
        self.is_own && self.is_current && Lease::is_good_at(self.expires, now)
    }

    #[inline(always)]
    fn was_revoked_at(&self, now: u64) -> bool {
        self.is_own && Lease::was_revoked_within(self.expires, settings::rest(), now)
    }

    /// One that was revoked may be revoked for a reason that still holds; only a new one takes its place.
    #[inline(always)]
    fn may_be_renewed(&self) -> bool {
        self.is_own && !Lease::is_revoked_word(self.expires)
    }
}

/// Ends the leases of the flow a packet belongs to, and of that as which it came from a pod. What came
/// from the wire has no note, and its tag may be that of a pod's flow.
#[inline(always)]
fn end(ctx: &TcContext, after: &Flow, tag: u16) {
    revoke::both_directions(after);
    if let Some(came) = arrival::of(tag, skb::ingress_ifindex(ctx))
        && came != *after
    {
        revoke::both_directions(&came);
    }
}
