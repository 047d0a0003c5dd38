//! A lease: what the programs remember of a flow that netfilter lets pass.

use crate::{EpochSlots, Flow, Hop, IfIndex, Ipv4Be, Mtu, NodeIndex, layout::plain};

plain! {
    /// Leave for one flow, in one direction, to skip the stack for a while.
    ///
    /// It holds all that the fast path needs, so that one lookup does.
    pub struct Lease {
        /// The flow, once more. An LRU map gives the memory of an evicted entry to another flow
        /// while a program may still be reading it, and copies the new value from its start or, on
        /// some CPUs, from its end (`arch/x86/lib/memcpy_64.S`). A program that reads
        /// [`Self::expires`] and this last, in that order, and finds both its own flow's, has read
        /// that flow's entry all along.
        pub flow: Flow,
        /// Packets that went by this lease and its renewals. Added to without a
        /// lock: a flow on two CPUs at once may lose a few.
        pub packets: u64,
        /// Their bytes, inner IP header included.
        pub bytes: u64,
        /// What its packets are rewritten to, as conntrack does it for a Service.
        pub translation: Translation,
        /// Where in `EPOCH` its epochs are.
        pub slots: EpochSlots,
        /// Their sum when it was granted, [`crate::Epochs::all`] included: good only while that is it.
        pub epoch: u32,
        /// The other node: encap's destination, the only outer source at decap.
        pub node: Ipv4Be,
        /// The local pod's interface: encap comes from nowhere else.
        pub endpoint: IfIndex,
        /// Where packets go: at encap towards the node, at decap into the pod.
        pub hop: Hop,
        /// At encap the largest outer packet the path takes; at decap 0.
        pub mtu: Mtu,
        /// Where that node is counted.
        pub index: NodeIndex,
        /// Until when it is good, with a signature of the flow: see [`Lease::good_until`] and
        /// [`Lease::revoked_at`]. It stays at the end: see [`Self::flow`].
        pub expires: u64,
    }
}

plain! {
    /// Another address and port for the remote end of a flow: at encap for the destination (a
    /// Service's address becomes that of the pod behind it), at decap for the source (back again).
    pub struct Translation {
        /// The address that is written; 0: nothing is.
        pub address: Ipv4Be,
        /// The port that is written, network byte order.
        pub port: u16,
        /// Always 0.
        pub reserved: u16,
    }
}

impl Translation {
    /// Packets stay as they are.
    pub const NONE: Self = Self { address: Ipv4Be::UNSPECIFIED, port: 0, reserved: 0 };

    /// Returns the translation that gives the remote end this address and port.
    #[inline(always)]
    #[must_use]
    pub const fn to(address: Ipv4Be, port: u16) -> Self {
        Self { address, port, reserved: 0 }
    }

    /// Returns whether packets stay as they are.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.address.0 == 0
    }

    /// Returns `flow` as it is after the translation.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, flow: &Flow) -> Flow {
        flow.with_remote(self.address, self.port)
    }
}

/// The low bits of [`Lease::expires`]: the [signature](Flow::signature) of the flow for which it was
/// written. What is above them is a time in nanoseconds, to a millisecond.
const SIGNATURE: u64 = (1 << Lease::SIGNATURE_BITS) - 1;
/// The bit of [`Lease::expires`] of a lease that was revoked.
const REVOKED: u64 = 1 << 63;

impl Lease {
    pub(crate) const SIGNATURE_BITS: u32 = 20;

    /// Returns [`Self::expires`] of a lease that is good until `time` (`CLOCK_MONOTONIC`, coarse,
    /// nanoseconds).
    ///
    /// The word bears a signature of its flow, so that one store renews a lease, or revokes it, even
    /// while the memory may become another flow's: that flow's program does not believe it.
    #[inline(always)]
    #[must_use]
    pub const fn good_until(time: u64, flow: &Flow) -> u64 {
        time & !(SIGNATURE | REVOKED) | flow.signature()
    }

    /// Returns [`Self::expires`] of a lease that was revoked at `time`. It stays in its place for a
    /// while, so that a packet that netfilter judged earlier and that is still on its way does not
    /// bring it back.
    #[inline(always)]
    #[must_use]
    pub const fn revoked_at(time: u64, flow: &Flow) -> u64 {
        Self::good_until(time, flow) | REVOKED
    }

    /// Returns whether an entry's word was written for this flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_signed(expires: u64, flow: &Flow) -> bool {
        expires & SIGNATURE == flow.signature()
    }

    /// Returns whether a lease with this word is good at `now`.
    #[inline(always)]
    #[must_use]
    pub const fn is_good_at(expires: u64, now: u64) -> bool {
        // A revoked one is negative.
        (expires | SIGNATURE) as i64 > (now | SIGNATURE) as i64
    }

    /// Returns whether a lease with this word was revoked at `now`, or less than `rest` nanoseconds
    /// before.
    #[inline(always)]
    #[must_use]
    pub const fn was_revoked_within(expires: u64, rest: u64, now: u64) -> bool {
        expires & REVOKED != 0 && now.saturating_sub(expires & !REVOKED & !SIGNATURE) <= rest
    }

    /// Returns whether a lease with this word was revoked.
    #[inline(always)]
    #[must_use]
    pub const fn is_revoked_word(expires: u64) -> bool {
        expires & REVOKED != 0
    }

    /// Returns whether the lease was revoked.
    #[inline(always)]
    #[must_use]
    pub const fn is_revoked(&self) -> bool {
        Self::is_revoked_word(self.expires)
    }

    /// Returns whether packets would go by `other`, of the same flow, as they go by this one.
    #[inline(always)]
    #[must_use]
    pub fn leads_as(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.slots == other.slots
            && self.node == other.node
            && self.index == other.index
            && self.endpoint == other.endpoint
            && self.mtu == other.mtu
            && self.hop == other.hop
            && self.translation == other.translation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Direction;

    const MILLISECOND: u64 = 1 << 20;

    fn flow(direction: Direction, source_port: u16) -> Flow {
        Flow {
            source: Ipv4Be(1),
            destination: Ipv4Be(2),
            source_port,
            destination_port: 4,
            protocol: 6,
            direction: direction as u8,
            reserved: 0,
        }
    }

    proptest! {
        /// A word says what was written into it, to the flow for which it was written.
        #[test]
        fn words_say_what_was_written(time in 0..1_u64 << 60, port: u16, ahead in 1..1000_u64) {
            let flow = |port| flow(Direction::Encap, port);
            let word = Lease::good_until(time, &flow(port));
            prop_assert!(Lease::is_signed(word, &flow(port)));
            prop_assert!(!Lease::is_signed(word, &flow(port ^ 1)));
            prop_assert!(!Lease::is_signed(word, &flow(port).reverse()));
            prop_assert!(!Lease::is_good_at(word, time));
            prop_assert!(!Lease::is_good_at(word, time + ahead * MILLISECOND));
            prop_assert!(!Lease::was_revoked_within(word, u64::MAX, time));
            if let Some(before) = time.checked_sub(ahead * MILLISECOND) {
                prop_assert!(Lease::is_good_at(word, before));
            }
        }

        #[test]
        fn revoked_words_are_never_good(time in 0..1_u64 << 60, port: u16, now in 0..1_u64 << 60) {
            let flow = flow(Direction::Decap, port);
            let word = Lease::revoked_at(time, &flow);
            prop_assert!(Lease::is_signed(word, &flow));
            prop_assert!(!Lease::is_good_at(word, now));
            prop_assert!(Lease::was_revoked_within(word, 5 * MILLISECOND, time));
            prop_assert!(!Lease::was_revoked_within(word, 5 * MILLISECOND, time + 7 * MILLISECOND));
        }
    }

    #[test]
    fn a_translation_is_of_the_remote_end() {
        let flow = |direction| flow(direction, 3);
        let to = Translation::to(Ipv4Be(8), 9);
        let (out, back) = (flow(Direction::Encap), flow(Direction::Decap));
        assert_eq!(to.of(&out), Flow { destination: Ipv4Be(8), destination_port: 9, ..out });
        assert_eq!(to.of(&back), Flow { source: Ipv4Be(8), source_port: 9, ..back });
        // The answers to a request that was translated are those of the pod behind the Service.
        let service = Translation::to(out.destination, out.destination_port);
        assert_eq!(service.of(&to.of(&out).reverse()), out.reverse());
    }
}
