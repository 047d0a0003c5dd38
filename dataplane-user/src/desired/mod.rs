//! What should be: a pure function of the configuration and of what the kernel
//! says.

pub mod ipsec;
pub mod links;
mod route_tables;
pub mod xdp;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use dataplane_common::{
    Endpoint, Hop, IfIndex, Mtu, Program, Settings, ipv4::OUTER_LENGTH, unanswered,
};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    address::is_single,
    bpf::Attachment,
    config::{Config, Fastpath, Mode, Spoof, TunnelMtu},
    kernel::{Host, Link, Path, TUNL0, TUNNEL, TunnelDevice},
    netfilter::{MarkRules, ServiceFitness, UnansweredFitness},
    shadow::Exclusions,
    sources::table::{ChosenRoute, Surroundings},
};

pub use self::{ipsec::Policies, links::Underlay, route_tables::RouteTables};

/// Bytes of link header on our own tunnel device, a veth.
const ETHERNET: u16 = 14;

/// The ways to the nodes, as the kernel answered.
pub type Paths = BTreeMap<Ipv4Addr, Path>;

/// What we make of the host, before the tunnel device exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Our underlay address.
    pub node: Ipv4Addr,
    /// Interfaces by which we send to nodes, and the one with our address.
    pub underlay: BTreeSet<IfIndex>,
    /// Interfaces by which packets for this host may arrive; [`Self::underlay`] is among them.
    pub receiving: BTreeSet<IfIndex>,
    /// With tunl0, or without?
    pub mode: TunnelMode,
    /// The tunnel device as it should be; as it is, if it is tunl0.
    pub tunnel: TunnelDevice,
    /// Local pods by address.
    pub pods: BTreeMap<Ipv4Addr, Endpoint>,
    /// Beside tunl0: its routes, prefix → node.
    pub tunl0_routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// IPsec policies about encapsulated packets.
    pub ipsec: Policies,
    /// The addresses of the sources' servers.
    ///
    /// [`Facts::find`] has those in the file; a source reports those of names, and of a kubeconfig.
    pub servers: BTreeSet<Ipv4Addr>,
}

/// The routes the sources agreed on.
pub type ChosenRoutes = BTreeMap<Ipv4Net, ChosenRoute>;

/// Whose the tunnel device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelMode {
    /// Ours, with our routes.
    Replace,
    /// The kernel's tunl0, with routes of others.
    Accelerate,
}

impl TunnelMode {
    /// The tunnel device, if it is there; tunl0 has to be up.
    #[must_use]
    pub fn find(self, host: &Host) -> Option<(IfIndex, &Link)> {
        match self {
            Self::Replace => host.link(TUNNEL),
            Self::Accelerate => host.tunl0(),
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
    /// What routes come to.
    pub tables: RouteTables,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Ipv4Addr, Endpoint>,
    /// Programs on interfaces.
    pub attachments: BTreeSet<Attachment>,
    /// Programs that need not be attached, but are not detached either.
    pub may_stay: BTreeSet<Attachment>,
    /// The nft table, where flows are leased.
    pub mark_rules: Option<MarkRules>,
    /// When all of it is over, `CLOCK_MONOTONIC`, if it is only tried.
    pub try_end: Option<Duration>,
    /// `mode: shadow`: tunl0 carries every packet and programs only look; whose packets would have had no
    /// lease.
    pub shadow: Option<Exclusions>,
}

/// The nodes the file names.
#[must_use]
pub fn configured_nodes(config: &Config) -> BTreeSet<Ipv4Addr> {
    let routes = config.routes.fixed.iter().map(|route| route.node);
    routes.chain(config.routes.nodes.iter().map(|extras| extras.node)).collect()
}

/// Local pods: host routes (`/32`, no gateway) over workload interfaces.
#[must_use]
pub fn local_pods(config: &Config, host: &Host) -> BTreeMap<Ipv4Addr, Endpoint> {
    let mut pods = BTreeMap::new();
    for route in &host.routes {
        let Some(ifindex) = route.ifindex else { continue };
        let Some(link) = host.links.get(&ifindex) else { continue };
        if !is_single(route.destination)
            || route.gateway.is_some()
            || !config.workloads.matches(&link.name)
        {
            continue;
        }
        let address = route.destination.addr();
        let neighbour = host.neighbours.get(&(ifindex, address));
        let destination = neighbour.map(|neighbour| neighbour.mac).unwrap_or_default();
        let hop = Hop { ifindex, destination, source: link.mac };
        pods.insert(address, Endpoint { hop });
    }
    pods
}

/// The routers that the host sends by where nothing else is known.
fn default_gateways(host: &Host) -> impl Iterator<Item = Ipv4Addr> {
    let default = host.routes.iter().filter(|route| route.destination.prefix_len() == 0);
    default.flat_map(|route| route.next_hops().filter_map(|(_, gateway)| gateway))
}

impl Facts {
    /// Finds out what the configuration leaves open. `node`: our underlay address.
    #[must_use]
    pub fn find(
        mode: TunnelMode,
        node: Ipv4Addr,
        config: &Config,
        host: &Host,
        paths: &Paths,
    ) -> Self {
        let Underlay { sending: underlay, receiving } = links::underlay(config, host, paths, node);
        let smallest = underlay.iter().filter_map(|ifindex| host.links.get(ifindex));
        let mtu = match config.mtu {
            TunnelMtu::Bytes(mtu) => mtu,
            TunnelMtu::Auto => inner(smallest.map(|link| link.mtu).min().unwrap_or(Mtu(1500))),
        };
        let tunnel = match mode {
            TunnelMode::Replace => TunnelDevice {
                mtu,
                address: config.node.tunnel_address,
                // Felix may be moving routes to tunl0, one after the other. Decapsulation has
                // judged the sources before `rp_filter` does.
                is_loose: config.mode == Mode::Auto && config.spoof == Spoof::Drop,
            },
            TunnelMode::Accelerate => {
                let tunl0 = host.tunl0();
                let has_it = |(owner, _): &&(IfIndex, Ipv4Net)| {
                    tunl0.is_some_and(|(ifindex, _)| *owner == ifindex)
                };
                TunnelDevice {
                    mtu: tunl0.map_or(mtu, |(_, link)| link.mtu),
                    address: host.addresses.iter().find(has_it).map(|(_, net)| net.addr()),
                    is_loose: false,
                }
            }
        };
        let tunl0_routes = match mode {
            TunnelMode::Replace => BTreeMap::new(),
            TunnelMode::Accelerate => host.tunl0_routes(),
        };
        let pods = local_pods(config, host);
        let servers = config.sources.servers();
        let ipsec = Policies::new(&host.policies, node);
        Self { node, mode, underlay, receiving, tunnel, pods, tunl0_routes, ipsec, servers }
    }

    /// Looks at the routes to these prefixes again.
    pub fn tunl0_routes_changed(&mut self, host: &Host, prefixes: &BTreeSet<Ipv4Net>) {
        if self.mode == TunnelMode::Replace {
            return;
        }
        self.tunl0_routes.retain(|cidr, _| !prefixes.contains(cidr));
        let anew = host.tunl0_routes().into_iter().filter(|(cidr, _)| prefixes.contains(cidr));
        self.tunl0_routes.extend(anew);
    }

    /// Returns the names of the interfaces by which packets for this host may arrive.
    #[must_use]
    pub fn receiving_names(&self, host: &Host) -> BTreeSet<String> {
        let links = self.receiving.iter().filter_map(|ifindex| host.links.get(ifindex));
        links.map(|link| link.name.clone()).collect()
    }

    /// The networks this host is part of, by links on which nodes may be.
    fn connected(&self, host: &Host) -> BTreeSet<Ipv4Net> {
        let on_underlay =
            host.addresses.iter().filter(|(ifindex, _)| self.receiving.contains(ifindex));
        on_underlay.map(|(_, net)| net.trunc()).filter(|net| !is_single(*net)).collect()
    }

    /// What the sources' claims are judged by.
    #[must_use]
    pub fn surroundings(&self, host: &Host) -> Surroundings {
        let own = host.addresses.iter().find(|(_, net)| net.addr() == self.node);
        Surroundings {
            node: Some(self.node),
            subnet: own.map(|(_, net)| net.trunc()),
            connected: self.connected(host),
            servers: default_gateways(host).chain(self.servers.iter().copied()).collect(),
            tunnel: self.tunnel.address,
            pods: self.pods.keys().copied().collect(),
        }
    }
}

/// What the daemon has settled by itself.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The configured fast path, or `off` where it is withheld.
    pub fastpath: Fastpath,
    /// Interfaces whose driver refused XDP.
    pub no_xdp: &'a BTreeSet<IfIndex>,
    /// Interfaces on which packets do not arrive as XDP handed them over.
    pub no_handover: &'a BTreeSet<IfIndex>,
    /// The secret among our programs.
    pub secret: u32,
    /// Interfaces of pods that get no leases: something has to see each of their packets.
    pub unleased: &'a BTreeSet<IfIndex>,
    /// Whether flows of Services may be leased on this host.
    pub services: &'a ServiceFitness,
    /// Whether UDP flows that get no answer may be leased on this host.
    pub unanswered: &'a UnansweredFitness,
    /// As in [`MarkRules::closing`].
    pub closing: Option<u32>,
    /// When all of it is over, `CLOCK_MONOTONIC`, if it is only tried.
    pub try_end: Option<Duration>,
}

/// All that the desired state is made of.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The file.
    pub config: &'a Config,
    /// The kernel's state.
    pub host: &'a Host,
    /// The ways to the nodes.
    pub paths: &'a Paths,
    /// What we make of the host.
    pub facts: &'a Facts,
    /// The tunnel device's interface index.
    pub tunnel: IfIndex,
}

impl Desired {
    /// Puts it all together, now that the tunnel device is there.
    #[must_use]
    pub fn new(inputs: Inputs<'_>, routes: &ChosenRoutes, tunnel: &Link, terms: Terms<'_>) -> Self {
        let Inputs { config, host, facts, tunnel: tunnel_ifindex, .. } = inputs;
        let tables = RouteTables::whole(inputs, routes);
        let is_shadow = config.mode == Mode::Shadow;
        Self {
            shadow: is_shadow.then(|| exclusions(config, facts, terms)),
            settings: Settings {
                lease: u64::from(config.leases.seconds) * 1_000_000_000,
                node: facts.node.into(),
                tunnel_ifindex,
                tunnel_mac: tunnel.mac,
                tunnel_header: match facts.mode {
                    TunnelMode::Replace => ETHERNET,
                    TunnelMode::Accelerate => 0,
                },
                is_tried: terms.try_end.is_some().into(),
                // The loader asks the kernel.
                unwrap_flags: 0,
                fastpath: terms.fastpath.into(),
                spoof: match config.spoof {
                    Spoof::Drop => Settings::SPOOF_DROP,
                    Spoof::Stack => Settings::SPOOF_STACK,
                },
                secret: terms.secret,
                mark: config.leases.mark,
                service_mark: service_mark(config, terms),
                unanswered_mark: unanswered_mark(config, terms),
                unanswered_sets: unanswered_sets(config),
                rest: REST_MS,
            },
            attachments: match is_shadow {
                true => shadow_attachments(facts),
                false => desired_attachments(config, host, facts, tunnel_ifindex, terms),
            },
            may_stay: match is_shadow {
                true => BTreeSet::new(),
                false => xdp::that_may_stay(config, host, facts, terms),
            },
            tables,
            mark_rules: (terms.fastpath == Fastpath::Verified && !is_shadow)
                .then(|| desired_mark_rules(config, facts, terms)),
            endpoints: facts.pods.clone(),
            try_end: terms.try_end,
        }
    }
}

/// For how long a Service lease that was revoked is not granted again, ms: longer than a packet that
/// netfilter judged before takes to the tunnel device.
const REST_MS: u32 = 200;

/// The bit by which netfilter tells of flows that conntrack translates for a Service; 0: they get no
/// leases, and the bit is not touched.
fn service_mark(config: &Config, terms: Terms<'_>) -> u32 {
    let is_ours = config.leases.services && !terms.services.is_mark_taken();
    if is_ours { config.leases.service_mark() } else { 0 }
}

/// The bits by which netfilter tells of UDP flows that get no answer; 0: they get no leases, and the second bit
/// is not touched.
fn unanswered_mark(config: &Config, terms: Terms<'_>) -> u32 {
    let are_ours = config.leases.unanswered_udp && !terms.unanswered.is_mark_taken();
    if are_ours { config.leases.unanswered_mark() } else { 0 }
}

/// Room to count packets of such flows.
fn unanswered_sets(config: &Config) -> u32 {
    if config.leases.unanswered_udp { unanswered::sets(config.leases.size) } else { 1 }
}

fn desired_attachments(
    config: &Config,
    host: &Host,
    facts: &Facts,
    tunnel_ifindex: IfIndex,
    terms: Terms<'_>,
) -> BTreeSet<Attachment> {
    let mut attachments = BTreeSet::new();
    let mut attach = |program, ifindex| {
        attachments.insert(Attachment { program, ifindex });
    };
    attach(Program::EncapHost, tunnel_ifindex);
    for ifindex in &facts.receiving {
        attach(Program::DecapTc, *ifindex);
        // Attaching XDP resets most NICs: not where packets may arrive but have not yet.
        if facts.underlay.contains(ifindex) && xdp::may_decapsulate(config, host, terms, *ifindex) {
            attach(Program::DecapXdp, *ifindex);
        }
    }
    for pod in facts.pods.values() {
        match terms.fastpath {
            Fastpath::Off => {}
            Fastpath::Trusted => attach(Program::EncapPod, pod.hop.ifindex),
            // Never leased, and an `ingress` qdisc takes clsact's place.
            Fastpath::Verified if terms.unleased.contains(&pod.hop.ifindex) => {}
            Fastpath::Verified => {
                attach(Program::EncapPod, pod.hop.ifindex);
                attach(Program::GrantDecap, pod.hop.ifindex);
            }
        }
    }
    attachments
}

fn exclusions(config: &Config, facts: &Facts, terms: Terms<'_>) -> Exclusions {
    let pods = facts.pods.iter().filter(|(_, pod)| terms.unleased.contains(&pod.hop.ifindex));
    Exclusions {
        pods: pods.map(|(address, _)| *address).collect(),
        prefixes: config.leases.exclude.iter().map(|cidr| cidr.0).collect(),
        services: config.leases.services && terms.services.against.is_empty(),
    }
}

/// Where tunnel packets leave, and where they may arrive. No XDP: attaching it resets most NICs.
fn shadow_attachments(facts: &Facts) -> BTreeSet<Attachment> {
    let watched = facts.receiving.union(&facts.underlay);
    let both = |ifindex: &IfIndex| {
        Program::SHADOW.map(|program| Attachment { program, ifindex: *ifindex })
    };
    watched.flat_map(both).collect()
}

/// Never leased: what the configuration excludes, and pods of which something has to see every
/// packet.
fn desired_mark_rules(config: &Config, facts: &Facts, terms: Terms<'_>) -> MarkRules {
    let pods = facts.pods.iter().filter(|(_, pod)| terms.unleased.contains(&pod.hop.ifindex));
    let excluded = config.leases.exclude.iter().map(|cidr| cidr.0);
    let unleased: Vec<Ipv4Net> =
        pods.map(|(address, _)| Ipv4Net::from(*address)).chain(excluded).collect();
    let workloads = config.workloads.interfaces.iter().map(ToString::to_string);
    MarkRules {
        mark: config.leases.mark,
        cleared: service_mark(config, terms) | unanswered_mark(config, terms),
        closing: terms.closing,
        // Where Services get no leases no packet bears the second mark, which programs know all the same.
        service_mark: Some(service_mark(config, terms))
            .filter(|mark| *mark != 0 && terms.services.against.is_empty()),
        unanswered: Some(unanswered_mark(config, terms))
            .filter(|mark| *mark != 0 && terms.unanswered.against.is_empty()),
        interfaces: std::iter::once(facts.mode.device().to_owned()).chain(workloads).collect(),
        // An interval set takes no overlaps.
        unleased: Ipv4Net::aggregate(&unleased).into_iter().collect(),
    }
}

/// What is left of an MTU for the inner packet, bytes.
pub(crate) const fn inner(mtu: Mtu) -> Mtu {
    Mtu(mtu.0.saturating_sub(OUTER_LENGTH as u32))
}
