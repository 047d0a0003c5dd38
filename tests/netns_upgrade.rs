//! Another version takes over: it finds maps that it cannot read. Whatever becomes of the
//! source of its routes meanwhile, no packet is lost.

use std::{fs, net::SocketAddr, path::PathBuf, thread, time::Duration};

use tunless_lab::{
    Daemon, Etcd, Lab, Node,
    bird::{Bird, Sessions},
    calico,
    kube_api::{
        KubeApi, NODES, V1_BLOCKS, V1_POOLS,
        objects::{self},
    },
};
use tunless_tests::{
    bird::PATIENCE,
    scene::{Setup, answers, assert_lossless, stream_between, until},
};

/// The name of another version's directory of maps.
const OTHER: &str = "vdeadbeef";
const POOL: &str = "10.20.0.0/16";
/// How long a source stays away.
const AWAY: Duration = Duration::from_secs(5);

/// What routes are learnt from.
enum Source {
    File,
    Kernel,
    Bird(Vec<Bird>),
    Etcd(Etcd),
    Kubernetes(KubeApi),
}

/// What becomes of the source while the version changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    There,
    Down,
}

impl Source {
    const NAMES: [&str; 5] = ["file", "kernel", "bird", "etcd", "kubernetes"];

    fn start(name: &str, lab: &Lab) -> Self {
        // The router's address toward node1, which is not node2's gateway.
        let address = lab.node1.gateway;
        match name {
            "file" => Self::File,
            "kernel" => Self::Kernel,
            "bird" => Self::Bird(Bird::start_all(&lab.nodes(), Sessions::Mesh).unwrap()),
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
                    api.set(NODES, objects::node(node.name, &format!("{}/24", node.ip)));
                    api.set(V1_BLOCKS, objects::block(V1_BLOCKS, node.block, node.name, &[]));
                }
                fs::write(lab.dir().join("kubeconfig"), api.kubeconfig("secret")).unwrap();
                Self::Kubernetes(api)
            }
            other => panic!("{other}"),
        }
    }

    /// A node's configuration.
    fn config(&self, setup: Setup, lab: &Lab, node: &Node, peer: &Node) -> String {
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

    /// What Felix or BIRD would write into the kernel's table, once the tunnel device is there.
    fn write_kernel_routes(&self, lab: &Lab) {
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

    /// Whether it can be away at all.
    fn can_be_down(&self) -> bool {
        !matches!(self, Self::File | Self::Kernel)
    }

    /// Takes it from node 2.
    fn down(&mut self) {
        match self {
            Self::File | Self::Kernel => {}
            Self::Bird(birds) => birds[1].kill9().unwrap(),
            Self::Etcd(etcd) => etcd.kill9(0).unwrap(),
            Self::Kubernetes(api) => api.down(),
        }
    }

    fn up(&mut self) {
        match self {
            Self::File | Self::Kernel => {}
            Self::Bird(birds) => birds[1].restart().unwrap(),
            Self::Etcd(etcd) => etcd.restart(0).unwrap(),
            Self::Kubernetes(api) => api.up().unwrap(),
        }
    }
}

/// The directory of this version's maps.
fn version(node: &Node) -> PathBuf {
    let entries = fs::read_dir(&node.bpffs).unwrap().map(|entry| entry.unwrap().path());
    let is_version = |path: &PathBuf| {
        !path.is_symlink() && path.file_name().unwrap().to_str().unwrap().starts_with('v')
    };
    let mut versions = entries.filter(is_version);
    let version = versions.next().unwrap();
    assert_eq!(versions.next(), None, "one version alone");
    version
}

fn upgrade(name: &str, setup: Setup) {
    println!("{name}, {setup:?}");
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let mut source = Source::start(name, &lab);
    let daemon1 = Daemon::start(&node1, &source.config(setup, &lab, &node1, &node2)).unwrap();
    let mut daemon2 = Daemon::start(&node2, &source.config(setup, &lab, &node2, &node1)).unwrap();
    source.write_kernel_routes(&lab);
    let (perf, sit) = (lab.perf().clone(), lab.sit().clone());
    until("both nodes know each other", PATIENCE, || answers(&perf.netns, sit.ip).then_some(()));

    // Without a route a pod's packet takes the default route, as with tunl0.
    let before = lab.plain_packets_on_wire().unwrap();
    let fates: &[Fate] =
        if source.can_be_down() { &[Fate::There, Fate::Down] } else { &[Fate::There] };
    for fate in fates.iter().copied() {
        println!("{name}, {setup:?}, {fate:?}");
        let there = stream_between(&perf, &sit, 5001);
        let back = stream_between(&sit, &perf, 5002);
        daemon2.terminate().unwrap();
        let other = node2.bpffs.join(OTHER);
        fs::rename(version(&node2), &other).unwrap();
        if fate == Fate::Down {
            source.down();
        }
        daemon2.launch().unwrap();
        if fate == Fate::Down {
            let waits = format!(
                "STATUS=the programs of another version serve; waiting for routes from {name}"
            );
            daemon2.wait_notified(&waits, PATIENCE).unwrap();
            thread::sleep(AWAY);
            assert!(other.exists(), "the other version serves as long as nothing is known");
            source.up();
        }
        daemon2.wait_notified("READY=1", PATIENCE).unwrap();
        until("the other version is gone", PATIENCE, || (!other.exists()).then_some(()));
        assert!(version(&node2) != other);
        until("both nodes know each other", PATIENCE, || {
            answers(&perf.netns, sit.ip).then_some(())
        });
        assert_lossless(there);
        assert_lossless(back);
    }
    daemon1.finish().unwrap();
    daemon2.finish().unwrap();
    drop(source);
    assert_eq!(lab.plain_packets_on_wire().unwrap(), before);
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn no_packet_is_lost_with_routes_from_the_file() {
    upgrade(Source::NAMES[0], Setup::VERIFIED);
    upgrade(Source::NAMES[0], Setup::VERIFIED_XDP);
}

#[test]
fn no_packet_is_lost_with_routes_from_the_kernel() {
    upgrade(Source::NAMES[1], Setup::VERIFIED);
}

#[test]
fn no_packet_is_lost_with_routes_from_bird() {
    upgrade(Source::NAMES[2], Setup::VERIFIED);
}

#[test]
fn no_packet_is_lost_with_routes_from_etcd() {
    upgrade(Source::NAMES[3], Setup::VERIFIED);
    upgrade(Source::NAMES[3], Setup::OFF);
}

#[test]
fn no_packet_is_lost_with_routes_from_kubernetes() {
    upgrade(Source::NAMES[4], Setup::VERIFIED_XDP);
}
