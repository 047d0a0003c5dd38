//! The entries that programs go by, in words.

use std::net::Ipv4Addr;

use dataplane_common::{Flow, Ipv4Be, Lease, ipv4::OUTER_LENGTH};

use super::packet;
use crate::{bpf::Maps, clock, kernel::interface_name};

/// The route of an address, and its node.
pub fn route(maps: &Maps, address: Ipv4Addr) -> Vec<String> {
    let Ok(Some((cidr, route))) = maps.route_to(address) else {
        return vec![format!("route: none covers {address}")];
    };
    if route.is_local() {
        return vec![format!("route: {cidr} is of this node")];
    }
    let node = Ipv4Addr::from(route.node);
    let plain = if route.is_direct() { ", plain" } else { "" };
    vec![format!("route: {cidr} → node {node}{plain}"), self::node(maps, node)]
}

/// How a node is reached.
pub fn node(maps: &Maps, address: Ipv4Addr) -> String {
    let Ok((node, _)) = maps.nodes.get(Ipv4Be::from(address)) else {
        return format!("node {address}: not known");
    };
    if node.is_protected() {
        return format!("node {address}: IPsec protects it");
    }
    if node.hop.ifindex.is_none() {
        return format!(
            "node {address}: unreachable, for no route leads there over an underlay interface"
        );
    }
    let mac = match node.hop.destination.is_known() {
        true => format!("next hop {}", node.hop.destination),
        false => "next hop not resolved yet, which the kernel does".to_owned(),
    };
    let largest = node.mtu.0.saturating_sub(OUTER_LENGTH as u32);
    let interface = interface_name(node.hop.ifindex);
    format!("node {address}: dev {interface}, {mac}, largest packet of a pod {largest} bytes")
}

/// A flow's lease.
pub fn lease(maps: &Maps, flow: &Flow) -> String {
    let Ok(lease) = maps.leases.get(flow, 0) else { return "lease: none".to_owned() };
    let now = clock::monotonic();
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let state = if lease.is_revoked() {
        "revoked".to_owned()
    } else if lease.epoch != maps.epochs.sum(lease.slots) {
        "outdated by a change of routes, nodes or pods".to_owned()
    } else if !Lease::is_good_at(lease.expires, nanoseconds) {
        "expired".to_owned()
    } else {
        let left = lease.expires.saturating_sub(nanoseconds) as f64 / 1e9;
        format!("good for {left:.1} s")
    };
    let (node, packets) = (Ipv4Addr::from(lease.node), lease.packets);
    let interface = interface_name(lease.endpoint);
    let translated = match lease.translation.is_none() {
        true => String::new(),
        false => {
            let after = lease.translation.of(flow);
            format!(", translated to {}", packet::name(&after))
        }
    };
    format!(
        "lease: {state}, node {node}, pod on {interface}, {packets} packets went by it{translated}"
    )
}

/// Whose source it is.
pub fn source(maps: &Maps, address: Ipv4Addr, interface: &str) -> String {
    match maps.endpoints.get(Ipv4Be::from(address)) {
        Ok(pod) => {
            let owner = interface_name(pod.hop.ifindex);
            let is = if owner == interface { "is" } else { "is not" };
            format!("source: {address} is the pod on {owner}, which {is} this interface")
        }
        Err(_) => format!("source: {address} is no address of a local pod"),
    }
}
