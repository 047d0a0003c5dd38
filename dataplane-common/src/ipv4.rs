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
pub const OUTER_LENGTH: usize = size_of::<Ipv4Header>();

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

/// An IPv4 header without options; fields in network byte order.
///
/// Aligned to two bytes, because that is all an IP header in a packet is sure
/// of: four would be undefined behaviour, one would cost a load per byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, packed(2))]
pub struct Ipv4Header {
    version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    /// Time to live, hops.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    checksum: u16,
    /// Source address.
    pub source: Ipv4Be,
    /// Destination address.
    pub destination: Ipv4Be,
}

impl Ipv4Header {
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
        let mut header = Self {
            version_ihl: 0x45,
            tos: ecn::encap(inner_tos),
            total_length: ((inner_length + OUTER_LENGTH as u32) as u16).to_be(),
            identification: 0,
            fragment: DONT_FRAGMENT,
            ttl,
            protocol: PROTOCOL_IPIP,
            checksum: 0,
            source,
            destination,
        };
        header.checksum = !checksum::fold(header.sum());
        header
    }

    /// IP version; 4 in anything that deserves its Ethertype.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length in bytes, options included. 20 to 60 if sane.
    #[inline(always)]
    #[must_use]
    pub const fn header_length(&self) -> u32 {
        (self.version_ihl & 0x0f) as u32 * 4
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

    /// Total length in bytes, header included.
    #[inline(always)]
    #[must_use]
    pub const fn total_length(&self) -> u32 {
        u16::from_be(self.total_length) as u32
    }

    /// Whether this is a fragment: the first, a middle or the last one.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & MORE_FRAGMENTS_AND_OFFSET != 0
    }

    /// Where the payload lies in the packet of which this is a fragment, bytes.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(&self) -> u32 {
        (u16::from_be(self.fragment) & 0x1fff) as u32 * 8
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

    /// Whether the checksum is right. Only for a header without options.
    #[inline(always)]
    #[must_use]
    pub const fn checksum_is_right(&self) -> bool {
        checksum::fold(self.sum()) == 0xffff
    }

    /// Takes one hop off the TTL and mends the checksum.
    ///
    /// The caller has made sure that the TTL is above 1.
    #[inline(always)]
    pub const fn decrement_ttl(&mut self) {
        let old = self.ttl_protocol();
        self.ttl -= 1;
        self.checksum = checksum::update(self.checksum, old, self.ttl_protocol());
    }

    /// Sets DSCP and ECN and mends the checksum.
    #[inline(always)]
    pub const fn set_tos(&mut self, tos: u8) {
        let old = u16::from_ne_bytes([self.version_ihl, self.tos]);
        let new = u16::from_ne_bytes([self.version_ihl, tos]);
        self.tos = tos;
        self.checksum = checksum::update(self.checksum, old, new);
    }

    /// Writes another source and corrects the checksum.
    #[inline(always)]
    pub const fn set_source(&mut self, source: Ipv4Be) {
        let old = self.source;
        self.checksum = checksum::update_address(self.checksum, old.0, source.0);
        self.source = source;
    }

    /// Writes another destination and corrects the checksum.
    #[inline(always)]
    pub const fn set_destination(&mut self, destination: Ipv4Be) {
        let old = self.destination;
        self.checksum = checksum::update_address(self.checksum, old.0, destination.0);
        self.destination = destination;
    }

    const fn ttl_protocol(&self) -> u16 {
        u16::from_ne_bytes([self.ttl, self.protocol])
    }

    /// The header's ten words added up, each as it lies in memory.
    #[inline(always)]
    const fn sum(&self) -> u32 {
        let source = self.source.0;
        let destination = self.destination.0;
        u16::from_ne_bytes([self.version_ihl, self.tos]) as u32
            + self.total_length as u32
            + self.identification as u32
            + self.fragment as u32
            + self.ttl_protocol() as u32
            + self.checksum as u32
            + (source & 0xffff)
            + (source >> 16)
            + (destination & 0xffff)
            + (destination >> 16)
    }
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
    if inner.protocol == PROTOCOL_IPIP || inner.protocol == PROTOCOL_IPV6 {
        return Err(Reason::DecapNestedTunnel);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
