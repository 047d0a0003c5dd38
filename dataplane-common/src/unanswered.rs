//! UDP flows that get no answer (statsd, syslog, RTP): which of them may be leased.
//!
//! Conntrack calls a flow established once it is answered. Before that, one that goes on looks the same as a
//! port scan. So the hook behind netfilter counts the packets of such flows, in an array of sets of [`WAYS`]
//! flows. [A flow's tag](Flow::tag) is the number of its set. A flow may be leased while it has a place there,
//! and a place that is held is given to no other flow: that bounds how many leases such flows have.

use crate::{Flow, layout::plain};

/// How many flows a set has room for.
pub const WAYS: usize = 4;
/// A flow may be leased with this packet of it, not counting the first, which conntrack has not confirmed yet.
pub const PACKETS: u32 = 3;
/// A flow may be leased that was first seen so long ago, nanoseconds.
pub const AFTER: u64 = 2_000_000_000;
/// Of so many leases, one may be that of a flow without an answer.
const SHARE: u32 = 16;
/// Sets there may be: 16,384 flows, 640 KiB.
const MOST_SETS: u32 = 4_096;

/// Capacity of `UNANSWERED` for so many leases: a power of two. At least one, where such flows are not leased.
#[must_use]
pub const fn sets(leases: u32) -> u32 {
    let sets = leases / SHARE / WAYS as u32;
    if sets >= MOST_SETS {
        MOST_SETS
    } else if sets == 0 {
        1
    } else {
        1 << sets.ilog2()
    }
}

plain! {
    /// A flow that gets no answer.
    pub struct Unanswered {
        /// The flow.
        pub flow: Flow,
        /// When its first packet was counted (`CLOCK_MONOTONIC`, coarse, nanoseconds).
        pub since: u64,
        /// Until when it holds its place, likewise; 0: the place is free.
        pub until: u64,
        /// Its packets that netfilter has let pass, up to [`PACKETS`].
        pub packets: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

plain! {
    /// The flows whose tags have one set.
    pub struct UnansweredSet {
        /// In no order.
        pub flows: [Unanswered; WAYS],
    }
}

impl Unanswered {
    /// Returns a flow with one packet, at `now`. `lease`: how long leases are good for, nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn first(flow: &Flow, now: u64, lease: u64) -> Self {
        Self { flow: *flow, since: now, until: now + lease, packets: 1, reserved: 0 }
    }

    /// Returns whether this is `flow`, at `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is(&self, flow: &Flow, now: u64) -> bool {
        let ([addresses, rest], own) = (self.flow.words(), flow.words());
        (addresses ^ own[0]) | (rest ^ own[1]) == 0 && self.is_held(now)
    }

    /// Returns whether the place is a flow's, at `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_held(&self, now: u64) -> bool {
        self.until > now
    }

    /// Counts a packet. One that is not leased holds its place for the time of a lease, a leased one for as
    /// long once its lease is over.
    #[inline(always)]
    pub const fn count(&mut self, now: u64, lease: u64) {
        if self.packets < PACKETS {
            self.packets += 1;
        }
        self.until = now + if self.may_be_leased(now) { 2 * lease } else { lease };
    }

    /// Returns whether it has gone on for long enough.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_leased(&self, now: u64) -> bool {
        self.packets >= PACKETS && now.saturating_sub(self.since) >= AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, Ipv4Be};

    const LEASE: u64 = 5_000_000_000;
    const MILLISECOND: u64 = 1_000_000;

    fn flow(port: u32) -> Flow {
        Flow::new(Ipv4Be(1), Ipv4Be(2), port, 17, Direction::Encap)
    }

    /// Packets at these times, milliseconds; whether each may be granted a lease.
    fn granted(at: &[u64]) -> std::vec::Vec<bool> {
        let mut entry = Unanswered::first(&flow(1), at[0] * MILLISECOND, LEASE);
        let rest = at[1..].iter().map(|at| at * MILLISECOND);
        let rest = rest.map(|now| {
            entry.count(now, LEASE);
            entry.may_be_leased(now)
        });
        std::iter::once(false).chain(rest).collect()
    }

    #[test]
    fn three_packets_over_two_seconds_are_asked_for() {
        assert_eq!(granted(&[10, 2010]), [false, false], "two packets");
        assert_eq!(granted(&[10, 11, 2009]), [false; 3], "less than two seconds");
        assert_eq!(granted(&[10, 11, 2010]), [false, false, true]);
        assert_eq!(granted(&[10, 11, 12, 13, 2011]), [false, false, false, false, true]);
        assert_eq!(granted(&[10, 11, 2010, 7000]), [false, false, true, true], "a renewal");
    }

    #[test]
    fn a_place_is_held_for_a_lease_and_once_more() {
        let mut entry = Unanswered::first(&flow(1), 0, LEASE);
        assert!(entry.is(&flow(1), LEASE - 1) && !entry.is(&flow(2), LEASE - 1));
        assert!(!entry.is(&flow(1), LEASE) && !entry.is_held(LEASE));
        entry.count(1, LEASE);
        assert!(entry.is_held(LEASE) && !entry.is_held(LEASE + 1));
        entry.count(AFTER, LEASE);
        assert!(entry.is_held(AFTER + 2 * LEASE - 1) && !entry.is_held(AFTER + 2 * LEASE));
        assert!(!Unanswered::default().is_held(0), "a free place");
    }

    #[test]
    fn there_are_places_for_a_sixteenth_of_the_leases() {
        for (leases, expected) in [(65_536, 1_024), (1_024, 16), (100_000, 1_024), (63, 1), (0, 1)]
        {
            assert_eq!(sets(leases), expected, "{leases}");
            assert!(sets(leases).is_power_of_two());
        }
        assert_eq!(sets(16_777_216), MOST_SETS);
    }
}
