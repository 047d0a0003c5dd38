//! The nodes and the router between them.
//!
//! ```text
//!  node2.perf 172.16.36.10 ── 172.16.36.1 ┐
//!                                         router
//!  node1.sit  172.16.35.4  ── 172.16.35.1 ┤
//!  node3.dev  172.16.34.7  ── 172.16.34.1 ┘   (only when asked for)
//!  node4.sit  172.16.35.5  ── 172.16.35.1     (only when asked for)
//! ```
//!
//! node4 is in the subnet of node1: the router's ports to the two are one bridge
//! then, and they reach each other without it.
//!
//! The router knows no pod: a pod's packet that is not encapsulated has
//! nowhere to go, as in a real fabric.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;

use crate::{
    addr::{Mac, mac_of, mac_text},
    lab::Shared,
    netns::Netns,
    nics,
};

/// The reverse path filter of a node (`net.ipv4.conf.*.rp_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RpFilter {
    /// 0: no check.
    Off,
    /// 1: the best way back must leave by the same interface.
    #[default]
    Strict,
    /// 2: any way back will do.
    Loose,
}

impl RpFilter {
    /// The sysctl's value.
    #[must_use]
    pub fn value(self) -> &'static str {
        match self {
            Self::Off => "0",
            Self::Strict => "1",
            Self::Loose => "2",
        }
    }
}

/// A cluster host.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the cluster, e.g. `node2.perf`.
    pub name: &'static str,
    /// Its name in the lab, e.g. `node2`.
    pub label: &'static str,
    /// Its underlay address, on `eth0`.
    pub ip: Ipv4Addr,
    /// The MAC of its `eth0`.
    pub mac: Mac,
    /// The address that tunl0 would have.
    pub tunnel: Ipv4Addr,
    /// The block its pods come from.
    pub block: &'static str,
    /// The router's address toward it, its default gateway.
    pub gateway: Ipv4Addr,
    /// The router's MAC toward it.
    pub gateway_mac: Mac,
    /// The router's interface toward it.
    pub router_port: String,
    /// The bridge that this interface belongs to, if there are others in its subnet.
    pub(crate) bridge: Option<&'static str>,
    /// Where it lives.
    pub netns: Netns,
    /// The bpffs directory of a daemon on it.
    pub bpffs: PathBuf,
    pub(crate) shared: Arc<Shared>,
}

/// The fixed facts of a node.
pub(crate) struct Plan {
    name: &'static str,
    label: &'static str,
    pub ip: Ipv4Addr,
    tunnel: Ipv4Addr,
    block: &'static str,
}

impl Plan {
    /// The router's address toward it.
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.ip.octets();
        Ipv4Addr::new(a, b, c, 1)
    }
}

/// What nodes and router are joined by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cables {
    /// Veth pairs.
    Veth,
    /// Network cards; see [`nics`].
    Nics,
}

pub(crate) const NODE1: Plan = Plan {
    name: "node1.sit",
    label: "node1",
    ip: Ipv4Addr::new(172, 16, 35, 4),
    tunnel: Ipv4Addr::new(10, 20, 42, 0),
    block: "10.20.42.0/26",
};
pub(crate) const NODE2: Plan = Plan {
    name: "node2.perf",
    label: "node2",
    ip: Ipv4Addr::new(172, 16, 36, 10),
    tunnel: Ipv4Addr::new(10, 20, 105, 192),
    block: "10.20.105.192/26",
};
pub(crate) const NODE3: Plan = Plan {
    name: "node3.dev",
    label: "node3",
    ip: Ipv4Addr::new(172, 16, 34, 7),
    tunnel: Ipv4Addr::new(10, 20, 7, 64),
    block: "10.20.7.64/26",
};

pub(crate) const NODE4: Plan = Plan {
    name: "node4.sit",
    label: "node4",
    ip: Ipv4Addr::new(172, 16, 35, 5),
    tunnel: Ipv4Addr::new(10, 20, 9, 128),
    block: "10.20.9.128/26",
};

/// The router's port to the subnet of node1 and node4, if there are both.
pub(crate) const BRIDGE: &str = "subnet35";

/// Makes the router: it forwards, and judges nothing unless the fabric filter
/// is on.
pub(crate) fn make_router(shared: &Shared) -> Result<Netns> {
    let router = Netns::create(shared.id.netns("router").name())?;
    router.set_sysctls(&[
        ("ipv4/ip_forward".to_owned(), "1"),
        // A new namespace may inherit these from the host.
        ("ipv4/conf/all/rp_filter".to_owned(), "0"),
        ("ipv4/conf/default/rp_filter".to_owned(), "0"),
    ])?;
    Ok(router)
}

/// Makes the router's bridge for the nodes of one subnet, with its gateway's address.
pub(crate) fn make_bridge(router: &Netns, plan: &Plan, mtu: u32) -> Result<()> {
    let gateway = plan.gateway();
    let mac = mac_text(mac_of(gateway));
    router.ip_batch(&format!(
        "link add {BRIDGE} mtu {mtu} address {mac} type bridge\n\
         addr add {gateway}/24 dev {BRIDGE}\n\
         link set {BRIDGE} up\n",
    ))
}

/// Makes a node and its link to the router.
pub(crate) fn make_node(
    shared: &Arc<Shared>,
    router: &Netns,
    plan: &Plan,
    cables: Cables,
    bridge: Option<&'static str>,
    mtu: u32,
    rp_filter: RpFilter,
) -> Result<Node> {
    let netns = Netns::create(shared.id.netns(plan.label).name())?;
    let gateway = plan.gateway();
    let node = Node {
        name: plan.name,
        label: plan.label,
        ip: plan.ip,
        mac: mac_of(plan.ip),
        tunnel: plan.tunnel,
        block: plan.block,
        gateway,
        gateway_mac: mac_of(gateway),
        router_port: format!("to-{}", plan.label),
        bridge,
        netns,
        bpffs: shared.id.bpffs(plan.label),
        shared: Arc::clone(shared),
    };
    node.netns.set_sysctls(&[
        ("ipv4/ip_forward".to_owned(), "1"),
        ("ipv4/conf/all/rp_filter".to_owned(), rp_filter.value()),
        ("ipv4/conf/default/rp_filter".to_owned(), rp_filter.value()),
    ])?;
    match cables {
        Cables::Veth => node.plug_veth(router, mtu)?,
        Cables::Nics => node.plug_nics(router, mtu)?,
    }
    node.connect(router)?;
    node.netns.set_sysctl("ipv4/conf/eth0/rp_filter", rp_filter.value())?;
    Ok(node)
}

impl Node {
    /// Its underlay address with the prefix length, `172.16.36.10/24`.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("{}/24", self.ip)
    }

    /// A file of its daemon in the run directory, by what its name ends with: `state.json`.
    #[must_use]
    pub fn run_file(&self, extension: &str) -> PathBuf {
        let root = self.bpffs.display().to_string();
        let name = root.trim_start_matches('/').replace('/', "%2F");
        Path::new("/run/tunless").join(format!("{name}.{extension}"))
    }

    /// A veth to the router.
    fn plug_veth(&self, router: &Netns, mtu: u32) -> Result<()> {
        let mac = mac_text(self.mac);
        // A bridge has the gateway's MAC itself, and its ports any.
        let port_mac = match self.bridge {
            None => format!("address {} ", mac_text(self.gateway_mac)),
            Some(_) => String::new(),
        };
        router.ip_batch(&format!(
            "link add {port} mtu {mtu} {port_mac}type veth \
             peer name eth0 mtu {mtu} address {mac} netns {netns}\n",
            port = self.router_port,
            netns = self.netns.name(),
        ))
    }

    /// The two cards at the ends of its wire.
    fn plug_nics(&self, router: &Netns, mtu: u32) -> Result<()> {
        nics::move_into(&self.netns, self.mac, "eth0")?;
        nics::move_into(router, self.gateway_mac, &self.router_port)?;
        self.netns.ip(&format!("link set eth0 mtu {mtu}"))?;
        router.ip(&format!("link set {} mtu {mtu}", self.router_port)).map(drop)
    }

    /// Addresses and the default route.
    fn connect(&self, router: &Netns) -> Result<()> {
        let Self { ip, gateway, router_port: port, .. } = self;
        match self.bridge {
            None => router.ip_batch(&format!(
                "addr add {gateway}/24 dev {port}\n\
                 link set {port} up\n",
            ))?,
            Some(bridge) => router.ip_batch(&format!(
                "link set {port} master {bridge}\n\
                 link set {port} up\n",
            ))?,
        }
        self.netns.ip_batch(&format!(
            "addr add {ip}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via {gateway}\n",
        ))?;
        // Veth starts without GRO; a real NIC has it, and TCP's speed after
        // decapsulation hangs on it.
        self.netns.exec("ethtool", &["-K", "eth0", "gro", "on"]).map(drop)
    }
}
