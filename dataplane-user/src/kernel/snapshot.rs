//! Reading the kernel's state whole.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result};
use dataplane_common::{IfIndex, Mac, Mtu};
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
        RouteType,
    },
    tc::TcAttribute,
};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{Host, Kernel, KernelRoute, Link, Neighbour, explain};
use crate::address::is_single;

/// The number of the main table.
pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// The number of the table of this host's own addresses.
pub(super) const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

impl Kernel {
    /// Looks at everything we care about.
    ///
    /// # Errors
    /// If the kernel refuses a dump.
    pub async fn look(&self) -> Result<Host> {
        let mut host = Host::default();

        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(message) =
            links.try_next().await.map_err(explain).context("reading interfaces")?
        {
            host.links.insert(IfIndex(message.header.index), link(message));
        }

        let mut addresses = std::pin::pin!(self.handle.address().get().execute());
        while let Some(message) =
            addresses.try_next().await.map_err(explain).context("reading addresses")?
        {
            let prefix_len = message.header.prefix_len;
            for attribute in &message.attributes {
                if let AddressAttribute::Local(IpAddr::V4(address)) = attribute
                    && let Ok(net) = Ipv4Net::new(*address, prefix_len)
                {
                    host.addresses.push((IfIndex(message.header.index), net));
                }
            }
        }

        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = std::pin::pin!(self.handle.route().get(all).execute());
        while let Some(message) =
            routes.try_next().await.map_err(explain).context("reading routes")?
        {
            match table_route(&message) {
                Some((MAIN, route)) => host.routes.push(route),
                Some((LOCAL, route)) if message.header.kind == RouteType::Local => {
                    host.local.insert(route.destination);
                }
                Some((LOCAL, _)) | None => {}
                Some(other) => host.other_tables.push(other),
            }
        }
        // Each address has such a route, and the loopback network.
        let assigned: BTreeSet<_> = host.addresses.iter().map(|(_, net)| net.addr()).collect();
        host.local.retain(|net| {
            let address = net.addr();
            !(address.is_loopback() || (is_single(*net) && assigned.contains(&address)))
        });

        let mut rules = std::pin::pin!(self.handle.rule().get(IpVersion::V4).execute());
        while let Some(message) =
            rules.try_next().await.map_err(explain).context("reading routing rules")?
        {
            host.rules.push(message);
        }

        if let Some(mut xfrm) = self.xfrm.clone() {
            host.policies = xfrm.policies().await?;
        }

        let mut qdiscs = std::pin::pin!(self.handle.qdisc().get().execute());
        while let Some(message) =
            qdiscs.try_next().await.map_err(explain).context("reading qdiscs")?
        {
            let Ok(ifindex) = u32::try_from(message.header.index).map(IfIndex) else { continue };
            let kind = message.attributes.iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind.as_str()),
                _ => None,
            });
            match kind {
                None | Some("noqueue") => {}
                Some("clsact") => drop(host.clsact.insert(ifindex)),
                Some(_) => drop(host.shaped.insert(ifindex)),
            }
        }

        let mut neighbours = std::pin::pin!(
            self.handle.neighbours().get().set_address_family(AddressFamily::Inet).execute()
        );
        while let Some(message) =
            neighbours.try_next().await.map_err(explain).context("reading neighbours")?
        {
            host.neighbours.extend(neighbour(&message));
        }
        Ok(host)
    }
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        is_up: message.header.flags.contains(LinkFlags::Up),
        does_arp: !message.header.flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = Mtu(mtu),
            LinkAttribute::Address(octets) => link.mac = mac(&octets),
            LinkAttribute::Controller(master) => link.master = Some(IfIndex(master)),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = Some(kind.to_string());
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(families) => {
                link.forwards = families.iter().find_map(forwards);
            }
            _ => {}
        }
    }
    if link.kind.is_none() {
        link.driver = driver(&link.name);
    }
    link
}

/// Reads which driver an interface has (`Documentation/ABI/testing/sysfs-class-net`).
fn driver(name: &str) -> Option<String> {
    let driver = format!("/sys/class/net/{name}/device/driver");
    let name = std::fs::read_link(&driver).ok()?.file_name()?.to_str()?.to_owned();
    Some(match std::fs::read_to_string(format!("{driver}/module/version")) {
        Ok(version) => format!("{name} {}", version.trim()),
        Err(_) => name,
    })
}

/// `net.ipv4.conf.<name>.forwarding`, which comes with the interface: no file has to be read
/// for each pod.
fn forwards(family: &AfSpecUnspec) -> Option<bool> {
    let AfSpecUnspec::Inet(values) = family else { return None };
    values.iter().find_map(|value| match value {
        AfSpecInet::DevConf(values) => Some(values.forwarding != 0),
        _ => None,
    })
}

/// One way of a multipath route: interface, gateway.
fn next_hop(hop: &RouteNextHop) -> (IfIndex, Option<Ipv4Addr>) {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    (IfIndex(hop.interface_index), gateway)
}

/// A route, and the number of its table; `None` if its prefix makes no sense.
pub(super) fn table_route(message: &RouteMessage) -> Option<(u32, KernelRoute)> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut table = u32::from(message.header.table);
    let mut route = KernelRoute {
        destination: Ipv4Net::default(),
        ifindex: None,
        is_unreachable: message.header.kind == RouteType::Unreachable,
        is_blackhole: message.header.kind == RouteType::BlackHole,
        gateway: None,
        hops: Vec::new(),
        metric: 0,
        source: None,
        mtu: None,
        protocol: message.header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                route.source = Some(*address);
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => route.hops = hops.iter().map(next_hop).collect(),
            RouteAttribute::Oif(ifindex) => route.ifindex = Some(IfIndex(*ifindex)),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            _ => {}
        }
    }
    route.destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some((table, route))
}

/// The MTU among a route's metrics, bytes.
pub(super) fn mtu(metrics: &[RouteMetric]) -> Option<Mtu> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(bytes) => Some(Mtu(*bytes)),
        _ => None,
    })
}

/// Which neighbour a message is about: interface and address; `None` if not IPv4.
pub(super) fn neighbour_key(message: &NeighbourMessage) -> Option<(IfIndex, Ipv4Addr)> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Some((IfIndex(message.header.ifindex), address?))
}

/// A neighbour that can be sent to (the kernel's `NUD_VALID`), else `None`.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<((IfIndex, Ipv4Addr), Neighbour)> {
    let is_stale = match message.header.state {
        NeighbourState::Stale => true,
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent => false,
        _ => return None,
    };
    let mut address = None;
    let mut lladdr = Mac::default();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(*ip),
            NeighbourAttribute::LinkLayerAddress(octets) => lladdr = mac(octets),
            _ => {}
        }
    }
    Some(((IfIndex(message.header.ifindex), address?), Neighbour { mac: lladdr, is_stale }))
}

fn mac(octets: &[u8]) -> Mac {
    <[u8; 6]>::try_from(octets).map(Mac::from).unwrap_or_default()
}
