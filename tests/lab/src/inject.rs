//! Putting a hand-made frame on a wire.
//!
//! MACs come from the topology: a frame for node1 leaves the router's port with
//! [`crate::Node::mac`] as its destination, as [`Node::inject`] does. The
//! packets come from [`crate::packet`].

use anyhow::Result;

use crate::{
    addr::CALI_MAC,
    netns::Netns,
    packet::{IPV4, ethernet},
    packet_socket::PacketSocket,
    pod::Pod,
    topology::Node,
};

/// Sends a frame out of an interface of a namespace.
pub fn inject(netns: &Netns, interface: &str, frame: &[u8]) -> Result<()> {
    Injector::new(netns, interface)?.send(frame)
}

/// An interface to send many frames out of, by one socket.
#[derive(Debug)]
pub struct Injector(PacketSocket);

impl Injector {
    /// Opens the socket.
    pub fn new(netns: &Netns, interface: &str) -> Result<Self> {
        PacketSocket::sender(netns, interface).map(Self)
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.0.send(frame)
    }
}

impl Node {
    /// Puts an IPv4 packet on the wire so that it arrives at this node's
    /// `eth0`, as if the router had sent it (and past the fabric filter).
    pub fn inject(&self, router: &Netns, packet: &[u8]) -> Result<()> {
        let frame = ethernet(self.mac, self.gateway_mac, IPV4, packet);
        inject(router, &self.router_port, &frame)
    }
}

impl Pod {
    /// Sends an IPv4 packet out of the pod, as a program with a raw socket could:
    /// whatever it says.
    pub fn inject(&self, packet: &[u8]) -> Result<()> {
        inject(&self.netns, "eth0", &ethernet(CALI_MAC, self.mac, IPV4, packet))
    }
}
