//! What both nodes of a lab learn their routes from, and what may become of it.

use std::{fs, net::SocketAddr, time::Duration};

use nix::sys::signal::Signal;
use tunless_lab::{
    Daemon, Etcd, Lab, Node,
    bird::{Bird, Sessions},
    calico,
    kube_api::{KubeApi, NODES, V1_BLOCKS, V1_POOLS, objects},
};

use crate::scene::Setup;

/// The cluster's pool, which both nodes' blocks are from.
pub const POOL: &str = "10.20.0.0/16";

/// A source of routes at work.
pub enum RouteSource {
    /// Static routes of the configuration.
    File,
    /// Routes that Felix or BIRD wrote.
    Kernel,
    /// BIRD on each node, in the order of the nodes.
    Bird(Vec<Bird>),
    /// Calico's etcd.
    Etcd(Etcd),
    /// The Kubernetes API.
    Kubernetes(KubeApi),
}

impl RouteSource {
    /// Starts the source of this name, with what it has to know of the lab.
    pub fn start(name: &str, lab: &Lab) -> Self {
        // The router's address toward node1, which is not node2's gateway.
        let address = lab.node1.gateway;
        match name {
            "file" => Self::File,
            "kernel" => Self::Kernel,
            "bird" => Self::Bird(Bird::start_all_for_good(&lab.nodes(), Sessions::Mesh).unwrap()),
            "etcd" => {
                let etcd = Etcd::new().at(&lab.router, address).start().unwrap();
                etcd.store(&calico::pool("default-ipv4-ippool", POOL, "Always")).unwrap();
                for node in lab.nodes() {
                    let cidr = format!("{}/24", node.ip);
                    etcd.store(&calico::node(node.name, &cidr, node.tunnel)).unwrap();
                    etcd.store(&calico::block(node.block, node.name, &[])).unwrap();
                }
                Self::Etcd(etcd)
            }
            "kubernetes" => {
                let api = KubeApi::start_in(&lab.router, SocketAddr::from((address, 6443)));
                let api = api.unwrap();
                api.want_token("secret");
                api.serve_calico(V1_BLOCKS, V1_POOLS);
                api.set(V1_POOLS, objects::pool("default-ipv4-ippool", POOL, "Always"));
                for node in lab.nodes() {
                    let cidr = format!("{}/24", node.ip);
                    api.set(NODES, objects::tunnel_node(node.name, &cidr, node.tunnel));
                    api.set(V1_BLOCKS, objects::block(V1_BLOCKS, node.block, node.name, &[]));
                }
                fs::write(lab.dir().join("kubeconfig"), api.kubeconfig("secret")).unwrap();
                Self::Kubernetes(api)
            }
            other => panic!("{other}"),
        }
    }

    /// A node's configuration.
    pub fn config(&self, setup: Setup, lab: &Lab, node: &Node, peer: &Node) -> String {
        let head = format!(
            "node: {{name: {}, tunnel_address: {}}}\nmode: replace\n\
             underlay: {{decap: {}}}\nfastpath: {}\n",
            node.name, node.tunnel, setup.decap, setup.fastpath,
        );
        let kubeconfig = lab.dir().join("kubeconfig");
        let rest = match self {
            Self::File => {
                format!("routes: {{static: [{{cidr: {}, node: {}}}]}}\n", peer.block, peer.ip)
            }
            Self::Kernel => "sources: {kernel: {}}\n".to_owned(),
            Self::Bird(birds) => {
                let socket = birds.iter().find(|it| it.node().name == node.name).unwrap().socket();
                let socket = socket.display();
                format!("sources: {{bird: {{socket: {socket}, poll_milliseconds: 100}}}}\n")
            }
            Self::Etcd(etcd) => {
                format!("sources: {{etcd: {{endpoints: {:?}}}}}\n", etcd.endpoints())
            }
            Self::Kubernetes(_) => {
                format!("sources: {{kubernetes: {{kubeconfig: {}}}}}\n", kubeconfig.display())
            }
        };
        head + &rest
    }

    /// Writes what Felix or BIRD would, once the tunnel device is there.
    pub fn write_kernel_routes(&self, lab: &Lab) {
        if let Self::Kernel = self {
            for (node, peer) in [(&lab.node1, &lab.node2), (&lab.node2, &lab.node1)] {
                let route = format!(
                    "{} via {} dev tunless0 onlink proto 12 metric 32",
                    peer.block, peer.ip
                );
                node.netns.ip(&format!("route replace {route}")).unwrap();
            }
        }
    }

    /// Returns whether it can be away: the kernel's own table cannot.
    pub fn can_be_away(&self) -> bool {
        !matches!(self, Self::Kernel)
    }

    /// Returns the code and the place of the problem that `status` shows while it is away from
    /// `daemon` since that daemon started; the place may go on.
    pub fn problem(&self, daemon: &Daemon) -> (&'static str, String) {
        let waiting = |name: &str| ("source-waiting", name.to_owned());
        match self {
            Self::File => ("config-refused", daemon.config_path().display().to_string()),
            Self::Kernel => waiting("kernel"),
            Self::Bird(_) => waiting("bird"),
            Self::Etcd(_) => waiting("etcd"),
            Self::Kubernetes(_) => waiting("kubernetes"),
        }
    }

    /// Takes it from node 2, whose daemon is `daemon`: a file is refused, a server refuses
    /// connections.
    pub fn down(&mut self, daemon: &Daemon) {
        match self {
            Self::File => append(daemon, BAD),
            Self::Kernel => {}
            Self::Bird(birds) => birds[1].kill9().unwrap(),
            Self::Etcd(etcd) => etcd.kill9(0).unwrap(),
            Self::Kubernetes(api) => api.down(),
        }
    }

    /// Ends [`RouteSource::down`].
    pub fn up(&mut self, daemon: &Daemon) {
        match self {
            Self::File => repair(daemon),
            Self::Kernel => {}
            Self::Bird(birds) => birds[1].restart().unwrap(),
            Self::Etcd(etcd) => etcd.restart(0).unwrap(),
            Self::Kubernetes(api) => api.up().unwrap(),
        }
    }

    /// Lets it be silent: connections are accepted, and nothing is answered before
    /// [`RouteSource::speak`]. A file is refused meanwhile.
    pub fn fall_silent(&self, daemon: &Daemon) {
        match self {
            Self::File => append(daemon, BAD),
            Self::Kernel => {}
            Self::Bird(birds) => birds[1].signal(Signal::SIGSTOP).unwrap(),
            Self::Etcd(etcd) => etcd.freeze(0).unwrap(),
            Self::Kubernetes(api) => api.slow(Duration::MAX),
        }
    }

    /// Ends [`RouteSource::fall_silent`].
    pub fn speak(&self, daemon: &Daemon) {
        match self {
            Self::File => repair(daemon),
            Self::Kernel => {}
            Self::Bird(birds) => birds[1].signal(Signal::SIGCONT).unwrap(),
            Self::Etcd(etcd) => etcd.thaw(0).unwrap(),
            Self::Kubernetes(api) => api.slow(Duration::ZERO),
        }
    }
}

/// A line for which a file is refused.
const BAD: &str = "colour: red\n";

fn append(daemon: &Daemon, line: &str) {
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    daemon.replace_config(&(text + line)).unwrap();
}

fn repair(daemon: &Daemon) {
    let text = fs::read_to_string(daemon.config_path()).unwrap();
    daemon.replace_config(&text.replace(BAD, "")).unwrap();
}
