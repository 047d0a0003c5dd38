//! Which flow a packet belongs to, as far as flows are leased.

use dataplane_common::{
    Direction, Flow,
    ipv4::{Ipv4Header, OUTER_LENGTH, PROTOCOL_TCP, PROTOCOL_UDP},
};

use crate::packet::Frame;

const FIN: u16 = 0x01;
const SYN: u16 = 0x02;
const RST: u16 = 0x04;
const ACK: u16 = 0x10;
/// TCP flags with which connections begin and end.
pub const CONNECTION_CONTROL: u16 = SYN | FIN | RST;

/// Length of a UDP header, bytes (RFC 768).
pub const UDP_HEADER: u32 = 8;
const TCP_HEADER: u32 = 20;

/// Where TCP keeps data offset and flags, bytes into its header (RFC 9293 §3.1).
pub const TCP_OFFSET_AND_FLAGS: usize = 12;
/// From the IP header on, without options: all that [`read`] looks at.
pub const HEADERS: usize = OUTER_LENGTH + TCP_OFFSET_AND_FLAGS + size_of::<u16>();

/// A packet of a flow.
pub struct Seen {
    pub flow: Flow,
    pub control: Control,
}

/// What a packet does to its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    None,
    /// It accepts the connection: TCP SYN with ACK.
    Accepts,
    /// It asks for one, or ends it: any other TCP SYN, FIN or RST.
    Other,
}

impl Control {
    /// Of TCP's data offset and flags, network byte order.
    #[inline(always)]
    fn of(flags: u16) -> Self {
        if flags & CONNECTION_CONTROL.to_be() == 0 {
            Self::None
        } else if flags & (CONNECTION_CONTROL | ACK).to_be() == (SYN | ACK).to_be() {
            Self::Accepts
        } else {
            Self::Other
        }
    }
}

/// Why the fast path does not take a packet, or no lease for it.
#[derive(Clone, Copy)]
pub enum NoFlow {
    /// Its ports are elsewhere, and a router has to look at them.
    Options,
    /// Not every fragment has ports.
    Fragment,
    /// Neither TCP nor UDP, or too short for either.
    NoPorts,
}

/// What in an IP header keeps any packet from the fast path.
#[inline(always)]
pub fn special(header: &Ipv4Header) -> Option<NoFlow> {
    if header.has_options() {
        return Some(NoFlow::Options);
    }
    header.is_fragment().then_some(NoFlow::Fragment)
}

/// The flow of the packet whose IP header, `header`, is `at` bytes into the frame.
#[inline(always)]
pub fn read(
    frame: Frame,
    at: usize,
    header: &Ipv4Header,
    direction: Direction,
) -> Result<Seen, NoFlow> {
    // As `special`, whose answer would be two instructions more for each leased packet.
    if header.has_options() {
        return Err(NoFlow::Options);
    }
    if header.is_fragment() {
        return Err(NoFlow::Fragment);
    }
    // A GSO packet may say 0 (BIG TCP).
    let length = header.total_length();
    let least = match header.protocol() {
        PROTOCOL_TCP => TCP_HEADER,
        _ => UDP_HEADER,
    };
    if length != 0 && length < OUTER_LENGTH as u32 + least {
        return Err(NoFlow::NoPorts);
    }
    let transport = at + OUTER_LENGTH;
    let control = match header.protocol() {
        PROTOCOL_UDP => Control::None,
        PROTOCOL_TCP => {
            Control::of(frame.read(transport + TCP_OFFSET_AND_FLAGS).ok_or(NoFlow::NoPorts)?)
        }
        _ => return Err(NoFlow::NoPorts),
    };
    let ports = frame.ports(transport).ok_or(NoFlow::NoPorts)?;
    let (source, destination) = (header.source(), header.destination());
    let flow = Flow::new(source, destination, ports, header.protocol(), direction);
    Ok(Seen { flow, control })
}
