//! Destination → node → the way there.

use dataplane_common::{NodeEntry, Reason};

use super::{Reasons, inner::Inner};
use crate::{maps, routes};

/// The node that carries the destination, and how to reach it.
#[inline(always)]
pub fn lookup(inner: &Inner, reasons: &Reasons) -> Result<NodeEntry, Reason> {
    let address = match routes::route_to(inner.header.destination()) {
        Some(route) if route.is_destination() => match reasons.direct {
            Some(direct) if route.is_direct() => return Err(direct),
            _ => route.node,
        },
        _ => return Err(reasons.no_route),
    };
    match maps::node(address) {
        Some(entry) if !entry.node.hop.ifindex.is_none() => Ok(entry),
        _ => Err(reasons.node_unreachable),
    }
}
