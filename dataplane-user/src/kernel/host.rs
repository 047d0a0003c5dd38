//! What we know of the host, as plain values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::{IfIndex, Mac, Mtu};
use ipnet::Ipv4Net;
use netlink_packet_route::rule::RuleMessage;

use super::{PROTOCOL, Policy, RouteChange, TUNL0};
use crate::address::is_single;

/// One consistent-enough look at the kernel. A change in between raises an
/// event, and with it another look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// By interface index.
    pub links: BTreeMap<IfIndex, Link>,
    /// (interface index, address with its prefix).
    pub addresses: Vec<(IfIndex, Ipv4Net)>,
    /// Addresses that are this host's by a route of type `local` alone (`ip route add local …`):
    /// no interface has them.
    pub local: BTreeSet<Ipv4Net>,
    /// The main table.
    pub routes: Vec<KernelRoute>,
    /// Routes of all other tables but `local`, with the table's number: rules lead to them.
    pub other_tables: Vec<(u32, KernelRoute)>,
    /// The rules that choose a table, in the kernel's order.
    pub rules: Vec<RuleMessage>,
    /// IPsec policies that may be about packets between nodes.
    pub policies: Vec<Policy>,
    /// Interfaces with a qdisc that shapes or polices: any but `noqueue`, and
    /// `clsact`, which is only a place for filters.
    pub shaped: BTreeSet<IfIndex>,
    /// Interfaces with a `clsact` qdisc.
    pub clsact: BTreeSet<IfIndex>,
    /// By interface index and address.
    pub neighbours: BTreeMap<(IfIndex, Ipv4Addr), Neighbour>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its `ifalias`.
    pub alias: Option<String>,
    /// Its MAC; zero where there is none.
    pub mac: Mac,
    /// Its MTU, bytes.
    pub mtu: Mtu,
    /// Administratively up.
    pub is_up: bool,
    /// `IFF_NOARP` is not set.
    pub does_arp: bool,
    /// What kind of virtual interface it is: `veth`, `bond`, `vlan`; `None` for hardware.
    pub kind: Option<String>,
    /// The driver of a piece of hardware, with its version if it has one of its own; `None` where
    /// sysfs does not show it.
    pub driver: Option<String>,
    /// The interface it is part of: a bond, a bridge, a VRF.
    pub master: Option<IfIndex>,
    /// Whether the kernel forwards IPv4 packets that arrive here
    /// (`net.ipv4.conf.<name>.forwarding`); `None`: the kernel did not report it.
    pub forwards: Option<bool>,
}

/// A route of the main table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelRoute {
    /// Its prefix.
    pub destination: Ipv4Net,
    /// Out of which interface; `None` for blackholes and multipath routes.
    pub ifindex: Option<IfIndex>,
    /// Whether it says that there is no way (`unreachable`).
    pub is_unreachable: bool,
    /// Whether it swallows packets (`blackhole`).
    pub is_blackhole: bool,
    /// The next hop, if it is not the destination itself.
    pub gateway: Option<Ipv4Addr>,
    /// The next hops of a multipath route: interface, gateway.
    pub hops: Vec<(IfIndex, Option<Ipv4Addr>)>,
    /// Of several routes to a prefix the one with the lowest counts.
    pub metric: u32,
    /// The source the host itself uses.
    pub source: Option<Ipv4Addr>,
    /// Bytes, if the route has an MTU of its own.
    pub mtu: Option<Mtu>,
    /// Who made it (rtnetlink's `RTPROT_*`).
    pub protocol: u8,
}

/// A neighbour that can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC.
    pub mac: Mac,
    /// The kernel has not heard of it for a while, and asks again when it is used.
    pub is_stale: bool,
}

impl KernelRoute {
    /// All its next hops: interface, gateway.
    pub fn next_hops(&self) -> impl Iterator<Item = (IfIndex, Option<Ipv4Addr>)> {
        let single = self.ifindex.map(|ifindex| (ifindex, self.gateway));
        single.into_iter().chain(self.hops.iter().copied())
    }
}

impl Host {
    /// The routes that ways to `nodes` may go by: neither ours nor those to single pods.
    pub fn ways(&self, nodes: &BTreeSet<Ipv4Addr>) -> impl Iterator<Item = &KernelRoute> {
        let tunl0 = self.link(TUNL0).map(|(ifindex, _)| ifindex);
        let leads_to_pods = move |route: &&KernelRoute| {
            route.protocol == PROTOCOL
                || (tunl0.is_some() && route.ifindex == tunl0)
                || (is_single(route.destination)
                    && route.gateway.is_none()
                    && !nodes.contains(&route.destination.addr()))
        };
        self.routes.iter().filter(move |route| !leads_to_pods(route))
    }

    /// Takes in what became of some routes, in one pass; the last word on each counts.
    pub fn change_routes(&mut self, changes: impl IntoIterator<Item = RouteChange>) {
        // What the kernel, too, knows a route of a table by.
        let key = |route: &KernelRoute| (route.destination, route.metric);
        let changed: BTreeMap<_, _> = changes
            .into_iter()
            .map(|RouteChange { route, is_there }| (key(&route), is_there.then_some(route)))
            .collect();
        self.routes.retain(|route| !changed.contains_key(&key(route)));
        self.routes.extend(changed.into_values().flatten());
    }

    /// The interface called `name`.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<(IfIndex, &Link)> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(index, link)| (*index, link))
    }

    /// Interfaces whose packets the kernel does not forward.
    #[must_use]
    pub fn not_forwarding(&self) -> BTreeSet<IfIndex> {
        let off = self.links.iter().filter(|(_, link)| link.forwards == Some(false));
        off.map(|(index, _)| *index).collect()
    }

    /// Whether a packet to `address` is for this host.
    #[must_use]
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.owner(address).is_some() || self.local.iter().any(|net| net.contains(&address))
    }

    /// The VRF that an interface is part of.
    #[must_use]
    pub fn vrf(&self, ifindex: IfIndex) -> Option<&Link> {
        let master = self.links.get(&self.links.get(&ifindex)?.master?)?;
        (master.kind.as_deref() == Some("vrf")).then_some(master)
    }

    /// The interface that has `address`.
    #[must_use]
    pub fn owner(&self, address: Ipv4Addr) -> Option<IfIndex> {
        self.addresses
            .iter()
            .find(|(_, assigned)| assigned.addr() == address)
            .map(|(ifindex, _)| *ifindex)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(third: u8, metric: u32, gateway: u8, is_there: bool) -> RouteChange {
        let route = KernelRoute {
            destination: Ipv4Net::new_assert(Ipv4Addr::new(10, 20, third, 0), 26),
            ifindex: Some(IfIndex(2)),
            gateway: Some(Ipv4Addr::new(172, 16, 36, gateway)),
            metric,
            protocol: 12,
            ..KernelRoute::default()
        };
        RouteChange { route, is_there }
    }

    fn sorted(mut host: Host) -> Vec<KernelRoute> {
        host.routes.sort_by_key(|route| (route.destination, route.metric));
        host.routes
    }

    proptest! {
        #[test]
        fn many_changes_at_once_are_as_many_one_after_the_other(
            changes: Vec<(u8, bool, u8, bool)>,
        ) {
            let changes = changes.iter().map(|(third, is_worse, gateway, is_there)| {
                change(third % 4, u32::from(*is_worse), *gateway, *is_there)
            });
            let (mut at_once, mut one_by_one) = (Host::default(), Host::default());
            at_once.change_routes(changes.clone());
            changes.for_each(|change| one_by_one.change_routes([change]));
            prop_assert_eq!(sorted(at_once), sorted(one_by_one));
        }
    }
}
