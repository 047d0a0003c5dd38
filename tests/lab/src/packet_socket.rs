//! An `AF_PACKET` socket on one interface: whole frames, in and out.
//!
//! The crate's only `unsafe`: neither std, nix nor socket2 can make the address
//! of an interface without it.

use std::{io::IoSliceMut, mem, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    cmsg_space,
    errno::Errno,
    getsockopt_impl, libc,
    net::if_::if_nametoindex,
    setsockopt_impl, sockopt_impl,
    sys::socket::{
        ControlMessageOwned, LinkAddr, MsgFlags, SockaddrLike as _, bind, getsockopt, recvmsg,
        setsockopt, sockopt::RcvBufForce,
    },
};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

sockopt_impl!(
    /// `PACKET_STATISTICS`: packets seen and dropped since the last question.
    PacketStatistics,
    GetOnly,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats
);

sockopt_impl!(
    /// `PACKET_AUXDATA`: each frame comes with its VLAN tag, which the kernel keeps beside it.
    PacketAuxdata,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_AUXDATA,
    bool
);

/// Which way a frame went, seen from the interface it was captured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came from the wire, for us, for somebody else, or for all.
    In,
    /// We sent it.
    Out,
}

/// What a socket received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes of the frame.
    pub length: usize,
    /// Which way it went.
    pub direction: Direction,
    /// The VLAN tag beside it (priority and VLAN, IEEE 802.1Q §9.6), if it had one.
    pub vlan: Option<u16>,
}

#[derive(Debug)]
pub(crate) struct PacketSocket(Socket);

impl PacketSocket {
    /// A socket that only sends.
    pub fn sender(netns: &Netns, interface: &str) -> Result<Self> {
        Self::open(netns, interface, 0)
    }

    /// A socket that sees every frame from the moment this returns on.
    pub fn receiver(netns: &Netns, interface: &str, tick: Duration) -> Result<Self> {
        let protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(0);
        let socket = Self::open(netns, interface, protocol)?;
        // Deep enough for a second of TCP that nobody reads.
        setsockopt(&socket.0, RcvBufForce, &(64 << 20)).context("cannot set SO_RCVBUFFORCE")?;
        setsockopt(&socket.0, PacketAuxdata, &true).context("cannot set PACKET_AUXDATA")?;
        socket.0.set_read_timeout(Some(tick))?;
        Ok(socket)
    }

    fn open(netns: &Netns, interface: &str, protocol: u16) -> Result<Self> {
        let socket = netns.run(|| {
            let index = if_nametoindex(interface)
                .with_context(|| format!("no interface {interface} in {}", netns.name()))?;
            // Protocol 0 until bound: no frame of another interface slips in.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)
                .context("cannot make an AF_PACKET socket")?;
            bind(socket.as_raw_fd(), &link_address(index, protocol)?)
                .with_context(|| format!("cannot bind to {interface}"))?;
            Ok(socket)
        })?;
        Ok(Self(socket))
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.0.send(frame).map(drop).with_context(|| format!("cannot send {} bytes", frame.len()))
    }

    /// The next frame, or nothing when a tick passes without one.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<Received>> {
        let mut control = cmsg_space!(libc::tpacket_auxdata);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::empty();
        match recvmsg::<LinkAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => {
                let outgoing =
                    message.address.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                let direction = if outgoing { Direction::Out } else { Direction::In };
                let vlan = message.cmsgs()?.find_map(|it| vlan_of(&it));
                Ok(Some(Received { length: message.bytes, direction, vlan }))
            }
            // ENETDOWN: the interface went away; its frames so far still count.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => Ok(None),
            Err(error) => Err(error).context("cannot receive"),
        }
    }

    /// From now on `receive` does not wait.
    pub fn stop_waiting(&self) -> Result<()> {
        self.0.set_nonblocking(true).context("cannot make the socket non-blocking")
    }

    /// Frames that came while the buffer was full, since the last question.
    pub fn dropped(&self) -> Result<u32> {
        Ok(getsockopt(&self.0, PacketStatistics).context("cannot get statistics")?.tp_drops)
    }
}

/// The tag in a `struct tpacket_auxdata` (`include/uapi/linux/if_packet.h`), if it says that there is
/// one.
fn vlan_of(message: &ControlMessageOwned) -> Option<u16> {
    let ControlMessageOwned::Unknown(message) = message else { return None };
    let header = (message.cmsg_header.cmsg_level, message.cmsg_header.cmsg_type);
    if header != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    let bytes = &message.data_bytes;
    let status = u32::from_ne_bytes(*bytes.first_chunk()?);
    let tag = bytes.get(mem::offset_of!(libc::tpacket_auxdata, tp_vlan_tci)..)?.first_chunk()?;
    (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(u16::from_ne_bytes(*tag))
}

/// `sockaddr_ll` of an interface.
fn link_address(index: u32, protocol: u16) -> Result<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(mem::size_of_val(&raw))?;
    // SAFETY: the pointer is to a whole `sockaddr_ll` of that length, which
    // outlives the call; the call copies it.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.context("cannot make a link address")
}
