//! A raw socket on an interface: whole frames out, whole frames in.

use std::{
    io::{IoSliceMut, Write as _},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::netns::check;

/// How long a packet may take from one end of a veth to the other. Only a
/// failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// `struct virtio_net_hdr`, which a socket with `PACKET_VNET_HDR` puts before
/// each frame (<https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html> §5.1.6).
const VNET_HEADER: usize = 10;

/// How a frame is to be put into an skb.
#[derive(Clone, Copy, Default, Debug)]
pub struct Shape {
    /// Segment payload of a TCP GSO packet; 0 for any other packet.
    pub gso_size: u16,
    /// Where its TCP header starts.
    pub transport: u16,
    /// Bytes of it in the linear part, the rest in pages; 0 for all.
    pub linear: u16,
}

impl Shape {
    fn header(self) -> [u8; VNET_HEADER] {
        const NEEDS_CHECKSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const TCP_CHECKSUM_AT: u16 = 16;
        let mut header = [0; VNET_HEADER];
        header[2..4].copy_from_slice(&self.linear.to_le_bytes());
        if self.gso_size != 0 {
            header[0] = NEEDS_CHECKSUM;
            header[1] = GSO_TCPV4;
            header[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
            header[6..8].copy_from_slice(&self.transport.to_le_bytes());
            header[8..10].copy_from_slice(&TCP_CHECKSUM_AT.to_le_bytes());
        }
        header
    }
}

/// Sends to and receives from one interface.
pub struct Wire {
    socket: Socket,
    name: String,
}

impl Wire {
    /// On the interface `name` of this thread's namespace.
    #[must_use]
    pub fn open(name: &str) -> Self {
        let every = (libc::ETH_P_ALL as u16).to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every))))
            .expect("a packet socket can be opened: these tests run as root");
        let index = nix::net::if_::if_nametoindex(name).expect("the interface exists");
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: sockaddr_ll is what an AF_PACKET address is.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the storage holds an address of this length.
        let address = unsafe { SockAddr::new(storage, length) };
        socket.bind(&address).expect("the socket binds to its interface");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let options = [libc::PACKET_IGNORE_OUTGOING, libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA];
        for option in options {
            let on: libc::c_int = 1;
            // SAFETY: a pointer to an int that outlives the call, and its size.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    option,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                )
            };
            check(result, "a packet socket option");
        }
        Self { socket, name: name.to_string() }
    }

    /// Sends one frame. Whether it leaves is the egress program's choice.
    pub fn send(&self, frame: &[u8], shape: Shape) {
        let bytes = [&shape.header(), frame].concat();
        match (&self.socket).write(&bytes) {
            Ok(sent) => assert_eq!(sent, bytes.len(), "a frame is sent whole or not at all"),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => panic!("sending {} bytes on {}: {error}", frame.len(), self.name),
        }
    }

    /// The next frame, or `None` if none comes.
    #[must_use]
    pub fn receive(&self) -> Option<Received> {
        let mut buffer = vec![0; VNET_HEADER + (1 << 16) + 64];
        let mut control = cmsg_space!(libc::tpacket_auxdata);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let fd = self.socket.as_raw_fd();
        let received = recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty());
        let (length, is_tagged) = match received {
            Ok(message) => {
                let mut messages = message.cmsgs().expect("control messages fit");
                (message.bytes, messages.any(|it| is_tagged(&it)))
            }
            Err(Errno::EAGAIN) => return None,
            Err(error) => panic!("receiving on {}: {error}", self.name),
        };
        let gso_size = u16::from_le_bytes([buffer[4], buffer[5]]);
        Some(Received { frame: buffer[VNET_HEADER..length].to_vec(), gso_size, is_tagged })
    }

    /// Throws away what has come so far.
    pub fn drain(&self) {
        self.socket.set_nonblocking(true).expect("a socket can be made not to wait");
        while self.receive().is_some() {}
        self.socket.set_nonblocking(false).expect("a socket can be made to wait");
    }
}

/// Whether `struct tpacket_auxdata` says that the frame had a VLAN tag, be it of VLAN 0.
fn is_tagged(message: &ControlMessageOwned) -> bool {
    let ControlMessageOwned::Unknown(message) = message else { return false };
    let header = (message.cmsg_header.cmsg_level, message.cmsg_header.cmsg_type);
    let Some(status) = message.data_bytes.first_chunk() else { return false };
    header == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        && u32::from_ne_bytes(*status) & libc::TP_STATUS_VLAN_VALID != 0
}

/// A frame that arrived.
pub struct Received {
    /// Whole, Ethernet header included.
    pub frame: Vec<u8>,
    /// Segment payload if it still is a GSO packet, else 0.
    pub gso_size: u16,
    /// Whether it came with a VLAN tag; the tag is not in the frame.
    pub is_tagged: bool,
}
