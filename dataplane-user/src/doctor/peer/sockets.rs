//! The sockets of a conversation with a peer.
//!
//! Answers are heard by a packet socket, in front of routing and `rp_filter`, which would drop an
//! answer of the peer's node address that arrives on the tunnel device. It is one for IPv4 alone: such
//! a socket gets packets behind TC's programs and takes no XDP metadata away. Errors are heard by a raw
//! ICMP socket.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::kernel::socket_filter;

sockopt_impl!(
    /// Whether the kernel applies path MTUs to what the socket sends.
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    i32
);

sockopt_impl!(
    /// Keeps connection tracking from waiting for the rest of a fragment.
    NoDefragmentation,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_NODEFRAG,
    i32
);

/// `ETH_P_IP`, as the kernel wants it: in network byte order.
const IPV4: i32 = (libc::ETH_P_IP as u16).to_be() as i32;
/// Where an IPv4 header has its source.
const SOURCE: u32 = 12;
/// Room for what arrives in a burst, bytes.
const ROOM: usize = 1 << 20;

/// Sends packets whose IP header the caller wrote, and hears answers and errors.
pub struct Sockets {
    mouth: Socket,
    answers: UdpSocket,
    errors: UdpSocket,
}

impl Sockets {
    /// Opens them. Answers are heard from these addresses alone.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn open(from: &[Ipv4Addr]) -> io::Result<Self> {
        let mouth = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        setsockopt(&mouth, MtuDiscover, &libc::IP_PMTUDISC_PROBE)?;
        setsockopt(&mouth, NoDefragmentation, &1)?;
        mouth.set_send_buffer_size(ROOM)?;
        let answers = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(IPV4)))?;
        let from: Vec<u32> = from.iter().copied().map(u32::from).collect();
        answers.attach_filter(&socket_filter::by_word(SOURCE, &from, u32::MAX, 0))?;
        let errors = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        Ok(Self { mouth, answers: asynchronous(answers)?, errors: asynchronous(errors)? })
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// If the kernel refuses it: there is no path, or it is larger than the link's MTU.
    pub fn send(&self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        self.mouth.send_to(packet, &SocketAddr::from((to, 0)).into()).map(drop)
    }

    /// Waits for the next packet, and reads it from its IP header on.
    ///
    /// # Errors
    /// If the kernel has one for a socket.
    pub async fn receive<'a>(&self, buffers: &'a mut [Vec<u8>; 2]) -> io::Result<&'a [u8]> {
        let [answer, error] = buffers;
        tokio::select! {
            length = self.answers.recv(answer) => Ok(&answer[..length?]),
            length = self.errors.recv(error) => Ok(&error[..length?]),
        }
    }
}

/// To tokio every socket that sends and receives single packets is one of UDP.
fn asynchronous(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_recv_buffer_size(ROOM)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}
