//! May this packet take this way? A "no" on the pod's side is the stack's
//! business: it fragments, sends ICMP and keeps track of connections.

use dataplane_common::{Mtu, Reason};

use super::{Reasons, by_lease, inner::Inner};
use crate::flow::{self, CONNECTION_CONTROL};

/// The TTL after the hop we are, or why there is none.
#[inline(always)]
pub fn hop(inner: &Inner) -> Result<u8, Reason> {
    match inner.header.ttl() {
        0 | 1 => Err(Reason::PodTtlExpired),
        ttl => Ok(ttl - 1),
    }
}

/// Options are for a router to obey, fragments for netfilter to reassemble.
#[inline(always)]
pub fn for_fast_path(inner: &Inner) -> Result<(), Reason> {
    match flow::special(&inner.header) {
        Some(no_flow) => Err(by_lease::reason(no_flow)),
        None => Ok(()),
    }
}

/// The fast path is the router that must verify it (RFC 1812 §5.2.2); on the
/// stack path `ip_rcv` does. Only for a header without options.
#[inline(always)]
pub fn checksum(inner: &Inner) -> Result<(), Reason> {
    if inner.header.checksum_is_right() { Ok(()) } else { Err(Reason::PodBadChecksum) }
}

/// Whether it fits a path that takes outer packets of up to `mtu` bytes.
#[inline(always)]
pub fn fits(inner: &Inner, mtu: Mtu, reasons: &Reasons) -> Result<(), Reason> {
    if inner.size.fits(mtu) { Ok(()) } else { Err(reasons.too_big) }
}

/// Connections begin and end in the stack's sight.
#[inline(always)]
pub fn leaves_connections_alone(inner: &Inner) -> Result<(), Reason> {
    if inner.tcp & CONNECTION_CONTROL == 0 { Ok(()) } else { Err(Reason::PodConnectionControl) }
}
