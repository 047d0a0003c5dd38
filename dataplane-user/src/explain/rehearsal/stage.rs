//! The namespace: two interfaces, named as on the host, and the way from one to the other.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use etherparse::{Ethernet2Header, ether_type};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// The far end of the interface by which the packet comes.
const SENDER: &str = "rehearsal-from";
/// The far end of the one by which it leaves.
const RECEIVER: &str = "rehearsal-to";
/// Of the interface by which the packet comes.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Between which interfaces the packet is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenery {
    /// By which it comes.
    pub came_by: String,
    /// By which it leaves.
    pub leaves_by: String,
    /// Who sends it: the way to there is where it comes from.
    pub source: Ipv4Addr,
    /// The node's own address, for rules that masquerade.
    pub node: Ipv4Addr,
}

/// This thread's namespace.
pub struct Stage {
    sender: Socket,
}

impl Stage {
    /// Puts this thread into a namespace of its own.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter(scenery: &Scenery) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace for the rules")?;
        // Of this thread's namespace, as all of /proc/sys/net.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("net.ipv4.ip_forward there")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(build(scenery)).context("interfaces to try the rules with")?;
        Ok(Self { sender: packet_socket(SENDER)? })
    }

    /// Sends a packet from its IP header on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let ethernet = Ethernet2Header {
            source: [2, 0, 0, 0, 0, 2],
            destination: MAC,
            ether_type: ether_type::IPV4,
        };
        let frame = [&ethernet.to_bytes()[..], packet].concat();
        self.sender.send(&frame).context("sending the packet into the rules").map(drop)
    }
}

async fn build(scenery: &Scenery) -> Result<()> {
    let Scenery { came_by, leaves_by, source, node } = scenery;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let arrival = pair(&handle, came_by, SENDER).await?;
    let departure = match came_by == leaves_by {
        true => arrival,
        false => pair(&handle, leaves_by, RECEIVER).await?,
    };
    handle.address().add(departure, (*node).into(), 32).execute().await?;
    for (to, length, by) in [(*source, 32, arrival), (Ipv4Addr::UNSPECIFIED, 0, departure)] {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, length)
            .output_interface(by);
        handle.route().add(route.build()).execute().await?;
    }
    connection.abort();
    Ok(())
}

/// Makes an interface that needs no neighbours; returns its index.
async fn pair(handle: &Handle, name: &str, far_end: &str) -> Result<u32> {
    handle.link().add(LinkVeth::new(name, far_end).build()).execute().await?;
    let index = |name: &str| if_nametoindex(name).with_context(|| format!("interface {name}"));
    for (end, name) in [(index(name)?, name), (index(far_end)?, far_end)] {
        let link = LinkUnspec::new_with_index(end).arp(false).up();
        let link = match name == far_end {
            true => link,
            false => link.address(MAC.to_vec()),
        };
        handle.link().set(link.build()).execute().await?;
    }
    index(name)
}

/// A socket that sends frames out of an interface.
fn packet_socket(interface: &str) -> Result<Socket> {
    // Protocol 0: it hears nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a `sockaddr_ll` fits into the storage, and zeros are a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an address of this family and length.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address).with_context(|| format!("a socket on {interface}"))?;
    Ok(socket)
}
