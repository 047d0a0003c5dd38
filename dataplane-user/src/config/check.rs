//! What a file must not say: first on its own, then on this host.

mod bird;
mod etcd;
mod kubernetes;
mod leases;
mod sources;

use std::{collections::HashMap, fmt, net::Ipv4Addr};

use super::{
    Cidr, Config,
    locate::{KeyPath, Step},
};
use crate::address::{is_host, is_single};

/// Something that cannot be, where it stands, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The key.
    pub path: KeyPath,
    /// What is wrong with it.
    pub what: String,
    /// How to mend it.
    pub remedy: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(
        path: impl IntoIterator<Item = Step>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { path: KeyPath(path.into_iter().collect()), what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.what, self.remedy)
    }
}

/// What the checks need to know of this host.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// Names of its interfaces.
    pub interfaces: Vec<String>,
    /// Interfaces that the file names as underlay but cannot be it, and why.
    pub unfit: Vec<(String, String)>,
    /// Its own addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The node address in use, configured or found.
    pub node: Option<Ipv4Addr>,
    /// Local pods' addresses.
    pub pods: Vec<Ipv4Addr>,
}

fn route_path(index: usize, key: &'static str) -> [Step; 4] {
    ["routes".into(), "static".into(), index.into(), key.into()]
}

fn extra_path(index: usize, extra: usize) -> [Step; 5] {
    ["routes".into(), "nodes".into(), index.into(), "extra_sources".into(), extra.into()]
}

/// Problems visible without a host.
#[must_use]
pub fn check_config(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_duplicates(config, &mut problems);
    check_nodes(config, &mut problems);
    check_extra_sources(config, &mut problems);
    leases::check(&config.leases, &mut problems);
    sources::check(config, &mut problems);
    if let Some(address) = config.node.address {
        check_own_address(config, address, &mut problems);
    }
    for (index, pattern) in config.workloads.interfaces.iter().enumerate() {
        if pattern.is_everything() {
            problems.push(Problem::new(
                ["workloads".into(), "interfaces".into(), index.into()],
                "would take every interface for a pod's, the underlay's included",
                "name the prefix of the pods' interfaces, like cali*",
            ));
        }
    }
    if config.bpffs.to_string().contains('.') {
        problems.push(Problem::new(
            ["bpffs".into()],
            "has a dot in it, which a bpffs refuses in names",
            "name a directory without dots, like /sys/fs/bpf/tunless",
        ));
    }
    if !config.bpffs.0.is_absolute() {
        problems.push(Problem::new(
            ["bpffs".into()],
            "is not an absolute path",
            "name a directory below a bpffs, like /sys/fs/bpf/tunless",
        ));
    }
    problems
}

fn check_duplicates(config: &Config, problems: &mut Vec<Problem>) {
    let mut owners: HashMap<Cidr, Ipv4Addr> = HashMap::new();
    for (index, route) in config.routes.fixed.iter().enumerate() {
        match owners.get(&route.cidr) {
            None => {
                owners.insert(route.cidr, route.node);
            }
            Some(owner) if *owner == route.node => problems.push(Problem::new(
                route_path(index, "cidr"),
                format!("{} is listed twice", route.cidr),
                "remove one of the two",
            )),
            Some(owner) => problems.push(Problem::new(
                route_path(index, "cidr"),
                format!("{} already belongs to node {owner}", route.cidr),
                "give it to one node; an address borrowed by the other is a longer prefix, like a /32",
            )),
        }
    }
}

/// A node's address inside a pod CIDR would send the outer packet into the tunnel again.
fn check_nodes(config: &Config, problems: &mut Vec<Problem>) {
    let covering =
        |node: Ipv4Addr| config.routes.fixed.iter().find(|route| route.cidr.0.contains(&node));
    for (index, route) in config.routes.fixed.iter().enumerate() {
        if !is_host(route.node) {
            problems.push(Problem::new(
                route_path(index, "node"),
                format!("{} is no host's address", route.node),
                "name the node's underlay address",
            ));
        } else if let Some(cover) = covering(route.node) {
            problems.push(Problem::new(
                route_path(index, "node"),
                format!("node {} lies inside the pod CIDR {}", route.node, cover.cidr),
                "packets to it would be wrapped for ever; correct the node or the CIDR",
            ));
        }
    }
    if let Some(address) = config.node.address
        && let Some(cover) = covering(address)
    {
        problems.push(Problem::new(
            ["node".into(), "address".into()],
            format!("{address} lies inside the pod CIDR {}", cover.cidr),
            "correct the address or the CIDR",
        ));
    }
    if let Some(address) = config.node.tunnel_address {
        for (index, route) in config.routes.fixed.iter().enumerate() {
            if route.cidr.0.contains(&address) {
                problems.push(Problem::new(
                    route_path(index, "cidr"),
                    format!("{} contains our own tunnel address {address}", route.cidr),
                    "it is this node's block: remove the route, or correct node.tunnel_address",
                ));
            }
        }
    }
}

fn check_extra_sources(config: &Config, problems: &mut Vec<Problem>) {
    let mut owners: HashMap<Cidr, Ipv4Addr> = HashMap::new();
    for (index, extras) in config.routes.nodes.iter().enumerate() {
        for (extra, source) in extras.extra_sources.iter().enumerate() {
            if let Some(route) =
                config.routes.fixed.iter().find(|route| overlap(route.cidr, *source))
            {
                problems.push(Problem::new(
                    extra_path(index, extra),
                    format!("{source} overlaps the pod CIDR {} of node {}", route.cidr, route.node),
                    "extra sources are those outside every pod CIDR; use a route for the others",
                ));
            }
            if let Some(owner) = owners.insert(*source, extras.node) {
                problems.push(Problem::new(
                    extra_path(index, extra),
                    format!("{source} is already an extra source of node {owner}"),
                    "give it to one node, once",
                ));
            }
        }
    }
}

/// A route to ourselves would loop.
fn check_own_address(config: &Config, address: Ipv4Addr, problems: &mut Vec<Problem>) {
    for (index, route) in config.routes.fixed.iter().enumerate() {
        if route.node == address {
            problems.push(Problem::new(
                route_path(index, "node"),
                format!("{address} is this node itself"),
                "only other nodes' CIDRs belong here; our own pods are found by themselves",
            ));
        }
    }
}

/// Problems with this host.
#[must_use]
pub fn check_host(config: &Config, host: &HostFacts) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, name) in config.underlay.interfaces.iter().enumerate() {
        if !host.interfaces.contains(name) {
            problems.push(Problem::new(
                ["underlay".into(), "interfaces".into(), index.into()],
                format!("there is no interface {name} here"),
                format!("the interfaces are {}", host.interfaces.join(", ")),
            ));
        } else if let Some((_, why)) = host.unfit.iter().find(|(unfit, _)| unfit == name) {
            problems.push(Problem::new(
                ["underlay".into(), "interfaces".into(), index.into()],
                format!("{name} {why}"),
                "name the interface that carries the node's packets, or leave the key out",
            ));
        }
    }
    if let Some(address) = config.node.address
        && !host.addresses.contains(&address)
    {
        problems.push(Problem::new(
            ["node".into(), "address".into()],
            format!("no interface here has the address {address}"),
            "name the underlay address of this node, or leave it out",
        ));
    }
    if config.node.address.is_none()
        && let Some(node) = host.node
    {
        check_own_address(config, node, &mut problems);
        if let Some(index) =
            config.routes.fixed.iter().position(|route| route.cidr.0.contains(&node))
        {
            problems.push(Problem::new(
                route_path(index, "cidr"),
                format!("our own node address {node} lies inside it"),
                "correct the CIDR, or set node.address",
            ));
        }
    }
    for (index, route) in config.routes.fixed.iter().enumerate() {
        let is_known = host.node == Some(route.node) || config.node.address == Some(route.node);
        if host.addresses.contains(&route.node) && !is_known {
            problems.push(Problem::new(
                route_path(index, "node"),
                format!("{} is another address of this node", route.node),
                "only other nodes' CIDRs belong here; our own pods are found by themselves",
            ));
        }
    }
    check_own_pods(config, host, &mut problems);
    problems
}

/// A local pod inside another node's block is a borrowed address, if we know
/// that the block is not ours; its own /32 given to another node never is.
fn check_own_pods(config: &Config, host: &HostFacts, problems: &mut Vec<Problem>) {
    for (index, route) in config.routes.fixed.iter().enumerate() {
        let Some(pod) = host.pods.iter().find(|pod| route.cidr.0.contains(*pod)) else { continue };
        if is_single(route.cidr.0) || config.node.tunnel_address.is_none() {
            problems.push(Problem::new(
                route_path(index, "cidr"),
                format!("{} covers our own pod {pod}", route.cidr),
                "remove the route; if the pod only borrows its address from that block, \
                 set node.tunnel_address so that we know our own",
            ));
        }
    }
}

fn overlap(a: Cidr, b: Cidr) -> bool {
    a.0.contains(&b.0) || b.0.contains(&a.0)
}

#[cfg(test)]
mod tests;
