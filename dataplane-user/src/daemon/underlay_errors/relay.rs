//! Which error of the underlay becomes which error for whom: RFC 2003 §4.
//!
//! | from the underlay | to the sender of the inner packet |
//! |---|---|
//! | 3/0 network unreachable | 3/1 if it may think the destination on our network, else 3/0 (§4.1) |
//! | 3/1 host unreachable | 3/1 (§4.1) |
//! | 3/2 protocol unreachable | as 3/0: it used no protocol 4 (§4.1) |
//! | 3/4 datagram too big | nothing from us: the kernel learns the path MTU, and tells senders |
//! | 11/0 time exceeded in transit | 3/1 (§4.4) |
//! | 3/3 port unreachable, 3/5 source route failed | nothing (§4.1, MUST NOT) |
//! | 4 source quench | nothing (§4.2) |
//! | 5 redirect | nothing (§4.3, MUST NOT): the kernel's own business |
//! | 12 parameter problem | nothing (§4.5): it is about the header we wrote |
//! | 11/1 reassembly, anything later than the RFC | nothing |
//!
//! An error quotes our outer packet, and we quote the inner packet out of that.
//! Routers that quote no more than the 8 bytes of RFC 792 leave too little of it.

use std::net::Ipv4Addr;

use dataplane_common::{
    Mtu,
    ipv4::{OUTER_LENGTH, PROTOCOL_IPIP},
};
use etherparse::{
    Icmpv4Header, Icmpv4Slice, Icmpv4Type, IpNumber, Ipv4HeaderSlice,
    checksum::Sum16BitWords,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
};
use thiserror::Error;

use super::scope::Scope;

/// An error message should be no longer (RFC 1812 §4.3.2.3): bytes of inner
/// packet that fit it.
const QUOTED: usize = 576 - 20 - 8;
/// What a receiver needs behind the IP header to know his conversation, bytes.
const ENOUGH: usize = 8;

/// What follows from an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Consequence {
    /// The kernel may know another path MTU to this node.
    AskAgain {
        /// The outer destination.
        node: Ipv4Addr,
        /// What the router said; 0 from one older than RFC 1191.
        mtu: Mtu,
    },
    /// An ICMP message is due.
    Tell {
        /// The outer destination.
        node: Ipv4Addr,
        /// The sender of the inner packet.
        to: Ipv4Addr,
        /// From the ICMP header on.
        message: Vec<u8>,
    },
}

/// Why nothing follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Ignored {
    /// The message, or a header quoted in it, makes no sense.
    #[error("it is malformed")]
    Malformed,
    /// By RFC 2003 §4.
    #[error("errors of this kind are not for the sender of the inner packet")]
    NotForSenders,
    /// A pod says so, who is no router of the underlay.
    #[error("it comes from an address of the pods")]
    FromInside,
    /// It quotes something else.
    #[error("it quotes no outer packet of ours")]
    NotOuter,
    /// Not enough to tell whose packet it was.
    #[error("it quotes too little of the inner packet")]
    TooShort,
    /// Somebody else's inner packet.
    #[error("the inner packet's source is none of ours")]
    NotOurs,
    /// It would have passed.
    #[error("the packet it quotes may be fragmented, or is not too big")]
    NotTooBig,
    /// We would not have sent it there.
    #[error("the inner packet is not routed to that node")]
    NotRoutedThere,
    /// RFC 1122 §3.2.2.
    #[error("no error may be sent about such a packet")]
    NoErrorAllowed,
}

/// Who reports what by an ICMP packet, from its IP header on, of which something follows.
#[must_use]
pub fn reported(packet: &[u8]) -> Option<(Ipv4Addr, &'static str)> {
    let (ip, payload) = split(packet).ok()?;
    let what = match Icmpv4Slice::from_slice(payload).ok()?.icmp_type() {
        Icmpv4Type::TimeExceeded(_) => "TTL exceeded",
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network) => "network unreachable",
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Protocol) => "protocol 4 refused",
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            ..
        }) => "packet too big for the path",
        _ => "host unreachable",
    };
    Some((ip.source_addr(), what))
}

/// What an ICMP packet of the underlay, from its IP header on, leads to.
///
/// # Errors
/// If to nothing: why.
pub fn judge(packet: &[u8], scope: &Scope) -> Result<Consequence, Ignored> {
    let (ip, payload) = split(packet)?;
    if ip.protocol() != IpNumber::ICMP || ip.fragments_offset().value() != 0 {
        return Err(Ignored::Malformed);
    }
    let icmp = Icmpv4Slice::from_slice(payload).map_err(|_| Ignored::Malformed)?;
    // We get it before the kernel has checked this.
    if Sum16BitWords::new().add_slice(payload).ones_complement() != 0 {
        return Err(Ignored::Malformed);
    }
    let kind = kind(&icmp.icmp_type())?;
    if scope.is_inside(ip.source_addr()) {
        return Err(Ignored::FromInside);
    }
    let (outer, rest) = split(original(&icmp))?;
    let node = outer.destination_addr();
    let is_ours = outer.protocol() == IpNumber(PROTOCOL_IPIP)
        && outer.ihl() == 5
        && outer.fragments_offset().value() == 0
        && scope.is_node(outer.source_addr())
        && outer.source_addr() == ip.destination_addr()
        && scope.knows(node);
    if !is_ours {
        return Err(Ignored::NotOuter);
    }
    match kind {
        Kind::TooBig(mtu) => too_big(&outer, rest, mtu, scope),
        Kind::NoSuchHost => tell(rest, node, scope, |_| DestUnreachableHeader::Host),
        Kind::NoWay => tell(rest, node, scope, |destination| {
            if scope.is_on_our_network(destination) {
                DestUnreachableHeader::Host
            } else {
                DestUnreachableHeader::Network
            }
        }),
    }
}

/// What the errors of the underlay come to for the sender of the inner packet.
#[derive(Clone, Copy)]
enum Kind {
    /// For a link of this MTU.
    TooBig(Mtu),
    NoSuchHost,
    /// 3/0, or 3/1 for a destination that seems near.
    NoWay,
}

fn kind(reported: &Icmpv4Type) -> Result<Kind, Ignored> {
    match reported {
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu,
        }) => Ok(Kind::TooBig(Mtu(u32::from(*next_hop_mtu)))),
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host)
        | Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit) => Ok(Kind::NoSuchHost),
        Icmpv4Type::DestinationUnreachable(
            DestUnreachableHeader::Network | DestUnreachableHeader::Protocol,
        ) => Ok(Kind::NoWay),
        _ => Err(Ignored::NotForSenders),
    }
}

/// The quoted packet, without extensions behind it (RFC 4884 §4: its length is
/// in the second byte of what used to be unused, in words).
fn original<'a>(icmp: &Icmpv4Slice<'a>) -> &'a [u8] {
    let quoted = icmp.payload();
    match usize::from(icmp.bytes5to8()[1]) * 4 {
        0 => quoted,
        length => &quoted[..length.min(quoted.len())],
    }
}

/// An IPv4 header, and as much of its payload as is there.
fn split(bytes: &[u8]) -> Result<(Ipv4HeaderSlice<'_>, &[u8]), Ignored> {
    let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|_| Ignored::Malformed)?;
    let end = usize::from(header.total_len()).min(bytes.len());
    let payload = bytes.get(header.slice().len()..end).ok_or(Ignored::Malformed)?;
    Ok((header, payload))
}

/// Believes that a packet was too big if it can be one that we sent.
///
/// What a router of RFC 792 leaves of the inner packet does not tell its addresses. Others may have
/// sent it through this host, if no other node's pod has.
fn too_big(
    outer: &Ipv4HeaderSlice<'_>,
    quoted: &[u8],
    mtu: Mtu,
    scope: &Scope,
) -> Result<Consequence, Ignored> {
    let node = outer.destination_addr();
    if !outer.dont_fragment() || u32::from(outer.total_len()) <= mtu.0 {
        return Err(Ignored::NotTooBig);
    }
    if quoted.len() >= OUTER_LENGTH {
        let (inner, _) = split(quoted)?;
        if u32::from(inner.total_len()) + OUTER_LENGTH as u32 != u32::from(outer.total_len()) {
            return Err(Ignored::NotOuter);
        }
        let source = inner.source_addr();
        if scope.is_inside(source) && !scope.is_ours(source) {
            return Err(Ignored::NotOurs);
        }
        if scope.node_of(inner.destination_addr()) != Some(node) {
            return Err(Ignored::NotRoutedThere);
        }
    }
    Ok(Consequence::AskAgain { node, mtu })
}

/// The message about an inner packet that was on its way to `node`.
fn tell(
    quoted: &[u8],
    node: Ipv4Addr,
    scope: &Scope,
    what: impl FnOnce(Ipv4Addr) -> DestUnreachableHeader,
) -> Result<Consequence, Ignored> {
    if quoted.len() < usize::from(quoted.first().map_or(5, |byte| byte & 0xf)) * 4 + ENOUGH {
        return Err(Ignored::TooShort);
    }
    let (inner, payload) = split(quoted)?;
    // No router has touched it on its way.
    if inner.header_checksum() != inner.to_header().calc_header_checksum() {
        return Err(Ignored::Malformed);
    }
    if !scope.is_ours(inner.source_addr()) {
        return Err(Ignored::NotOurs);
    }
    let destination = inner.destination_addr();
    if scope.node_of(destination) != Some(node) {
        return Err(Ignored::NotRoutedThere);
    }
    if !may_be_reported(&inner, payload) {
        return Err(Ignored::NoErrorAllowed);
    }
    let length = inner.slice().len() + payload.len();
    let quoted = &quoted[..length.min(QUOTED)];
    let kind = Icmpv4Type::DestinationUnreachable(what(destination));
    let header = Icmpv4Header::with_checksum(kind, quoted).to_bytes();
    let message = [header.as_slice(), quoted].concat();
    Ok(Consequence::Tell { node, to: inner.source_addr(), message })
}

/// RFC 1122 §3.2.2: not about errors, nor to many, nor for later fragments.
/// The source is one of ours, and so a single host.
fn may_be_reported(inner: &Ipv4HeaderSlice<'_>, payload: &[u8]) -> bool {
    let destination = inner.destination_addr();
    let is_error = inner.protocol() == IpNumber::ICMP
        && !payload.first().is_some_and(|kind| QUERIES.contains(kind));
    !is_error
        && !destination.is_multicast()
        && !destination.is_broadcast()
        && inner.fragments_offset().value() == 0
}

/// ICMP types that are no errors: echo, router discovery, timestamp,
/// information, address mask. Unknown ones may be.
const QUERIES: [u8; 10] = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18];

#[cfg(test)]
mod tests;
