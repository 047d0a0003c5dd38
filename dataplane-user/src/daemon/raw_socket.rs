//! A raw protocol-4 socket that nobody reads.
//!
//! While one is open, the kernel takes "fragmentation needed" for our outer
//! packets to heart (path MTU), and does not answer "protocol unreachable" to
//! IPIP that we pass up because we do not know it.

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use dataplane_common::ipv4::PROTOCOL_IPIP;

/// Opens it. Without one everything works but path MTU discovery.
#[must_use]
pub fn open() -> Option<Socket> {
    let open = || {
        let protocol = Protocol::from(i32::from(PROTOCOL_IPIP));
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol))?;
        // BPF_RET|BPF_K 0: keep nothing of any packet.
        socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
        std::io::Result::Ok(socket)
    };
    open()
        .inspect_err(|error| tracing::warn!("no raw socket, so no path MTU discovery: {error}"))
        .ok()
}
