//! Which links are the underlay: by which of them we send to nodes, and by which of them packets
//! for this host may arrive.
//!
//! The two differ. Our own path to a node is one of several next hops, and the fabric may send
//! by another; the node address may be on `lo` and known on every link. So the way packets take
//! from here shows nothing about the way they take to here.

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_common::IfIndex;

use super::Paths;
use crate::{
    config::Config,
    kernel::{Host, Link, TUNL0, TUNNEL, TUNNEL_PEER},
};

/// Links of the underlay.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Underlay {
    /// By which encapsulated packets leave; the one with our address as well.
    pub sending: BTreeSet<IfIndex>,
    /// By which they may arrive: all the above, and more.
    pub receiving: BTreeSet<IfIndex>,
}

/// Why a link cannot be underlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// There is no such link.
    Gone,
    /// It is a tunnel device of IPIP: an outer packet would be wrapped once more.
    Tunnel,
    /// It is a pod's.
    Workload,
    /// It has no link layer address, as WireGuard's devices: the programs expect an Ethernet header.
    NoEthernet,
    /// It is `lo` or a dummy: nothing arrives there.
    Dummy,
    /// It is part of a bond or a bridge, which gets its packets.
    Part {
        /// The bond or bridge.
        of: String,
    },
    /// It is part of a VRF: its routes are in a table that is not asked.
    Vrf {
        /// The VRF's device.
        name: String,
    },
    /// It is a VRF's own device, whose packets TC sees on the VRF's members alone.
    IsVrf,
}

impl Unfit {
    /// Returns whether the kernel's tunl0 sends and receives by such a link all the same.
    #[must_use]
    pub fn serves_tunl0(&self) -> bool {
        match self {
            Self::NoEthernet | Self::Vrf { .. } | Self::IsVrf => true,
            Self::Gone | Self::Tunnel | Self::Workload | Self::Dummy | Self::Part { .. } => false,
        }
    }

    /// For people, as in "eth0, which …".
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Gone => "is gone".to_owned(),
            Self::Tunnel => "is the tunnel device itself".to_owned(),
            Self::Workload => "is a pod's interface (workloads.interfaces)".to_owned(),
            Self::NoEthernet => {
                "has no Ethernet header (WireGuard and other layer 3 devices are not supported; \
                 `mode: accelerate` leaves them to tunl0)"
                    .to_owned()
            }
            Self::Dummy => "is a dummy device that no packet arrives on".to_owned(),
            Self::Part { of } => format!("is a part of {of}; name that"),
            Self::Vrf { name } => {
                format!("is in the VRF {name} (an underlay in a VRF is not supported)")
            }
            Self::IsVrf => "is a VRF (an underlay in a VRF is not supported)".to_owned(),
        }
    }
}

/// Whether a link can be underlay at all.
///
/// # Errors
/// Why it cannot.
pub fn fitness(config: &Config, host: &Host, ifindex: IfIndex) -> Result<(), Unfit> {
    let link = host.links.get(&ifindex).ok_or(Unfit::Gone)?;
    if [TUNL0, TUNNEL, TUNNEL_PEER].contains(&link.name.as_str()) {
        return Err(Unfit::Tunnel);
    }
    if config.workloads.matches(&link.name) {
        return Err(Unfit::Workload);
    }
    if link.kind.as_deref() == Some("dummy") || link.name == "lo" {
        return Err(Unfit::Dummy);
    }
    if !link.mac.is_known() {
        return Err(Unfit::NoEthernet);
    }
    if link.kind.as_deref() == Some("vrf") {
        return Err(Unfit::IsVrf);
    }
    if let Some(vrf) = host.vrf(ifindex) {
        return Err(Unfit::Vrf { name: vrf.name.clone() });
    }
    match link.master {
        None => Ok(()),
        Some(master) => {
            let name = host.links.get(&master).map_or("another", |link| &link.name);
            Err(Unfit::Part { of: name.to_owned() })
        }
    }
}

/// The interfaces that the file names as underlay and that cannot be it, with why.
#[must_use]
pub fn named_unfit(config: &Config, host: &Host) -> Vec<(String, String)> {
    let links = config.underlay.interfaces.iter().filter_map(|name| host.link(name));
    let unfit = links.filter_map(|(ifindex, link)| {
        let unfit = fitness(config, host, ifindex).err()?;
        Some((link.name.clone(), unfit.text()))
    });
    unfit.collect()
}

/// Finds the underlay. `node`: our address.
#[must_use]
pub fn underlay(config: &Config, host: &Host, paths: &Paths, node: Ipv4Addr) -> Underlay {
    let is_fit = |ifindex: &IfIndex| fitness(config, host, *ifindex).is_ok();
    if !config.underlay.interfaces.is_empty() {
        let names = config.underlay.interfaces.iter();
        let named = names.filter_map(|name| host.link(name)).map(|(ifindex, _)| ifindex);
        let named: BTreeSet<IfIndex> = named.filter(is_fit).collect();
        return Underlay { sending: named.clone(), receiving: named };
    }
    let used = paths.values().map(|path| path.ifindex).chain(host.owner(node));
    let sending: BTreeSet<IfIndex> = used.filter(is_fit).collect();
    let addressed = host.addresses.iter().filter(|(_, net)| !net.addr().is_link_local());
    let addressed = addressed.map(|(ifindex, _)| *ifindex);
    let addressed = addressed.filter(|ifindex| host.links.get(ifindex).is_some_and(is_nic));
    let receiving = addressed.chain(hops(host)).filter(is_fit).chain(sending.iter().copied());
    Underlay { receiving: receiving.collect(), sending }
}

/// Links that default routes and routes with several next hops name, of every table.
fn hops(host: &Host) -> impl Iterator<Item = IfIndex> {
    let elsewhere = host.other_tables.iter().map(|(_, route)| route);
    let routes = host.routes.iter().chain(elsewhere);
    let wide = routes.filter(|route| route.destination.prefix_len() == 0 || route.hops.len() > 1);
    wide.flat_map(|route| route.next_hops().map(|(ifindex, _)| ifindex))
}

/// Whether an address on a link shows that packets of the fabric arrive there. A bridge or a
/// veth with an address mostly leads to containers: they must not reach us as a node would.
fn is_nic(link: &Link) -> bool {
    let kind = link.kind.as_deref();
    kind.is_none_or(|kind| ["bond", "team", "vlan", "macvlan", "ipvlan"].contains(&kind))
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Mac, Mtu};
    use ipnet::Ipv4Net;

    use super::*;
    use crate::kernel::{KernelRoute, Path};

    const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

    /// Names, kinds, masters; the index is the place in the list, from 1.
    const LINKS: [(&str, Option<&str>, u32); 17] = [
        ("lo", None, 0),
        ("eth0", None, 0),
        ("eth1", None, 0),
        ("bond0", Some("bond"), 0),
        ("eth2", None, 4),
        ("bond0.7", Some("vlan"), 0),
        ("br0", Some("bridge"), 0),
        ("eth3", None, 7),
        ("docker0", Some("bridge"), 0),
        ("dummy0", Some("dummy"), 0),
        ("wg0", Some("wireguard"), 0),
        ("cali1", Some("veth"), 0),
        ("veth1", Some("veth"), 0),
        ("blue", Some("vrf"), 0),
        ("eth4", None, 14),
        ("tunless0", Some("veth"), 0),
        ("tunl0", Some("ipip"), 0),
    ];

    fn index(name: &str) -> IfIndex {
        let at = LINKS.iter().position(|link| link.0 == name).unwrap();
        IfIndex(u32::try_from(at).unwrap() + 1)
    }

    fn host(addresses: &[(&str, &str)], routes: &[(&str, &[&str])]) -> Host {
        let link = |(name, kind, master): &(&str, Option<&str>, u32)| Link {
            name: (*name).into(),
            kind: kind.map(Into::into),
            master: (*master > 0).then_some(IfIndex(*master)),
            mac: if ["lo", "wg0", "tunl0"].contains(name) {
                Mac::default()
            } else {
                Mac([2, 0, 1])
            },
            mtu: Mtu(1500),
            is_up: true,
            ..Link::default()
        };
        let address = |(name, net): &(&str, &str)| (index(name), net.parse::<Ipv4Net>().unwrap());
        let route = |(to, via): &(&str, &[&str])| KernelRoute {
            destination: to.parse().unwrap(),
            hops: via.iter().map(|name| (index(name), None)).collect(),
            ..KernelRoute::default()
        };
        Host {
            links: LINKS.iter().map(|it| (index(it.0), link(it))).collect(),
            addresses: addresses.iter().map(address).collect(),
            routes: routes.iter().map(route).collect(),
            ..Host::default()
        }
    }

    fn names(host: &Host, links: &BTreeSet<IfIndex>) -> Vec<String> {
        links.iter().map(|ifindex| host.links[ifindex].name.clone()).collect()
    }

    /// Addresses, routes with their next hops, where the path to the peer leads, and what is found.
    type Row<'a> = (
        &'a [(&'a str, &'a str)],
        &'a [(&'a str, &'a [&'a str])],
        &'a str,
        &'a [&'a str],
        &'a [&'a str],
    );

    #[test]
    fn packets_are_taken_in_wherever_they_may_arrive() {
        let mut config = Config::default();
        let rows: [Row<'_>; 12] = [
            // One NIC.
            (&[("eth0", "10.99.0.1/24")], &[], "eth0", &["eth0"], &["eth0"]),
            // Two: packets may come by the other.
            (
                &[("eth0", "10.99.0.1/24"), ("eth1", "10.98.0.1/24")],
                &[],
                "eth0",
                &["eth0"],
                &["eth0", "eth1"],
            ),
            // The address is on lo, and the uplinks have none.
            (
                &[("lo", "10.99.0.1/32")],
                &[("10.99.0.2/32", &["eth0", "eth1"])],
                "eth1",
                &["eth1"],
                &["eth0", "eth1"],
            ),
            (
                &[("dummy0", "10.99.0.1/32")],
                &[("0.0.0.0/0", &["eth0", "bond0.7"])],
                "bond0.7",
                &["bond0.7"],
                &["eth0", "bond0.7"],
            ),
            // A default route elsewhere.
            (
                &[("eth0", "10.99.0.1/24")],
                &[("0.0.0.0/0", &["eth1"])],
                "eth0",
                &["eth0"],
                &["eth0", "eth1"],
            ),
            // A bond gets its parts' packets, a bridge its ports'.
            (
                &[("bond0", "10.99.0.1/24"), ("eth2", "10.97.0.1/24")],
                &[],
                "bond0",
                &["bond0"],
                &["bond0"],
            ),
            (&[("br0", "10.99.0.1/24"), ("eth3", "10.97.0.1/24")], &[], "br0", &["br0"], &["br0"]),
            // Containers, pods, tunnels and a VRF are not the fabric.
            (
                &[
                    ("eth0", "10.99.0.1/24"),
                    ("docker0", "172.17.0.1/16"),
                    ("veth1", "10.96.0.1/32"),
                    ("cali1", "10.95.0.1/32"),
                    ("eth4", "10.94.0.1/24"),
                    ("wg0", "10.93.0.1/24"),
                    ("tunl0", "10.92.0.1/32"),
                    ("tunless0", "10.91.0.1/32"),
                    ("eth1", "169.254.3.1/16"),
                ],
                &[("10.91.0.0/16", &["cali1", "tunl0"])],
                "eth0",
                &["eth0"],
                &["eth0"],
            ),
            // In a container with a veth for a NIC.
            (
                &[("veth1", "10.99.0.1/24")],
                &[("0.0.0.0/0", &["veth1"])],
                "veth1",
                &["veth1"],
                &["veth1"],
            ),
            // The path leads where no underlay can be.
            (&[("eth0", "10.99.0.1/24")], &[], "wg0", &["eth0"], &["eth0"]),
            (&[("eth0", "10.99.0.1/24")], &[], "cali1", &["eth0"], &["eth0"]),
            (
                &[("eth0", "10.99.0.1/24")],
                &[("0.0.0.0/0", &["blue"])],
                "blue",
                &["eth0"],
                &["eth0"],
            ),
        ];
        for (addresses, routes, path, sending, receiving) in rows {
            let host = host(addresses, routes);
            let path = Path {
                ifindex: index(path),
                next_hop: PEER,
                source: Some(NODE),
                mtu: None,
                is_learnt: false,
            };
            let paths = Paths::from([(PEER, path)]);
            let found = underlay(&config, &host, &paths, NODE);
            let found = [names(&host, &found.sending), names(&host, &found.receiving)];
            assert_eq!(found, [sending, receiving], "{addresses:?} {routes:?}");
        }
        // Named by the file: these and no others, as far as they can be.
        config.underlay.interfaces = ["eth1", "wg0", "eth2"].map(Into::into).into();
        let host = host(&[("eth0", "10.99.0.1/24")], &[]);
        let found = underlay(&config, &host, &Paths::new(), NODE);
        assert_eq!([&found.sending, &found.receiving].map(|it| names(&host, it)), [["eth1"]; 2]);
    }
}
