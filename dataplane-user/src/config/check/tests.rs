//! Each thing that cannot be said, and the line the complaint points at.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::config::{Config, ConfigFile, LeasesConfig};

/// What is said of `text`, without the file's name.
fn complaint(text: &str, host: Option<&HostFacts>) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = ConfigFile::read(&path)
        .and_then(|file| host.map_or(Ok(()), |host| file.check_against(host)));
    match outcome {
        Ok(()) => String::new(),
        Err(refusal) => refusal.0.replace(&path.display().to_string(), "FILE"),
    }
}

fn here() -> HostFacts {
    HostFacts {
        unfit: Vec::new(),
        interfaces: vec!["lo".into(), "eth0".into()],
        addresses: vec![Ipv4Addr::new(172, 16, 36, 10), Ipv4Addr::new(192, 168, 0, 9)],
        node: Some(Ipv4Addr::new(172, 16, 36, 10)),
        pods: vec![Ipv4Addr::new(10, 20, 105, 215)],
    }
}

#[test]
fn the_example_is_accepted() {
    assert_eq!(complaint(crate::config::EXAMPLE, None), "");
    assert!(complaint("", None).contains("the file is empty"));
    assert_eq!(complaint("# nothing\n", None), "");
}

/// (file, what the complaint must say)
const REFUSED: &[(&str, &[&str])] = &[
    ("sources: {precedence: [kernel, file, kernel]}\n", &["FILE:1:", "precedence", "twice"]),
    ("sources:\n  etcd: {endpoints: []}\n", &["FILE:2:", "sources.etcd.endpoints", "none"]),
    ("sources:\n  etcd: {}\n", &["FILE:2:", "endpoints"]),
    ("sources: {etcd: {endpoints: [\"ftp://a:1\"]}}\n", &["FILE:1:", "ftp://a:1", "like https://"]),
    ("sources: {etcd: {endpoints: [\"https://a\"]}}\n", &["FILE:1:", "https://a", "2379"]),
    (
        "sources: {etcd: {endpoints: [\"http://a:1\"], ca: /ca}}\n",
        &["FILE:1:", "unencrypted", "https://"],
    ),
    (
        "sources: {etcd: {endpoints: [\"https://a:1\"], certificate: /c}}\n",
        &["FILE:1:", "sources.etcd.certificate", "has no key"],
    ),
    (
        "sources: {etcd: {endpoints: [\"https://a:1\"], key: /k}}\n",
        &["FILE:1:", "sources.etcd.key", "no certificate"],
    ),
    (
        "sources: {etcd: {endpoints: [\"https://a:1\"], username: u}}\n",
        &["FILE:1:", "sources.etcd.username", "password_file"],
    ),
    (
        "sources: {etcd: {endpoints: [\"https://a:1\"], password_file: /p}}\n",
        &["FILE:1:", "sources.etcd.password_file", "username"],
    ),
    (
        "sources: {etcd: {endpoints: [\"https://a:1\"], prefix: calico/}}\n",
        &["FILE:1:", "sources.etcd.prefix", "/calico"],
    ),
    ("sources: {precedence: [gossip]}\n", &["FILE:1:", "gossip", "kernel"]),
    ("sources:\n  kernel: {protocols: []}\n", &["FILE:2:", "protocols", "[12, 80]"]),
    ("sources:\n  kernel: {protocols: [300]}\n", &["FILE:2:", "300"]),
    ("routes: {pools: [{cidr: 10.20.0.0/16, encap: vxlan}]}\n", &["FILE:1:", "vxlan", "ipip"]),
    (
        "routes:\n  pools:\n    - {cidr: 10.20.0.0/16, encap: ipip}\n    - {cidr: 10.20.0.0/16, encap: direct}\n",
        &["FILE:4:", "listed twice"],
    ),
    ("sources: {bird: {socket: bird.ctl}}\n", &["FILE:1:", "sources.bird.socket", "absolute"]),
    ("sources:\n  bird: {table: \"m4 all\"}\n", &["FILE:2:", "sources.bird.table", "master4"]),
    ("sources: {bird: {table: 4master}}\n", &["FILE:1:", "sources.bird.table", "no name"]),
    ("sources: {bird: {table: \"\"}}\n", &["FILE:1:", "sources.bird.table", "no name"]),
    ("sources: {bird: {poll_milliseconds: 99}}\n", &["FILE:1:", "poll_milliseconds", "100 to"]),
    ("sources: {bird: {poll_milliseconds: 60001}}\n", &["FILE:1:", "100 to 60000"]),
    ("sources: {bird: {settle_seconds: 0}}\n", &["FILE:1:", "settle_seconds", "1 to 3600"]),
    ("sources: {bird: {within: [10.20.0.1/16]}}\n", &["FILE:1:", "within[0]", "10.20.0.0/16"]),
    (
        "sources: {kubernetes: {kubeconfig: kubeconfig}}\n",
        &["FILE:1:", "sources.kubernetes.kubeconfig", "absolute"],
    ),
    (
        "sources:\n  kubernetes: {context: lab}\n",
        &["FILE:2:", "sources.kubernetes.context", "no kubeconfig for `lab`"],
    ),
    (
        "sources: {kubernetes: {kubeconfig: /k, context: \"\"}}\n",
        &["FILE:1:", "sources.kubernetes.context", "has no name"],
    ),
    ("sources: {kubernetes: {api: v2}}\n", &["FILE:1:", "v2", "auto"]),
    ("sources: {kubernetes: {token: x}}\n", &["FILE:1:", "token", "expected one of"]),
    ("sources: {bird: {sockets: /x}}\n", &["FILE:1:", "sockets", "expected one of"]),
    ("leases: {accept_programs: ['']}\n", &["FILE:1:", "leases.accept_programs", "bpftool"]),
    ("leases:\n  accept_programs:\n", &["FILE", "this key has no value"]),
    ("leases: {seconds: 0}\n", &["FILE:1:", "leases.seconds", "use 1 to 9"]),
    ("leases: {seconds: 10}\n", &["FILE:1:", "leases.seconds", "use 1 to 9", "policy"]),
    ("leases: {seconds: -1}\n", &["FILE:1:", "leases.seconds"]),
    ("leases: {size: 0}\n", &["FILE:1:", "leases.size", "1024 to"]),
    ("leases: {size: 1023}\n", &["FILE:1:", "leases.size", "1024 to"]),
    ("leases: {size: 16777217}\n", &["FILE:1:", "leases.size", "1024 to"]),
    ("leases:\n  mark: 0\n", &["FILE:2:", "leases.mark", "0 bits", "like 0x1000"]),
    ("leases: {mark: 0x3000}\n", &["FILE:1:", "leases.mark", "0x3000 has 2 bits"]),
    ("leases: {mark: 0x10000}\n", &["FILE:1:", "leases.mark", "0x10000 is among Calico's"]),
    ("leases: {mark: 0x80000000}\n", &["FILE:1:", "among Calico's", "like 0x1000"]),
    ("leases: {mark: 0x4000}\n", &["FILE:1:", "0x4000 is among kube-proxy's"]),
    ("leases: {mark: 0x8000}\n", &["FILE:1:", "0x8000 is among kube-proxy's"]),
    ("leases: {service_mark: 0}\n", &["FILE:1:", "leases.service_mark", "0 bits", "like 0x800"]),
    ("leases: {service_mark: 0x1800}\n", &["FILE:1:", "leases.service_mark", "0x1800 has 2 bits"]),
    ("leases: {service_mark: 0x20000}\n", &["FILE:1:", "0x20000 is among Calico's"]),
    ("leases: {service_mark: 0x4000}\n", &["FILE:1:", "0x4000 is among kube-proxy's"]),
    ("leases: {service_mark: 0x1000}\n", &["FILE:1:", "leases.service_mark", "leases.mark, too"]),
    ("leases: {exclude: [10.20.42.31]}\n", &["FILE:1:", "leases.exclude[0]", "10.20.42.7/32"]),
    ("leases: {second: 5}\n", &["FILE:1:", "second", "expected one of"]),
    ("mode: replace\nspof: drop\n", &["FILE:2:", "spof", "expected one of"]),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.1/26, node: 1.2.3.4}\n",
        &["FILE:3:", "routes.static[0].cidr", "did you mean 10.20.42.0/26"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: node1}\n",
        &["FILE:3:", "routes.static[0].node", "IPv4"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4, via: x}\n",
        &["FILE:3:", "via"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n    - {cidr: 10.20.42.0/26, node: 1.2.3.5}\n",
        &["FILE:4:", "routes.static[1].cidr", "already belongs to node 1.2.3.4"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n",
        &["FILE:4:", "listed twice"],
    ),
    (
        "node: {address: 1.2.3.4}\nroutes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n",
        &["FILE:4:", "routes.static[0].node", "this node itself"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 10.20.42.9}\n",
        &["FILE:3:", "inside the pod CIDR 10.20.42.0/26"],
    ),
    (
        "node: {address: 10.20.42.9}\nroutes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n",
        &["FILE:1:", "node.address", "inside the pod CIDR"],
    ),
    (
        "node: {tunnel_address: 10.20.42.0}\nroutes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n",
        &["FILE:4:", "contains our own tunnel address"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 0.0.0.0}\n",
        &["FILE:3:", "no host's address"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n  nodes:\n    - node: 1.2.3.4\n      extra_sources: [10.20.0.0/16]\n",
        &["FILE:6:", "routes.nodes[0].extra_sources[0]", "overlaps"],
    ),
    (
        "routes:\n  nodes:\n    - {node: 1.2.3.4, extra_sources: [192.0.2.8/32]}\n    - {node: 1.2.3.5, extra_sources: [192.0.2.8/32]}\n",
        &["FILE:4:", "already an extra source of node 1.2.3.4"],
    ),
    ("workloads: {interfaces: [\"*\"]}\n", &["FILE:1:", "every interface"]),
    ("bpffs: /sys/fs/bpf/tunless.d\n", &["FILE:1:", "has a dot"]),
    ("bpffs: pins\n", &["FILE:1:", "absolute"]),
    ("mtu: 12\n", &["FILE:1:", "mtu", "68 to 65515"]),
    ("fastpath: fast\n", &["FILE:1:", "fastpath", "`off`"]),
    ("mode: [\n", &["FILE:"]),
    (
        "mode: auto\nnode: {address: 10.99.1.2/24}\n",
        &["FILE:2:", "node.address", "leave it out and write 10.99.1.2;"],
    ),
    ("node: {tunnel_address: 10.77.1.0/32}\n", &["FILE:1:", "tunnel_address", "write 10.77.1.0;"]),
    (
        "node: {address: 010.99.1.2}\n",
        &["FILE:1:", "`010.99.1.2` has leading zeros; write 10.99.1.2;"],
    ),
    ("node: {address: fd00::1}\n", &["FILE:1:", "`fd00::1` is no IPv4 address"]),
    (
        "routes:\n  static:\n    - {cidr: 010.077.002.000/26, node: 1.2.3.4}\n",
        &[
            "FILE:3:",
            "routes.static[0].cidr",
            "`010.077.002.000/26` has leading zeros; write 10.77.2.0/26",
        ],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.77.2.0/26, node: 1.2.3.4/24}\n",
        &["FILE:3:", "routes.static[0].node", "write 1.2.3.4;"],
    ),
    (
        "routes:\n  nodes:\n    - {node: 01.2.3.4}\n",
        &["FILE:3:", "routes.nodes[0].node", "write 1.2.3.4;"],
    ),
    (
        "routes: {pools: [{cidr: 10.077.0.0/16, encap: ipip}]}\n",
        &["FILE:1:", "routes.pools[0].cidr", "write 10.77.0.0/16"],
    ),
    ("leases: {exclude: [10.77.0.01/32]}\n", &["FILE:1:", "write 10.77.0.1/32"]),
    (
        "sources: {bird: {within: [10.077.0.0/16]}}\n",
        &["FILE:1:", "within[0]", "write 10.77.0.0/16"],
    ),
];

#[test]
fn each_bad_file_is_refused_with_its_line() {
    for (text, wanted) in REFUSED {
        let complaint = complaint(text, None);
        for part in *wanted {
            assert!(complaint.contains(part), "no {part:?} in {complaint:?}\nfor\n{text}");
        }
    }
}

#[test]
fn a_borrowed_address_is_fine() {
    let text = "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 1.2.3.4}\n    - {cidr: 10.20.42.7/32, node: 1.2.3.5}\n";
    assert_eq!(complaint(text, Some(&here())), "");
}

/// (file, what the complaint on this host must say)
const REFUSED_HERE: &[(&str, &[&str])] = &[
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 192.168.0.9}\n",
        &["FILE:3:", "another address of this node"],
    ),
    (
        "underlay:\n  interfaces: [eth0, eth7]\n",
        &["FILE:2:", "underlay.interfaces[1]", "no interface eth7", "lo, eth0"],
    ),
    ("node: {address: 172.16.36.11}\n", &["FILE:1:", "no interface here has the address"]),
    (
        "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 172.16.36.10}\n",
        &["FILE:3:", "this node itself"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 172.16.0.0/16, node: 1.2.3.4}\n",
        &["FILE:3:", "our own node address 172.16.36.10"],
    ),
    (
        "routes:\n  static:\n    - {cidr: 10.20.105.192/26, node: 1.2.3.4}\n",
        &["FILE:3:", "covers our own pod 10.20.105.215"],
    ),
    (
        "node: {tunnel_address: 10.20.1.1}\nroutes:\n  static:\n    - {cidr: 10.20.105.215/32, node: 1.2.3.4}\n",
        &["FILE:4:", "covers our own pod"],
    ),
];

#[test]
fn each_file_that_does_not_fit_the_host_is_refused() {
    for (text, wanted) in REFUSED_HERE {
        let complaint = complaint(text, Some(&here()));
        for part in *wanted {
            assert!(complaint.contains(part), "no {part:?} in {complaint:?}\nfor\n{text}");
        }
    }
}

#[test]
fn a_local_pod_may_borrow_from_a_remote_block() {
    let text = "node: {tunnel_address: 10.20.1.1}\nroutes:\n  static:\n    - {cidr: 10.20.105.192/26, node: 1.2.3.4}\n";
    assert_eq!(complaint(text, Some(&here())), "");
}

#[test]
fn leases_may_be_as_long_and_marked_as_they_may() {
    for text in [
        "leases: {seconds: 1, size: 1024, mark: 0x1}\n",
        "leases: {services: true, mark: 0x800, service_mark: 0x1000}\n",
        "leases: {mark: 0x800}\n",
        "leases: {unanswered_udp: true, mark: 0x800}\n",
        "leases: {seconds: 9, size: 16777216, mark: 0x2000, exclude: [10.20.42.31/32, 0.0.0.0/0]}\n",
    ] {
        assert_eq!(complaint(text, None), "", "{text}");
    }
}

#[test]
fn flows_without_an_answer_bear_both_bits_and_are_left_out_by_default() {
    assert!(!Config::default().leases.unanswered_udp);
    for (text, bits) in [("", 0x1800), ("mark: 0x800", 0x1800), ("service_mark: 0x400", 0x1400)] {
        let leases: LeasesConfig = serde_yaml::from_str(&format!("{{{text}}}")).unwrap();
        assert_eq!(leases.unanswered_mark(), bits, "{text}");
    }
}

#[test]
fn a_file_anybody_may_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, "mode: replace\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let refusal = ConfigFile::read(&path).unwrap_err().0;
    assert!(refusal.contains("chmod o-w") && refusal.contains("0666"), "{refusal}");
}

#[test]
fn a_missing_file_says_where_to_start() {
    let refusal = ConfigFile::read("/nonexistent/config.yaml".as_ref()).unwrap_err().0;
    assert!(refusal.contains("tunless config example"), "{refusal}");
}
