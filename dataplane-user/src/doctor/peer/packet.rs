//! Packets that a peer answers, and what its answers and the errors of routers look like.

use std::net::Ipv4Addr;

use dataplane_common::ipv4::PROTOCOL_IPIP;
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header,
    Ipv4HeaderSlice,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
};

/// An IPv4 header without options, bytes.
const IP: usize = 20;
/// An ICMP echo header, bytes.
const ECHO: usize = 8;
/// The smallest packet that is sent, bytes: both headers, the echo's, and a payload whose length
/// lets it be a fragment.
pub const SMALLEST: u16 = 84;
/// As of `ping`.
const TTL: u8 = 64;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An echo request of our node address, unencapsulated.
    Plain,
    /// The same, encapsulated: the peer's kernel answers unencapsulated, unless its `rp_filter` is
    /// strict on its tunnel device.
    Forward,
    /// An encapsulated echo request of our tunnel address: the answer is encapsulated, too.
    Both,
    /// As [`Kind::Both`], the first fragment of an outer packet whose rest never comes: after
    /// `net.ipv4.ipfrag_time` (30 s) the peer's kernel reports that, unencapsulated.
    Fragment,
    /// As [`Kind::Plain`], a fragment like that one.
    PlainFragment,
    /// An echo request of our tunnel address to a pod, as any packet to it leaves this node.
    Pod(Ipv4Addr),
}

/// Who asks whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Our underlay address.
    pub node: Ipv4Addr,
    /// Our tunnel address; unused by kinds that need none.
    pub tunnel: Ipv4Addr,
    /// The peer's underlay address.
    pub peer: Ipv4Addr,
}

/// Makes a packet of `size` bytes, at least [`SMALLEST`], with this echo identifier. `sequence` is
/// also the identification of its first header.
pub fn build(ends: Ends, kind: Kind, size: u16, id: u16, sequence: u16) -> Vec<u8> {
    let Ends { node, tunnel, peer } = ends;
    let size = usize::from(size.max(SMALLEST));
    let (source, destination) = match kind {
        Kind::Plain | Kind::PlainFragment | Kind::Forward => (node, peer),
        Kind::Both | Kind::Fragment => (tunnel, peer),
        Kind::Pod(pod) => (tunnel, pod),
    };
    let is_fragment = matches!(kind, Kind::Fragment | Kind::PlainFragment);
    let is_encapsulated = matches!(kind, Kind::Forward | Kind::Both | Kind::Fragment);
    let outer = if is_encapsulated { IP } else { 0 };
    let payload = vec![0x74; size - outer - IP - ECHO];
    let echo = IcmpEchoHeader { id, seq: sequence };
    let icmp = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &payload);
    let mut packet = Vec::with_capacity(size);
    if is_encapsulated {
        let length = size - IP;
        let protocol = IpNumber(PROTOCOL_IPIP);
        packet.extend(header(node, peer, protocol, length, sequence, is_fragment, TTL));
    }
    let length = ECHO + payload.len();
    let is_cut = is_fragment && !is_encapsulated;
    packet.extend(header(source, destination, IpNumber::ICMP, length, sequence, is_cut, TTL));
    packet.extend(icmp.to_bytes());
    packet.extend(payload);
    packet
}

/// An IPv4 header without options, in front of `payload` bytes.
pub(crate) fn header(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpNumber,
    payload: usize,
    identification: u16,
    is_fragment: bool,
    ttl: u8,
) -> impl IntoIterator<Item = u8> {
    let mut header = Ipv4Header {
        total_len: u16::try_from(IP + payload).unwrap_or(u16::MAX),
        identification,
        dont_fragment: !is_fragment,
        more_fragments: is_fragment,
        fragment_offset: IpFragOffset::ZERO,
        time_to_live: ttl,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    };
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes()
}

/// What a packet that arrived tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// An answer to a request with this identifier and sequence number.
    Reply {
        /// The identifier.
        id: u16,
        /// The sequence number.
        sequence: u16,
        /// It still has its outer header: no program took it off.
        is_wrapped: bool,
    },
    /// An ICMP error about a packet.
    Error(Error),
}

/// An ICMP error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// Who reports it.
    pub from: Ipv4Addr,
    /// What.
    pub what: What,
    /// Of the packet that it is about: its protocol.
    pub protocol: u8,
    /// Its destination.
    pub destination: Ipv4Addr,
    /// Its identification.
    pub identification: u16,
}

/// What an ICMP error reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The packet is larger than the next link's MTU, bytes (0: not reported).
    TooBig(u16),
    /// The rest of a fragmented packet did not come.
    Reassembly,
    /// Nothing takes that protocol, or that port, at the destination.
    NoProtocol,
    /// A firewall forbids it.
    Prohibited,
    /// There is no path to the destination.
    NoPath,
    /// The packet was passed on too often.
    Loop,
}

impl What {
    /// For people, as in "172.16.36.1 reports …".
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::TooBig(mtu) => format!("that packets above {mtu} bytes are too big"),
            Self::Reassembly => "that the rest of a packet is missing".to_owned(),
            Self::NoProtocol => "that nothing there takes protocol 4".to_owned(),
            Self::Prohibited => "that a firewall forbids it".to_owned(),
            Self::NoPath => "that the host is unreachable".to_owned(),
            Self::Loop => "that packets go in a circle".to_owned(),
        }
    }
}

/// Reads a packet from its IP header on; `None` if it tells nothing.
pub fn read(packet: &[u8]) -> Option<Heard> {
    let (ip, payload) = split(packet)?;
    if ip.protocol() == IpNumber(PROTOCOL_IPIP) {
        return match read_icmp(payload)? {
            Heard::Reply { id, sequence, .. } => {
                Some(Heard::Reply { id, sequence, is_wrapped: true })
            }
            Heard::Error(_) => None,
        };
    }
    read_icmp(packet)
}

fn read_icmp(packet: &[u8]) -> Option<Heard> {
    let (ip, payload) = split(packet)?;
    // A long answer may come in pieces; the first has the header.
    if ip.protocol() != IpNumber::ICMP || ip.fragments_offset().value() != 0 {
        return None;
    }
    let icmp = Icmpv4Slice::from_slice(payload).ok()?;
    let what = match icmp.icmp_type() {
        Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq }) => {
            return Some(Heard::Reply { id, sequence: seq, is_wrapped: false });
        }
        Icmpv4Type::DestinationUnreachable(why) => unreachable(&why),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit) => What::Loop,
        Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded) => {
            What::Reassembly
        }
        _ => return None,
    };
    let (quoted, _) = split(icmp.payload())?;
    Some(Heard::Error(Error {
        from: ip.source_addr(),
        what,
        protocol: quoted.protocol().0,
        destination: quoted.destination_addr(),
        identification: quoted.identification(),
    }))
}

fn unreachable(why: &DestUnreachableHeader) -> What {
    match why {
        DestUnreachableHeader::FragmentationNeeded { next_hop_mtu } => What::TooBig(*next_hop_mtu),
        DestUnreachableHeader::Protocol | DestUnreachableHeader::Port => What::NoProtocol,
        DestUnreachableHeader::NetworkProhibited
        | DestUnreachableHeader::HostProhibited
        | DestUnreachableHeader::FilterProhibited => What::Prohibited,
        DestUnreachableHeader::Network
        | DestUnreachableHeader::Host
        | DestUnreachableHeader::SourceRouteFailed
        | DestUnreachableHeader::NetworkUnknown
        | DestUnreachableHeader::HostUnknown
        | DestUnreachableHeader::Isolated
        | DestUnreachableHeader::TosNetwork
        | DestUnreachableHeader::TosHost
        | DestUnreachableHeader::HostPrecedenceViolation
        | DestUnreachableHeader::PrecedenceCutoff => What::NoPath,
    }
}

/// The header, and what is behind it.
fn split(packet: &[u8]) -> Option<(Ipv4HeaderSlice<'_>, &[u8])> {
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let payload = packet.get(header.slice().len()..)?;
    Some((header, payload))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const ENDS: Ends = Ends {
        node: Ipv4Addr::new(172, 16, 36, 10),
        tunnel: Ipv4Addr::new(10, 20, 105, 192),
        peer: Ipv4Addr::new(172, 16, 35, 4),
    };

    /// (source, destination, protocol, DF, MF) of the first header.
    fn first(packet: &[u8]) -> (Ipv4Addr, Ipv4Addr, u8, bool, bool) {
        let ip = Ipv4HeaderSlice::from_slice(packet).unwrap();
        assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        assert_eq!(usize::from(ip.total_len()), packet.len());
        let flags = (ip.dont_fragment(), ip.more_fragments());
        (ip.source_addr(), ip.destination_addr(), ip.protocol().0, flags.0, flags.1)
    }

    #[test]
    fn packets_are_as_long_as_asked_and_from_whom_they_should_be() {
        let Ends { node, tunnel, peer } = ENDS;
        let pod = Ipv4Addr::new(10, 20, 42, 31);
        for (kind, outer, inner) in [
            (Kind::Plain, None, (node, peer, 1, true, false)),
            (Kind::PlainFragment, None, (node, peer, 1, false, true)),
            (Kind::Pod(pod), None, (tunnel, pod, 1, true, false)),
            (Kind::Forward, Some((node, peer, 4, true, false)), (node, peer, 1, true, false)),
            (Kind::Both, Some((node, peer, 4, true, false)), (tunnel, peer, 1, true, false)),
            (Kind::Fragment, Some((node, peer, 4, false, true)), (tunnel, peer, 1, true, false)),
        ] {
            for size in [SMALLEST, 1500] {
                let packet = build(ENDS, kind, size, 7, 9);
                assert_eq!(packet.len(), usize::from(size), "{kind:?}");
                let at = if outer.is_some() { IP } else { 0 };
                assert_eq!(outer, outer.map(|_| first(&packet)), "{kind:?}");
                assert_eq!(inner, first(&packet[at..]), "{kind:?}");
            }
            // Fragments hold multiples of 8 bytes.
            assert_eq!((build(ENDS, kind, 0, 7, 9).len() - IP) % 8, 0, "{kind:?}");
        }
    }

    #[test]
    fn an_answer_is_known_with_and_without_its_outer_header() {
        let reply = {
            let builder = PacketBuilder::ipv4(ENDS.peer.octets(), ENDS.tunnel.octets(), 64);
            let mut packet = Vec::new();
            builder.icmpv4_echo_reply(7, 9).write(&mut packet, &[0; 8]).unwrap();
            packet
        };
        let is = |is_wrapped| Some(Heard::Reply { id: 7, sequence: 9, is_wrapped });
        assert_eq!(read(&reply), is(false));
        let outer = header(ENDS.peer, ENDS.node, IpNumber(4), reply.len(), 0, false, TTL);
        let wrapped: Vec<u8> = outer.into_iter().chain(reply).collect();
        assert_eq!(read(&wrapped), is(true));
        assert_eq!(read(&build(ENDS, Kind::Plain, 0, 7, 9)), None, "a request is no answer");
        for length in 0..wrapped.len() {
            // Nothing of it panics.
            let _ = read(&wrapped[..length]);
        }
    }

    #[test]
    fn an_error_names_who_sent_it_and_about_what() {
        let router = Ipv4Addr::new(172, 16, 36, 1);
        for (kind, expected) in [
            (Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host), What::NoPath),
            (Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Protocol), What::NoProtocol),
            (
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1400,
                }),
                What::TooBig(1400),
            ),
            (
                Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded),
                What::Reassembly,
            ),
        ] {
            let about = build(ENDS, Kind::Both, 1500, 7, 9);
            let builder = PacketBuilder::ipv4(router.octets(), ENDS.node.octets(), 64);
            let mut packet = Vec::new();
            builder.icmpv4(kind).write(&mut packet, &about[..28]).unwrap();
            let error = Error {
                from: router,
                what: expected,
                protocol: PROTOCOL_IPIP,
                destination: ENDS.peer,
                identification: 9,
            };
            assert_eq!(read(&packet), Some(Heard::Error(error)));
        }
    }
}
