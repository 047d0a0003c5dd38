//! Something changed: look again.
//!
//! Which change it was matters only for routes and neighbours, of which there may be
//! thousands: the daemon knows its own routes, takes a single one of Felix's or BIRD's
//! for what it is, and a neighbour for the way to a few nodes. For all the rest it
//! compares what should be with what is; an event only says that it is time to. So an
//! overrun of the socket, which loses events, is one more event.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Context as _, Result};
use dataplane_common::IfIndex;
use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use ipnet::Ipv4Net;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{RouteNetlinkMessage, neighbour::NeighbourMessage, route::RouteMessage};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket as _, SocketAddr},
};

/// Room for the events of a few thousand pods appearing at once, bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

use super::{KernelRoute, Neighbour, snapshot};
use crate::address::is_single;

/// A route of the main table came, changed or went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteChange {
    /// The route.
    pub route: KernelRoute,
    /// It is there now; else it is gone.
    pub is_there: bool,
}

/// What happened since the last time.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    /// Routes, in order.
    pub routes: Vec<RouteChange>,
    /// Prefixes of routes in other tables.
    pub other_tables: BTreeSet<Ipv4Net>,
    /// Neighbours, by interface and address; `None`: cannot be sent to any more.
    pub neighbours: BTreeMap<(IfIndex, Ipv4Addr), Option<Neighbour>>,
    /// Something else, or nobody knows what: look at everything.
    pub is_unknown: bool,
}

impl Changes {
    /// Adds what happened later.
    pub fn append(&mut self, later: Self) {
        self.routes.extend(later.routes);
        self.other_tables.extend(later.other_tables);
        self.neighbours.extend(later.neighbours);
        self.is_unknown |= later.is_unknown;
    }

    fn add(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            self.is_unknown = true;
            return;
        };
        match message {
            RouteNetlinkMessage::NewRoute(message) => self.add_route(&message, true),
            RouteNetlinkMessage::DelRoute(message) => self.add_route(&message, false),
            RouteNetlinkMessage::NewNeighbour(message) => {
                let valid = snapshot::neighbour(&message).map(|(_, neighbour)| neighbour);
                self.add_neighbour(&message, valid);
            }
            RouteNetlinkMessage::DelNeighbour(message) => self.add_neighbour(&message, None),
            _ => self.is_unknown = true,
        }
    }

    fn add_route(&mut self, message: &RouteMessage, is_there: bool) {
        match snapshot::table_route(message) {
            Some((snapshot::MAIN, route)) => self.routes.push(RouteChange { route, is_there }),
            // An address brings one, and announces itself.
            Some((snapshot::LOCAL, route)) => self.is_unknown |= !is_single(route.destination),
            Some((_, route)) => drop(self.other_tables.insert(route.destination)),
            None => {}
        }
    }

    fn add_neighbour(&mut self, message: &NeighbourMessage, valid: Option<Neighbour>) {
        if let Some(key) = snapshot::neighbour_key(message) {
            self.neighbours.insert(key, valid);
        }
    }
}

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
            MulticastGroup::Ipv4Rule,
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
    pub async fn changed(&mut self) -> Result<Changes> {
        let mut changes = Changes::default();
        let (first, _) =
            self.messages.next().await.context("the kernel closed the netlink socket")?;
        changes.add(first);
        changes.append(self.pending());
        Ok(changes)
    }

    /// All that is there already.
    pub fn pending(&mut self) -> Changes {
        let mut changes = Changes::default();
        while let Ok((next, _)) = self.messages.try_recv() {
            changes.add(next);
        }
        changes
    }
}
