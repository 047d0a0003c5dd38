//! What should be: a pure function of the configuration and of what the kernel
//! says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::{Node, Route, Settings, ipv4::OUTER_LENGTH};
use ipnet::Ipv4Net;

use crate::{
    bpf::{Attachment, Hook},
    config::{Config, DecapHook, Fastpath, Mode, Mtu, Spoof},
    kernel::{Host, Link, Path, TUNL0, TUNNEL, TunnelDevice, TunnelRoute},
    netfilter::MarkRules,
    tables::LocalPod,
};

/// Bytes of link header on our own tunnel device, a veth.
const ETHERNET: u32 = 14;

/// The ways to the nodes, as the kernel answered.
pub type Paths = BTreeMap<Ipv4Addr, Path>;

/// What we make of the host, before the tunnel device exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Our underlay address.
    pub node: Ipv4Addr,
    /// Underlay interfaces.
    pub underlay: BTreeSet<u32>,
    /// With tunl0, or without?
    pub mode: TunnelMode,
    /// The tunnel device as it should be; as it is, if it is tunl0.
    pub tunnel: TunnelDevice,
    /// Local pods by address.
    pub pods: BTreeMap<Ipv4Addr, LocalPod>,
}

/// Whose the tunnel device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelMode {
    /// Ours, with our routes.
    Replace,
    /// The kernel's tunl0, with routes of others.
    Accelerate,
}

impl TunnelMode {
    /// As configured; `auto` by what the host is like now.
    #[must_use]
    pub fn choose(configured: Mode, host: &Host) -> Self {
        match configured {
            Mode::Accelerate => Self::Accelerate,
            Mode::Auto if host.tunl0_carries_routes() => Self::Accelerate,
            Mode::Replace | Mode::Auto => Self::Replace,
        }
    }

    /// The tunnel device's name.
    #[must_use]
    pub const fn device(self) -> &'static str {
        match self {
            Self::Replace => TUNNEL,
            Self::Accelerate => TUNL0,
        }
    }

    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Accelerate => "accelerate",
        }
    }
}

/// The whole desired state.
#[derive(Clone, PartialEq, Debug)]
pub struct Desired {
    /// What the programs are loaded with.
    pub settings: Settings,
    /// `ROUTES`.
    pub routes: BTreeMap<Ipv4Net, Route>,
    /// `NODES`.
    pub nodes: BTreeMap<Ipv4Addr, Node>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Ipv4Addr, LocalPod>,
    /// Programs on interfaces.
    pub attachments: BTreeSet<Attachment>,
    /// Routes of the main table.
    pub kernel_routes: BTreeMap<Ipv4Net, TunnelRoute>,
    /// The nft table, where flows are leased.
    pub mark_rules: Option<MarkRules>,
    /// What cannot be had, for the operator.
    pub warnings: Vec<String>,
}

/// The nodes the configuration names.
#[must_use]
pub fn nodes(config: &Config) -> BTreeSet<Ipv4Addr> {
    let routes = config.routes.fixed.iter().map(|route| route.node);
    routes.chain(config.routes.nodes.iter().map(|extras| extras.node)).collect()
}

/// Local pods: host routes (`/32`, no gateway) over workload interfaces.
#[must_use]
pub fn local_pods(config: &Config, host: &Host) -> BTreeMap<Ipv4Addr, LocalPod> {
    let mut pods = BTreeMap::new();
    for route in &host.routes {
        let Some(ifindex) = route.ifindex else { continue };
        let Some(link) = host.links.get(&ifindex) else { continue };
        if route.destination.prefix_len() != 32
            || route.gateway.is_some()
            || !config.workloads.matches(&link.name)
        {
            continue;
        }
        let address = route.destination.addr();
        let neighbour = host.neighbours.get(&(ifindex, address));
        let pod = neighbour.map(|neighbour| neighbour.mac).unwrap_or_default();
        pods.insert(address, LocalPod { ifindex, pod, host: link.mac });
    }
    pods
}

/// Our underlay address: as configured, else the source the kernel uses.
#[must_use]
pub fn node_address(config: &Config, host: &Host, paths: &Paths) -> Option<Ipv4Addr> {
    config
        .node
        .address
        .or_else(|| paths.values().find_map(|path| path.source))
        .or_else(|| default_route_source(host))
}

/// Without any node to ask about: the address on the default route's interface.
fn default_route_source(host: &Host) -> Option<Ipv4Addr> {
    let route = host.routes.iter().find(|route| route.destination.prefix_len() == 0)?;
    route.source.or_else(|| {
        host.addresses
            .iter()
            .find(|(ifindex, _)| Some(*ifindex) == route.ifindex)
            .map(|(_, net)| net.addr())
    })
}

impl Facts {
    /// Finds out what the configuration leaves open. The node address is the one
    /// `known` before where nothing tells a new one; `None` if nothing ever did.
    #[must_use]
    pub fn find(
        mode: TunnelMode,
        config: &Config,
        host: &Host,
        paths: &Paths,
        known: Option<Ipv4Addr>,
    ) -> Option<Self> {
        // One address as long as we have it: every peer knows us by it, and the
        // kernel's choice may differ from node to node.
        let known_still = known.filter(|address| host.owner(*address).is_some());
        let node = config
            .node
            .address
            .or(known_still)
            .or_else(|| node_address(config, host, paths))
            .or(known)?;
        let underlay: BTreeSet<u32> = if config.underlay.interfaces.is_empty() {
            // The interfaces the nodes are reached by, and the one with our address.
            let ethernet =
                |ifindex: &u32| host.links.get(ifindex).is_some_and(|link| link.mac.is_known());
            let used = paths.values().map(|path| path.ifindex).chain(host.owner(node));
            used.filter(ethernet).collect()
        } else {
            let names = config.underlay.interfaces.iter();
            names.filter_map(|name| host.link(name)).map(|(ifindex, _)| ifindex).collect()
        };
        let smallest = underlay.iter().filter_map(|ifindex| host.links.get(ifindex));
        let mtu = match config.mtu {
            Mtu::Bytes(mtu) => mtu,
            Mtu::Auto => inner(smallest.map(|link| link.mtu).min().unwrap_or(1500)),
        };
        let tunnel = match mode {
            TunnelMode::Replace => TunnelDevice { mtu, address: config.node.tunnel_address },
            TunnelMode::Accelerate => {
                let tunl0 = host.tunl0();
                let has_it = |(owner, _): &&(u32, Ipv4Net)| {
                    tunl0.is_some_and(|(ifindex, _)| *owner == ifindex)
                };
                TunnelDevice {
                    mtu: tunl0.map_or(mtu, |(_, link)| link.mtu),
                    address: host.addresses.iter().find(has_it).map(|(_, net)| net.addr()),
                }
            }
        };
        Some(Self { node, mode, underlay, tunnel, pods: local_pods(config, host) })
    }
}

/// What the daemon has settled by itself.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The configured fast path, or `off` where it is withheld.
    pub fastpath: Fastpath,
    /// Interfaces whose driver refused XDP.
    pub no_xdp: &'a BTreeSet<u32>,
    /// The secret among our programs.
    pub secret: u32,
    /// Pods whose interface has filters or shapers of others.
    pub shaped: &'a BTreeSet<u32>,
}

impl Desired {
    /// Puts it all together, now that the tunnel device is there.
    #[must_use]
    pub fn new(
        config: &Config,
        host: &Host,
        paths: &Paths,
        facts: &Facts,
        tunnel: Option<(u32, &Link)>,
        terms: Terms<'_>,
    ) -> Self {
        let tunnel_ifindex = tunnel.map_or(0, |(ifindex, _)| ifindex);
        let mut warnings = Vec::new();
        let nodes = desired_nodes(config, host, paths, facts, &mut warnings);
        Self {
            settings: Settings {
                lease: u64::from(config.leases.seconds) * 1_000_000_000,
                node: facts.node.into(),
                tunnel_ifindex,
                tunnel_mac: tunnel.map(|(_, link)| link.mac).unwrap_or_default(),
                tunnel_header: match facts.mode {
                    TunnelMode::Replace => ETHERNET,
                    TunnelMode::Accelerate => 0,
                },
                reserved: 0,
                fastpath: terms.fastpath.into(),
                spoof: match config.spoof {
                    Spoof::Drop => Settings::SPOOF_DROP,
                    Spoof::Stack => Settings::SPOOF_STACK,
                },
                secret: terms.secret,
                mark: config.leases.mark,
            },
            routes: desired_routes(config, facts),
            // Without a tunnel device there is nowhere to hand a packet to.
            attachments: tunnel
                .map(|_| desired_attachments(config, host, facts, tunnel_ifindex, terms))
                .unwrap_or_default(),
            kernel_routes: match facts.mode {
                TunnelMode::Replace => desired_kernel_routes(config, facts, &nodes, tunnel_ifindex),
                TunnelMode::Accelerate => BTreeMap::new(),
            },
            nodes,
            mark_rules: (terms.fastpath == Fastpath::Verified && tunnel.is_some())
                .then(|| desired_mark_rules(config, host, facts, terms)),
            endpoints: facts.pods.clone(),
            warnings,
        }
    }
}

/// Remote CIDRs and extra sources, and our own addresses, which hide wider
/// routes of others: a pod with a borrowed address is still ours.
fn desired_routes(config: &Config, facts: &Facts) -> BTreeMap<Ipv4Net, Route> {
    let mut routes = BTreeMap::new();
    for extras in &config.routes.nodes {
        for source in &extras.extra_sources {
            let flags = Route::SOURCE_ONLY;
            let route = Route { node: extras.node.into(), flags, source: Route::SOURCE_FILE };
            routes.insert(source.0, route);
        }
    }
    for route in &config.routes.fixed {
        let entry = Route { node: route.node.into(), flags: 0, source: Route::SOURCE_FILE };
        routes.insert(route.cidr.0, entry);
    }
    let own = facts.pods.keys().copied().chain([facts.node]).chain(facts.tunnel.address);
    for address in own {
        let local =
            Route { node: facts.node.into(), flags: Route::LOCAL, source: Route::SOURCE_LOCAL };
        routes.insert(Ipv4Net::from(address), local);
    }
    routes
}

fn desired_nodes(
    config: &Config,
    host: &Host,
    paths: &Paths,
    facts: &Facts,
    warnings: &mut Vec<String>,
) -> BTreeMap<Ipv4Addr, Node> {
    let mut table = BTreeMap::new();
    for address in nodes(config) {
        let node = match paths.get(&address) {
            None => {
                warnings.push(format!("node {address}: the kernel has no route to it"));
                Node::default()
            }
            Some(path) => match host.links.get(&path.ifindex) {
                Some(link) if facts.underlay.contains(&path.ifindex) => {
                    node_entry(config, host, path, link)
                }
                _ => {
                    let name = host.links.get(&path.ifindex).map_or("?", |link| &link.name);
                    warnings.push(format!(
                        "node {address}: the kernel's route leads over {name}, which is no \
                         underlay interface"
                    ));
                    Node::default()
                }
            },
        };
        table.insert(address, node);
    }
    table
}

fn node_entry(config: &Config, host: &Host, path: &Path, link: &Link) -> Node {
    let mtu = path.mtu.unwrap_or(link.mtu).min(link.mtu);
    let mtu = match config.mtu {
        Mtu::Auto => mtu,
        Mtu::Bytes(bytes) => mtu.min(bytes + OUTER_LENGTH as u32),
    };
    let neighbour = host.neighbours.get(&(path.ifindex, path.next_hop));
    let next_hop = neighbour.map(|neighbour| neighbour.mac).unwrap_or_default();
    Node { ifindex: path.ifindex, mtu, next_hop, source: link.mac }
}

fn desired_attachments(
    config: &Config,
    host: &Host,
    facts: &Facts,
    tunnel_ifindex: u32,
    terms: Terms<'_>,
) -> BTreeSet<Attachment> {
    let mut attachments = BTreeSet::new();
    let mut attach = |hook, ifindex| {
        attachments.insert(Attachment { hook, ifindex });
    };
    attach(Hook::EncapHost, tunnel_ifindex);
    for ifindex in &facts.underlay {
        attach(Hook::DecapTc, *ifindex);
        let wants_xdp = match config.underlay.decap {
            DecapHook::Tc => false,
            DecapHook::Xdp => true,
            // A driver of its own, and one that has not refused. XDP on a veth
            // costs its peer TSO; a bond or VLAN is no driver.
            DecapHook::Auto => {
                host.links.get(ifindex).is_some_and(|link| link.kind.is_none())
                    && !terms.no_xdp.contains(ifindex)
            }
        };
        if wants_xdp {
            attach(Hook::DecapXdp, *ifindex);
        }
    }
    for pod in facts.pods.values() {
        match terms.fastpath {
            Fastpath::Off => {}
            Fastpath::Trusted => attach(Hook::EncapPod, pod.ifindex),
            Fastpath::Verified => {
                attach(Hook::EncapPod, pod.ifindex);
                attach(Hook::GrantDecap, pod.ifindex);
            }
        }
    }
    attachments
}

/// Never leased: what the configuration excludes, and pods behind a shaper,
/// which must see every packet.
fn desired_mark_rules(config: &Config, host: &Host, facts: &Facts, terms: Terms<'_>) -> MarkRules {
    let is_shaped = |ifindex: &u32| host.shaped.contains(ifindex) || terms.shaped.contains(ifindex);
    let shaped = facts.pods.iter().filter(|(_, pod)| is_shaped(&pod.ifindex));
    let excluded = config.leases.exclude.iter().map(|cidr| cidr.0);
    let unleased: Vec<Ipv4Net> =
        shaped.map(|(address, _)| Ipv4Net::from(*address)).chain(excluded).collect();
    let workloads = config.workloads.interfaces.iter().map(ToString::to_string);
    MarkRules {
        mark: config.leases.mark,
        interfaces: std::iter::once(facts.mode.device().to_owned()).chain(workloads).collect(),
        // An interval set takes no overlaps.
        unleased: Ipv4Net::aggregate(&unleased).into_iter().collect(),
    }
}

fn desired_kernel_routes(
    config: &Config,
    facts: &Facts,
    nodes: &BTreeMap<Ipv4Addr, Node>,
    ifindex: u32,
) -> BTreeMap<Ipv4Net, TunnelRoute> {
    let route = |node: &Ipv4Addr| {
        let mtu = nodes.get(node).map_or(0, |node| inner(node.mtu));
        TunnelRoute {
            ifindex,
            source: facts.tunnel.address,
            mtu: (mtu != 0 && mtu < facts.tunnel.mtu).then_some(mtu),
        }
    };
    config.routes.fixed.iter().map(|fixed| (fixed.cidr.0, route(&fixed.node))).collect()
}

/// What is left of an MTU for the inner packet, bytes.
const fn inner(mtu: u32) -> u32 {
    mtu.saturating_sub(OUTER_LENGTH as u32)
}
