//! What the datastore records about the own Node, with packets: one file serves every node, its
//! name aside. All namespaces of a lab share the machine's host name, so the file has that.

use std::{fs, net::SocketAddr};

use serde_json::Value;
use tunless_lab::{
    Daemon, Etcd, Lab, Node, calico,
    kube_api::{KubeApi, NODES, V1_BLOCKS, V1_POOLS, objects},
};
use tunless_tests::scene::{SOON, Setup, answers, assert_answered, restart_all, until};

const POOL: &str = "10.20.0.0/16";
/// An address that every machine has, on the interface with its default route.
const NAT: &str = "10.0.2.15";
/// A second address of node 2.
const ON_LO: &str = "10.99.9.9";

/// Where Calico keeps its objects.
enum Datastore {
    Etcd(Etcd),
    Kubernetes(KubeApi),
}

impl Datastore {
    /// Starts one with both nodes in it.
    fn start(name: &str, lab: &Lab) -> Self {
        let address = lab.node1.gateway;
        let datastore = if name == "etcd" {
            let etcd = Etcd::new().at(&lab.router, address).start().unwrap();
            etcd.store(&calico::pool("p", POOL, "Always")).unwrap();
            Self::Etcd(etcd)
        } else {
            let api = KubeApi::start_in(&lab.router, SocketAddr::from((address, 6443))).unwrap();
            api.serve_calico(V1_BLOCKS, V1_POOLS);
            api.set(V1_POOLS, objects::pool("p", POOL, "Always"));
            fs::write(lab.dir().join("kubeconfig"), api.kubeconfig("secret")).unwrap();
            Self::Kubernetes(api)
        };
        for node in lab.nodes() {
            datastore.set(node, &format!("{}/24", node.ip), Some(&node.tunnel.to_string()));
            match &datastore {
                Self::Etcd(etcd) => etcd.store(&calico::block(node.block, node.name, &[])).unwrap(),
                Self::Kubernetes(api) => {
                    api.set(V1_BLOCKS, objects::block(V1_BLOCKS, node.block, node.name, &[]));
                }
            }
        }
        datastore
    }

    /// The lines of a file.
    fn source(&self, lab: &Lab) -> String {
        match self {
            Self::Etcd(etcd) => {
                format!("sources: {{etcd: {{endpoints: {:?}}}}}\n", etcd.endpoints())
            }
            Self::Kubernetes(_) => {
                let path = lab.dir().join("kubeconfig");
                format!("sources: {{kubernetes: {{kubeconfig: {}}}}}\n", path.display())
            }
        }
    }

    /// Records a node's address, with its length, and its tunnel address.
    fn set(&self, node: &Node, cidr: &str, tunnel: Option<&str>) {
        match self {
            Self::Etcd(etcd) => {
                let stored = calico::node(node.name, cidr, node.tunnel);
                let tunnel = tunnel.map_or(Value::Null, Into::into);
                etcd.store(&stored.with("/spec/bgp/ipv4IPIPTunnelAddr", tunnel)).unwrap();
            }
            Self::Kubernetes(api) => api.set(
                NODES,
                match tunnel {
                    Some(tunnel) => objects::tunnel_node(node.name, cidr, tunnel.parse().unwrap()),
                    None => objects::node(node.name, cidr),
                },
            ),
        }
    }

    fn delete(&self, node: &Node) {
        match self {
            Self::Etcd(etcd) => {
                etcd.delete(&calico::node(node.name, "", node.tunnel).key).unwrap();
            }
            Self::Kubernetes(api) => api.delete(NODES, node.name),
        }
    }

    fn down(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.kill9(0).unwrap(),
            Self::Kubernetes(api) => api.down(),
        }
    }

    fn up(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.restart(0).unwrap(),
            Self::Kubernetes(api) => api.up().unwrap(),
        }
    }
}

struct Cluster {
    daemon1: Daemon,
    daemon2: Daemon,
    datastore: Datastore,
    lab: Lab,
}

impl Cluster {
    fn new(name: &str, setup: Setup) -> Self {
        println!("{name} {setup:?}");
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        for node in lab.nodes() {
            node.netns
                .ip_batch(&format!(
                    "link add nat0 type veth peer name nat0-out\n\
                     link set nat0-out up\nlink set nat0 up\naddr add {NAT}/24 dev nat0\n\
                     route replace 172.16.0.0/16 via {0} dev eth0\n\
                     route replace 10.99.0.0/16 via {0} dev eth0\n\
                     route replace default via 10.0.2.2 dev nat0\n",
                    node.gateway
                ))
                .unwrap();
        }
        lab.node2.netns.ip(&format!("addr add {ON_LO}/32 dev lo")).unwrap();
        lab.router.ip(&format!("route add {ON_LO} via {}", lab.node2.ip)).unwrap();
        let datastore = Datastore::start(name, &lab);
        let start = |node: &Node| {
            let text = format!(
                "node: {{name: {}}}\nmode: replace\nunderlay: {{decap: {}}}\nfastpath: {}\n{}",
                node.name,
                setup.decap,
                setup.fastpath,
                datastore.source(&lab)
            );
            Daemon::start(node, &text).unwrap()
        };
        let (daemon1, daemon2) = (start(&lab.node1), start(&lab.node2));
        Self { daemon1, daemon2, datastore, lab }
    }

    /// Until node 2 has these addresses and its pods talk with node 1's.
    fn wait_for(&self, address: &str, tunnel: Option<&str>) {
        until(&format!("node 2 is {address} with {tunnel:?}"), SOON, || {
            let status = status(&self.daemon2);
            let on_device = addresses(&self.lab.node2, "tunless0");
            let wanted: Vec<String> = tunnel.iter().map(|it| format!("{it}/32")).collect();
            (status["node"] == address && on_device == wanted).then_some(())
        });
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        until("pods talk", SOON, || answers(&perf.netns, sit.ip).then_some(()));
        assert_answered(&sit.netns, perf.ip);
        if tunnel.is_some() {
            until("the host talks", SOON, || answers(&self.lab.node2.netns, sit.ip).then_some(()));
        }
    }

    /// Until node 2 has this problem; its text.
    fn wait_for_problem(&self, code: &str) -> String {
        until(&format!("there is {code}"), SOON, || {
            let problems = problems(&self.daemon2);
            problems.into_iter().find(|(it, _)| it == code).map(|(_, text)| text)
        })
    }

    fn wait_for_no_problem(&self) {
        until("nothing is wrong", SOON, || problems(&self.daemon2).is_empty().then_some(()));
    }
}

fn status(daemon: &Daemon) -> Value {
    let status = daemon.cli(&["status", "-o", "json"]).unwrap();
    serde_json::from_str(&status.stdout).unwrap()
}

fn problems(daemon: &Daemon) -> Vec<(String, String)> {
    let status = status(daemon);
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let all = status["problems"].as_array().unwrap().iter();
    all.map(|it| (text(it, "code"), text(it, "what"))).collect()
}

/// The IPv4 addresses of an interface.
fn addresses(node: &Node, device: &str) -> Vec<String> {
    let shown = node.netns.ip(&format!("-4 -o addr show dev {device}")).unwrap_or_default();
    shown.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect()
}

#[test]
fn one_file_serves_hosts_that_share_an_address() {
    for (name, setup) in [("kubernetes", Setup::OFF), ("etcd", Setup::VERIFIED)] {
        let mut cluster = Cluster::new(name, setup);
        follow_what_is_recorded(&mut cluster);
        restart_all(&mut [&mut cluster.daemon1, &mut cluster.daemon2]);
        follow_what_is_recorded(&mut cluster);
        let Cluster { daemon1, daemon2, datastore, lab } = cluster;
        daemon1.finish().unwrap();
        daemon2.finish().unwrap();
        drop(datastore);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// The record changes, is silent, disagrees with the host, is gone, and is as at first again.
fn follow_what_is_recorded(cluster: &mut Cluster) {
    let node2 = cluster.lab.node2.clone();
    let (ip, tunnel) = (node2.ip.to_string(), node2.tunnel.to_string());
    let cidr = format!("{ip}/24");
    cluster.wait_for(&ip, Some(&tunnel));
    cluster.wait_for_no_problem();
    assert_eq!(status(&cluster.daemon1)["node"], cluster.lab.node1.ip.to_string());

    // The tunnel address goes, and another one comes.
    cluster.datastore.set(&node2, &cidr, None);
    cluster.wait_for(&ip, None);
    cluster.wait_for_problem("no-tunnel-address");
    let other = "10.20.105.195";
    cluster.datastore.set(&node2, &cidr, Some(other));
    cluster.wait_for(&ip, Some(other));
    cluster.wait_for_no_problem();

    // Silence changes nothing, and neither does a restart meanwhile.
    cluster.datastore.down();
    cluster.daemon2.kill9().unwrap();
    cluster.daemon2.restart().unwrap();
    cluster.wait_for(&ip, Some(other));
    cluster.datastore.up();

    // A tunnel address that the host must not have: of another node's block.
    let foreign = "10.20.42.9";
    cluster.datastore.set(&node2, &cidr, Some(foreign));
    let text = cluster.wait_for_problem("tunnel-address-foreign");
    assert!(text.contains(foreign) && text.contains(cluster.lab.node1.block), "{text}");
    cluster.datastore.set(&node2, &cidr, Some(&tunnel));
    cluster.wait_for(&ip, Some(&tunnel));
    cluster.wait_for_no_problem();

    // Another address of this host, which no interface towards the other nodes has.
    cluster.datastore.set(&node2, &format!("{ON_LO}/32"), Some(&tunnel));
    cluster.wait_for(ON_LO, Some(&tunnel));
    cluster.wait_for_no_problem();
    cluster.daemon2.kill9().unwrap();
    cluster.daemon2.restart().unwrap();
    cluster.wait_for(ON_LO, Some(&tunnel));
    cluster.datastore.set(&node2, &cidr, Some(&tunnel));
    cluster.wait_for(&ip, Some(&tunnel));

    // An address that it does not have. `config validate --here` shows the same.
    cluster.datastore.set(&node2, "172.16.36.99/24", Some(&tunnel));
    let text = cluster.wait_for_problem("own-node-address");
    for shown in [node2.name, "172.16.36.99", &ip] {
        assert!(text.contains(shown), "no {shown} in {text}");
    }
    assert_eq!(status(&cluster.daemon2)["node"], ip);
    let here = cluster.daemon2.cli_json(&["config", "validate", "--here"]).unwrap();
    let listed = here["here"]["problems"].as_array().unwrap().iter();
    assert!(listed.into_iter().any(|it| it["what"] == text), "{here}");

    // No Node of our name.
    cluster.datastore.delete(&node2);
    let text = cluster.wait_for_problem("own-node-missing");
    assert!(text.contains(node2.name), "{text}");
    assert_eq!(status(&cluster.daemon2)["node"], ip);
    cluster.datastore.set(&node2, &cidr, Some(&tunnel));
    cluster.wait_for(&ip, Some(&tunnel));
    cluster.wait_for_no_problem();
}
