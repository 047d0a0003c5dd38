//! Something of which only that it changed matters, not what: nftables' rules, xfrm's policies.
//!
//! `nft flush ruleset`, which firewall managers do, takes our table along.

use std::{future::poll_fn, io};

use anyhow::{Context as _, Result};
use netlink_packet_xfrm::constants::XFRMNLGRP_POLICY;
use rtnetlink::sys::{
    AsyncSocket as _, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_XFRM},
};

/// `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const NFNLGRP_NFTABLES: u32 = 7;

/// The kernel's announcements of one kind.
pub struct Announcements {
    socket: TokioSocket,
    what: &'static str,
}

impl Announcements {
    /// Subscribes to changes of all nftables rules, whichever program makes them.
    ///
    /// # Errors
    /// If there is no such socket to be had.
    pub fn of_nftables() -> Result<Self> {
        Self::subscribe(NETLINK_NETFILTER, NFNLGRP_NFTABLES, "nftables")
    }

    /// Subscribes to changes of xfrm (IPsec) policies.
    ///
    /// # Errors
    /// If there is no such socket to be had: a kernel without xfrm has none.
    pub fn of_xfrm() -> Result<Self> {
        Self::subscribe(NETLINK_XFRM, XFRMNLGRP_POLICY, "xfrm policies")
    }

    fn subscribe(protocol: isize, group: u32, what: &'static str) -> Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(protocol)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            socket.socket_mut().add_membership(group)?;
            Ok(socket)
        };
        let socket =
            open().with_context(|| format!("no netlink socket to be had for events of {what}"))?;
        Ok(Self { socket, what })
    }

    /// Waits for a change. Nothing is read from it, so an overrun of the socket
    /// is one more.
    ///
    /// # Errors
    /// If the socket is gone for good.
    pub async fn changed(&mut self) -> Result<()> {
        let mut message = Vec::with_capacity(1 << 16);
        match poll_fn(|context| self.socket.poll_recv(context, &mut message)).await {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => {
                Err(error).with_context(|| format!("events of {}", self.what))
            }
            _ => Ok(()),
        }
    }
}
