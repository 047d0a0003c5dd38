//! Somebody changed nftables' rules: look at our table again.
//!
//! `nft flush ruleset`, which firewall managers do, takes it along.

use std::{future::poll_fn, io};

use anyhow::{Context as _, Result};
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};

/// `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;

/// The kernel's announcements of changed rules, of everybody's tables.
pub struct RuleEvents(TokioSocket);

impl RuleEvents {
    /// Subscribes.
    ///
    /// # Errors
    /// If there is no such socket to be had.
    pub fn subscribe() -> Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            socket.socket_mut().add_membership(GROUP)?;
            Ok(socket)
        };
        open().map(Self).context("no netlink socket to be had for events of nftables")
    }

    /// Waits for a change. Nothing is read from it, so an overrun of the socket
    /// is one more.
    ///
    /// # Errors
    /// If the socket is gone for good.
    pub async fn changed(&mut self) -> Result<()> {
        let mut message = Vec::with_capacity(1 << 16);
        match poll_fn(|context| self.0.poll_recv(context, &mut message)).await {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => {
                Err(error).context("events of nftables")
            }
            _ => Ok(()),
        }
    }
}
