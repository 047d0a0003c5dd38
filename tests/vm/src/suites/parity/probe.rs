//! Packets to send, each known again by the IP ID of its inner header.

use std::net::Ipv4Addr;

use tunless_lab::{
    addr::{HELLO_PERF, HELLO_SIT},
    packet::{Ipv4, icmp_echo, tcp, udp},
};

use super::{bytes, difference::Difference};

/// The pod of the node under test.
pub const POD: Ipv4Addr = HELLO_PERF;
/// A pod of the node at the other end.
pub const REMOTE: Ipv4Addr = HELLO_SIT;
/// The node under test.
pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
/// The node at the other end.
pub const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
/// A third node, which nobody needs to build: it sends, if at all, by our hand.
pub const THIRD: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);
/// The block of [`THIRD`].
pub const THIRD_BLOCK: &str = "10.20.7.64/26";
/// A pod of [`THIRD`].
pub const THIRD_POD: Ipv4Addr = Ipv4Addr::new(10, 20, 7, 70);

/// The largest inner packet that goes over the tunnel whole.
pub const MTU: usize = 1480;
/// The largest that a pod can send.
pub const POD_MTU: usize = 1500;

/// [`POD`]'s port of the one flow that all datagrams are of, lest leases be
/// those of others.
const POD_PORT: u16 = 4000;
const REMOTE_PORT: u16 = 5000;

/// The flag bits of TCP, as [`flagged`] takes them.
pub const FIN: u8 = 0x01;
/// Synchronize.
pub const SYN: u8 = 0x02;
/// Reset.
pub const RST: u8 = 0x04;
/// Acknowledgment.
pub const ACK: u8 = 0x10;

/// Packets that are sent one behind the other, and one thing to learn from them.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it is about.
    pub what: String,
    /// Its number: the ID of its (innermost) IP header.
    pub tag: u16,
    /// What is sent: IP packets.
    pub packets: Vec<Vec<u8>>,
    /// The difference by which it comes out of tunl0 alone.
    pub lost: Option<Difference>,
    /// Whether tunless may leave it to the kernel.
    pub is_left: bool,
}

/// Which way a probe goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// From the pod.
    Encap,
    /// From the wire.
    Decap,
}

impl Way {
    /// Source and destination.
    pub fn inner_addresses(self) -> (Ipv4Addr, Ipv4Addr) {
        match self {
            Self::Encap => (POD, REMOTE),
            Self::Decap => (REMOTE, POD),
        }
    }

    /// A header between the two pods, without DF or anything else.
    pub fn inner(self, protocol: u8) -> Ipv4 {
        let (from, to) = self.inner_addresses();
        Ipv4 { df: false, ..Ipv4::new(from, to, protocol) }
    }

    /// A datagram of the one flow, of `length` bytes with its IP header.
    pub fn datagram(self, ip: &Ipv4, length: usize) -> Vec<u8> {
        let options = ip.options.len().next_multiple_of(4);
        // Shorter than its header: cut off.
        let room = length - bytes::HEADER - options;
        let (from, to) = self.ports();
        let mut payload = udp(ip, from, to, &pattern(room.saturating_sub(8)));
        payload.truncate(room);
        ip.packet(&payload)
    }

    fn ports(self) -> (u16, u16) {
        match self {
            Self::Encap => (POD_PORT, REMOTE_PORT),
            Self::Decap => (REMOTE_PORT, POD_PORT),
        }
    }

    /// A segment with these flags.
    pub fn flagged(self, ip: &Ipv4, flags: u8, payload: usize) -> Vec<u8> {
        let payload = pattern(payload);
        let segment = tcp(
            ip,
            self.ports(),
            |header| {
                header.fin = flags & FIN != 0;
                header.syn = flags & SYN != 0;
                header.rst = flags & RST != 0;
                header.ack = flags & ACK != 0;
            },
            &payload,
        );
        ip.packet(&segment)
    }
}

/// Bytes that are all different from their neighbours.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(length).collect()
}

/// A list of probes in the making.
#[derive(Debug)]
pub struct Probes {
    way: Way,
    next: u16,
    list: Vec<Probe>,
}

impl Probes {
    /// An empty list; `first` is its first number.
    pub fn new(way: Way, first: u16) -> Self {
        Self { way, next: first, list: Vec::new() }
    }

    /// The next probe, of several packets.
    pub fn add_many(
        &mut self,
        what: impl Into<String>,
        make: impl FnOnce(u16) -> Vec<Vec<u8>>,
    ) -> &mut Probe {
        let tag = self.next;
        self.next += 1;
        let what = format!("{:?}: {}", self.way, what.into()).to_lowercase();
        self.list.push(Probe { what, tag, packets: make(tag), lost: None, is_left: false });
        self.list.last_mut().unwrap_or_else(|| unreachable!("just pushed"))
    }

    /// The next probe, of one packet.
    pub fn add(
        &mut self,
        what: impl Into<String>,
        make: impl FnOnce(u16) -> Vec<u8>,
    ) -> &mut Probe {
        self.add_many(what, |tag| vec![make(tag)])
    }

    /// All of them.
    pub fn finish(self) -> Vec<Probe> {
        self.list
    }
}

impl Probe {
    /// It comes out of tunl0 alone, because of `difference`.
    pub fn lost(&mut self, difference: Difference) -> &mut Self {
        self.lost = Some(difference);
        self
    }

    /// tunless leaves it as it is, for the kernel to judge.
    pub fn left(&mut self) -> &mut Self {
        self.is_left = true;
        self
    }
}

/// What both ways have in common: `wrap` makes the packet to send of the inner one.
pub fn inner_probes(way: Way, probes: &mut Probes, wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let ip = |tag| Ipv4 { id: tag, ..way.inner(17) };
    for ttl in [1, 2, 3, 64, 255] {
        for df in [false, true] {
            probes.add(format!("ttl {ttl}, df {df}"), |tag| {
                wrap(way.datagram(&Ipv4 { ttl, df, ..ip(tag) }, 100))
            });
        }
    }
    for tos in 0..=u8::MAX {
        probes.add(format!("dscp {}, ecn {}", tos >> 2, tos & 3), |tag| {
            wrap(way.datagram(&Ipv4 { tos, df: tos & 4 == 0, ..ip(tag) }, 100))
        });
    }
    for flags in [bytes::EVIL, bytes::EVIL | bytes::DF] {
        probes.add(format!("flags {flags:#06x}"), |tag| {
            let mut packet = way.datagram(&ip(tag), 100);
            bytes::set_fragment(&mut packet, flags);
            bytes::mend_checksum(&mut packet);
            wrap(packet)
        });
    }
    for length in bytes::HEADER..=MTU {
        probes.add(format!("{length} bytes"), |tag| {
            wrap(way.datagram(&Ipv4 { df: length % 2 == 0, ..ip(tag) }, length))
        });
    }
    protocols(way, probes, wrap);
    options(way, probes, wrap);
    fragments(way, probes, wrap);
}

fn protocols(way: Way, probes: &mut Probes, wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let ip = |tag, protocol| Ipv4 { id: tag, df: true, ..way.inner(protocol) };
    for protocol in [0, 1, 2, 6, 17, 47, 50, 51, 58, 132, 253, 255] {
        probes.add(format!("protocol {protocol}"), |tag| {
            wrap(ip(tag, protocol).packet(&pattern(80)))
        });
    }
    for (what, flags) in [
        ("syn", SYN),
        ("syn, ack", SYN | ACK),
        ("ack", ACK),
        ("fin, ack", FIN | ACK),
        ("rst", RST),
        ("no flag", 0),
    ] {
        for payload in [0, 100] {
            probes.add(format!("tcp {what}, {payload} bytes"), |tag| {
                wrap(way.flagged(&ip(tag, 6), flags, payload))
            });
        }
    }
    // Cut in the middle of its header.
    for length in 0..20 {
        probes.add(format!("tcp, {length} bytes of its header"), |tag| {
            let whole = way.flagged(&ip(tag, 6), ACK, 0);
            wrap(ip(tag, 6).packet(&whole[bytes::HEADER..][..length]))
        });
    }
    for kind in [0, 8] {
        probes.add(format!("icmp type {kind}"), |tag| {
            wrap(ip(tag, 1).packet(&icmp_echo(kind, 1, 1, b"parity")))
        });
    }
    probes.add("udp without checksum", |tag| {
        let mut packet = way.datagram(&ip(tag, 17), 100);
        packet[bytes::HEADER + 6..][..2].fill(0);
        wrap(packet)
    });
    probes.add("udp with a wrong checksum", |tag| {
        let mut packet = way.datagram(&ip(tag, 17), 100);
        packet[bytes::HEADER + 6] ^= 0x55;
        wrap(packet)
    });
}

fn options(way: Way, probes: &mut Probes, wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    let lists: [(&str, &[u8]); 13] = [
        ("nop", &[1; 4]),
        ("40 bytes of nop", &[1; 40]),
        ("end of list", &[0; 4]),
        ("record route", &[1, 7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("record route, full", &[1, 7, 7, 8, 9, 9, 9, 9]),
        // Of one with room the kernel makes the time of day.
        ("timestamp, full", &[68, 8, 9, 0, 1, 2, 3, 4]),
        ("timestamp, overflown", &[68, 8, 9, 0xf0, 1, 2, 3, 4]),
        ("router alert", &[148, 4, 0, 0]),
        ("security", &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("loose source route", &[1, 131, 7, 4, 172, 16, 34, 7]),
        ("strict source route", &[1, 137, 7, 4, 172, 16, 34, 7]),
        ("of length 0", &[7, 0, 4, 0]),
        ("longer than the header", &[7, 40, 4, 0]),
    ];
    for (what, list) in lists {
        for ttl in [1, 64] {
            probes.add(format!("options: {what}, ttl {ttl}"), |tag| {
                let ip = Ipv4 { id: tag, ttl, options: list.to_vec(), ..way.inner(17) };
                wrap(way.datagram(&ip, 140))
            });
        }
    }
}

fn fragments(way: Way, probes: &mut Probes, wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    for (what, length, piece, df) in [
        ("two pieces", 1600, 1000, false),
        ("two pieces with df", 1600, 1000, true),
        ("three pieces", 4000, 1456, false),
        ("small pieces", 400, 104, false),
    ] {
        let pieces = |tag| cut(&Ipv4 { id: tag, df, ..way.inner(17) }, length, piece, wrap);
        probes.add_many(format!("fragments: {what}"), pieces);
        probes.add_many(format!("fragments: {what}, the last first"), |tag| {
            let mut pieces = pieces(tag);
            pieces.reverse();
            pieces
        });
    }
    let pieces = |tag| cut(&Ipv4 { id: tag, ..way.inner(17) }, 1600, 1000, wrap);
    probes.add("fragments: the first alone", |tag| pieces(tag).swap_remove(0));
    probes.add("fragments: the last alone", |tag| pieces(tag).swap_remove(1));
}

/// A datagram with `length` bytes of payload, in pieces.
pub fn cut(
    ip: &Ipv4,
    length: usize,
    piece: usize,
    wrap: &dyn Fn(Vec<u8>) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let payload = udp(ip, 4001, 5001, &pattern(length - 8));
    cut_payload(ip, &payload, piece).into_iter().map(wrap).collect()
}

/// Any payload, in pieces of a multiple of 8 bytes.
pub fn cut_payload(ip: &Ipv4, payload: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let last = payload.len().div_ceil(piece) - 1;
    payload
        .chunks(piece)
        .enumerate()
        .map(|(index, chunk)| {
            let fragment_offset = u16::try_from(index * piece / 8).unwrap_or(u16::MAX);
            Ipv4 { mf: index != last, fragment_offset, ..ip.clone() }.packet(chunk)
        })
        .collect()
}
