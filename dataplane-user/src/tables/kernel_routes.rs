//! The kernel's routes to remote pod CIDRs.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use ipnet::Ipv4Net;

use super::{Table, set_or_remove};
use crate::kernel::{Host, Kernel, KernelRoute, METRIC, PROTOCOL, TUNNEL, TunnelRoute};

/// Our part of the main table: routes with our protocol number over the tunnel
/// device, or plain to a node of ours. The number alone is no proof: nobody
/// registers those.
pub struct KernelRoutes<'a> {
    kernel: &'a Kernel,
    present: BTreeMap<Ipv4Net, TunnelRoute>,
}

impl<'a> KernelRoutes<'a> {
    /// As the last look found them.
    #[must_use]
    pub fn new(kernel: &'a Kernel, host: &Host, is_node: impl Fn(Ipv4Addr) -> bool) -> Self {
        Self { kernel, present: Self::ours(host, is_node) }
    }

    /// Those of a host's routes that are ours. Of two to one prefix the one that an older version
    /// made, with another metric: it has to go.
    #[must_use]
    pub fn ours(host: &Host, is_node: impl Fn(Ipv4Addr) -> bool) -> BTreeMap<Ipv4Net, TunnelRoute> {
        let tunnel = host.link(TUNNEL).map(|(ifindex, _)| ifindex);
        let present = host.routes.iter().filter_map(|route| {
            let ifindex = route.ifindex.filter(|_| route.protocol == PROTOCOL)?;
            let is_ours = Some(ifindex) == tunnel || route.gateway.is_some_and(&is_node);
            let KernelRoute { gateway, source, mtu, metric, .. } = *route;
            let route = (route.destination, TunnelRoute { ifindex, gateway, source, mtu, metric });
            is_ours.then_some(route)
        });
        let (current, older): (Vec<_>, Vec<_>) =
            present.partition(|(_, route)| route.metric == METRIC);
        current.into_iter().chain(older).collect()
    }

    /// As we left them, without another look.
    #[must_use]
    pub fn left(kernel: &'a Kernel, present: BTreeMap<Ipv4Net, TunnelRoute>) -> Self {
        Self { kernel, present }
    }
}

impl Table for KernelRoutes<'_> {
    type Key = Ipv4Net;
    type Value = TunnelRoute;
    const NAME: &'static str = "kernel route";

    fn describe(&self, prefix: &Ipv4Net, new: Option<&TunnelRoute>) -> String {
        set_or_remove(new, &format!("the kernel's route to {prefix}"))
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Net, TunnelRoute>> {
        Ok(self.present.clone())
    }

    async fn upsert(&mut self, prefix: &Ipv4Net, route: &TunnelRoute) -> Result<()> {
        match self.present.get(prefix) {
            Some(old) => {
                self.kernel.replace_route(*prefix, route).await?;
                if old.metric != route.metric {
                    self.kernel.delete_route(*prefix, old).await?;
                }
                Ok(())
            }
            None => self.kernel.add_route(*prefix, route).await,
        }
    }

    async fn delete(&mut self, prefix: &Ipv4Net) -> Result<()> {
        match self.present.get(prefix) {
            Some(route) => self.kernel.delete_route(*prefix, route).await,
            None => Ok(()),
        }
    }
}
