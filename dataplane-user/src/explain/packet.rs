//! The packets that are given to the programs, and what they left of them.

use std::net::Ipv4Addr;

use dataplane_common::{
    Flow, Mac,
    ipv4::{PROTOCOL_IPIP, PROTOCOL_TCP, PROTOCOL_UDP},
};
use etherparse::{
    Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4HeaderSlice,
    TcpHeader, UdpHeader, ether_type,
};

use crate::doctor::peer::packet::header;

/// An Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// As pods send.
pub const TTL: u8 = 64;
/// What is behind the headers, bytes.
const PAYLOAD: usize = 32;
const PROTOCOL_ICMP: u8 = 1;

/// Whose frame it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The sender's MAC.
    pub source: Mac,
    /// The receiver's.
    pub destination: Mac,
}

/// The packet of a flow from its IP header on: in TCP one from the middle of a connection.
/// `is_answer` makes an echo request a reply.
pub fn build(flow: &Flow, ttl: u8, is_answer: bool) -> Vec<u8> {
    let (from, to) = flow.ends();
    let mut tcp = TcpHeader::new(from.port(), to.port(), 1, 1024);
    (tcp.ack, tcp.acknowledgment_number) = (true, 1);
    packet(flow, ttl, is_answer, tcp)
}

/// The first packet of a flow: in TCP the one that asks for a connection (SYN).
pub fn first(flow: &Flow, ttl: u8) -> Vec<u8> {
    let (from, to) = flow.ends();
    let mut tcp = TcpHeader::new(from.port(), to.port(), 1, 1024);
    tcp.syn = true;
    packet(flow, ttl, false, tcp)
}

/// `tcp`: the header, without its checksum, if the flow is of TCP.
fn packet(flow: &Flow, ttl: u8, is_answer: bool, mut tcp: TcpHeader) -> Vec<u8> {
    let (from, to) = flow.ends();
    let payload = [0x74; PAYLOAD];
    let transport: Vec<u8> = match flow.protocol {
        PROTOCOL_TCP => {
            let sum = tcp.calc_checksum_ipv4_raw(from.ip().octets(), to.ip().octets(), &payload);
            tcp.checksum = sum.unwrap_or_default();
            tcp.to_bytes().to_vec()
        }
        PROTOCOL_UDP => {
            let (from_ip, to_ip) = (from.ip().octets(), to.ip().octets());
            let length = PAYLOAD;
            let mut udp = UdpHeader {
                source_port: from.port(),
                destination_port: to.port(),
                length: (UdpHeader::LEN + length) as u16,
                checksum: 0,
            };
            let sum = udp.calc_checksum_ipv4_raw(from_ip, to_ip, &payload);
            udp.checksum = sum.unwrap_or_default();
            udp.to_bytes().to_vec()
        }
        _ => {
            let echo = IcmpEchoHeader { id: 1, seq: 1 };
            let kind = match is_answer {
                true => Icmpv4Type::EchoReply(echo),
                false => Icmpv4Type::EchoRequest(echo),
            };
            Icmpv4Header::with_checksum(kind, &payload).to_bytes().to_vec()
        }
    };
    let length = transport.len() + PAYLOAD;
    let ip = header(*from.ip(), *to.ip(), IpNumber(flow.protocol), length, 0, false, ttl);
    ip.into_iter().chain(transport).chain(payload).collect()
}

/// The same from `node` to `to`, encapsulated.
pub fn encapsulate(inner: &[u8], node: Ipv4Addr, to: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let outer = header(node, to, IpNumber(PROTOCOL_IPIP), inner.len(), 0, false, ttl);
    outer.into_iter().chain(inner.iter().copied()).collect()
}

/// Puts a packet into an Ethernet frame.
pub fn frame(packet: &[u8], Frame { source, destination }: Frame) -> Vec<u8> {
    let ethernet = Ethernet2Header {
        source: source.into(),
        destination: destination.into(),
        ether_type: ether_type::IPV4,
    };
    ethernet.to_bytes().into_iter().chain(packet.iter().copied()).collect()
}

/// The flow in words: `tcp 10.20.1.7:40000 → 10.20.2.8:80`.
pub fn name(flow: &Flow) -> String {
    let (from, to) = flow.ends();
    match flow.protocol {
        PROTOCOL_TCP => format!("tcp {from} → {to}"),
        PROTOCOL_UDP => format!("udp {from} → {to}"),
        PROTOCOL_ICMP => format!("icmp {} → {}", from.ip(), to.ip()),
        other => format!("protocol {other} {} → {}", from.ip(), to.ip()),
    }
}

/// The headers of a frame in one line, the outer one first.
pub fn headers(frame: &[u8]) -> Option<String> {
    let mut rest = frame.get(ETHERNET..)?;
    let mut parts = Vec::new();
    while let Ok(ip) = Ipv4HeaderSlice::from_slice(rest) {
        let (from, to, ttl) = (ip.source_addr(), ip.destination_addr(), ip.ttl());
        let protocol = match ip.protocol().0 {
            PROTOCOL_IPIP => "ipip".to_owned(),
            PROTOCOL_TCP => "tcp".to_owned(),
            PROTOCOL_UDP => "udp".to_owned(),
            PROTOCOL_ICMP => "icmp".to_owned(),
            other => format!("protocol {other}"),
        };
        parts.push(format!("{from} → {to} {protocol} ttl {ttl}, {} bytes", ip.total_len()));
        if ip.protocol().0 != PROTOCOL_IPIP {
            break;
        }
        rest = rest.get(ip.slice().len()..)?;
    }
    (!parts.is_empty()).then(|| parts.join(" | "))
}

#[cfg(test)]
mod tests {
    use dataplane_common::Direction;
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    fn flow(protocol: u8) -> Flow {
        Flow {
            source: Ipv4Addr::new(10, 20, 1, 7).into(),
            destination: Ipv4Addr::new(10, 20, 2, 8).into(),
            source_port: 40_000_u16.to_be(),
            destination_port: 80_u16.to_be(),
            protocol,
            direction: Direction::Encap as u8,
            reserved: 0,
        }
    }

    #[test]
    fn packets_are_whole_and_named() {
        let macs =
            Frame { source: [2, 0, 0, 0, 0, 1].into(), destination: [2, 0, 0, 0, 0, 2].into() };
        for (protocol, named, line) in [
            (6, "tcp 10.20.1.7:40000 → 10.20.2.8:80", "tcp ttl 64, 72 bytes"),
            (17, "udp 10.20.1.7:40000 → 10.20.2.8:80", "udp ttl 64, 60 bytes"),
            (1, "icmp 10.20.1.7 → 10.20.2.8", "icmp ttl 64, 60 bytes"),
        ] {
            let flow = flow(protocol);
            assert_eq!(name(&flow), named);
            let packet = build(&flow, TTL, false);
            let opening = first(&flow, TTL);
            let opening = SlicedPacket::from_ip(&opening).unwrap().transport;
            let is_opening =
                |it| matches!(it, Some(TransportSlice::Tcp(tcp)) if tcp.syn() && !tcp.ack());
            assert_eq!(is_opening(opening), protocol == 6);
            let frame_ = frame(&packet, macs);
            assert_eq!(headers(&frame_).unwrap(), format!("10.20.1.7 → 10.20.2.8 {line}"));
            assert!(SlicedPacket::from_ethernet(&frame_).is_ok());
            let [node, us] = [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(172, 16, 0, 2)];
            let wrapped = frame(&encapsulate(&packet, node, us, 62), macs);
            let shown = headers(&wrapped).unwrap();
            let outer = format!("172.16.0.1 → 172.16.0.2 ipip ttl 62, {} bytes", packet.len() + 20);
            assert_eq!(shown, format!("{outer} | 10.20.1.7 → 10.20.2.8 {line}"));
        }
        assert_eq!(headers(&[0; 20]), None);
    }
}
