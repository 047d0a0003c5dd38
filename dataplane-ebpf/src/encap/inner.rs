//! The packet as the pod or the stack made it.

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    Reason,
    fit::Size,
    ipv4::{Ipv4Header, OUTER_LENGTH, PROTOCOL_TCP, PROTOCOL_UDP},
};

use super::Reasons;
use crate::{
    flow::{TCP_OFFSET_AND_FLAGS, UDP_HEADER},
    packet::Frame,
    skb,
};

/// What the following steps need to know of the packet.
pub struct Inner {
    /// Where its IP header is, bytes into the frame.
    pub at: usize,
    pub header: Ipv4Header,
    /// What it will occupy on the wire.
    pub size: Size,
    /// Bytes from the IP header to the end, padding excluded.
    pub length: u32,
    /// TCP's data offset and flags; 0 for anything else and for fragments.
    pub tcp: u16,
}

/// Makes the headers readable, without options; the first is `at` bytes into the frame.
#[inline(always)]
pub fn frame(ctx: &TcContext, at: usize) -> Frame {
    Frame::linear(ctx, (at + OUTER_LENGTH + 20) as u32)
}

/// Reads and checks the headers; the first is `at` bytes into the frame: behind an
/// Ethernet header, or at its start on a device that has none. An IPv4 packet shorter
/// than its length field, or with an impossible header, goes no further.
#[inline(always)]
pub fn parse(ctx: &TcContext, frame: Frame, at: usize, reasons: &Reasons) -> Result<Inner, Reason> {
    if !skb::is_ipv4(ctx) || skb::is_in_vlan(ctx) {
        return Err(reasons.not_ipv4);
    }
    let header = frame.ipv4(at).ok_or(reasons.truncated)?;
    if !header.is_ipv4() {
        return Err(reasons.bad_header);
    }

    let available = skb::length(ctx) - at as u32;
    let gso_size = skb::gso_size(ctx);
    // Of a GSO packet the length field says nothing: more than 64 KiB wrap.
    let length = if gso_size == 0 { header.total_length() } else { available };
    if length < header.header_length() || length > available {
        return Err(reasons.bad_header);
    }

    let tcp = if header.protocol() == PROTOCOL_TCP && !header.is_fragment() {
        let end = header.header_length() + TCP_OFFSET_AND_FLAGS as u32 + size_of::<u16>() as u32;
        if length < end {
            // The fast path has to know; whoever only wraps does not care.
            return match reasons.tcp_truncated {
                Some(reason) => Err(reason),
                None if gso_size != 0 => Err(reasons.truncated),
                None => Ok(Inner { at, header, size: Size::Single(length), length, tcp: 0 }),
            };
        }
        let flags = at + OUTER_LENGTH + TCP_OFFSET_AND_FLAGS;
        let flags: Option<u16> = if header.has_options() {
            // Rare, and the verifier follows a helper's variable offset better.
            let options = header.header_length() as usize - OUTER_LENGTH;
            ctx.load(flags + options).ok()
        } else {
            frame.read(flags)
        };
        u16::from_be(flags.ok_or(reasons.truncated)?)
    } else {
        0
    };
    let size = if gso_size == 0 {
        Size::Single(length)
    } else {
        let transport_header = match header.protocol() {
            PROTOCOL_TCP => u32::from(tcp >> 12) * 4,
            PROTOCOL_UDP => UDP_HEADER,
            _ => 0,
        };
        Size::Segmented { headers: header.header_length() + transport_header, payload: gso_size }
    };
    Ok(Inner { at, header, size, length, tcp })
}
