//! How a lab is to be, and the making of it.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, ensure};
use nix::unistd::geteuid;

use crate::{
    addr::{HELLO_PERF, HELLO_SIT},
    fabric,
    identity::{LabId, sweep},
    lab::{Lab, Shared},
    topology::{
        BRIDGE, Cables, NODE1, NODE2, NODE3, NODE4, RpFilter, make_bridge, make_node, make_router,
    },
};

/// How the lab is to be; [`LabBuilder::build`] makes it.
#[derive(Debug, Clone)]
pub struct LabBuilder {
    underlay_mtu: u32,
    pod_mtu: u32,
    rp_filter: RpFilter,
    fabric_filter: bool,
    third_node: bool,
    fourth_node: bool,
    cables: Cables,
    default_pods: bool,
    tunless: Option<PathBuf>,
    confined: bool,
}

impl Default for LabBuilder {
    fn default() -> Self {
        Self {
            underlay_mtu: 1500,
            pod_mtu: 1480,
            rp_filter: RpFilter::Strict,
            fabric_filter: false,
            third_node: false,
            fourth_node: false,
            cables: Cables::Veth,
            default_pods: true,
            tunless: None,
            confined: false,
        }
    }
}

impl LabBuilder {
    /// The MTU of every underlay link (1500).
    #[must_use]
    pub fn underlay_mtu(mut self, mtu: u32) -> Self {
        self.underlay_mtu = mtu;
        self
    }

    /// The MTU of pods and their `cali*` interfaces (1480).
    #[must_use]
    pub fn pod_mtu(mut self, mtu: u32) -> Self {
        self.pod_mtu = mtu;
        self
    }

    /// The reverse path filter of the nodes (strict).
    #[must_use]
    pub fn rp_filter(mut self, rp_filter: RpFilter) -> Self {
        self.rp_filter = rp_filter;
        self
    }

    /// Whether the router drops and counts un-encapsulated packets of pods and
    /// services (no).
    #[must_use]
    pub fn fabric_filter(mut self, on: bool) -> Self {
        self.fabric_filter = on;
        self
    }

    /// Whether there is a node3 (no).
    #[must_use]
    pub fn third_node(mut self, on: bool) -> Self {
        self.third_node = on;
        self
    }

    /// Whether there is a node4, in the subnet of node1 (no). Not with [`Self::nics`].
    #[must_use]
    pub fn fourth_node(mut self, on: bool) -> Self {
        self.fourth_node = on;
        self
    }

    /// Whether nodes and router are joined by network cards that this machine
    /// was given for it, and not by veth pairs (no); see [`crate::nics`].
    #[must_use]
    pub fn nics(mut self, on: bool) -> Self {
        self.cables = if on { Cables::Nics } else { Cables::Veth };
        self
    }

    /// Whether demo-hello-perf and demo-hello-sit are there from the start (yes).
    #[must_use]
    pub fn default_pods(mut self, on: bool) -> Self {
        self.default_pods = on;
        self
    }

    /// The `tunless` binary that daemons run (see
    /// [`crate::daemon::tunless_binary`] for the default).
    #[must_use]
    pub fn tunless(mut self, binary: impl Into<PathBuf>) -> Self {
        self.tunless = Some(binary.into());
        self
    }

    /// Whether daemons have the capabilities of the unit that is shipped and no others (no: root's).
    #[must_use]
    pub fn confined(mut self, on: bool) -> Self {
        self.confined = on;
        self
    }

    /// Makes the lab, after sweeping what labs of dead processes left.
    pub fn build(self) -> Result<Lab> {
        ensure!(geteuid().is_root(), "the lab makes network namespaces: run it as root");
        ensure!(
            !self.fourth_node || self.cables == Cables::Veth,
            "network cards join one node to one port: no fourth node with them"
        );
        sweep()?;
        let id = LabId::claim()?;
        self.build_as(&id).inspect_err(|_| {
            // The error that stopped the building matters more than this one.
            let _ = id.remove();
        })
    }

    fn build_as(self, id: &LabId) -> Result<Lab> {
        let mut shared = Shared::new(id.clone(), self.pod_mtu, self.rp_filter, self.tunless);
        shared.confined = self.confined;
        let shared = Arc::new(shared);
        let router = make_router(&shared)?;
        let (cables, mtu) = (self.cables, self.underlay_mtu);
        let bridge = self.fourth_node.then_some(BRIDGE);
        if self.fourth_node {
            make_bridge(&router, &NODE1, mtu)?;
        }
        let node =
            |plan, bridge| make_node(&shared, &router, plan, cables, bridge, mtu, self.rp_filter);
        let (node1, node2) = (node(&NODE1, bridge)?, node(&NODE2, None)?);
        let node3 = if self.third_node { Some(node(&NODE3, None)?) } else { None };
        let node4 = if self.fourth_node { Some(node(&NODE4, bridge)?) } else { None };
        if self.fabric_filter {
            fabric::install(&router)?;
        }
        let mut lab = Lab { router, node1, node2, node3, node4, pods: None, shared };
        if self.default_pods {
            let perf = lab.node2.add_pod("demo-hello-perf", HELLO_PERF)?;
            let sit = lab.node1.add_pod("demo-hello-sit", HELLO_SIT)?;
            lab.pods = Some((perf, sit));
        }
        Ok(lab)
    }
}
