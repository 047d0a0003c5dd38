//! Neighbour entries that we make use of behind the kernel's back.

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::IfIndex;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};

use super::{Kernel, explain};

impl Kernel {
    /// Tells the kernel that the entry is in use (`NTF_USE`): a stale one is
    /// asked for again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn use_neighbour(&self, ifindex: IfIndex, address: Ipv4Addr) -> Result<()> {
        self.handle
            .neighbours()
            .add(ifindex.0, address.into())
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(explain)
    }
}
