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
            // A source that is away holds up nothing.
            daemon2.wait_notified("READY=1", PATIENCE).unwrap();
            until("the other version is gone", PATIENCE, || (!other.exists()).then_some(()));
            let status = daemon2.cli_json(&["status"]).unwrap();
            assert_eq!(status["ready"], true, "{status}");
            assert_eq!(status["problems"][0]["code"], "source-waiting", "{status}");
            assert_eq!(status["problems"][0]["where"], name, "{status}");
            thread::sleep(AWAY);
            source.up();
        } else {
            daemon2.wait_notified("READY=1", PATIENCE).unwrap();
        }
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

/// Killed at any moment while it takes over from another version, with its source down: the
/// next one goes on from there.
#[test]
fn a_daemon_killed_at_any_step_of_an_upgrade_loses_nothing() {
    for setup in [Setup::VERIFIED, Setup::VERIFIED_XDP] {
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
        let mut source = Source::start("kubernetes", &lab);
        let daemon1 = Daemon::start(&node1, &source.config(setup, &lab, &node1, &node2)).unwrap();
        let mut daemon2 =
            Daemon::start(&node2, &source.config(setup, &lab, &node2, &node1)).unwrap();
        let (perf, sit) = (lab.perf().clone(), lab.sit().clone());
        until("they talk", PATIENCE, || answers(&perf.netns, sit.ip).then_some(()));
        let routes = daemon2.cli_json(&["routes", "list"]).unwrap()["items"].clone();
        let before = lab.plain_packets_on_wire().unwrap();
        source.down();
        let stream = stream_between(&perf, &sit, 5001);
        let back = stream_between(&sit, &perf, 5002);
        daemon2.terminate().unwrap();
        for name in [OTHER, "v0badcafe"] {
            let other = node2.bpffs.join(name);
            fs::rename(version(&node2), &other).unwrap();
            // A start takes some 200 ms; each is killed a little later than the one before.
            for delay in (0..400).step_by(13) {
                daemon2.launch().unwrap();
                thread::sleep(Duration::from_millis(delay));
                daemon2.kill9().unwrap();
            }
            daemon2.restart().unwrap();
            until("the other version is gone", PATIENCE, || (!other.exists()).then_some(()));
            let now = daemon2.cli_json(&["routes", "list"]).unwrap()["items"].clone();
            let node = |routes: &serde_json::Value| routes[0]["node"].clone();
            assert_eq!(node(&now), node(&routes));
            daemon2.terminate().unwrap();
        }
        assert_lossless(stream);
        assert_lossless(back);
        daemon2.restart().unwrap();
        source.up();
        assert_eq!(lab.plain_packets_on_wire().unwrap(), before);
        daemon1.finish().unwrap();
        daemon2.finish().unwrap();
        drop(source);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// No source has ever reported, and the file only names the pool: a pod's packets do not leave
/// unencapsulated by the default route.
#[test]
fn before_the_first_report_nothing_leaves_unencapsulated() {
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let mut source = Source::start("kubernetes", &lab);
    source.down();
    let pools = format!("routes: {{pools: [{{cidr: {POOL}, encap: ipip}}]}}\n");
    let config = |node: &Node, peer: &Node| source.config(Setup::OFF, &lab, node, peer) + &pools;
    let (first, second) = (config(&node1, &node2), config(&node2, &node1));
    let daemon2 = Daemon::start(&node2, &second).unwrap();
    let (perf, sit) = (lab.perf().clone(), lab.sit().clone());
    assert!(!answers(&perf.netns, sit.ip));
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 0);
    source.up();
    let daemon1 = Daemon::start(&node1, &first).unwrap();
    until("both nodes know each other", PATIENCE, || answers(&perf.netns, sit.ip).then_some(()));
    let none_is_left = || {
        let routes = node2.netns.ip("route show type unreachable").unwrap();
        (!routes.contains(POOL)).then_some(())
    };
    until("the pool is reachable where routes lead", PATIENCE, none_is_left);
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 0);
    daemon1.finish().unwrap();
    daemon2.finish().unwrap();
}
