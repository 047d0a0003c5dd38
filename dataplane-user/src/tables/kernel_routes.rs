//! The kernel's routes to remote pod CIDRs, over the tunnel device.

use std::{collections::BTreeMap, collections::HashMap};

use anyhow::Result;
use ipnet::Ipv4Net;

use super::Table;
use crate::kernel::{Host, Kernel, PROTOCOL, TUNNEL, TunnelRoute};

/// Our part of the main table: routes over the tunnel device with our protocol
/// number. The number alone is no proof: nobody registers those.
pub struct KernelRoutes<'a> {
    kernel: &'a Kernel,
    present: HashMap<Ipv4Net, TunnelRoute>,
}

impl<'a> KernelRoutes<'a> {
    /// As the last look found them.
    #[must_use]
    pub fn new(kernel: &'a Kernel, host: &Host) -> Self {
        let tunnel = host.link(TUNNEL).map(|(ifindex, _)| ifindex);
        let present = host
            .routes
            .iter()
            .filter(|route| {
                route.protocol == PROTOCOL && tunnel.is_some() && route.ifindex == tunnel
            })
            .map(|route| {
                let entry = TunnelRoute {
                    ifindex: route.ifindex.unwrap_or(0),
                    source: route.source,
                    mtu: route.mtu,
                };
                (route.destination, entry)
            })
            .collect();
        Self { kernel, present }
    }
}

impl Table for KernelRoutes<'_> {
    type Key = Ipv4Net;
    type Value = TunnelRoute;
    const NAME: &'static str = "kernel route";

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Net, TunnelRoute>> {
        Ok(self.present.iter().map(|(prefix, route)| (*prefix, *route)).collect())
    }

    async fn upsert(&mut self, prefix: &Ipv4Net, route: &TunnelRoute) -> Result<()> {
        match self.present.get(prefix) {
            Some(_) => self.kernel.replace_route(*prefix, route).await,
            None => self.kernel.add_route(*prefix, route).await,
        }
    }

    async fn delete(&mut self, prefix: &Ipv4Net) -> Result<()> {
        let ifindex = self.present.get(prefix).map_or(0, |route| route.ifindex);
        self.kernel.delete_route(*prefix, ifindex).await
    }
}
