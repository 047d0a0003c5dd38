//! A flow in one direction: what a lease is given for.

use core::net::SocketAddrV4;

use crate::{Direction, Ipv4Be, layout::plain};

plain! {
    /// One direction of a TCP or UDP conversation, as it passes this node.
    ///
    /// Addresses and ports lie as in the packet, in network byte order.
    #[repr(align(8))]
    pub struct Flow {
        /// The inner source.
        pub source: Ipv4Be,
        /// The inner destination.
        pub destination: Ipv4Be,
        /// The source port, network byte order.
        pub source_port: u16,
        /// The destination port, network byte order.
        pub destination_port: u16,
        /// The inner header's protocol: TCP or UDP.
        pub protocol: u8,
        /// The number of its [`Direction`]: any byte may lie in a map, see [`Self::direction`].
        pub direction: u8,
        /// Always 0: part of the key.
        pub reserved: u16,
    }
}

/// 2^64 / φ, odd: each input bit reaches the upper half (Knuth, TAOCP 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// The bits in which the two directions' numbers differ.
const BOTH: u8 = Direction::Encap as u8 ^ Direction::Decap as u8;

impl Flow {
    /// Returns the flow with these addresses and, as they lie in the packet, these ports.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        source: Ipv4Be,
        destination: Ipv4Be,
        ports: u32,
        protocol: u8,
        direction: Direction,
    ) -> Self {
        let last = u32::from_ne_bytes([protocol, direction as u8, 0, 0]);
        // SAFETY: sixteen bytes without padding (asserted by `plain!`), and any bits are a flow.
        unsafe { core::mem::transmute([source.0, destination.0, ports, last]) }
    }

    /// Returns the direction in which its packets pass this node.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        if self.direction == Direction::Decap as u8 { Direction::Decap } else { Direction::Encap }
    }

    /// The answers to this flow: they pass this node the other way.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            direction: self.direction ^ BOTH,
            reserved: 0,
        }
    }

    /// Returns the flow with another remote end: at encap the destination, at decap the source. The
    /// port is in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn with_remote(&self, address: Ipv4Be, port: u16) -> Self {
        match self.direction() {
            Direction::Encap => Self { destination: address, destination_port: port, ..*self },
            Direction::Decap => Self { source: address, source_port: port, ..*self },
        }
    }

    /// Returns whether the flow differs from `other` in its remote end, or in nothing.
    #[inline(always)]
    #[must_use]
    pub fn differs_at_most_remotely(&self, other: &Self) -> bool {
        let same = match self.direction() {
            Direction::Encap => {
                self.source == other.source && self.source_port == other.source_port
            }
            Direction::Decap => {
                self.destination == other.destination
                    && self.destination_port == other.destination_port
            }
        };
        same && self.protocol == other.protocol && self.direction == other.direction
    }

    /// Returns the sender and the receiver of its packets.
    #[must_use]
    pub fn ends(&self) -> (SocketAddrV4, SocketAddrV4) {
        let end = |address: Ipv4Be, port| SocketAddrV4::new(address.into(), u16::from_be(port));
        (end(self.source, self.source_port), end(self.destination, self.destination_port))
    }

    /// Returns the flow as two numbers, as they lie in memory: quicker to compare than its fields.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        // SAFETY: sixteen bytes without padding (asserted by `plain!`), and any bits are numbers.
        unsafe { core::mem::transmute(*self) }
    }

    /// Returns the bits by which [`crate::Lease::expires`] tells for whom it was written: fewer, and
    /// cheaper, than [`Self::tag`], and no secret.
    #[inline(always)]
    #[must_use]
    pub const fn signature(&self) -> u64 {
        let [addresses, rest] = self.words();
        (addresses ^ rest).wrapping_mul(SPREAD) >> (u64::BITS - crate::Lease::SIGNATURE_BITS)
    }

    /// Sixteen bits that stand for this flow in `skb->tc_index`, never 0.
    ///
    /// The hook that grants a lease sees by them whether the packet still has
    /// the addresses and ports it came with. Whoever translates packets without
    /// telling conntrack does not aim at the hash, and `secret` keeps others
    /// from doing so.
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self, secret: u32) -> u16 {
        let [addresses, rest] = self.words();
        let mut hash = (addresses ^ secret as u64).wrapping_mul(SPREAD);
        hash ^= hash >> 32;
        hash = (hash ^ rest).wrapping_mul(SPREAD);
        hash ^= hash >> 32;
        match hash.wrapping_mul(SPREAD) >> 48 {
            0 => 1,
            tag => tag as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn flow(a: u32, b: u32, ports: (u16, u16), protocol: u8, direction: u8) -> Flow {
        Flow {
            source: Ipv4Be(a),
            destination: Ipv4Be(b),
            source_port: ports.0,
            destination_port: ports.1,
            protocol,
            direction: direction & 1,
            reserved: 0,
        }
    }

    proptest! {
        #[test]
        fn the_reverse_of_the_reverse_is_the_flow(
            a: u32, b: u32, ports: (u16, u16), protocol: u8, direction: u8,
        ) {
            let flow = flow(a, b, ports, protocol, direction);
            prop_assert_eq!(flow.reverse().reverse(), flow);
            prop_assert_ne!(flow.reverse(), flow);
        }

        #[test]
        fn the_reverse_passes_the_other_way(
            a: u32, b: u32, ports: (u16, u16), protocol: u8, direction: u8,
        ) {
            let flow = flow(a, b, ports, protocol, direction);
            prop_assert_ne!(flow.reverse().direction(), flow.direction());
            prop_assert_eq!(flow.direction() as u8, flow.direction);
        }

        #[test]
        fn a_tag_is_never_zero(a: u32, b: u32, ports: (u16, u16), secret: u32) {
            prop_assert_ne!(flow(a, b, ports, 6, 0).tag(secret), 0);
        }
    }

    /// A service's address becomes a pod's, a port another: of 60,000 such
    /// changes about one keeps its 16 bits by chance.
    #[test]
    fn a_translated_flow_has_another_tag() {
        let pod = u32::from_ne_bytes(Ipv4Addr::new(10, 20, 105, 215).octets());
        let service = u32::from_ne_bytes(Ipv4Addr::new(10, 10, 48, 254).octets());
        let tag = |to: [u8; 4], port: u16| {
            flow(pod, u32::from_ne_bytes(to), (40_000, port.to_be()), 6, 0).tag(0x5eed)
        };
        let before = flow(pod, service, (40_000, 8080_u16.to_be()), 6, 0).tag(0x5eed);
        let same = (0..=255_u8)
            .flat_map(|b| (0..=255_u8).map(move |c| [10, 20, b, c]))
            .filter(|to| tag(*to, 8080) == before)
            .count();
        assert!(same < 12, "{same} of 65536");
        let ports: BTreeSet<u16> = (1..=4096).map(|port| tag([10, 20, 42, 31], port)).collect();
        assert!(ports.len() > 3800, "{} tags of 4096 ports", ports.len());
    }

    /// As the programs read them from a map.
    #[test]
    fn words_are_as_in_memory() {
        let flow = flow(0x0102_0304, 0x0506_0708, (0x090a, 0x0b0c), 17, 1);
        // SAFETY: a flow is sixteen bytes without padding.
        let bytes: [u8; 16] = unsafe { core::mem::transmute(flow) };
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(flow.words(), [word(0), word(8)]);
        let ports = u32::from_ne_bytes(bytes[8..12].try_into().unwrap());
        let made = Flow::new(flow.source, flow.destination, ports, 17, flow.direction());
        assert_eq!(made, flow);
    }

    #[test]
    fn flows_that_differ_in_a_bit_sign_differently() {
        let flow = |bits: u128| Flow {
            source: Ipv4Be(bits as u32),
            destination: Ipv4Be((bits >> 32) as u32),
            source_port: (bits >> 64) as u16,
            destination_port: (bits >> 80) as u16,
            protocol: (bits >> 96) as u8,
            direction: (bits >> 104) as u8,
            reserved: (bits >> 112) as u16,
        };
        let some = 0x0a14_69d7_0a14_2a1f_9c40_1f90_0600_0000_u128;
        for bit in 0..128 {
            assert_ne!(flow(some).signature(), flow(some ^ 1 << bit).signature(), "bit {bit}");
        }
    }

    #[test]
    fn the_secret_matters() {
        let flow = flow(1, 2, (3, 4), 17, 1);
        let tags: BTreeSet<u16> = (0..1000).map(|secret| flow.tag(secret)).collect();
        assert!(tags.len() > 900, "{}", tags.len());
    }
}
