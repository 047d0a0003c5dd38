//! The kernel's network state, by rtnetlink: watched, read whole, changed.
//!
//! Everything here acts in the network namespace the process is in.

mod announcements;
pub mod conntrack;
mod device;
mod events;
mod filters;
mod host;
mod neighbours;
mod nftables;
mod path;
mod pod_traffic;
pub mod receive_queues;
mod routes;
mod snapshot;
pub mod socket_filter;
mod tunl0;
mod xdp;
mod xfrm;

use anyhow::{Context as _, Result};
use dataplane_common::IfIndex;
use rtnetlink::Handle;

pub use self::{
    announcements::Announcements,
    device::{TUNNEL, TUNNEL_PEER, TunnelDevice, is_tunnel_of, tunnel_owner},
    events::{Changes, Events, RouteChange},
    filters::Filter,
    host::{Host, KernelRoute, Link, Neighbour},
    nftables::{Attributes, BaseChain, Expression, Flowtable, Rule},
    path::{Forward, Path, Refused},
    pod_traffic::PodTraffic,
    routes::{METRIC, PROTOCOL, TunnelRoute},
    tunl0::TUNL0,
    xfrm::{Policy, PolicyDirection, PolicyMark},
};

/// A connection for requests.
#[derive(Clone)]
pub struct Kernel {
    handle: Handle,
    /// `None`: the kernel has no xfrm.
    xfrm: Option<xfrm::Xfrm>,
    /// `None`: the kernel has no nfnetlink.
    nftables: Option<nftables::Nftables>,
}

impl Kernel {
    /// Connects; the connection runs as a task of the current runtime.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("no netlink socket to be had")?;
        tokio::spawn(connection);
        Ok(Self { handle, xfrm: xfrm::Xfrm::connect(), nftables: nftables::Nftables::connect() })
    }
}

impl Kernel {
    /// Returns the rules of a chain of nftables, family `ip`; none if there is no such chain.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn nft_rules(&self, table: &str, chain: &str) -> Result<Vec<Rule>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.rules(table, chain).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the chains of nftables that the kernel calls itself for IPv4 packets.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn nft_base_chains(&self) -> Result<Vec<BaseChain>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.base_chains().await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the rules of a chain in the table of such a chain.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn nft_rules_beside(&self, base: &BaseChain, chain: &str) -> Result<Vec<Rule>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.rules_beside(base, chain).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the rules of all chains of a table, with the chain of each.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn nft_rules_of_table(
        &self,
        family: i32,
        table: &str,
    ) -> Result<Vec<(String, Rule)>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.rules_of_table(family, table).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the elements of a set or map in that table.
    ///
    /// # Errors
    /// If the kernel refuses the dump; there may be no such set.
    pub async fn nft_elements_beside(
        &self,
        base: &BaseChain,
        set: &str,
    ) -> Result<Vec<Attributes>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.elements_beside(base, set).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the names, and tables, of the objects of nftables that hold timers of connections.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn nft_timeouts(&self) -> Result<Vec<(String, String)>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.timeouts().await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the flowtables of nftables.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn flowtables(&self) -> Result<Vec<Flowtable>> {
        match self.nftables.clone() {
            Some(mut nftables) => nftables.flowtables().await,
            None => Ok(Vec::new()),
        }
    }
}

/// An interface's name in this network namespace; `#7` of one that is gone.
#[must_use]
pub fn interface_name(ifindex: IfIndex) -> String {
    // nix returns an empty name where the kernel knows none.
    nix::net::if_::if_indextoname(ifindex.0)
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("#{ifindex}"))
}

/// The kernel's error number of a refused request.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

/// A refused request in the kernel's own words.
fn explain(error: rtnetlink::Error) -> anyhow::Error {
    match errno(&error) {
        Some(number) => std::io::Error::from_raw_os_error(number).into(),
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_gone_has_a_number() {
        assert_eq!(interface_name(IfIndex(1)), "lo");
        assert_eq!(interface_name(IfIndex(u32::MAX >> 1)), "#2147483647");
    }
}
