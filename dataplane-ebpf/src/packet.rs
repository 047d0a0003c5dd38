//! The only code that touches a packet's bytes.
//!
//! A [`Frame`] is good until the packet is grown, shrunk or pulled; after that
//! it has to be taken anew (the verifier refuses the old one).

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_common::{Hop, Mac, ipv4::Ipv4Header};
use network_types::eth::{EthHdr, EtherType};

use crate::{helpers, skb};

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
// SAFETY: `repr(C, packed(2))` of numbers.
unsafe impl Header for Ipv4Header {}
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
    /// Whether IPv4 follows.
    #[inline(always)]
    pub fn is_ipv4(&self) -> bool {
        self.ether_type == EtherType::Ipv4 as u16
    }

    /// Writes both addresses of a hop, half by half.
    #[inline(always)]
    pub fn address(&mut self, hop: &Hop) {
        self.deliver_to(hop.destination);
        self.source.0[0] = hop.source.0[0];
        self.source.0[1] = hop.source.0[1];
        self.source.0[2] = hop.source.0[2];
    }

    /// Writes the whole header of an IPv4 packet.
    #[inline(always)]
    pub fn send(&mut self, hop: &Hop) {
        self.address(hop);
        self.ether_type = EtherType::Ipv4 as u16;
    }

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

    #[inline(always)]
    fn at<T: Header>(self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        (at + size_of::<T>() <= self.end).then_some(at as *mut T)
    }
}
