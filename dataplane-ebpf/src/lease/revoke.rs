//! Leases end when netfilter has to see a flow again.

use dataplane_common::{Flow, Lease};

use crate::{helpers, maps};

/// Ends the leases of a flow and of its answers: netfilter wants to see both.
#[inline(always)]
pub fn both_directions(flow: &Flow) {
    with_twin(flow);
    with_twin(&flow.reverse());
}

/// Ends a flow's lease. With one that translates ends that of the answers, whose other tuple the
/// packet at hand need not show. A function of its own: it is called four times, and seldom.
#[inline(never)]
fn with_twin(flow: &Flow) {
    if let Some(twin) = end(flow) {
        end(&twin);
    }
}

/// Ends one lease; returns the flow of the answers if it translates. Most packets have no lease to
/// end, and looking is cheaper than deleting.
#[inline(always)]
fn end(flow: &Flow) -> Option<Flow> {
    let entry = maps::lease(flow)?;
    let translation = entry.translation;
    if translation.is_none() {
        maps::revoke(flow);
        return None;
    }
    if maps::is_still_of(entry, flow) && !entry.is_revoked() {
        entry.expires = Lease::revoked_at(helpers::now(), flow);
    }
    Some(translation.of(flow).reverse())
}
