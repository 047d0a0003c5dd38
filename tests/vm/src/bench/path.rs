//! The ways from pod to pod that are compared.

use anyhow::{Context as _, Result};
use tunless_lab::{Daemon, Lab, Node};

use super::{flowtable, limit};
use crate::{Kernel, suites::smoke::interop::config, tunl0};

/// A way from pod to pod.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Its name in tables.
    pub name: &'static str,
    /// The name of its suite.
    pub suite: &'static str,
    /// The name of the suite that profiles it.
    pub(super) profile: &'static str,
    /// What it is.
    pub about: &'static str,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// See [`limit`].
    Limit,
    /// The fabric knows the pods.
    Plain,
    Tunl0,
    Vxlan,
    /// See [`flowtable`].
    FlowtableIpip,
    FlowtableTunl0,
    Tunless {
        mode: &'static str,
        fastpath: &'static str,
    },
}

const fn tunless(mode: &'static str, fastpath: &'static str) -> Way {
    Way::Tunless { mode, fastpath }
}

macro_rules! path {
    ($name:literal, $about:literal, $way:expr) => {
        Path {
            name: $name,
            suite: concat!("bench-", $name),
            profile: concat!("profile-", $name),
            about: $about,
            way: $way,
        }
    };
}

/// Every path.
pub const PATHS: &[Path] = &[
    path!("tunl0", "the kernel's tunl0, as Calico sets it up", Way::Tunl0),
    path!("limit", "two programs that rewrite MACs and redirect: no tunnel, no lookup", Way::Limit),
    path!("plain", "the kernel's routing, without any tunnel", Way::Plain),
    path!("vxlan", "the kernel's VXLAN, as Calico sets it up", Way::Vxlan),
    path!(
        "flowtable-ipip",
        "nftables' flowtable over a point-to-point ipip device",
        Way::FlowtableIpip
    ),
    path!("flowtable-tunl0", "nftables' flowtable over tunl0", Way::FlowtableTunl0),
    path!("accelerate-off", "tunless beside tunl0, no fast path", tunless("accelerate", "off")),
    path!(
        "accelerate-verified",
        "tunless beside tunl0, verified fast path",
        tunless("accelerate", "verified")
    ),
    path!("off", "tunless, no fast path", tunless("replace", "off")),
    path!("verified", "tunless, verified fast path", tunless("replace", "verified")),
    path!("trusted", "tunless, trusted fast path", tunless("replace", "trusted")),
];

impl Path {
    /// Whether the kernel has it: flowtables know IP-in-IP since 6.19.
    #[must_use]
    pub fn is_on(&self, kernel: Kernel) -> bool {
        let is_flowtable = matches!(self.way, Way::FlowtableIpip | Way::FlowtableTunl0);
        !is_flowtable || kernel == Kernel::V7
    }

    /// Whether it looks for routes in a map of ours.
    pub(super) fn has_routes(&self) -> bool {
        matches!(self.way, Way::Tunless { .. })
    }

    /// Whether TCP passes beside the rules of this many endpoints: Felix's drop what is
    /// invalid to conntrack, as the end of a connection is whose middle it has not seen.
    #[must_use]
    pub fn carries_tcp_beside(&self, endpoints: u32) -> bool {
        endpoints == 0 || !matches!(self.way, Way::Tunless { fastpath: "trusted", .. })
    }

    /// Whether a node can translate for a Service on it: not where packets pass by conntrack.
    #[must_use]
    pub fn carries_services(&self) -> bool {
        !matches!(self.way, Way::Limit | Way::Tunless { fastpath: "trusted", .. })
    }

    /// Whether it has a fast path of ours; `None` where nothing is ours.
    #[must_use]
    pub fn has_fastpath(&self) -> Option<bool> {
        match self.way {
            Way::Tunless { fastpath, .. } => Some(fastpath != "off"),
            _ => None,
        }
    }

    /// Opens it, both ways.
    pub(super) fn open(&self, lab: &Lab) -> Result<Vec<Daemon>> {
        let ends = [(&lab.node1, &lab.node2), (&lab.node2, &lab.node1)];
        let on_both = |open: &dyn Fn(&Node, &Node) -> Result<()>| {
            ends.iter().try_for_each(|(node, peer)| open(node, peer))
        };
        match self.way {
            Way::Limit => {
                plain(lab)?;
                limit::open(lab)?;
            }
            Way::Plain => plain(lab)?,
            Way::Tunl0 => tunl0::raise_on_both(lab)?,
            Way::Vxlan => on_both(&vxlan)?,
            Way::FlowtableIpip => {
                on_both(&ipip)?;
                flowtable::open(lab)?;
            }
            Way::FlowtableTunl0 => {
                tunl0::raise_on_both(lab)?;
                flowtable::open(lab)?;
            }
            Way::Tunless { mode, fastpath } => {
                if mode == "accelerate" {
                    tunl0::raise_on_both(lab)?;
                }
                // Beside Felix's rules `trusted` has to be insisted on: it heeds none.
                let more = match fastpath {
                    "trusted" => "i_accept_no_network_policy: true\n",
                    "verified" => "leases: {services: true}\n",
                    _ => "",
                };
                let start = |(node, peer): (&Node, &Node)| {
                    Daemon::start(node, &(config(node, peer, mode, fastpath) + more))
                };
                return ends.into_iter().map(start).collect();
            }
        }
        Ok(Vec::new())
    }
}

/// The fabric has a route to each block; a node's own is its default route.
fn plain(lab: &Lab) -> Result<()> {
    for Node { block, ip, .. } in lab.nodes() {
        lab.router.ip(&format!("route add {block} via {ip}"))?;
    }
    Ok(())
}

/// As Felix's `vxlan.calico`: no learning, everything written down.
fn vxlan(node: &Node, peer: &Node) -> Result<()> {
    let Node { netns, tunnel, ip, .. } = node;
    let mac = |node: &Node| {
        let [a, b, c, d] = node.tunnel.octets();
        format!("66:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    };
    let (own, other) = (mac(node), mac(peer));
    let Node { tunnel: far, block, ip: to, .. } = peer;
    netns
        .ip_batch(&format!(
            "link add vxlan.calico address {own} mtu 1450 type vxlan id 4096 local {ip} dev eth0 \
             dstport 4789 nolearning\n\
             addr add {tunnel}/32 dev vxlan.calico\n\
             link set vxlan.calico up\n\
             neigh add {far} lladdr {other} dev vxlan.calico nud permanent\n\
             route add {block} via {far} dev vxlan.calico onlink\n"
        ))
        .context("VXLAN")?;
    netns
        .exec("bridge", &["fdb", "append", &other, "dev", "vxlan.calico", "dst", &to.to_string()])
        .map(drop)
}

/// A device for one peer.
fn ipip(node: &Node, peer: &Node) -> Result<()> {
    let Node { netns, tunnel, ip, .. } = node;
    let Node { ip: to, block, .. } = peer;
    netns.ip_batch(&format!(
        "link add ipip-peer type ipip local {ip} remote {to}\n\
         addr add {tunnel}/32 dev ipip-peer\n\
         link set ipip-peer mtu 1480 up\n\
         route add {block} dev ipip-peer\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::suites;

    #[test]
    fn every_path_has_a_suite_of_its_own() {
        let names: BTreeSet<_> = PATHS.iter().map(|path| path.suite).collect();
        assert_eq!(names.len(), PATHS.len());
        for path in PATHS {
            let suite = suites::find(path.suite).unwrap();
            let cases = super::super::ENDPOINTS.len() + usize::from(path.has_routes());
            assert_eq!((suite.cases)(Kernel::V6_12).len(), cases);
            assert!(suites::ALL.iter().all(|other| other.name != path.suite));
        }
    }
}
