//! Something changed: look again.
//!
//! Which change it was does not matter here. The daemon compares what should
//! be with what is; an event only says that it is time to. So an overrun of
//! the socket, which loses events, is one more event.

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket as _, SocketAddr},
};

/// Room for the events of a few thousand pods appearing at once, bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The kernel's announcements of links, qdiscs, addresses, routes and neighbours.
pub struct Events {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
}

impl Events {
    /// Subscribes. To miss nothing, do so before the first look.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn subscribe() -> Result<Self> {
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Tc,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Neigh,
        ])
        .context("no netlink socket to be had for events")?;
        // Without the right to force it the default has to do: an overrun is noticed.
        let socket: &rtnetlink::sys::Socket = connection.socket_mut().socket_mut();
        let _ = setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER);
        tokio::spawn(connection);
        Ok(Self { messages })
    }

    /// Waits for a change; then takes in all that are there already.
    ///
    /// # Errors
    /// If the socket is gone for good.
    pub async fn changed(&mut self) -> Result<()> {
        self.messages.next().await.context("the kernel closed the netlink socket")?;
        while self.messages.try_recv().is_ok() {}
        Ok(())
    }
}
