//! Leases as they lie in the map, and as tests write them.

use dataplane_common::{Flow, Lease};
use nix::time::{ClockId, clock_gettime};

use crate::world;

/// As it lies in the map: signed for its flow. [`world::NOW`] is now, and so is when it was revoked: a
/// host may be up for longer than [`world::REST`].
#[must_use]
pub fn written(flow: &Flow, lease: Lease) -> Lease {
    let revoked = lease.expires & world::REVOKED;
    let time = if revoked != 0 || lease.expires == world::NOW { now() } else { lease.expires };
    let signed = Lease::good_until(time, flow) | revoked;
    Lease { expires: signed, ..lease }
}

/// As tests write it: without its signature, unless that is another flow's.
#[must_use]
pub fn read(flow: &Flow, lease: Lease) -> Lease {
    let is_signed = Lease::is_signed(lease.expires, flow);
    let expires = if is_signed { lease.expires & !world::SIGNATURE } else { lease.expires };
    Lease { expires, ..lease }
}

/// `CLOCK_MONOTONIC` to the last timer tick, ns: the clock of leases.
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
