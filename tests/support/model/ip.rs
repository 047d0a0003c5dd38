//! An IPv4 packet as plain bytes.

use std::net::Ipv4Addr;

use dataplane_common::{Direction, Flow, Translation};
use etherparse::checksum::Sum16BitWords;

use crate::packet::IPV4;

/// An IPv4 header and what follows.
#[derive(Clone, Copy)]
pub struct Ip<'a>(pub &'a [u8]);

impl Ip<'_> {
    pub fn is_sane(self) -> bool {
        self.0[0] >> 4 == 4 && self.header() >= IPV4
    }
    pub fn header(self) -> usize {
        usize::from(self.0[0] & 15) * 4
    }
    pub fn total(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }
    pub fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }
    pub fn ttl(self) -> u8 {
        self.0[8]
    }
    pub fn protocol(self) -> u8 {
        self.0[9]
    }
    pub fn checks(self) -> bool {
        Sum16BitWords::new().add_slice(&self.0[..IPV4]).ones_complement() == 0
    }
    pub fn source(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }
    pub fn destination(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }

    /// Whose packet it is, and what it does to its connection.
    pub fn flow(self, direction: Direction) -> Result<(Flow, Control), NoFlow> {
        if self.header() > IPV4 {
            return Err(NoFlow::Options);
        }
        if self.is_fragment() {
            return Err(NoFlow::Fragment);
        }
        let least = IPV4 + if self.protocol() == 6 { 20 } else { 8 };
        if self.total() != 0 && self.total() < least {
            return Err(NoFlow::NoPorts);
        }
        let transport = &self.0[IPV4..];
        let enough = match self.protocol() {
            6 => transport.len() >= 14,
            17 => transport.len() >= 4,
            _ => false,
        };
        if !enough {
            return Err(NoFlow::NoPorts);
        }
        let flow = Flow {
            source: self.source().into(),
            destination: self.destination().into(),
            source_port: u16::from_ne_bytes([transport[0], transport[1]]),
            destination_port: u16::from_ne_bytes([transport[2], transport[3]]),
            protocol: self.protocol(),
            direction: direction as u8,
            reserved: 0,
        };
        let control = match transport.get(13) {
            Some(flags) if self.protocol() == 6 && flags & 0b111 != 0 => match flags & 0b1_0111 {
                0b1_0010 => Control::Accepts,
                _ => Control::Other,
            },
            _ => Control::None,
        };
        Ok((flow, control))
    }
}

/// What a packet does to its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    None,
    /// It accepts it: SYN with ACK.
    Accepts,
    /// It begins or ends it.
    Other,
}

/// Why a packet is never leased.
pub enum NoFlow {
    Options,
    Fragment,
    NoPorts,
}

/// A header byte changes, the checksum with it (RFC 1624 §3): a wrong one
/// stays wrong by as much.
pub fn set(ip: &mut [u8], at: usize, value: u8) {
    let word = |ip: &[u8]| u32::from(u16::from_be_bytes([ip[at & !1], ip[at | 1]]));
    let old = word(ip);
    ip[at] = value;
    let checksum = u32::from(u16::from_be_bytes([ip[10], ip[11]]));
    let mut sum = (checksum ^ 0xffff) + (old ^ 0xffff) + word(ip);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let checksum = !(sum as u16);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Another address, `at` 12 the source's or at 16 the destination's, and another port, with all three
/// checksums (RFC 1624 §3). UDP without a checksum (0) stays without, and its sum of 0 is written as
/// 0xffff (RFC 768).
pub fn translate(ip: &mut [u8], at: usize, to: Translation) {
    let is_udp = ip[9] == 17;
    let port = if at == 16 { IPV4 + 2 } else { IPV4 };
    let checksum = IPV4 + if is_udp { 6 } else { 16 };
    let address = to.address.0.to_ne_bytes();
    let new_port = to.port.to_ne_bytes();
    let old_address = [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]];
    let old = [old_address.as_slice(), &[ip[port], ip[port + 1]]].concat();
    let new = [address.as_slice(), &new_port].concat();
    ip[at..at + 4].copy_from_slice(&address);
    ip[port..port + 2].copy_from_slice(&new_port);
    exchange(ip, 10, &old[..4], &new[..4]);
    if is_udp && ip[checksum] == 0 && ip[checksum + 1] == 0 {
        return;
    }
    // As the kernel does it: address and port one after the other.
    exchange(ip, checksum, &old[..4], &new[..4]);
    never_zero(ip, checksum, is_udp);
    if old[4..] != new[4..] {
        exchange(ip, checksum, &old[4..], &new[4..]);
        never_zero(ip, checksum, is_udp);
    }
}

fn never_zero(ip: &mut [u8], checksum: usize, is_udp: bool) {
    if is_udp && ip[checksum] == 0 && ip[checksum + 1] == 0 {
        ip[checksum..checksum + 2].fill(0xff);
    }
}

/// Corrects the checksum for bytes that were exchanged.
fn exchange(ip: &mut [u8], checksum: usize, old: &[u8], new: &[u8]) {
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).collect()
    };
    let field = u32::from(u16::from_be_bytes([ip[checksum], ip[checksum + 1]]));
    let mut sum = field ^ 0xffff;
    for word in words(old) {
        sum += word ^ 0xffff;
    }
    for word in words(new) {
        sum += word;
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    ip[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
