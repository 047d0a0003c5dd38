//! Hand-made packets, field by field.
//!
//! Builders nest the way a packet does:
//!
//! ```
//! use tunless_lab::{addr, packet::{self, Ipv4, ethernet, icmp_echo}};
//!
//! let [a, b] = [addr::HELLO_PERF, addr::HELLO_SIT];
//! let inner = Ipv4 { ttl: 63, ..Ipv4::icmp(a, b) }.packet(&icmp_echo(8, 1, 1, b"hello"));
//! let outer = Ipv4::ipip([172, 16, 36, 10].into(), [172, 16, 35, 4].into()).packet(&inner);
//! let frame = ethernet([2, 0, 172, 16, 35, 4], [2, 0, 172, 16, 35, 1], packet::IPV4, &outer);
//! # assert_eq!(frame.len(), 14 + 20 + 20 + 8 + 5);
//! ```

use std::net::Ipv4Addr;

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header,
    TcpHeader, UdpHeader, checksum::Sum16BitWords,
};

use crate::{addr::Mac, frame::protocol};

/// The Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;

/// An Ethernet frame.
#[must_use]
pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { destination, source, ether_type: EtherType(ethertype) };
    [header.to_bytes().as_slice(), payload].concat()
}

/// An IPv4 header. `None` means: what is right for the packet.
#[derive(Debug, Clone)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// The payload's protocol.
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
    /// Fragment offset in units of 8 bytes.
    pub fragment_offset: u16,
    /// Options, padded with zeroes to a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// The version field, 4 bits.
    pub version: Option<u8>,
    /// The header length field, 4 bits.
    pub ihl: Option<u8>,
    /// The total length field.
    pub total_len: Option<u16>,
    /// The header checksum field.
    pub checksum: Option<u16>,
}

impl Ipv4 {
    /// A header for any protocol: TTL 64, DF, nothing special.
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: 64,
            tos: 0,
            id: 0,
            df: true,
            mf: false,
            fragment_offset: 0,
            options: Vec::new(),
            version: None,
            ihl: None,
            total_len: None,
            checksum: None,
        }
    }

    /// A header around another IPv4 packet.
    #[must_use]
    pub fn ipip(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self::new(source, destination, protocol::IPIP)
    }

    /// A header around [`icmp_echo`].
    #[must_use]
    pub fn icmp(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self::new(source, destination, protocol::ICMP)
    }

    /// A header around [`udp`].
    #[must_use]
    pub fn udp(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self::new(source, destination, protocol::UDP)
    }

    /// A header around [`tcp`].
    #[must_use]
    pub fn tcp(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self::new(source, destination, protocol::TCP)
    }

    /// The header and its payload.
    ///
    /// # Panics
    /// When a field cannot hold its value: a mistake in the test.
    #[must_use]
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = 20 + options.len() + payload.len();
        let mut header = Ipv4Header {
            identification: self.id,
            dont_fragment: self.df,
            more_fragments: self.mf,
            fragment_offset: IpFragOffset::try_new(self.fragment_offset).expect("13 bits"),
            time_to_live: self.ttl,
            protocol: IpNumber(self.protocol),
            source: self.source.octets(),
            destination: self.destination.octets(),
            total_len: self.total_len.unwrap_or_else(|| u16::try_from(length).expect("16 bits")),
            ..Ipv4Header::default()
        };
        header.options = options.as_slice().try_into().expect("at most 40 bytes of options");
        let mut bytes = header.to_bytes().to_vec();
        bytes[0] = self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(bytes[0] & 0xf);
        bytes[1] = self.tos;
        // Last, over what the header now says, right or wrong.
        bytes[10..12].fill(0);
        let checksum = self
            .checksum
            .unwrap_or_else(|| Sum16BitWords::new().add_slice(&bytes).ones_complement().to_be());
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// An ICMP echo request (8) or reply (0) with a right checksum.
///
/// # Panics
/// On another type.
#[must_use]
pub fn icmp_echo(kind: u8, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
    let echo = etherparse::IcmpEchoHeader { id, seq };
    let kind = match kind {
        8 => Icmpv4Type::EchoRequest(echo),
        0 => Icmpv4Type::EchoReply(echo),
        other => panic!("ICMP type {other} is no echo"),
    };
    [Icmpv4Header::with_checksum(kind, payload).to_bytes().as_slice(), payload].concat()
}

/// An ICMP error with a right checksum; `word` is what its type makes of the
/// second 4 bytes.
#[must_use]
pub fn icmp_error(kind: u8, code: u8, word: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &word, quoted].concat();
    let checksum = Sum16BitWords::new().add_slice(&message).ones_complement().to_be();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// A UDP datagram with a right checksum for the addresses of `ip`.
///
/// # Panics
/// When the payload is too long for UDP: a mistake in the test.
#[must_use]
pub fn udp(ip: &Ipv4, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to) = (ip.source.octets(), ip.destination.octets());
    let mut header =
        UdpHeader::without_ipv4_checksum(source, destination, payload.len()).expect("fits UDP");
    header.checksum = header.calc_checksum_ipv4_raw(from, to, payload).expect("fits UDP");
    [header.to_bytes().as_slice(), payload].concat()
}

/// A TCP segment with a right checksum for the addresses of `ip`; `adjust`
/// sets flags and whatever else.
///
/// # Panics
/// When the payload is too long for TCP: a mistake in the test.
#[must_use]
pub fn tcp(
    ip: &Ipv4,
    (source, destination): (u16, u16),
    adjust: impl FnOnce(&mut TcpHeader),
    payload: &[u8],
) -> Vec<u8> {
    let mut header = TcpHeader::new(source, destination, 1, 0xffff);
    adjust(&mut header);
    let (from, to) = (ip.source.octets(), ip.destination.octets());
    header.checksum = header.calc_checksum_ipv4_raw(from, to, payload).expect("fits TCP");
    [header.to_bytes().as_slice(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::{HELLO_PERF, HELLO_SIT},
        frame::{Direction, Frame},
    };

    const NODES: (Ipv4Addr, Ipv4Addr) =
        (Ipv4Addr::new(172, 16, 36, 10), Ipv4Addr::new(172, 16, 35, 4));

    fn frame(ip: &[u8]) -> Frame {
        Frame { direction: Direction::Out, vlan: None, bytes: ethernet([1; 6], [2; 6], IPV4, ip) }
    }

    #[test]
    fn a_built_frame_reads_as_it_was_meant() {
        let inner = Ipv4 { ttl: 63, ..Ipv4::icmp(HELLO_PERF, HELLO_SIT) };
        let inner = inner.packet(&icmp_echo(8, 7, 1, b"hello"));
        let frame = frame(&Ipv4::ipip(NODES.0, NODES.1).packet(&inner));
        assert!(frame.is_ipip(NODES, (HELLO_PERF, HELLO_SIT)));
        assert!(!frame.is_plain(HELLO_PERF, HELLO_SIT));
        assert!(!frame.touches(Ipv4Addr::new(10, 20, 0, 0), 16));
        assert!(frame.outer().unwrap().0.checksum_ok && frame.inner().unwrap().0.checksum_ok);
        assert_eq!(
            frame.to_string(),
            "IP 172.16.36.10 > 172.16.35.4: IP 10.20.105.215 > 10.20.42.31: \
             ICMP echo request, ttl 63"
        );
    }

    #[test]
    fn every_field_can_be_wrong() {
        let ip = Ipv4 {
            tos: 0x2b,
            id: 9,
            df: false,
            mf: true,
            fragment_offset: 3,
            options: vec![1; 3],
            total_len: Some(1000),
            checksum: Some(0xdead),
            ..Ipv4::udp(HELLO_PERF, HELLO_SIT)
        };
        let frame = frame(&ip.packet(&udp(&ip, 1, 2, b"x")));
        let (read, payload) = frame.outer().unwrap();
        assert_eq!((read.tos, read.id, read.df, read.mf), (0x2b, 9, false, true));
        assert_eq!((read.fragment_offset, read.header_len, read.total_len), (24, 24, 1000));
        assert!(!read.checksum_ok);
        assert_eq!(payload.len(), 9);
        assert!(frame.touches(Ipv4Addr::new(10, 20, 0, 0), 16));
        let odd = Ipv4 { version: Some(6), ihl: Some(15), ..ip }.packet(b"");
        assert_eq!(odd[0], 0x6f);
    }

    #[test]
    fn tcp_flags_show() {
        let ip = Ipv4::tcp(HELLO_PERF, HELLO_SIT);
        let segment = tcp(&ip, (40_000, 8080), |header| header.syn = true, b"");
        assert_eq!(
            frame(&ip.packet(&segment)).to_string(),
            "IP 10.20.105.215 > 10.20.42.31: TCP 40000 > 8080 [S], length 0, ttl 64"
        );
    }
}
