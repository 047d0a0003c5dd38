//! The lab as a whole: build it, use its nodes and pods, drop it.

use std::{
    env,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;

use crate::{
    builder::LabBuilder,
    conntrack, fabric,
    identity::{LabId, kept_labs, remove_all},
    netns::Netns,
    pod::Pod,
    service::remove_rules,
    topology::{Node, RpFilter},
};

/// What nodes, pods and daemons of one lab have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub id: LabId,
    pub pod_mtu: u32,
    pub rp_filter: RpFilter,
    pub tunless: Option<PathBuf>,
    /// Daemons have no more capabilities than the unit gives them.
    pub confined: bool,
    kept: AtomicBool,
    problems: Mutex<Vec<String>>,
}

impl Shared {
    pub fn new(id: LabId, pod_mtu: u32, rp_filter: RpFilter, tunless: Option<PathBuf>) -> Self {
        Self {
            id,
            tunless,
            confined: false,
            pod_mtu,
            rp_filter,
            kept: AtomicBool::new(false),
            problems: Mutex::default(),
        }
    }

    /// Remembers something that went wrong where no error can be returned.
    pub fn report(&self, problem: String) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
    }

    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

/// Two nodes (or up to four), a router, two pods. Dropping it removes everything,
/// also while a panic unwinds.
#[derive(Debug)]
pub struct Lab {
    /// The router between the nodes.
    pub router: Netns,
    /// node1.sit, 172.16.35.4.
    pub node1: Node,
    /// node2.perf, 172.16.36.10.
    pub node2: Node,
    /// node3.dev, 172.16.34.7, when asked for.
    pub node3: Option<Node>,
    /// node4.sit, 172.16.35.5, in the subnet of node1, when asked for.
    pub node4: Option<Node>,
    pub(crate) pods: Option<(Pod, Pod)>,
    pub(crate) shared: Arc<Shared>,
}

impl Lab {
    /// A lab to be configured, then built.
    #[expect(clippy::new_ret_no_self, reason = "`Lab::new()…build()` reads best where it is used")]
    #[must_use]
    pub fn new() -> LabBuilder {
        LabBuilder::default()
    }

    /// The pod demo-hello-perf on node2.
    ///
    /// # Panics
    /// When the lab was built without its default pods.
    #[must_use]
    pub fn perf(&self) -> &Pod {
        &self.default_pods().0
    }

    /// The pod demo-hello-sit on node1.
    ///
    /// # Panics
    /// When the lab was built without its default pods.
    #[must_use]
    pub fn sit(&self) -> &Pod {
        &self.default_pods().1
    }

    fn default_pods(&self) -> &(Pod, Pod) {
        self.pods.as_ref().expect("the lab was built with `default_pods(false)`")
    }

    /// The nodes, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> Vec<&Node> {
        [&self.node1, &self.node2].into_iter().chain(&self.node3).chain(&self.node4).collect()
    }

    /// How many un-encapsulated packets of pods and services the fabric saw;
    /// an error unless the lab was built with the fabric filter.
    pub fn plain_packets_on_wire(&self) -> Result<u64> {
        fabric::plain_packets(&self.router)
    }

    /// Changes the MTU of one node's link, at both ends.
    pub fn set_underlay_mtu(&self, node: &Node, mtu: u32) -> Result<()> {
        self.router.ip(&format!("link set {} mtu {mtu}", node.router_port))?;
        node.netns.ip(&format!("link set eth0 mtu {mtu}")).map(drop)
    }

    /// Makes the router's way toward a node narrower than the links say: it
    /// answers what is too big with ICMP frag-needed. Frames of full size from
    /// the node still pass.
    pub fn set_path_mtu(&self, toward: &Node, mtu: u32) -> Result<()> {
        let Node { ip, gateway, .. } = toward;
        let port = toward.bridge.unwrap_or(&toward.router_port);
        self.router
            .ip(&format!("route replace {ip}/32 dev {port} src {gateway} scope link mtu {mtu}"))
            .map(drop)
    }

    /// Forgets what packets and tests left in the kernel, for a test that begins anew in a lab
    /// that was used: path MTUs that were learned, the router's own routes to single nodes
    /// (as [`Lab::set_path_mtu`] makes them), tracked connections, and iptables rules.
    pub fn forget(&self) -> Result<()> {
        for Node { ip, netns, .. } in self.nodes() {
            self.router.ip(&format!("route flush exact {ip}/32"))?;
            netns.ip("route flush cache")?;
            conntrack::flush(netns)?;
            remove_rules(netns)?;
        }
        for pod in self.pods.iter().flat_map(|(perf, sit)| [perf, sit]) {
            pod.netns.ip("route flush cache")?;
        }
        Ok(())
    }

    /// The `n`th address of a node's block, e.g. for further pods.
    #[must_use]
    pub fn pod_ip(node: &Node, n: u8) -> Ipv4Addr {
        let [a, b, c, d] = node.tunnel.octets();
        Ipv4Addr::new(a, b, c, d.wrapping_add(n))
    }

    /// The lab's id, which can remove the lab from anywhere, e.g. on Ctrl-C.
    #[must_use]
    pub fn id(&self) -> &LabId {
        &self.shared.id
    }

    /// The lab's own directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.shared.id.dir()
    }

    /// What went wrong where no error could be returned, e.g. a daemon that
    /// left pins behind after `detach`. A good test ends with this empty.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How a person enters the lab.
    #[must_use]
    pub fn shell_hint(&self) -> String {
        self.shared
            .id
            .namespaces()
            .iter()
            .map(|netns| format!("nsenter --net={} bash\n", netns.path().display()))
            .collect()
    }

    /// Leaves everything up when the lab is dropped and its process ends,
    /// daemons included. [`Lab::remove_kept`] removes it.
    pub fn keep(&self) -> Result<()> {
        self.shared.id.keep()?;
        self.shared.kept.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it stays up.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.shared.is_kept()
    }

    /// Removes every kept lab; returns how many there were.
    pub fn remove_kept() -> Result<usize> {
        let labs = kept_labs();
        let count = labs.len();
        remove_all(labs.into_iter())?;
        Ok(count)
    }
}

/// Whether the calling thread's test failed, and a person wants to look at its lab.
pub(crate) fn keeps_failed() -> bool {
    thread::panicking() && env::var_os("TUNLESS_LAB_KEEP_FAILED").is_some()
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.shared.is_kept() {
            return;
        }
        // For a person who debugs one test: leave the lab of a failed one.
        if keeps_failed() {
            eprintln!("the lab is kept; enter it by\n{}", self.shell_hint());
            if self.keep().is_ok() {
                return;
            }
        }
        if let Err(error) = self.shared.id.remove() {
            eprintln!("cannot remove the lab: {error:#}");
        }
    }
}
