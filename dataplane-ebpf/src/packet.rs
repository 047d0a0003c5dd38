//! The only code that touches a packet's bytes.
//!
//! A [`Frame`] is good until the packet is grown, shrunk or pulled; after that
//! it has to be taken anew (the verifier refuses the old one).

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_common::{
    Hop, Mac,
    ipv4::{Ipv4Header, OUTER_LENGTH, one_hop_less},
};
use network_types::eth::{EthHdr, EtherType};

use crate::{helpers, skb, wide::Span};

/// Length of an Ethernet header, bytes.
pub const ETHERNET: usize = EthHdr::LEN;

/// Types that may be laid over packet bytes.
///
/// # Safety
/// Any bits are a value, there is no padding, and the alignment is at most 2:
/// all that an IP header in a frame is sure of.
pub unsafe trait Header: Copy {}

// SAFETY: numbers of one or two bytes.
unsafe impl Header for u8 {}
// SAFETY: as above.
unsafe impl Header for u16 {}
// SAFETY: seven numbers of two bytes.
unsafe impl Header for Ethernet {}
// SAFETY: two numbers of two bytes.
unsafe impl Header for Ports {}

/// An Ethernet header. network-types' has octets for addresses, which would be
/// copied by a call of `memmove`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC.
    pub destination: Mac,
    /// Source MAC.
    pub source: Mac,
    ether_type: u16,
}

impl Ethernet {
    /// Writes the destination, half by half.
    #[inline(always)]
    pub fn deliver_to(&mut self, destination: Mac) {
        self.destination.0[0] = destination.0[0];
        self.destination.0[1] = destination.0[1];
        self.destination.0[2] = destination.0[2];
    }
}

/// How TCP and UDP headers begin (RFC 9293 §3.1, RFC 768), network byte order.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ports {
    pub source: u16,
    pub destination: u16,
}

/// A stretch of packet memory the verifier lets us look at.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The linear part of an skb, from its Ethernet header on.
    #[inline(always)]
    pub fn of_tc(ctx: &TcContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// As [`Frame::of_tc`], with the first `wanted` bytes readable as far as
    /// there are so many. They all but always are; a driver may leave headers
    /// in a page.
    #[inline(always)]
    pub fn linear(ctx: &TcContext, wanted: u32) -> Self {
        let frame = Self::of_tc(ctx);
        if frame.length() >= wanted || frame.length() == skb::length(ctx) {
            return frame;
        }
        helpers::pull(ctx, wanted.min(skb::length(ctx)));
        Self::of_tc(ctx)
    }

    /// The metadata in front of an skb's Ethernet header.
    #[inline(always)]
    pub fn metadata_of_tc(ctx: &TcContext) -> Self {
        // SAFETY: the context is valid while the program runs.
        let start = unsafe { (*ctx.skb.skb).data_meta } as usize;
        Self { start, end: ctx.data() }
    }

    /// An XDP frame.
    #[inline(always)]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// The metadata in front of an XDP frame.
    #[inline(always)]
    pub fn metadata_of_xdp(ctx: &XdpContext) -> Self {
        Self { start: ctx.metadata(), end: ctx.data() }
    }

    /// How many bytes there are.
    #[inline(always)]
    pub fn length(self) -> u32 {
        (self.end - self.start) as u32
    }

    /// A copy of what lies `offset` bytes in, or `None` past the end.
    #[inline(always)]
    pub fn read<T: Header>(self, offset: usize) -> Option<T> {
        let at = self.at::<T>(offset)?;
        // SAFETY: within the packet (checked by `at`); `Header` says the rest.
        Some(unsafe { *at })
    }

    /// Lets `change` edit what lies `offset` bytes in; `None` past the end.
    #[inline(always)]
    pub fn edit<T: Header>(self, offset: usize, change: impl FnOnce(&mut T)) -> Option<()> {
        let at = self.at::<T>(offset)?;
        // SAFETY: within the packet (checked by `at`), ours alone while the
        // program runs, and the reference ends with the closure.
        change(unsafe { &mut *at });
        Some(())
    }

    /// Whether the Ethernet header says that IPv4 follows; `None` if there is none.
    #[inline(always)]
    pub fn is_ipv4(self) -> Option<bool> {
        let ether_type: u16 = self.read(ETHERNET - size_of::<u16>())?;
        Some(ether_type == EtherType::Ipv4 as u16)
    }

    /// A copy of the IPv4 header `offset` bytes in, without options; `None` past the end.
    #[inline(always)]
    pub fn ipv4(self, offset: usize) -> Option<Ipv4Header> {
        let at: Span<OUTER_LENGTH> = self.span(offset)?;
        Some(Ipv4Header::from_words(at.load64::<0>(), at.load64::<8>(), at.load32::<16>()))
    }

    /// Writes an IPv4 header `offset` bytes in; `None` past the end.
    #[inline(always)]
    pub fn write_ipv4(self, offset: usize, header: &Ipv4Header) -> Option<()> {
        let at: Span<OUTER_LENGTH> = self.span(offset)?;
        let (first, second, last) = header.words();
        at.store64::<0>(first);
        at.store64::<8>(second);
        at.store32::<16>(last);
        Some(())
    }

    /// Takes one hop off the IPv4 header `offset` bytes in, if it is there.
    #[inline(always)]
    pub fn decrement_ttl(self, offset: usize) {
        let at: Option<Span<4>> = self.span(offset + Ipv4Header::TTL_TO_CHECKSUM);
        if let Some(at) = at {
            at.store32::<0>(one_hop_less(at.load32::<0>()));
        }
    }

    /// The ports `offset` bytes in, as they lie there; `None` past the end.
    #[inline(always)]
    pub fn ports(self, offset: usize) -> Option<u32> {
        let at: Span<{ size_of::<Ports>() }> = self.span(offset)?;
        Some(at.load32::<0>())
    }

    /// Writes both MACs of a hop, if there is an Ethernet header.
    #[inline(always)]
    pub fn address(self, hop: &Hop) {
        let at: Option<Span<ETHERNET>> = self.span(0);
        let Some(at) = at else { return };
        let [_, first, second, third] = hop.words();
        at.store32::<0>(first);
        at.store32::<4>(second);
        at.store32::<8>(third);
    }

    /// Writes the whole Ethernet header of an IPv4 packet, if there is room.
    #[inline(always)]
    pub fn address_ipv4(self, hop: &Hop) {
        self.address(hop);
        let _ = self.edit(2 * size_of::<Mac>(), |ether_type: &mut u16| {
            *ether_type = EtherType::Ipv4 as u16;
        });
    }

    #[inline(always)]
    fn at<T: Header>(self, offset: usize) -> Option<*mut T> {
        self.address_of(offset, size_of::<T>()).map(|at| at as *mut T)
    }

    /// The bytes that begin `offset` bytes in; `None` past the end.
    #[inline(always)]
    fn span<const BYTES: usize>(self, offset: usize) -> Option<Span<BYTES>> {
        let at = self.address_of(offset, BYTES)?;
        // SAFETY: within the packet, which is ours alone while the program runs.
        Some(unsafe { Span::new(at) })
    }

    /// Where `length` bytes are, `offset` bytes in; `None` past the end.
    #[inline(always)]
    fn address_of(self, offset: usize, length: usize) -> Option<usize> {
        let at = self.start + offset;
        (at + length <= self.end).then_some(at)
    }
}
