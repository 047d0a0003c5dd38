//! The kernel's own IPIP device, where it is not ours to touch.

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
