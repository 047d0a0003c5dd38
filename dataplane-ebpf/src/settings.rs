//! The load-time settings as the programs see them.
//!
//! Each field is read on its own and volatile: the compiler must not fold the
//! zeros in the object, while the verifier, which knows the loader's values,
//! removes the branches they rule out.

use core::ptr::read_volatile;

use dataplane_common::{IfIndex, Ipv4Be, Mac, Settings};

/// Filled in by the loader; read-only from then on.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    lease: 0,
    node: Ipv4Be::UNSPECIFIED,
    tunnel_ifindex: IfIndex::NONE,
    tunnel_mac: Mac([0; 3]),
    fastpath: Settings::OFF,
    spoof: Settings::SPOOF_DROP,
    secret: 0,
    mark: 0,
    service_mark: 0,
    unanswered_mark: 0,
    unanswered_sets: 0,
    rest: 0,
    tunnel_header: 0,
    is_tried: 0,
    unwrap_flags: 0,
};

/// Our underlay address.
#[inline(always)]
pub fn node() -> Ipv4Be {
    // SAFETY: a reference to a static is valid to read.
    unsafe { read_volatile(&SETTINGS.node) }
}

/// The tunnel device's interface index.
#[inline(always)]
pub fn tunnel_ifindex() -> IfIndex {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.tunnel_ifindex) }
}

/// Whether the tunnel device is ours, a veth; tunl0 has no link header.
#[inline(always)]
pub fn tunnel_has_ethernet() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.tunnel_header) != 0 }
}

/// Whether what we do is only tried, so that it may come to an end by itself.
#[inline(always)]
pub fn is_tried() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.is_tried) != 0 }
}

/// The tunnel device's MAC, half by half (a whole copy would call `memmove`).
#[inline(always)]
pub fn tunnel_mac() -> Mac {
    // SAFETY: as above.
    let half = |i: usize| unsafe { read_volatile(&SETTINGS.tunnel_mac.0[i]) };
    Mac([half(0), half(1), half(2)])
}

/// Flags with which an outer header comes off, beside the usual ones.
#[inline(always)]
pub fn unwrap_flags() -> u64 {
    // SAFETY: as above.
    unsafe { u64::from(read_volatile(&SETTINGS.unwrap_flags)) }
}

/// Whether known endpoints and routes may skip the stack.
#[inline(always)]
pub fn is_trusted() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.fastpath) == Settings::TRUSTED }
}

/// Whether flows may skip the stack for as long as they have a lease.
#[inline(always)]
pub fn is_verified() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.fastpath) == Settings::VERIFIED }
}

/// How long a lease is good for, ns.
#[inline(always)]
pub fn lease() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.lease) }
}

/// Netfilter's word in `skb->mark`.
#[inline(always)]
pub fn mark() -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.mark) }
}

/// The bit by which it tells of flows that conntrack translates for a Service; 0: none is leased.
#[inline(always)]
pub fn service_mark() -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.service_mark) }
}

/// Whether flows are leased that conntrack translates for a Service.
#[inline(always)]
pub fn are_services_leased() -> bool {
    service_mark() != 0
}

/// The bits by which it tells of UDP flows without an answer; 0: none is leased.
#[inline(always)]
pub fn unanswered_mark() -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.unanswered_mark) }
}

/// Capacity of `UNANSWERED`, a power of two.
#[inline(always)]
pub fn unanswered_sets() -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.unanswered_sets) }
}

/// For how long a Service lease that was revoked is not granted again, ns.
#[inline(always)]
pub fn rest() -> u64 {
    // SAFETY: as above.
    unsafe { u64::from(read_volatile(&SETTINGS.rest)) * 1_000_000 }
}

/// What only our own programs know.
#[inline(always)]
pub fn secret() -> u32 {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.secret) }
}

/// Whether proven spoofs go to the stack instead of away.
#[inline(always)]
pub fn spoofs_go_to_stack() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(&SETTINGS.spoof) == Settings::SPOOF_STACK }
}
