//! A frame, what its IP layers say, and how to show it to a person.

use std::{fmt, net::Ipv4Addr};

use etherparse::{Ipv4HeaderSlice, TcpHeaderSlice, UdpHeaderSlice, checksum::Sum16BitWords};

pub use crate::packet_socket::Direction;

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;

/// IANA protocol numbers that the lab meets.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IP in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// A whole Ethernet frame as a packet socket saw it.
///
/// On the sender's side offloads show: segments larger than the MTU, and TCP
/// and UDP checksums that the (virtual) hardware would finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which way it went.
    pub direction: Direction,
    /// Its VLAN tag (priority and VLAN, IEEE 802.1Q §9.6), which is not among the bytes.
    pub vlan: Option<u16>,
    /// From the destination MAC on.
    pub bytes: Vec<u8>,
}

/// An IPv4 header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// The next protocol's number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN as one byte.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// More fragments.
    pub mf: bool,
    /// Fragment offset in bytes.
    pub fragment_offset: u16,
    /// Total length as the header says.
    pub total_len: u16,
    /// Header length in bytes.
    pub header_len: usize,
    /// Whether the header checksum is right.
    pub checksum_ok: bool,
}

impl Ip {
    /// Decodes the IPv4 packet that `bytes` start with; also gives its payload,
    /// without what pads a short frame.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        let header_len = header.slice().len();
        let end = match usize::from(header.total_len()) {
            total if (header_len..=bytes.len()).contains(&total) => total,
            // 0 where a super-packet is longer than the field can say.
            _ => bytes.len(),
        };
        let ip = Self {
            source: header.source_addr(),
            destination: header.destination_addr(),
            protocol: header.protocol().0,
            ttl: header.ttl(),
            tos: bytes[1],
            id: header.identification(),
            df: header.dont_fragment(),
            mf: header.more_fragments(),
            fragment_offset: header.fragments_offset().byte_offset(),
            total_len: header.total_len(),
            header_len,
            checksum_ok: header.to_header().calc_header_checksum() == header.header_checksum(),
        };
        Some((ip, &bytes[header_len..end]))
    }

    /// Whether the checksum of TCP or UDP in this header's whole payload is right (RFC 9293 §3.1, RFC 768);
    /// `None`: it is neither, or a fragment. Of a packet whose checksum hardware was to finish it is not.
    #[must_use]
    pub fn is_transport_right(&self, payload: &[u8]) -> Option<bool> {
        if self.mf || self.fragment_offset != 0 {
            return None;
        }
        let has_none = match self.protocol {
            protocol::TCP => false,
            protocol::UDP => payload.get(6..8)? == [0, 0],
            _ => return None,
        };
        let sum = Sum16BitWords::new()
            .add_4bytes(self.source.octets())
            .add_4bytes(self.destination.octets())
            .add_2bytes([0, self.protocol])
            .add_2bytes(u16::try_from(payload.len()).ok()?.to_be_bytes())
            .add_slice(payload);
        Some(has_none || sum.ones_complement() == 0)
    }

    fn is(&self, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        (self.source, self.destination) == (source, destination)
    }
}

impl Frame {
    /// The outer IPv4 header and its payload, if it is IPv4 without VLAN tags.
    #[must_use]
    pub fn outer(&self) -> Option<(Ip, &[u8])> {
        let ethertype = u16::from_be_bytes(*self.bytes.get(12..)?.first_chunk()?);
        (ethertype == ETHERTYPE_IPV4).then(|| Ip::decode(&self.bytes[ETHERNET..]))?
    }

    /// The inner IPv4 header and its payload, if it is IP in IP.
    #[must_use]
    pub fn inner(&self) -> Option<(Ip, &[u8])> {
        let (outer, payload) = self.outer()?;
        (outer.protocol == protocol::IPIP).then(|| Ip::decode(payload))?
    }

    /// Whether it is IP in IP, the outer header `outer.0` → `outer.1`, the
    /// inner one `inner.0` → `inner.1`.
    #[must_use]
    pub fn is_ipip(&self, outer: (Ipv4Addr, Ipv4Addr), inner: (Ipv4Addr, Ipv4Addr)) -> bool {
        self.outer().is_some_and(|(ip, _)| ip.is(outer.0, outer.1))
            && self.inner().is_some_and(|(ip, _)| ip.is(inner.0, inner.1))
    }

    /// Whether it is IPv4 from `source` to `destination`, not encapsulated.
    #[must_use]
    pub fn is_plain(&self, source: Ipv4Addr, destination: Ipv4Addr) -> bool {
        self.outer().is_some_and(|(ip, _)| ip.is(source, destination))
    }

    /// Whether its outer header names an address in `network`/`len`: on the
    /// wire, for a pod network, that is a leak.
    #[must_use]
    pub fn touches(&self, network: Ipv4Addr, len: u32) -> bool {
        let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
        let inside = |ip: Ipv4Addr| ip.to_bits() & mask == network.to_bits() & mask;
        self.outer().is_some_and(|(ip, _)| inside(ip.source) || inside(ip.destination))
    }
}

/// One line, every IP layer:
/// `IP 172.16.36.10 > 172.16.35.4: IP 10.20.105.215 > 10.20.42.31: ICMP echo request, ttl 63`
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((outer, payload)) = self.outer() else {
            let ethertype = self.bytes.get(12..14).unwrap_or_default();
            return write!(f, "not IPv4, ethertype {ethertype:02x?}, {} bytes", self.bytes.len());
        };
        write!(f, "IP {} > {}: ", outer.source, outer.destination)?;
        let (mut last, mut rest) = (outer, payload);
        if let Some((inner, inner_payload)) = self.inner() {
            write!(f, "IP {} > {}: ", inner.source, inner.destination)?;
            (last, rest) = (inner, inner_payload);
        }
        if last.fragment_offset > 0 {
            write!(f, "fragment at {}", last.fragment_offset)?;
        } else {
            transport(f, last.protocol, rest)?;
        }
        write!(f, ", ttl {}", last.ttl)
    }
}

fn transport(f: &mut fmt::Formatter<'_>, number: u8, bytes: &[u8]) -> fmt::Result {
    match number {
        protocol::ICMP => match bytes {
            [8, _, ..] => write!(f, "ICMP echo request"),
            [0, _, ..] => write!(f, "ICMP echo reply"),
            [3, 4, _, _, _, _, high, low, ..] => {
                write!(f, "ICMP frag needed, mtu {}", u16::from_be_bytes([*high, *low]))
            }
            [kind, code, ..] => write!(f, "ICMP type {kind} code {code}"),
            _ => write!(f, "ICMP cut short"),
        },
        protocol::TCP => match TcpHeaderSlice::from_slice(bytes) {
            Ok(tcp) => {
                write!(f, "TCP {} > {} [", tcp.source_port(), tcp.destination_port())?;
                let flags = [
                    (tcp.syn(), "S"),
                    (tcp.fin(), "F"),
                    (tcp.rst(), "R"),
                    (tcp.psh(), "P"),
                    (tcp.ack(), "."),
                ];
                for (_, name) in flags.iter().filter(|(set, _)| *set) {
                    write!(f, "{name}")?;
                }
                write!(f, "], length {}", bytes.len() - tcp.slice().len())
            }
            Err(_) => write!(f, "TCP cut short"),
        },
        protocol::UDP => match UdpHeaderSlice::from_slice(bytes) {
            Ok(udp) => write!(
                f,
                "UDP {} > {}, length {}",
                udp.source_port(),
                udp.destination_port(),
                udp.length().saturating_sub(8)
            ),
            Err(_) => write!(f, "UDP cut short"),
        },
        protocol::IPIP => write!(f, "IP in IP once more"),
        other => write!(f, "protocol {other}"),
    }
}
