//! A fluent builder of whole frames, right or wrong in any field.
//!
//! `eth().ipv4(NODE2, NODE1).ipv4(REMOTE, POD).udp(1000, 2000)` reads as the
//! packet lies on the wire: the double `ipv4` *is* the IP-in-IP diagram. What
//! is not said comes out right (lengths, checksums, protocol numbers), made by
//! etherparse, so that nothing here shares code with what it judges.

use std::net::Ipv4Addr;

use etherparse::{
    IpNumber, Ipv4Header, Ipv4Options, TcpHeader, UdpHeader, checksum::Sum16BitWords,
};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Length of an Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// Length of an IPv4 header without options, bytes.
pub const IPV4: usize = 20;

const IPV4_ETHER_TYPE: u16 = 0x0800;
const VLAN_ETHER_TYPE: u16 = 0x8100;

/// TCP flags, as [`Frame::tcp`] takes them (RFC 9293 §3.1).
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets it.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
    /// Urgent.
    pub const URG: u8 = 0x20;
}

/// Starts a frame with the addresses every table uses until it says otherwise.
#[must_use]
pub fn eth() -> Frame {
    Frame {
        to: [0; 6],
        from: [0; 6],
        ether_type: IPV4_ETHER_TYPE,
        vlan: None,
        ip: Vec::new(),
        transport: Transport::None,
        payload: Vec::new(),
        padding: 0,
        cut: None,
    }
}

/// A frame to be: Ethernet, any number of IPv4 headers, a transport, a payload.
#[derive(Clone, Debug)]
pub struct Frame {
    to: Mac,
    from: Mac,
    ether_type: u16,
    vlan: Option<u16>,
    ip: Vec<Ipv4>,
    transport: Transport,
    payload: Vec<u8>,
    padding: usize,
    cut: Option<usize>,
}

#[derive(Clone, Debug)]
enum Transport {
    None,
    Udp { from: u16, to: u16 },
    Tcp { from: u16, to: u16, flags: u8 },
    Raw { protocol: u8 },
}

/// One IPv4 header; `None` means "as it ought to be".
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source address.
    pub from: Ipv4Addr,
    /// Destination address.
    pub to: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// The three flag bits and the fragment offset, as one number.
    pub fragment: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IP version.
    pub version: u8,
    /// Header length in words.
    pub ihl: Option<u8>,
    /// Total length in bytes.
    pub total_length: Option<u16>,
    /// Protocol number.
    pub protocol: Option<u8>,
    /// Whether the checksum is to be wrong.
    pub wrong_checksum: bool,
}

/// Don't fragment.
pub const DF: u16 = 0x4000;
/// More fragments follow.
pub const MF: u16 = 0x2000;
/// The reserved bit ("evil", RFC 3514).
pub const EVIL: u16 = 0x8000;

impl Frame {
    /// Both Ethernet addresses, in wire order.
    #[must_use]
    pub fn macs(mut self, to: Mac, from: Mac) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    /// The Ethertype, whatever follows.
    #[must_use]
    pub fn ether_type(mut self, ether_type: u16) -> Self {
        self.ether_type = ether_type;
        self
    }

    /// An 802.1Q tag in the frame.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan = Some(id);
        self
    }

    /// One more IPv4 header. The field setters below are about the last one.
    #[must_use]
    pub fn ipv4(mut self, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        self.ip.push(Ipv4 {
            from,
            to,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            fragment: 0,
            options: Vec::new(),
            version: 4,
            ihl: None,
            total_length: None,
            protocol: None,
            wrong_checksum: false,
        });
        self
    }

    /// Changes the `n`th IPv4 header, counted from the outside.
    #[must_use]
    pub fn edit(mut self, n: usize, change: impl FnOnce(&mut Ipv4)) -> Self {
        change(&mut self.ip[n]);
        self
    }

    fn last(self, change: impl FnOnce(&mut Ipv4)) -> Self {
        let n = self.ip.len().checked_sub(1).expect("say `ipv4` before its fields");
        self.edit(n, change)
    }

    /// Without its first IPv4 header: what decapsulation makes of it.
    #[must_use]
    pub fn unwrapped(mut self) -> Self {
        self.ip.remove(0);
        self
    }

    /// Time to live.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        self.last(|ip| ip.ttl = ttl)
    }

    /// DSCP and ECN.
    #[must_use]
    pub fn tos(self, tos: u8) -> Self {
        self.last(|ip| ip.tos = tos)
    }

    /// Identification.
    #[must_use]
    pub fn id(self, id: u16) -> Self {
        self.last(|ip| ip.id = id)
    }

    /// Flags and fragment offset: [`DF`], [`MF`], [`EVIL`], units of eight bytes.
    #[must_use]
    pub fn fragment(self, fragment: u16) -> Self {
        self.last(|ip| ip.fragment = fragment)
    }

    /// Options; the header length follows.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        self.last(|ip| ip.options = options.to_vec())
    }

    /// IP version.
    #[must_use]
    pub fn version(self, version: u8) -> Self {
        self.last(|ip| ip.version = version)
    }

    /// Header length in words, true or not.
    #[must_use]
    pub fn ihl(self, ihl: u8) -> Self {
        self.last(|ip| ip.ihl = Some(ihl))
    }

    /// Total length, true or not.
    #[must_use]
    pub fn total_length(self, length: u16) -> Self {
        self.last(|ip| ip.total_length = Some(length))
    }

    /// Protocol number, true or not.
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.last(|ip| ip.protocol = Some(protocol))
    }

    /// A checksum that is off by one bit.
    #[must_use]
    pub fn wrong_checksum(self) -> Self {
        self.last(|ip| ip.wrong_checksum = true)
    }

    /// A UDP header.
    #[must_use]
    pub fn udp(mut self, from: u16, to: u16) -> Self {
        self.transport = Transport::Udp { from, to };
        self
    }

    /// A TCP header with [`flags`].
    #[must_use]
    pub fn tcp(mut self, from: u16, to: u16, flags: u8) -> Self {
        self.transport = Transport::Tcp { from, to, flags };
        self
    }

    /// Some other protocol, of which the payload is all.
    #[must_use]
    pub fn raw(mut self, protocol: u8) -> Self {
        self.transport = Transport::Raw { protocol };
        self
    }

    /// `length` bytes of payload, no two neighbours alike.
    #[must_use]
    pub fn payload(mut self, length: usize) -> Self {
        self.payload = (0..length).map(|i| (i * 7 + i / 256) as u8).collect();
        self
    }

    /// These very bytes as payload.
    #[must_use]
    pub fn bytes_payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// `length` bytes behind the packet that belong to the frame alone.
    #[must_use]
    pub fn padding(mut self, length: usize) -> Self {
        self.padding = length;
        self
    }

    /// Cuts the finished frame to `length` bytes.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.cut = Some(length);
        self
    }

    /// The frame as it lies on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut packet = self.transport_bytes();
        let mut protocol = match self.transport {
            Transport::None => 59, // "no next header"; nothing of ours knows it
            Transport::Udp { .. } => 17,
            Transport::Tcp { .. } => 6,
            Transport::Raw { protocol } => protocol,
        };
        for ip in self.ip.iter().rev() {
            let mut bytes = ip.bytes(protocol, packet.len());
            bytes.append(&mut packet);
            packet = bytes;
            protocol = 4;
        }
        let mut frame = [self.to, self.from].concat();
        if let Some(id) = self.vlan {
            frame.extend(VLAN_ETHER_TYPE.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(self.ether_type.to_be_bytes());
        frame.append(&mut packet);
        // Never zeros: a reader that strays into padding has to show it.
        frame.extend(std::iter::repeat_n(0xee, self.padding));
        frame.truncate(self.cut.unwrap_or(frame.len()));
        frame
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let (from, to) = match self.ip.last() {
            Some(ip) => (ip.from.octets(), ip.to.octets()),
            None => ([0; 4], [0; 4]),
        };
        let mut bytes = match self.transport {
            Transport::None | Transport::Raw { .. } => Vec::new(),
            Transport::Udp { from: source, to: destination } => {
                let length = (UdpHeader::LEN + self.payload.len()) as u16;
                let mut header = UdpHeader {
                    source_port: source,
                    destination_port: destination,
                    length,
                    checksum: 0,
                };
                header.checksum = header
                    .calc_checksum_ipv4_raw(from, to, &self.payload)
                    .expect("the payload fits a datagram");
                header.to_bytes().to_vec()
            }
            Transport::Tcp { from: source, to: destination, flags } => {
                let mut header = TcpHeader::new(source, destination, 0x0102_0304, 0x7fff);
                header.acknowledgment_number = 0x0506_0708;
                header.fin = flags & flags::FIN != 0;
                header.syn = flags & flags::SYN != 0;
                header.rst = flags & flags::RST != 0;
                header.psh = flags & flags::PSH != 0;
                header.ack = flags & flags::ACK != 0;
                header.urg = flags & flags::URG != 0;
                header.checksum = header
                    .calc_checksum_ipv4_raw(from, to, &self.payload)
                    .expect("the payload fits a segment");
                header.to_bytes().to_vec()
            }
        };
        bytes.extend(&self.payload);
        bytes
    }
}

impl Ipv4 {
    fn bytes(&self, protocol: u8, payload: usize) -> Vec<u8> {
        let mut header = Ipv4Header {
            time_to_live: self.ttl,
            identification: self.id,
            protocol: IpNumber(self.protocol.unwrap_or(protocol)),
            source: self.from.octets(),
            destination: self.to.octets(),
            options: Ipv4Options::try_from(self.options.as_slice()).expect("options in words"),
            ..Ipv4Header::default()
        };
        header.total_len =
            self.total_length.unwrap_or_else(|| (header.header_len() + payload) as u16);
        // etherparse cannot say what is wrong on purpose; the bytes can.
        let mut bytes = header.to_bytes().to_vec();
        bytes[0] = self.version << 4 | self.ihl.unwrap_or(bytes[0] & 0x0f);
        bytes[1] = self.tos;
        bytes[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        bytes[10..12].fill(0);
        let checksum = Sum16BitWords::new().add_slice(&bytes).ones_complement().to_be();
        let checksum = if self.wrong_checksum { checksum ^ 0x0100 } else { checksum };
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}
