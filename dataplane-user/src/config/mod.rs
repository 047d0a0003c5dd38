//! The configuration file: what may be said in it.
//!
//! Three stages, each with errors of its own: [`file`] reads and parses it,
//! [`check`] judges what it says (and what it says about *this* host), and
//! [`locate`] finds the line to complain about.

pub mod check;
pub mod file;
mod given;
pub mod http;
pub mod locate;
pub mod sources;
pub mod trust;
pub mod types;

use std::{
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use dataplane_common::{Mtu, layout::DEFAULT_LEASES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::vocabulary::Encap;

pub use self::{
    check::{HostFacts, Problem},
    file::{ConfigFile, Refusal},
    http::{HttpConfig, Listen},
    sources::{BirdConfig, EtcdConfig, KernelConfig, KubernetesConfig, SourcesConfig},
    types::{Attach, Cidr, DecapHook, Fastpath, Mode, Pattern, Spoof, Spread, TunnelMtu},
};

/// Where the daemon looks unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/tunless/config.yaml";

/// The commented example that `tunless config example` prints.
pub const EXAMPLE: &str = include_str!("../../../packaging/config.yaml");

/// The whole file. Everything but the routes has a default or is found out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct Config {
    /// This node.
    pub node: NodeConfig,
    /// The interfaces towards the other nodes.
    pub underlay: UnderlayConfig,
    /// The interfaces towards the pods.
    pub workloads: WorkloadConfig,
    /// With or without the kernel's tunl0.
    pub mode: Mode,
    /// How TC programs are attached.
    pub attach: Attach,
    /// What becomes of packets whose inner source is spoofed.
    pub spoof: Spoof,
    /// Whether packets may skip the stack.
    pub fastpath: Fastpath,
    /// What `fastpath: verified` gives to flows.
    pub leases: LeasesConfig,
    /// Allows `fastpath: trusted` where `NetworkPolicy` or Services exist, which then do not work.
    pub i_accept_no_network_policy: bool,
    /// MTU of the tunnel device: what pods should use.
    pub mtu: TunnelMtu,
    /// Log each proven spoof (rate: every one; for debugging).
    pub log_spoofs: bool,
    /// Where pods live, as far as it is said here.
    #[serde(deserialize_with = "given::mapping")]
    pub routes: RoutesConfig,
    /// Where else it is to be learnt.
    #[serde(deserialize_with = "given::mapping")]
    pub sources: SourcesConfig,
    /// Where metrics and health are served.
    pub http: HttpConfig,
    /// Directory for pins, on a bpffs.
    pub bpffs: BpffsDir,
}

/// This node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct NodeConfig {
    /// The name of this node's object in a datastore; default: in a container the environment's
    /// `NODE_NAME`, else the host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The underlay address; default: that of this node's object in the datastore, if the host has
    /// it, else the source the kernel uses towards the nodes.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "types::some_address")]
    pub address: Option<Ipv4Addr>,
    /// The tunnel device's address, the host's source towards pods; default: that of this node's
    /// object in the datastore.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "types::some_address")]
    pub tunnel_address: Option<Ipv4Addr>,
}

/// The interfaces towards the other nodes.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct UnderlayConfig {
    /// Their names; empty: those the kernel's routes to the nodes use.
    pub interfaces: Vec<String>,
    /// Where packets are unwrapped.
    pub decap: DecapHook,
    /// No path MTU that the kernel learns from ICMP messages counts below this, bytes.
    #[serde(deserialize_with = "types::path_mtu")]
    #[schemars(with = "u32", range(min = 68, max = 65_535))]
    pub min_path_mtu: Mtu,
    /// Whether received packets are spread over the CPUs.
    pub spread: Spread,
}

impl Default for UnderlayConfig {
    fn default() -> Self {
        // What every link of an IPv6 network carries (RFC 8200 §5).
        Self {
            interfaces: Vec::new(),
            decap: DecapHook::default(),
            min_path_mtu: Mtu(1280),
            spread: Spread::default(),
        }
    }
}

/// The interfaces towards the pods.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct WorkloadConfig {
    /// Names, `*` standing for any rest.
    pub interfaces: Vec<Pattern>,
}

impl Default for WorkloadConfig {
    fn default() -> Self {
        Self { interfaces: vec![Pattern::from("cali*")] }
    }
}

impl WorkloadConfig {
    /// Whether `interface` leads to a pod.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        self.interfaces.iter().any(|pattern| pattern.matches(interface))
    }
}

/// Leave for flows to skip the stack.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct LeasesConfig {
    /// How long a lease is good for, seconds.
    #[schemars(range(min = 1, max = 9))]
    pub seconds: u32,
    /// How many there may be, two to a conversation.
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub size: u32,
    /// The bit of `skb->mark` by which our nft table tells the programs.
    pub mark: u32,
    /// Whether flows are leased that conntrack translates for a Service.
    pub services: bool,
    /// The bit of `skb->mark` by which our nft table tells the programs of such flows; left out: of
    /// 0x0800 and 0x1000 the one that `mark` leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_mark: Option<u32>,
    /// Whether UDP flows are leased that get no answer: conntrack never calls them established.
    pub unanswered_udp: bool,
    /// Addresses whose flows are never leased: rules judge each of their packets.
    pub exclude: Vec<Cidr>,
    /// Names of programs on pods' interfaces that only watch, `*` standing for any rest.
    #[serde(deserialize_with = "given::list")]
    pub accept_programs: Vec<Pattern>,
}

impl Default for LeasesConfig {
    fn default() -> Self {
        // The mark: a bit that neither Calico (0xffff0000), kube-proxy (0x4000,
        // 0x8000) nor the portmap plugin (0x2000) uses.
        Self {
            seconds: 5,
            size: DEFAULT_LEASES as u32,
            mark: 0x1000,
            services: true,
            service_mark: None,
            unanswered_udp: false,
            exclude: Vec::new(),
            accept_programs: Vec::new(),
        }
    }
}

impl LeasesConfig {
    /// Returns the bit of `skb->mark` by which our nft table tells the programs of flows to Services: of
    /// the two that we use by ourselves, the one that [`Self::mark`] leaves.
    #[must_use]
    pub fn service_mark(&self) -> u32 {
        const BITS: [u32; 2] = [0x0800, 0x1000];
        let [usual, other] = BITS;
        self.service_mark.unwrap_or(if self.mark == usual { other } else { usual })
    }

    /// Returns the bits of `skb->mark` by which our nft table tells the programs of UDP flows that get no
    /// answer: both, which it sets together for no other flow.
    #[must_use]
    pub fn unanswered_mark(&self) -> u32 {
        self.mark | self.service_mark()
    }
}

/// Where pods live.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct RoutesConfig {
    /// Pod CIDRs and the nodes that carry them.
    #[serde(rename = "static", deserialize_with = "given::list")]
    pub fixed: Vec<StaticRoute>,
    /// What else there is to say of a node.
    #[serde(deserialize_with = "given::list")]
    pub nodes: Vec<NodeExtras>,
    /// How packets travel to pods of a pool, where the source of a route does not
    /// say; the longest match counts, and without any it is `ipip`.
    #[serde(deserialize_with = "given::list")]
    pub pools: Vec<PoolConfig>,
}

/// How packets travel to pods of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of keys to values")]
pub struct PoolConfig {
    /// Its addresses.
    pub cidr: Cidr,
    /// How packets travel.
    pub encap: Encap,
}

/// A pod CIDR and the node that carries it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of keys to values")]
pub struct StaticRoute {
    /// The block, or a borrowed address as a /32.
    pub cidr: Cidr,
    /// The node's underlay address.
    #[serde(deserialize_with = "types::address")]
    pub node: Ipv4Addr,
    /// How packets travel there; left out: as the pool says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<Encap>,
    /// What lists call the node; left out: as the datastore or BIRD calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What else there is to say of a node.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of keys to values")]
pub struct NodeExtras {
    /// The node's underlay address.
    #[serde(deserialize_with = "types::address")]
    pub node: Ipv4Addr,
    /// Inner sources it may use besides its pod CIDRs.
    #[serde(default)]
    pub extra_sources: Vec<Cidr>,
}

/// The directory for pins.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct BpffsDir(pub PathBuf);

impl Default for BpffsDir {
    fn default() -> Self {
        Self(PathBuf::from("/sys/fs/bpf/tunless"))
    }
}

impl AsRef<Path> for BpffsDir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for BpffsDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}
