//! The kernel's own IPIP device, where it is not ours to touch.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Host, Link};

/// The fallback device of the kernel's ipip module (`net/ipv4/ipip.c`), one per
/// network namespace, which Felix configures.
pub const TUNL0: &str = "tunl0";

impl Host {
    /// tunl0, if it is up.
    #[must_use]
    pub fn tunl0(&self) -> Option<(u32, &Link)> {
        self.link(TUNL0).filter(|(_, link)| link.is_up)
    }

    /// The routes over tunl0: prefix → node.
    #[must_use]
    pub fn tunl0_routes(&self) -> BTreeMap<Ipv4Net, Ipv4Addr> {
        let Some((tunl0, _)) = self.tunl0() else { return BTreeMap::new() };
        let over_it = self.routes.iter().filter(|route| route.ifindex == Some(tunl0));
        over_it.filter_map(|route| Some((route.destination, route.gateway?))).collect()
    }

    /// The node to which a route over tunl0 sends exactly this prefix.
    #[must_use]
    pub fn tunl0_route_to(&self, prefix: Ipv4Net) -> Option<Ipv4Addr> {
        let (tunl0, _) = self.tunl0()?;
        let leads_there = |route: &&super::KernelRoute| {
            route.ifindex == Some(tunl0) && route.destination == prefix
        };
        self.routes.iter().find(leads_there)?.gateway
    }

    /// Whether tunl0 carries routes to pods: `10.20.42.0/26 via 172.16.35.4 dev
    /// tunl0 onlink`, as Felix and BIRD make them.
    #[must_use]
    pub fn tunl0_carries_routes(&self) -> bool {
        self.tunl0().is_some_and(|(tunl0, _)| {
            let leads_there = |route: &&super::KernelRoute| route.ifindex == Some(tunl0);
            self.routes.iter().filter(leads_there).any(|route| route.gateway.is_some())
        })
    }
}
