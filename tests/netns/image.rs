//! The container image, run with what the manifest for Kubernetes grants: its capabilities, its mounts,
//! a root that takes no writes, an account that reads the API.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::Deserialize as _;
use serde_json::{Value, json};
use tunless_lab::{
    Daemon, Lab, Node,
    container::{self, Container, Pod, Profile},
    daemon::tunless_binary,
    kube_api::{KubeApi, Tls},
    service::Protocol,
    traffic::{conversation::Conversation, stream::Stream},
};
use tunless_package::{Compression, Tree, Version, image};
use tunless_tests::scene::{
    SOON, Setup, assert_answered, assert_lossless, scraped::get, stream_between, until,
};

const MANIFEST: &str = include_str!("../../packaging/kubernetes/tunless.yaml");
const TOKEN: &str = "secret";
const API_PORT: u16 = 6443;

/// The image of this build, unpacked once.
fn unpacked() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let base = container::base().unwrap();
        assert!(base.is_dir(), "no {}: run `cargo xtask setup`", base.display());
        let place = base.with_file_name("tested");
        fs::create_dir_all(&place).unwrap();
        let tree = Tree::stage(&tunless_binary().unwrap()).unwrap();
        let version = Version::this().unwrap();
        let archive = image::build(&base, &tree, &version, &place, Compression::Fast).unwrap();
        container::unpacked(&archive, &place.join("unpacked")).unwrap()
    })
}

fn manifest() -> Vec<Value> {
    let all = serde_yaml::Deserializer::from_str(MANIFEST);
    all.map(|one| Value::deserialize(one).unwrap()).filter(|one| !one.is_null()).collect()
}

/// Two nodes of a cluster: node2's daemon runs in a container and knows what the API knows, node1's by
/// itself from a file.
struct Cluster {
    container: Container,
    daemon1: Daemon,
    _api: KubeApi,
    lab: Lab,
    pod: Pod,
}

impl Cluster {
    fn new() -> Self {
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        // The router's address toward node1, which is not node2's gateway.
        let (api, pod) = api_of(&lab, lab.node1.gateway);
        let container = Container::new(&lab.node2, unpacked(), &pod).unwrap();
        let config = Setup::VERIFIED.config(&lab.node1, &lab.node2, "");
        let daemon1 = Daemon::start(&lab.node1, &config).unwrap();
        Self { container, daemon1, _api: api, lab, pod }
    }

    fn started() -> Self {
        let mut cluster = Self::new();
        cluster.container.start().unwrap();
        // A fresh node is ready before the datastore has answered: it has nothing to carry yet.
        until("the API's routes are there", SOON, || {
            let routes = cluster.container.json(&["routes", "list"]).unwrap();
            let items = routes["items"].as_array().unwrap();
            items.iter().any(|it| it["source"] == "kubernetes").then_some(())
        });
        cluster
    }

    fn both_ways(&self) -> [Stream; 2] {
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        [stream_between(perf, sit, 5041), stream_between(sit, perf, 5042)]
    }

    /// Another container in the place of this one.
    fn replace(&mut self, pod: &Pod) {
        self.container = Container::new(&self.lab.node2, unpacked(), pod).unwrap();
    }

    /// Ends everything. Nothing may be left, and nothing was sent un-encapsulated.
    fn finish(mut self) {
        assert_eq!(self.lab.plain_packets_on_wire().unwrap(), 0);
        self.container.end("TERM").unwrap();
        self.container.detach().unwrap();
        assert_eq!(pins(&self.lab.node2), Vec::<String>::new());
        fs::remove_dir(&self.lab.node2.bpffs).unwrap();
        drop(self.container);
        self.daemon1.finish().unwrap();
        assert_eq!(self.lab.problems(), Vec::<String>::new());
    }
}

/// What is in the node's BPF file system.
fn pins(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(&node.bpffs).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// An API with both nodes, and a pod that knows it as pods do.
fn api_of(lab: &Lab, address: Ipv4Addr) -> (KubeApi, Pod) {
    let tls = Tls::valid_for(address).unwrap();
    let authority = tls.authority().to_owned();
    let at = SocketAddr::from((address, API_PORT));
    let api = KubeApi::start_tls_in(&lab.router, at, tls).unwrap();
    api.want_token(TOKEN);
    api.serve_lab(lab);
    let owned = |pairs: [(&str, &str); 2]| {
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    };
    let pod = Pod {
        manifest: manifest(),
        environment: owned([
            ("KUBERNETES_SERVICE_HOST", &address.to_string()),
            ("KUBERNETES_SERVICE_PORT", &API_PORT.to_string()),
        ]),
        account: [
            ("token", TOKEN.to_owned()),
            ("ca.crt", authority),
            ("namespace", "kube-system".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec(),
        ..Pod::default()
    };
    (api, pod)
}

#[test]
fn pods_talk_through_the_container_that_the_manifest_describes() {
    let cluster = Cluster::started();
    let (perf, sit) = (cluster.lab.perf(), cluster.lab.sit());
    assert_answered(&perf.netns, sit.ip);
    assert_answered(&sit.netns, perf.ip);

    let status = cluster.container.json(&["status"]).unwrap();
    assert_eq!((&status["ready"], &status["problems"]), (&true.into(), &json!([])), "{status}");
    // Leases need nft, which the image has, and sysctls, which are the host's.
    let server = SocketAddrV4::new(sit.ip, 7000);
    let talk =
        Conversation::start(Protocol::Tcp, &perf.netns, server, &sit.netns, server.port()).unwrap();
    until("the conversation is leased both ways", SOON, || {
        let leases = cluster.container.json(&["leases", "list"]).unwrap();
        (leases["items"].as_array().unwrap().len() >= 2).then_some(())
    });
    talk.close().unwrap();

    // One file for all nodes: the name is the pod's, the addresses are the datastore's.
    let routes = cluster.container.json(&["routes", "list"]).unwrap();
    assert_eq!(routes["items"][0]["source"], "kubernetes", "{routes}");
    assert_eq!(status["node"], json!(cluster.lab.node2.ip), "{status}");
    assert_eq!(status["tunnel"]["address"], json!(cluster.lab.node2.tunnel), "{status}");

    let set = cluster.pod.manifest.iter().find(|one| one["kind"] == "DaemonSet").unwrap();
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        assert_eq!(get(&cluster.lab.node2, path).status, 200, "{probe}");
    }

    let of_daemon = format!("/proc/{}/status", cluster.container.pid().unwrap());
    let of_daemon = fs::read_to_string(of_daemon).unwrap();
    let value = |key: &str| {
        let line = of_daemon.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {of_daemon}")).trim().to_owned()
    };
    // NET_ADMIN 12, NET_RAW 13, PERFMON 38, BPF 39 (linux/capability.h).
    let granted = format!("{:016x}", 3u64 << 12 | 3 << 38);
    for key in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(value(key), granted, "{key}");
    }
    assert_eq!(value("NoNewPrivs"), "1");
    assert_eq!(value("Seccomp"), "2", "SECCOMP_MODE_FILTER");
    cluster.finish();
}

#[test]
fn forwarding_survives_the_container() {
    let mut cluster = Cluster::started();
    let streams = cluster.both_ways();
    for signal in ["TERM", "KILL"] {
        let status = cluster.container.end(signal).unwrap();
        assert_eq!(status.success(), signal == "TERM", "{signal}: {status}");
        assert!(streams[0].wait_for(50, SOON), "forwarding goes on after SIG{signal}");
        // As the kubelet does: another container, of the same pod or of the next version's.
        let pod = cluster.pod.clone();
        cluster.replace(&pod);
        cluster.container.start().unwrap();
    }
    streams.into_iter().for_each(assert_lossless);
    cluster.finish();
}

#[test]
fn a_mount_that_is_missing_is_named_and_stops_no_traffic() {
    let mut cluster = Cluster::started();
    let streams = cluster.both_ways();
    cluster.container.end("TERM").unwrap();
    let whole = cluster.pod.clone();
    for (place, words) in [
        // What is there without it is the directory of the container's own sysfs.
        ("/sys/fs/bpf", "nothing is mounted at /sys/fs/bpf"),
        ("/run/tunless", "nothing is mounted at /run/tunless"),
        ("/host/proc/sys/net", "nothing is mounted at /host/proc/sys/net"),
    ] {
        let pod = Pod { without_mounts: vec![place.to_owned()], ..whole.clone() };
        cluster.replace(&pod);
        let status = cluster.container.run().unwrap();
        let log = cluster.container.log();
        assert_eq!(status.code(), Some(1), "{place}: {log}");
        let named = log.lines().filter(|line| line.contains(words)).count();
        assert_eq!(named, 1, "{place}: {log}");
        assert!(log.contains("packaging/kubernetes/tunless.yaml"), "{log}");
    }
    cluster.replace(&whole);
    cluster.container.start().unwrap();
    streams.into_iter().for_each(assert_lossless);
    cluster.finish();
}

#[test]
fn a_file_that_is_refused_stops_no_traffic_and_is_named() {
    let mut cluster = Cluster::started();
    let streams = cluster.both_ways();
    cluster.container.end("TERM").unwrap();
    let whole = cluster.pod.clone();
    cluster.replace(&Pod { config: Some("bogus: 1\n".to_owned()), ..whole.clone() });
    // It goes on by the text that it accepted last.
    cluster.container.start().unwrap();
    let status = cluster.container.json(&["status"]).unwrap();
    assert_eq!(status["problems"][0]["code"], "config-refused", "{status}");
    assert!(status.to_string().contains("bogus"), "{status}");
    cluster.container.end("TERM").unwrap();
    cluster.replace(&whole);
    cluster.container.start().unwrap();
    streams.into_iter().for_each(assert_lossless);
    cluster.finish();
}

/// None is granted for nothing: docs/kubernetes.md has what comes of a container without it.
#[test]
fn each_capability_is_needed() {
    let mut cluster = Cluster::new();
    let whole = cluster.pod.clone();
    for (capability, words) in [
        ("BPF", "Operation not permitted"),
        ("NET_ADMIN", "Operation not permitted"),
        ("PERFMON", "the kernel refuses the program"),
    ] {
        let without = Pod { without_capabilities: vec![capability.to_owned()], ..whole.clone() };
        cluster.replace(&without);
        let status = cluster.container.run().unwrap();
        assert_eq!(status.code(), Some(1), "{capability}: {}", cluster.container.log());
        assert!(cluster.container.log().contains(words), "{}", cluster.container.log());
    }
    // Without raw sockets it works, and hears of no errors and no path MTUs of the underlay.
    cluster.replace(&Pod { without_capabilities: vec!["NET_RAW".to_owned()], ..whole.clone() });
    cluster.container.start().unwrap();
    let log = cluster.container.log();
    assert!(
        log.contains("no raw socket for ICMP") && log.contains("no path MTU discovery"),
        "{log}"
    );
    cluster.container.end("TERM").unwrap();
    cluster.replace(&whole);
    cluster.container.start().unwrap();
    assert!(!cluster.container.log().contains("no raw socket"), "{}", cluster.container.log());
    cluster.finish();
}

/// All other tests have containerd's, which goes by `CAP_BPF`.
#[test]
fn a_default_profile_without_bpf_is_seen() {
    let mut cluster = Cluster::new();
    let whole = cluster.pod.clone();
    cluster.replace(&Pod { profile: Profile::CriO, ..whole.clone() });
    let status = cluster.container.run().unwrap();
    let log = cluster.container.log();
    assert_eq!(status.code(), Some(1), "{log}");
    // As docs/kubernetes.md quotes it.
    assert!(log.contains("TCX on ") && log.contains(": Operation not permitted"), "{log}");
    cluster.replace(&whole);
    cluster.container.start().unwrap();
    cluster.finish();
}

/// What a chart with `detach: true` runs after `tunless detach`.
#[test]
fn the_image_has_what_the_chart_runs() {
    let mut cluster = Cluster::new();
    assert!(cluster.container.run_instead(&["/bin/sleep", "0"]).unwrap().success());
    assert!(cluster.container.run_instead(&["/usr/bin/tunless", "version"]).unwrap().success());
    let nft = ["/usr/sbin/nft", "list", "ruleset"];
    assert!(cluster.container.run_instead(&nft).unwrap().success(), "{}", cluster.container.log());
    let legacy = ["/usr/sbin/iptables-legacy-save", "--version"];
    assert!(cluster.container.run_instead(&legacy).unwrap().success());
    cluster.container.start().unwrap();
    cluster.finish();
}
