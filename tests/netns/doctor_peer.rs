//! `tunless doctor --peer`: what is wrong between two nodes, found on one of them.

use std::net::Ipv4Addr;

use tunless_lab::{Daemon, Lab, LabBuilder, Netns, Node};
use tunless_tests::scene::{Counters, Scene, Setup, answers, examined::Rows};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Nodes whose `rp_filter` is strict on their tunnel devices, as it stays where the mode is named.
fn strict() -> Scene {
    Scene::with(lab(), Setup::VERIFIED, "mode: replace\n", &[])
}

/// Rules of the router between the nodes, until it is dropped.
struct Fabric<'a>(&'a Netns);

impl<'a> Fabric<'a> {
    fn drops(router: &'a Netns, hook: &str, rule: &str) -> Self {
        let rules = format!(
            "table ip tunless_lab_doctor {{\nchain c {{\ntype filter hook {hook} priority 0\n\
             {rule} drop\n}}\n}}\n"
        );
        router.exec_with_input("nft", &["-f", "-"], &rules).unwrap();
        Self(router)
    }
}

impl Drop for Fabric<'_> {
    fn drop(&mut self) {
        let _ = self.0.exec("nft", &["delete", "table", "ip", "tunless_lab_doctor"]);
    }
}

/// Kernels report a fragment whose rest does not come sooner than after half a minute.
fn hurry(node: &Node, seconds: &str) {
    node.netns.set_sysctl("ipv4/ipfrag_time", seconds).unwrap();
}

#[test]
fn between_healthy_nodes_all_passes() {
    Scene::each_of(&[Setup::OFF, Setup::VERIFIED, Setup::VERIFIED_XDP], &lab(), |scene| {
        scene.warm_up();
        let (node1, sit) = (&scene.lab.node1, scene.lab.sit());
        let before = Counters::of(&scene.daemon2);
        let rows = Rows::of(&scene.daemon2, &["--peer", &node1.ip.to_string()]);
        rows.assert_only(&[]);
        rows.one("peer-plain", "PASS", &["unencapsulated"]);
        rows.one("peer-tunnel", "PASS", &["both ways"]);
        rows.one("peer-mtu", "PASS", &["of 1500 bytes"]);
        rows.one("peer-round-trip", "PASS", &["ms in the tunnel", "ms beside it"]);
        rows.one("peer-offloads", "SKIP", &["name a pod"]);
        for target in [sit.ip, node1.tunnel] {
            let rows = Rows::of(&scene.daemon2, &["--peer", &target.to_string()]);
            rows.assert_only(&[]);
            rows.one("peer-pod", "PASS", &[&node1.ip.to_string()]);
            rows.one("peer-offloads", "PASS", &["4 segments of 1000 bytes"]);
        }
        scene.assert_nothing_plain();
        // Its packets and sockets disturb nothing, with XDP neither.
        before.assert_nothing_dropped(&scene.daemon2);
        assert!(answers(&scene.lab.perf().netns, sit.ip));
        let strict = scene.daemon2.cli(&["status", "--strict"]).unwrap();
        assert_eq!(strict.status, Some(0), "{}", strict.stdout);
    });
}

#[test]
fn protocol_4_that_the_fabric_drops_is_named_with_its_direction() {
    let scene = strict();
    scene.warm_up();
    let Lab { router, node1, node2, .. } = &scene.lab;
    let peer = node1.ip.to_string();
    let not_there = ("protocol 4 does not reach", format!("from {} to {peer}", node2.ip));
    let not_back = ("they hear us, we do not hear them", format!("from {peer} to {}", node2.ip));
    // Sooner and later than the other question is given up.
    for (seconds, rule, (what, remedy)) in [
        ("2", "ip protocol 4".to_owned(), &not_there),
        ("5", format!("ip daddr {peer} ip protocol 4"), &not_there),
        ("2", format!("ip saddr {peer} ip protocol 4"), &not_back),
        ("5", format!("ip saddr {peer} ip protocol 4"), &not_back),
    ] {
        hurry(node1, seconds);
        let fabric = Fabric::drops(router, "prerouting", &rule);
        assert!(!answers(&scene.lab.perf().netns, scene.lab.sit().ip), "it is as bad as reported");
        let rows = Rows::of(&scene.daemon2, &["--peer", &peer]);
        rows.assert_only(&["peer-tunnel"]);
        rows.one("peer-plain", "PASS", &[]);
        let row = rows.one("peer-tunnel", "FAIL", &[what]);
        assert_eq!(row["where"], peer);
        assert!(row["remedy"].as_str().unwrap().contains(remedy), "{row:#}");
        drop(fabric);
    }
    scene.finish();
}

/// With `mode: auto` the tunnel device's `rp_filter` is loose: the peer answers at once.
#[test]
fn a_peer_that_is_not_strict_answers_at_once() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let Lab { router, node1, .. } = &scene.lab;
    let peer = node1.ip.to_string();
    // Longer than the command waits.
    node1.netns.set_sysctl("ipv4/ipfrag_time", "300").unwrap();
    let fabric = Fabric::drops(router, "prerouting", &format!("ip saddr {peer} ip protocol 4"));
    let rows = Rows::of(&scene.daemon2, &["--peer", &peer]);
    rows.one("peer-tunnel", "FAIL", &["they hear us, we do not hear them"]);
    drop(fabric);
    scene.finish();
}

#[test]
fn a_node_that_is_down_is_named_with_what_a_router_reports() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let Lab { node1, node2, .. } = &scene.lab;
    node1.netns.ip("link set eth0 down").unwrap();
    let peer = node1.ip.to_string();
    let rows = Rows::of(&scene.daemon2, &["--peer", &peer]);
    rows.assert_only(&["peer-plain", "peer-tunnel"]);
    let reported = format!("({} reports that the host is unreachable)", node2.gateway);
    rows.one("peer-plain", "FAIL", &["answers no unencapsulated ping", &reported]);
    rows.one("peer-tunnel", "FAIL", &["no encapsulated ping"]);
    node1.netns.ip("link set eth0 up").unwrap();
    node1.netns.ip(&format!("route add default via {}", node1.gateway)).unwrap();
    scene.finish();
}

#[test]
fn a_narrow_link_is_found_with_and_without_its_router() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let Lab { router, node1, node2, .. } = &scene.lab;
    let peer = node1.ip.to_string();
    scene.lab.set_path_mtu(node1, 1400).unwrap();
    let silent = Fabric::drops(router, "output", "icmp type destination-unreachable");
    let rows = Rows::of(&scene.daemon2, &["--peer", &peer]);
    rows.assert_only(&["peer-mtu"]);
    let row =
        rows.one("peer-mtu", "FAIL", &["above 1400 bytes vanish", "up to 1500 bytes are sent"]);
    let remedy = row["remedy"].as_str().unwrap();
    assert!(remedy.contains("set `mtu: 1380` in the file"), "{remedy}");
    drop(silent);
    let rows = Rows::of(&scene.daemon2, &["--peer", &peer]);
    rows.assert_only(&[]);
    let router = format!("{} reports an MTU of 1400", node2.gateway);
    rows.one("peer-mtu", "WARN", &["above 1400 bytes", &router]);
    scene.finish();
}

/// What a NIC does that cuts encapsulated packets wrongly: small ones pass, and no segment does.
#[test]
fn segments_that_do_not_arrive_are_found_beside_small_packets() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let Lab { router, .. } = &scene.lab;
    let sit = scene.lab.sit().ip.to_string();
    // Of any length: the router may see the segments as one packet.
    let fabric = Fabric::drops(router, "prerouting", "ip protocol 4 ip length > 1000");
    let rows = Rows::of(&scene.daemon2, &["--peer", &sit]);
    rows.assert_only(&["peer-mtu", "peer-offloads"]);
    rows.one("peer-mtu", "FAIL", &["above 1000 bytes vanish"]);
    let row = rows.one("peer-offloads", "FAIL", &["small datagrams arrive", "eth0"]);
    assert!(row["remedy"].as_str().unwrap().contains("ethtool -K eth0"), "{row:#}");
    drop(fabric);
    // A pod that drops all UDP proves nothing.
    let fabric = Fabric::drops(router, "prerouting", "ip protocol 4 ip length 112");
    let rows = Rows::of(&scene.daemon2, &["--peer", &sit]);
    rows.assert_only(&[]);
    rows.one("peer-offloads", "SKIP", &["answers no UDP to a closed port"]);
    drop(fabric);
    scene.finish();
}

/// A route that names the wrong node, which is there: it hears us, and its pod is elsewhere.
#[test]
fn a_pod_that_is_behind_another_node_is_found() {
    let lab = lab().third_node(true).build().unwrap();
    let (node2, node3) = (&lab.node2, lab.node3.clone().unwrap());
    let config = Setup::VERIFIED.config_with(node2, &[(lab.node1.block, node3.ip)], "");
    let daemon2 = Daemon::start(node2, &config).unwrap();
    let daemon3 = Daemon::start(&node3, &Setup::VERIFIED.config(&node3, node2, "")).unwrap();
    let sit = lab.sit().ip;
    let rows = Rows::of(&daemon2, &["--peer", &sit.to_string()]);
    rows.assert_only(&["peer-pod"]);
    rows.one("peer-tunnel", "PASS", &["both ways"]);
    let row = rows.one("peer-pod", "FAIL", &[&node3.ip.to_string()]);
    assert_eq!(row["where"], sit.to_string());
    assert!(row["remedy"].as_str().unwrap().contains("the route names the wrong node"), "{row:#}");
    for daemon in [daemon2, daemon3] {
        daemon.finish().unwrap();
    }
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// A peer without tunless or tunl0 hears us, and reports that.
#[test]
fn a_peer_without_a_tunnel_is_named() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let daemon2 = Daemon::start(node2, &Setup::VERIFIED.config(node2, node1, "")).unwrap();
    let rows = Rows::of(&daemon2, &["--peer", &node1.ip.to_string()]);
    rows.assert_only(&["peer-tunnel"]);
    rows.one("peer-tunnel", "FAIL", &["nothing there takes protocol 4"]);
    daemon2.finish().unwrap();
}

#[test]
fn a_name_or_address_of_another_kind_gets_one_row() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (perf, node2) = (scene.lab.perf(), &scene.lab.node2);
    let unknown = Ipv4Addr::new(192, 0, 2, 9);
    for (text, what) in [
        (unknown.to_string(), "neither a node"),
        (perf.ip.to_string(), "an address of this node"),
        (node2.ip.to_string(), "an address of this node"),
        ("no-such-node.invalid".to_owned(), "no address of a node is known by the name"),
        (String::new(), "no address of a node is known by the name"),
        ("10.20.42.31/26".to_owned(), "no address of a node is known by the name"),
    ] {
        let rows = Rows::of(&scene.daemon2, &["--peer", &text]);
        rows.assert_only(&["peer-tunnel"]);
        rows.one("peer-tunnel", "FAIL", &[what, "nothing was sent"]);
    }
    // A name is resolved as the host resolves it: this is how inet_aton(3) writes node1's address.
    let rows = Rows::of(&scene.daemon2, &["--peer", "172.16.8964"]);
    rows.assert_only(&[]);
    assert_eq!(rows.one("peer-tunnel", "PASS", &[])["where"], scene.lab.node1.ip.to_string());
    // Of several each has its rows.
    let peer = scene.lab.node1.ip.to_string();
    let rows = Rows::of(&scene.daemon2, &["--peer", &peer, "--peer", &unknown.to_string()]);
    rows.one("peer-tunnel", "PASS", &[]);
    rows.one("peer-tunnel", "FAIL", &["neither a node"]);
    scene.finish();
}
