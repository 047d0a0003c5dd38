//! What `tunless trace` and the programs that it loads (`dataplane-ebpf/src/trace.rs`) exchange.
//!
//! Nothing of this is pinned or shared with another version, so it is no part of the ABI.

use crate::{Ipv4Be, Prefix, Program, Reason, layout::plain};

/// How much of a packet an event carries, bytes.
pub const SNAPSHOT: usize = 128;
/// How many prefixes a filter may have.
pub const MAX_PREFIXES: usize = 16;
/// Words of a set of reasons, 64 of them in each.
pub const REASON_WORDS: usize = 3;
/// How many reasons one program can have.
pub const MAX_REASONS: usize = 64;
/// Bytes of the ring of events: some 5,000 of them.
pub const RING: usize = 1 << 20;
/// [`Event::hook`] of a packet that the kernel dropped; smaller ones are indices into [`Program::ALL`].
pub const KERNEL: u32 = Program::ALL.len() as u32;

const _: () = assert!(Reason::COUNT <= REASON_WORDS * 64, "a filter has a bit for each reason");

plain! {
    /// Where the kernel that runs keeps what is read, bytes from the beginning of the structure.
    pub struct Offsets {
        /// `struct sk_buff`: bytes of the packet.
        pub skb_len: u32,
        /// `struct sk_buff`: how many of them are in pages.
        pub skb_data_len: u32,
        /// `struct sk_buff`: where its buffer begins.
        pub skb_head: u32,
        /// `struct sk_buff`: where what a program sees begins.
        pub skb_data: u32,
        /// `struct sk_buff`: the IP header, bytes from the beginning of the buffer.
        pub skb_network_header: u32,
        /// `struct sk_buff`: its interface.
        pub skb_dev: u32,
        /// `struct net_device`: its number.
        pub dev_ifindex: u32,
        /// `struct xdp_buff`: where the frame begins.
        pub xdp_data: u32,
        /// `struct xdp_buff`: where it ends.
        pub xdp_data_end: u32,
        /// `struct xdp_buff`: the receive queue.
        pub xdp_rxq: u32,
        /// `struct xdp_rxq_info`: its interface.
        pub rxq_dev: u32,
        /// Keeps the size a multiple of 8.
        pub reserved: u32,
    }
}

plain! {
    /// Which packets are traced. All conditions have to hold; 0 is none.
    pub struct Filter {
        /// The reasons that are reported, a bit for each.
        pub reasons: [u64; REASON_WORDS],
        /// How many new packets are taken each second.
        pub rate: u32,
        /// One packet of so many is taken; at least 1.
        pub sample: u32,
        /// The inner packet's protocol; 0: any.
        pub protocol: u16,
        /// One of its ports, network byte order; 0: any.
        pub port: u16,
        /// How many of `prefixes` there are; 0: any address.
        pub prefixes: u16,
        /// Whether drops by the kernel are reported.
        pub kernel: u16,
        /// One of the packet's addresses, inner or outer, is in one of them.
        pub within: [Prefix; MAX_PREFIXES],
    }
}

plain! {
    /// What stays the same of a packet on its way through a host.
    pub struct Identity {
        /// The inner source.
        pub source: Ipv4Be,
        /// The inner destination.
        pub destination: Ipv4Be,
        /// The inner packet's ports as they lie there, the source's first; 0 if it has none.
        pub ports: u32,
        /// Its identification (RFC 791 §3.1), network byte order.
        pub id: u16,
        /// Its protocol.
        pub protocol: u16,
    }
}

impl Identity {
    /// Returns whether both may be the same packet. NAT changes addresses and ports, but not both ends'
    /// at once on a node.
    #[inline(always)]
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        self.id == other.id
            && self.protocol == other.protocol
            && (self.source == other.source || self.destination == other.destination)
    }
}

plain! {
    /// What one program, or the kernel, made of a packet.
    pub struct Event {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        pub time: u64,
        /// The same for all events of a packet, as far as it was recognized.
        pub packet: u64,
        /// [`KERNEL`]: the instruction that dropped it. Otherwise 0.
        pub location: u64,
        /// Index into [`Program::ALL`], or [`KERNEL`].
        pub hook: u32,
        /// The [`Reason`], or `enum skb_drop_reason`.
        pub reason: u32,
        /// The interface's number; 0: none.
        pub ifindex: u32,
        /// Bytes of the frame as the program got it.
        pub length: u32,
        /// How many of them are in `data`.
        pub captured: u32,
        /// Where the IP header begins in it; 14 behind Ethernet, 0 on a tunnel device.
        pub network: u32,
        /// The packet's addresses, ports and protocol.
        pub identity: Identity,
        /// The frame before the program changed it.
        pub data: [u64; SNAPSHOT / 8],
    }
}

plain! {
    /// What was not reported.
    pub struct Unreported {
        /// Events for which the ring had no room.
        pub lost: u64,
        /// Packets over the rate.
        pub limited: u64,
    }
}

/// Returns the reasons that a program which serves counts: the index of the first one, and how many there are.
/// `decap_xdp` drops under those of `decap_tc`, which lie behind its own.
#[must_use]
pub const fn reasons_of(program: Program) -> (u32, u32) {
    let (mut index, mut first, mut count) = (0, 0, 0);
    while index < Reason::COUNT {
        if counts(program, Reason::ALL[index]) {
            if count == 0 {
                first = index as u32;
            }
            count += 1;
        }
        index += 1;
    }
    assert!(count as usize <= MAX_REASONS, "a run has room for them");
    (first, count)
}

const fn counts(program: Program, reason: Reason) -> bool {
    let of = reason.program() as u32;
    let is_of_both = matches!(program, Program::DecapXdp) && of == Program::DecapTc as u32;
    of == program as u32 || is_of_both
}

const _: () = assert!(Event::LAYOUT[0] == 192 && Identity::LAYOUT[0] == 16, "as it is parsed");
const _: () = assert!(
    Offsets::LAYOUT[0] == 48 && Filter::LAYOUT[0] == 168 && Unreported::LAYOUT[0] == 16,
    "as they are written"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_a_program_lie_together() {
        for program in Program::SERVING {
            let (first, count) = reasons_of(program);
            for (index, reason) in (0..).zip(Reason::ALL) {
                let is_within = (first..first + count).contains(&index);
                assert_eq!(is_within, counts(program, *reason), "{program}: {reason:?}");
            }
            assert!(count > 0, "{program}");
        }
    }

    #[test]
    fn a_packet_is_recognized_behind_nat() {
        let packet =
            Identity { source: Ipv4Be(1), destination: Ipv4Be(2), ports: 3, id: 4, protocol: 17 };
        assert!(packet.may_be(&packet));
        assert!(packet.may_be(&Identity { destination: Ipv4Be(9), ports: 8, ..packet }));
        assert!(packet.may_be(&Identity { source: Ipv4Be(9), ports: 8, ..packet }));
        for other in [
            Identity { id: 5, ..packet },
            Identity { protocol: 6, ..packet },
            Identity { source: Ipv4Be(8), destination: Ipv4Be(9), ..packet },
        ] {
            assert!(!packet.may_be(&other), "{other:?}");
        }
    }
}
