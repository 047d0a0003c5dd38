//! UDP flows that get no answer: one is leased only after some packets, and so many of them at most.

use dataplane_common::{Flow, Lease, Unanswered};

use crate::{helpers, maps, settings};

/// Counts a packet of `flow` that netfilter let pass. Returns whether the flow may be leased. Only packets on
/// the stack path come here. A function of its own, because few packets need it.
#[inline(never)]
pub fn may_be_leased(flow: &Flow) -> bool {
    let (now, lease) = (helpers::now(), settings::lease());
    let Some(set) = maps::unanswered(flow.tag(settings::secret())) else { return false };
    if let Some(own) = set.flows.iter_mut().find(|it| it.is(flow, now)) {
        own.count(now, lease);
        return own.may_be_leased(now);
    }
    // A place that is held is taken from no flow: a scan ends no lease.
    if let Some(free) = set.flows.iter_mut().find(|it| !it.is_held(now)) {
        let before = free.flow;
        forget_expired(&before, now);
        *free = Unanswered::first(flow, now, lease);
    }
    false
}

/// Removes the lease of the flow that held a place, so that no more such flows are in `LEASES` than there are
/// places. A flow that has been answered since then may have a good one, which stays.
#[inline(always)]
fn forget_expired(flow: &Flow, now: u64) {
    let Some(entry) = maps::lease(flow) else { return };
    let is_plain = entry.translation.is_none();
    let expires = maps::read_last(&entry.expires);
    if is_plain && maps::is_still_of(entry, flow) && !Lease::is_good_at(expires, now) {
        maps::revoke(flow);
    }
}
