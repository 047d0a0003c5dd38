//! Our routes to remote pod CIDRs: over the tunnel device, or plain to a neighbour.
//!
//! Each of the former has a backstop behind it: `unreachable`, with the worst metric there is.
//! The kernel removes a device's routes with the device; without the backstop
//! pods' packets would then take the default route, plain.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use dataplane_common::{IfIndex, Mtu};
use ipnet::Ipv4Net;
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{Kernel, errno, explain};

/// The number routes of ours carry (`t`, free in iproute2's `rt_protos`), so
/// that we know them from everybody else's.
pub const PROTOCOL: u8 = b't';

/// The metric of our routes: behind those of Felix and of BIRD 1.6 (0), before those of BIRD 2
/// (32) and of `NetworkManager` (from 100).
///
/// The kernel knows a route of a table by prefix and metric. At 0, ours would be replaced by
/// Felix's or would keep BIRD from adding its own, and which of the two programs started first
/// would decide what `mode: auto` finds.
pub const METRIC: u32 = 16;

/// `10.20.42.0/26 dev tunless0 metric 16 src 10.20.105.192 mtu 1480`, or plain
/// `10.20.42.0/26 via 172.16.36.11 dev eth0 metric 16`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelRoute {
    /// The tunnel device; where packets travel plain, the underlay's interface.
    pub ifindex: IfIndex,
    /// The node itself, where packets travel plain.
    pub gateway: Option<Ipv4Addr>,
    /// The host's own source towards these pods; `None`: as the kernel chooses.
    pub source: Option<Ipv4Addr>,
    /// Where the node takes less than the device, bytes.
    pub mtu: Option<Mtu>,
    /// [`METRIC`]; versions before 0.2 had 0.
    pub metric: u32,
}

impl Kernel {
    /// Makes the route. Somebody else's for the same prefix is left alone.
    ///
    /// # Errors
    /// If there is such a route, or the kernel refuses ours.
    pub async fn add_route(&self, destination: Ipv4Net, route: &TunnelRoute) -> Result<()> {
        match self.handle.route().add(message(destination, route)).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(libc::EEXIST) => bail!(
                "the kernel already has a route to {destination} with metric {METRIC} that is not \
                 ours; remove it (`ip route show {destination}`) or give it another metric"
            ),
            Err(error) => Err(explain(error)),
        }
    }

    /// Replaces a route of ours in place; no packet finds it missing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn replace_route(&self, destination: Ipv4Net, route: &TunnelRoute) -> Result<()> {
        self.handle
            .route()
            .add(message(destination, route))
            .replace()
            .execute()
            .await
            .map_err(explain)
    }

    /// Removes the route; that it is gone already is fine. Metric 0 stands for every metric
    /// (`net/ipv4/fib_semantics.c`, `fib_nh_match`); the kernel then removes the first it finds.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_route(&self, destination: Ipv4Net, route: &TunnelRoute) -> Result<()> {
        let route = TunnelRoute { source: None, mtu: None, ..*route };
        match self.handle.route().del(message(destination, &route)).execute().await {
            Err(error) if errno(&error) != Some(libc::ESRCH) => Err(explain(error)),
            _ => Ok(()),
        }
    }
}

impl Kernel {
    /// Makes the backstop of a CIDR; that there is one is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn add_backstop(&self, destination: Ipv4Net) -> Result<()> {
        match self.handle.route().add(backstop(destination)).execute().await {
            Err(error) if errno(&error) != Some(libc::EEXIST) => Err(explain(error)),
            _ => Ok(()),
        }
    }

    /// Removes the backstop of a CIDR; that it is gone already is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_backstop(&self, destination: Ipv4Net) -> Result<()> {
        match self.handle.route().del(backstop(destination)).execute().await {
            Err(error) if errno(&error) != Some(libc::ESRCH) => Err(explain(error)),
            _ => Ok(()),
        }
    }
}

fn backstop(destination: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .kind(RouteType::Unreachable)
        .priority(u32::MAX)
        .protocol(RouteProtocol::from(PROTOCOL))
        .build()
}

fn message(destination: Ipv4Net, route: &TunnelRoute) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .output_interface(route.ifindex.0)
        .priority(route.metric)
        .protocol(RouteProtocol::from(PROTOCOL));
    builder = match route.gateway {
        Some(gateway) => builder.gateway(gateway),
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = route.source {
        builder = builder.pref_source(source);
    }
    if let Some(mtu) = route.mtu {
        builder.get_mut().attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.0)]));
    }
    builder.build()
}
