//! A raw protocol-4 socket, which hears what no program of ours took.
//!
//! While one is open, the kernel takes "fragmentation needed" for our outer packets to heart
//! (path MTU), and does not answer "protocol unreachable" to IPIP that we pass up because we do
//! not know it. And it hears encapsulated packets on links that have no program of ours: the
//! fabric sends by them, and nothing else would show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    time::Duration,
};

use dataplane_common::{IfIndex, ipv4::PROTOCOL_IPIP};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::time::Instant;

use crate::kernel::socket_filter;

/// How long a packet shows that the fabric sends by a link.
const FRESH: Duration = Duration::from_secs(60);
/// So few packets are kept until they are read, bytes of the kernel's buffers: one is enough.
const ROOM: usize = 4096;
/// What is kept of each, bytes: its header.
const HEADER: u32 = 20;
/// `SKF_AD_OFF + SKF_AD_IFINDEX` (`linux/filter.h`): the link that a packet came by.
const IFINDEX: u32 = (-0x1000_i32 + 8).cast_unsigned();

/// Hears encapsulated packets on links without programs of ours.
pub struct Elsewhere {
    socket: Option<Socket>,
    /// Links whose packets are not heard: programs take them.
    hooked: BTreeSet<IfIndex>,
    /// The last sender on a link, and when it was heard.
    heard: BTreeMap<IfIndex, (Ipv4Addr, Instant)>,
}

impl Elsewhere {
    /// Opens the socket. Without one everything works but path MTU discovery and this.
    #[must_use]
    pub fn open() -> Self {
        let open = || {
            let protocol = Protocol::from(i32::from(PROTOCOL_IPIP));
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
            // Nothing is kept until it is known on which links programs are.
            socket.attach_filter(&socket_filter::nothing())?;
            socket.set_nonblocking(true)?;
            socket.set_recv_buffer_size(ROOM)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            io::Result::Ok(socket)
        };
        let socket = open()
            .inspect_err(|error| tracing::warn!("no raw socket, so no path MTU discovery: {error}"))
            .ok();
        Self { socket, hooked: BTreeSet::new(), heard: BTreeMap::new() }
    }

    /// Hears what comes by other links than these from now on.
    pub fn listen_beside(&mut self, hooked: &BTreeSet<IfIndex>) {
        let Some(socket) = self.socket.as_ref().filter(|_| *hooked != self.hooked) else { return };
        match socket.attach_filter(&beside(hooked)) {
            Ok(()) => self.hooked.clone_from(hooked),
            Err(error) => tracing::warn!("packets on other links are not heard: {error}"),
        }
        self.heard.retain(|link, _| !self.hooked.contains(link));
    }

    /// Returns who was heard on which links lately, by what has come since the last call.
    pub fn heard(&mut self, now: Instant) -> impl Iterator<Item = (IfIndex, Ipv4Addr)> {
        while let Some((link, sender)) = self.socket.as_ref().and_then(receive) {
            if !self.hooked.contains(&link) {
                self.heard.insert(link, (sender, now));
            }
        }
        self.heard.retain(|_, (_, at)| now.duration_since(*at) < FRESH);
        self.heard.iter().map(|(link, (sender, _))| (*link, *sender))
    }
}

/// Keeps the header of packets that came by none of these links.
fn beside(hooked: &BTreeSet<IfIndex>) -> Vec<SockFilter> {
    let hooked: Vec<u32> = hooked.iter().map(|link| link.0).collect();
    socket_filter::by_word(IFINDEX, &hooked, 0, HEADER)
}

/// The next packet's link and sender, if there is any.
fn receive(socket: &Socket) -> Option<(IfIndex, Ipv4Addr)> {
    let mut header = [0; HEADER as usize];
    let mut room = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [io::IoSliceMut::new(&mut header)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags).ok()?;
    let sender = message.address?.ip();
    let link = message.cmsgs().ok()?.find_map(|cmsg| match cmsg {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        _ => None,
    })?;
    Some((IfIndex(link), sender))
}
