//! A raw ICMP socket that gets errors about IP-in-IP, and sends errors to pods.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use dataplane_common::ipv4::PROTOCOL_IPIP;
use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

/// `linux/icmp.h`; libc has no name for it.
const ICMP_FILTER: libc::c_int = 1;

sockopt_impl!(
    /// A bit for each type that is not wanted.
    IcmpFilter,
    SetOnly,
    libc::SOL_RAW,
    ICMP_FILTER,
    u32
);

/// Destination Unreachable and Time Exceeded, nothing else.
const WANTED: u32 = 1 << 3 | 1 << 11;
/// Internetwork control, as the kernel's own errors (RFC 1812 §4.3.2.5).
const TOS: u32 = 0xc0;

/// The socket. It is nobody's for ICMP in particular: each gets a copy. To tokio
/// every socket that sends and receives single packets is one of UDP.
pub struct IcmpSocket(UdpSocket);

impl IcmpSocket {
    /// Opens it.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        setsockopt(&socket, IcmpFilter, &!WANTED)?;
        socket.attach_filter(&about_ipip())?;
        socket.set_tos_v4(TOS)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket.into()).map(Self)
    }

    /// Waits for a packet, and reads it from its IP header on.
    ///
    /// # Errors
    /// If the kernel has one for the socket.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer).await
    }

    /// Sends an ICMP message; the kernel writes the IP header. It does not wait.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn send(&self, message: &[u8], to: Ipv4Addr) -> io::Result<()> {
        self.0.try_send_to(message, SocketAddr::from((to, 0))).map(drop)
    }
}

/// Keeps messages that quote a packet of protocol 4: what a busy host is told
/// of its other conversations does not wake us.
fn about_ipip() -> [SockFilter; 5] {
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_BYTE_BEHIND: u16 = 0x50;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Behind the IP header: 8 bytes of ICMP, then the quoted header's tenth byte.
    const QUOTED_PROTOCOL: u32 = 8 + 9;
    [
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_BYTE_BEHIND, 0, 0, QUOTED_PROTOCOL),
        SockFilter::new(IF_EQUAL, 0, 1, PROTOCOL_IPIP.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
