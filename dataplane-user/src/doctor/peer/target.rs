//! Which node `--peer` names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _},
};

use dataplane_common::Route;
use ipnet::Ipv4Net;

use crate::address::supernets;

/// A peer, and an address behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node.
    pub node: Ipv4Addr,
    /// A pod there, or the node's tunnel address, if that is what was named.
    pub pod: Option<Ipv4Addr>,
}

/// Returns what an address names: a node, or a pod behind one.
///
/// # Errors
/// Why it names none.
pub fn find(
    address: Ipv4Addr,
    nodes: &BTreeSet<Ipv4Addr>,
    routes: &BTreeMap<Ipv4Net, Route>,
) -> Result<Target, String> {
    if nodes.contains(&address) {
        return Ok(Target { node: address, pod: None });
    }
    match supernets(Ipv4Net::from(address)).find_map(|net| routes.get(&net)) {
        Some(route) if route.is_local() => Err(format!("{address} is an address of this node")),
        Some(route) if route.is_direct() => Err(format!(
            "packets to {address} travel unencapsulated, as the file or the pool has it"
        )),
        Some(route) => Ok(Target { node: route.node.into(), pod: Some(address) }),
        None => Err(format!(
            "{address} is neither a node that a route leads to nor in one of the routes"
        )),
    }
}

/// Returns the IPv4 addresses that a name stands for, by this host's resolver.
pub fn resolve(name: &str) -> Vec<Ipv4Addr> {
    let addresses = (name, 0).to_socket_addrs().into_iter().flatten();
    addresses
        .filter_map(|address| match address {
            SocketAddr::V4(address) => Some(*address.ip()),
            SocketAddr::V6(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_or_what_is_behind_it() {
        let ip = |text: &str| -> Ipv4Addr { text.parse().unwrap() };
        let node = ip("172.16.35.4");
        let to = |flags| Route { node: node.into(), since: 0, flags, source: 0 };
        let routes = BTreeMap::from([
            ("10.20.42.0/26".parse().unwrap(), to(0)),
            ("10.20.43.0/26".parse().unwrap(), to(Route::DIRECT)),
            ("10.20.105.215/32".parse().unwrap(), to(Route::LOCAL)),
        ]);
        let find = |text: &str| find(ip(text), &[node].into(), &routes);
        assert_eq!(find("172.16.35.4"), Ok(Target { node, pod: None }));
        assert_eq!(find("10.20.42.31"), Ok(Target { node, pod: Some(ip("10.20.42.31")) }));
        for (text, why) in [
            ("10.20.43.1", "unencapsulated"),
            ("10.20.105.215", "of this node"),
            ("192.0.2.1", "neither"),
        ] {
            assert!(find(text).unwrap_err().contains(why), "{text}");
        }
    }
}
