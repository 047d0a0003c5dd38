//! The IPv4 header: a view of one in a packet, the outer one we write, and the
//! checks a decapsulated packet has to pass.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+-------------------------------+
//! |   4   |  IHL  |   DSCP  | ECN |         total length          |
//! +-------+-------+---------------+-----+-------------------------+
//! |        identification         |0 D M|     fragment offset     |
//! +---------------+---------------+-----+-------------------------+
//! |      TTL      |   protocol    |        header checksum        |
//! +---------------+---------------+-------------------------------+
//! |                        source address                         |
//! +---------------------------------------------------------------+
//! |                      destination address                      |
//! +---------------------------------------------------------------+
//! ```

use crate::{Ipv4Be, Reason, checksum, ecn};

/// Length of the outer header: no options, ever (RFC 2003 §3.1). Bytes.
pub const OUTER_LENGTH: usize = 20;

/// IPv4 in IPv4 (RFC 2003).
pub const PROTOCOL_IPIP: u8 = 4;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IPv6 in IPv4 (RFC 4213).
pub const PROTOCOL_IPV6: u8 = 41;

const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const MORE_FRAGMENTS_AND_OFFSET: u16 = 0x3fff_u16.to_be();

/// An IPv4 header without options, as three numbers that lie as in the packet.
///
/// An IP header in a packet is sure of an alignment of two bytes. Read field by field that is eleven
/// loads, and as many registers; so it is read as a whole, and a field is a shift.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// Version and header length, DSCP and ECN, total length, identification, fragment.
    first: u64,
    /// TTL, protocol, checksum, source address.
    second: u64,
    /// Destination address.
    destination: Ipv4Be,
}

/// By how many bits `width` bits are to be shifted that lie `at` bytes into eight.
const fn shift(at: u32, width: u32) -> u32 {
    if cfg!(target_endian = "little") { 8 * at } else { u64::BITS - width - 8 * at }
}

const fn byte(of: u64, at: u32) -> u8 {
    (of >> shift(at, u8::BITS)) as u8
}

const fn half(of: u64, at: u32) -> u16 {
    (of >> shift(at, u16::BITS)) as u16
}

const fn word(of: u64, at: u32) -> u32 {
    (of >> shift(at, u32::BITS)) as u32
}

const fn byte_at(at: u32, byte: u8) -> u64 {
    (byte as u64) << shift(at, u8::BITS)
}

const fn half_at(at: u32, half: u16) -> u64 {
    (half as u64) << shift(at, u16::BITS)
}

const fn word_at(at: u32, word: u32) -> u64 {
    (word as u64) << shift(at, u32::BITS)
}

impl Ipv4Header {
    /// Where TTL, protocol and checksum lie together, bytes into the header: see [`one_hop_less`].
    pub const TTL_TO_CHECKSUM: usize = 8;

    /// Returns the header that lies in a packet as these numbers do in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(first: u64, second: u64, last: u32) -> Self {
        Self { first, second, destination: Ipv4Be(last) }
    }

    /// Returns the numbers that lie in memory as the header in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> (u64, u64, u32) {
        (self.first, self.second, self.destination.0)
    }

    /// The outer header for an inner packet of `inner_length` bytes.
    ///
    /// `ttl` is the inner TTL after its decrement, as tunl0 inherits it; DSCP
    /// is 0, ECN that of the inner TOS (RFC 6040 normal mode). DF is always set:
    /// what does not fit is fragmented *before* encapsulation, so the
    /// identification may be 0 (RFC 6864 §4.1). For a GSO packet longer than
    /// 65515 bytes the length wraps; the kernel rewrites it per segment.
    #[inline(always)]
    #[must_use]
    pub const fn outer(
        inner_tos: u8,
        ttl: u8,
        inner_length: u32,
        source: Ipv4Be,
        destination: Ipv4Be,
    ) -> Self {
        let total_length = ((inner_length + OUTER_LENGTH as u32) as u16).to_be();
        let header = Self {
            first: byte_at(0, 0x45)
                | byte_at(1, ecn::encap(inner_tos))
                | half_at(2, total_length)
                | half_at(6, DONT_FRAGMENT),
            second: byte_at(0, ttl) | byte_at(1, PROTOCOL_IPIP) | word_at(4, source.0),
            destination,
        };
        Self { second: header.second | half_at(2, !checksum::fold_wide(header.sum())), ..header }
    }

    const fn version_ihl(&self) -> u8 {
        byte(self.first, 0)
    }

    /// IP version; 4 in anything that deserves its Ethertype.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_ihl() >> 4
    }

    /// Header length in bytes, options included. 20 to 60 if sane.
    #[inline(always)]
    #[must_use]
    pub const fn header_length(&self) -> u32 {
        (self.version_ihl() & 0x0f) as u32 * 4
    }

    /// Whether version and header length are those of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.version() == 4 && self.header_length() >= OUTER_LENGTH as u32
    }

    /// Whether options follow the fixed header.
    #[inline(always)]
    #[must_use]
    pub const fn has_options(&self) -> bool {
        self.header_length() > OUTER_LENGTH as u32
    }

    /// DSCP and ECN.
    #[inline(always)]
    #[must_use]
    pub const fn tos(&self) -> u8 {
        byte(self.first, 1)
    }

    /// Total length in bytes, header included.
    #[inline(always)]
    #[must_use]
    pub const fn total_length(&self) -> u32 {
        u16::from_be(half(self.first, 2)) as u32
    }

    /// Flags and offset, network byte order.
    const fn fragment(&self) -> u16 {
        half(self.first, 6)
    }

    /// Identification, network byte order (RFC 791 §3.1).
    #[inline(always)]
    #[must_use]
    pub const fn identification(&self) -> u16 {
        half(self.first, 4)
    }

    /// Whether routers may not fragment it (DF, RFC 791 §3.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_dont_fragment(&self) -> bool {
        self.fragment() & DONT_FRAGMENT != 0
    }

    /// Whether this is a fragment: the first, a middle or the last one.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment() & MORE_FRAGMENTS_AND_OFFSET != 0
    }

    /// Where the payload lies in the packet of which this is a fragment, bytes.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(&self) -> u32 {
        (u16::from_be(self.fragment()) & 0x1fff) as u32 * 8
    }

    /// Whether this fragment leaves the header of what the packet carries to another one, in part:
    /// that header is `OUTER_LENGTH` bytes at least. Linux drops what overlaps
    /// (`net/ipv4/ip_fragment.c`, `ip_frag_queue`), so a whole header in the first one is the one
    /// that counts.
    #[inline(always)]
    #[must_use]
    pub const fn splits_next_header(&self) -> bool {
        let offset = self.fragment_offset();
        if offset == 0 {
            self.total_length() < 2 * OUTER_LENGTH as u32
        } else {
            offset < OUTER_LENGTH as u32
        }
    }

    /// Time to live, hops.
    #[inline(always)]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        byte(self.second, 0)
    }

    /// Protocol of the payload.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        byte(self.second, 1)
    }

    /// As it lies in memory.
    const fn checksum(&self) -> u16 {
        half(self.second, 2)
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> Ipv4Be {
        Ipv4Be(word(self.second, 4))
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub const fn destination(&self) -> Ipv4Be {
        self.destination
    }

    /// Whether the checksum is right. Only for a header without options.
    #[inline(always)]
    #[must_use]
    pub const fn checksum_is_right(&self) -> bool {
        checksum::fold_wide(self.sum()) == 0xffff
    }

    /// Sets DSCP and ECN and corrects the checksum.
    #[inline(always)]
    pub const fn set_tos(&mut self, tos: u8) {
        let old = u16::from_ne_bytes([self.version_ihl(), self.tos()]);
        let new = u16::from_ne_bytes([self.version_ihl(), tos]);
        self.first = self.first & !byte_at(1, u8::MAX) | byte_at(1, tos);
        self.set_checksum(checksum::update(self.checksum(), old, new));
    }

    /// Writes another source and corrects the checksum.
    #[inline(always)]
    pub const fn set_source(&mut self, source: Ipv4Be) {
        let checksum = checksum::update_address(self.checksum(), self.source().0, source.0);
        self.second = self.second & !word_at(4, u32::MAX) | word_at(4, source.0);
        self.set_checksum(checksum);
    }

    /// Writes another destination and corrects the checksum.
    #[inline(always)]
    pub const fn set_destination(&mut self, destination: Ipv4Be) {
        let checksum = checksum::update_address(self.checksum(), self.destination.0, destination.0);
        self.destination = destination;
        self.set_checksum(checksum);
    }

    const fn set_checksum(&mut self, checksum: u16) {
        self.second = self.second & !half_at(2, u16::MAX) | half_at(2, checksum);
    }

    /// The header's words added up, each as it lies in memory. Four bytes at a time: that is the same
    /// once the carries are added back in (RFC 1071 §2 (C)).
    #[inline(always)]
    const fn sum(&self) -> u64 {
        const LOWER: u64 = u32::MAX as u64;
        (self.first & LOWER)
            + (self.first >> 32)
            + (self.second & LOWER)
            + (self.second >> 32)
            + self.destination.0 as u64
    }
}

/// Takes one hop off TTL, protocol and checksum, as they lie in memory, and corrects the checksum
/// (RFC 1624 §3: a word that is one less adds one).
///
/// The caller has made sure that the TTL is above 1.
#[inline(always)]
#[must_use]
pub const fn one_hop_less(ttl_to_checksum: u32) -> u32 {
    /// What a hop is worth in the word that begins with the TTL.
    const HOP: u16 = u16::from_ne_bytes([1, 0]);
    let both = word_at(0, ttl_to_checksum);
    let checksum = half(both, 2) as u32 + HOP as u32;
    // 0xffff stands for 0, which is written.
    let checksum = checksum + (checksum >= 0xffff) as u32;
    word(half_at(0, half(both, 0) - HOP) | half_at(2, checksum as u16), 0)
}

/// How many bytes a header's total length may speak of.
///
/// Not an `Option<u32>`: the number in a `None` is undefined, LLVM copies it
/// all the same, and the verifier refuses to read what nobody wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room(u32);

impl Room {
    /// Of a GSO packet, whose length field says nothing: 64 KiB and more wrap,
    /// BIG TCP writes 0.
    pub const UNKNOWN: Self = Self(u32::MAX);

    /// There are this many bytes from the header on.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(bytes: u32) -> Self {
        Self(bytes)
    }

    /// Whether a header whose total length is `length` leaves room for at
    /// least `least` bytes.
    #[inline(always)]
    #[must_use]
    pub const fn holds(self, least: u32, length: u32) -> bool {
        self.0 == Self::UNKNOWN.0 || (least <= length && length <= self.0)
    }

    /// What is left of a packet of `length` bytes behind its header without options.
    #[inline(always)]
    #[must_use]
    pub const fn behind_header(self, length: u32) -> Self {
        if self.0 == Self::UNKNOWN.0 { self } else { Self(length - OUTER_LENGTH as u32) }
    }

    /// Whether that is enough for a header without options.
    #[inline(always)]
    #[must_use]
    pub const fn has_header(self) -> bool {
        self.0 >= OUTER_LENGTH as u32
    }
}

/// Judges an outer header before anything behind it is believed.
///
/// We run before `ip_rcv`, so what it would check is checked here. `room` is
/// what the frame holds, with padding, if any.
///
/// # Errors
/// The reason for which the packet is left to the stack as it is.
#[inline(always)]
pub const fn check_outer(outer: &Ipv4Header, room: Room) -> Result<(), Reason> {
    if !outer.is_ipv4() {
        return Err(Reason::DecapOuterBadHeader);
    }
    if outer.has_options() {
        return Err(Reason::DecapOuterOptions);
    }
    if !outer.checksum_is_right() {
        return Err(Reason::DecapOuterBadChecksum);
    }
    if outer.is_fragment() {
        return Err(Reason::DecapOuterFragment);
    }
    if !room.holds(OUTER_LENGTH as u32, outer.total_length()) {
        return Err(Reason::DecapOuterBadLength);
    }
    Ok(())
}

/// Judges an inner header. `room` is what the outer header says it carries.
///
/// A header with options keeps its checksum unjudged: such a packet always
/// takes the stack path, where `ip_rcv` judges it.
///
/// # Errors
/// The reason for which the packet is left to the stack as it is.
#[inline(always)]
pub const fn check_inner(inner: &Ipv4Header, room: Room) -> Result<(), Reason> {
    if !inner.is_ipv4() {
        return Err(Reason::DecapInnerBadHeader);
    }
    if !room.holds(inner.header_length(), inner.total_length()) {
        return Err(Reason::DecapInnerBadLength);
    }
    if !inner.has_options() && !inner.checksum_is_right() {
        return Err(Reason::DecapInnerBadChecksum);
    }
    if inner.protocol() == PROTOCOL_IPIP || inner.protocol() == PROTOCOL_IPV6 {
        return Err(Reason::DecapNestedTunnel);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
