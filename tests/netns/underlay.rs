//! What becomes of the tunnel when the network below it changes.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tunless_lab::{Daemon, Lab, LabBuilder, Node, addr::mac_text, traffic::ping};
use tunless_tests::scene::{
    HASTY, SOON, Scene, Setup, answers, assert_answered, assert_lossless, stream_between, until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A link of the node, as `ip -j` shows it.
fn link(node: &Node, name: &str) -> Option<Value> {
    let links: Value = serde_json::from_str(&node.netns.ip("-j link show").unwrap()).unwrap();
    links.as_array().unwrap().iter().find(|link| link["ifname"] == name).cloned()
}

fn wait_for_tunnel_mtu(daemon: &Daemon, node: &Node, mtu: u32) {
    until("the tunnel device's MTU", SOON, || {
        (link(node, "tunless0")?["mtu"] == mtu).then_some(())
    });
    daemon.wait_json(&["status"], SOON, |status| status["tunnel"]["mtu"] == mtu).unwrap();
    daemon
        .wait_json(&["nodes", "list"], SOON, |nodes| nodes["items"][0]["mtu"] == mtu + 20)
        .unwrap();
}

/// The MTU that a pod is told for a packet of `size` bytes with DF, at last.
fn told_mtu(scene: &Scene, size: u32) -> Option<u32> {
    let (perf, sit) = scene.pods();
    let wait = Duration::from_millis(300);
    let options = ping::Options { count: 2, size: size - 28, df: true, wait, ..Default::default() };
    ping::ping(&perf.netns, sit.ip, &options).unwrap().mtu()
}

#[test]
fn the_tunnels_mtu_follows_the_underlays() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (daemon, node2) = (&scene.daemon2, &scene.lab.node2);
        wait_for_tunnel_mtu(daemon, node2, 1480);
        scene.lab.set_underlay_mtu(node2, 1400).unwrap();
        wait_for_tunnel_mtu(daemon, node2, 1380);
        assert_eq!(told_mtu(scene, 1480), Some(1380));
        assert_eq!(told_mtu(scene, 1380), None);
        scene.lab.set_underlay_mtu(node2, 1500).unwrap();
        wait_for_tunnel_mtu(daemon, node2, 1480);
        let (perf, sit) = scene.pods();
        assert_answered(&perf.netns, sit.ip);
        scene.assert_nothing_plain();
    });
}

#[test]
fn a_deleted_tunnel_device_comes_back() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (node2, daemon) = (&scene.lab.node2, &scene.daemon2);
        for _ in 0..2 {
            let old = link(node2, "tunless0").unwrap()["ifindex"].clone();
            node2.netns.ip("link del tunless0").unwrap();
            until("the device", SOON, || {
                let new = link(node2, "tunless0")?["ifindex"].clone();
                (new != old).then_some(())
            });
            until("its routes", SOON, || {
                let routes = node2.netns.ip("route show dev tunless0").unwrap();
                routes.contains(scene.lab.node1.block).then_some(())
            });
            daemon.cli_json(&["status", "--wait=15s"]).unwrap();
            let (perf, sit) = scene.pods();
            assert_eq!(assert_answered(&perf.netns, sit.ip).ttl(), Some(62));
            assert_answered(&node2.netns, sit.ip);
            // The old device's link is not kept.
            let pins = std::fs::read_dir(node2.bpffs.join("links")).unwrap();
            let names = pins.map(|pin| pin.unwrap().file_name().into_string().unwrap());
            assert_eq!(names.filter(|name| name.starts_with("encap_host_")).count(), 1);
        }
        scene.assert_nothing_plain();
    });
}

#[test]
fn a_device_of_that_name_that_is_not_ours_is_left_alone() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    node2.netns.ip("link add tunless0 type veth peer name other").unwrap();
    let config = Setup::OFF.config(node2, node1, "");
    let (code, stderr) = tunless_lab::daemon::expect_failure(node2, &config).unwrap();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("tunless did not make"), "{stderr}");
    let tunless = tunless_lab::daemon::Tunless::new(node2, None);
    let output = tunless.run(&["detach"]).unwrap();
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    assert!(link(node2, "tunless0").is_some());
    assert!(!node2.bpffs.exists());
}

#[test]
fn a_nic_may_go_down_and_up() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let node2 = &scene.lab.node2;
        // Down, all its routes go.
        node2.netns.ip("link set eth0 down").unwrap();
        scene
            .daemon2
            .wait_json(&["nodes", "list"], SOON, |nodes| nodes["items"][0]["interface"].is_null())
            .unwrap();
        let route = scene.daemon2.cli(&["routes", "get", "10.20.42.31"]).unwrap();
        assert_eq!(route.status, Some(3), "{}", route.stdout);
        assert!(!answers(&scene.lab.perf().netns, scene.lab.sit().ip));
        node2.netns.ip("link set eth0 up").unwrap();
        node2.netns.ip(&format!("route add default via {}", node2.gateway)).unwrap();
        let is_back = |nodes: &Value| nodes["items"][0]["interface"] == "eth0";
        scene.daemon2.wait_json(&["nodes", "list"], SOON, is_back).unwrap();
        scene.warm_up();
        assert!(scene.daemon2.is_running());
        scene.assert_nothing_plain();
    });
}

fn change_address(node: &Node, old: Ipv4Addr, new: Ipv4Addr) {
    node.netns
        .ip_batch(&format!(
            "addr del {old}/24 dev eth0\n\
             addr add {new}/24 dev eth0\n\
             route add default via {} src {new}\n",
            node.gateway
        ))
        .unwrap();
}

#[test]
fn a_node_may_change_its_address() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let new = Ipv4Addr::new(172, 16, 36, 11);
        change_address(node2, node2.ip, new);
        let is_new = |status: &Value| status["node"] == new.to_string();
        scene.daemon2.wait_json(&["status", "--wait=15s"], SOON, is_new).unwrap();
        let config = scene.setup.config_with(node1, &[(node2.block, new)], "");
        scene.daemon1.rewrite_config(&config).unwrap();
        let is_new = |routes: &Value| routes["items"][0]["node"] == new.to_string();
        scene.daemon1.wait_json(&["routes", "list"], SOON, is_new).unwrap();
        scene.daemon1.cli_json(&["status", "--wait=15s"]).unwrap();
        scene.warm_up();
        scene.assert_nothing_plain();
        change_address(node2, new, node2.ip);
    });
}

/// A router that takes over another's address announces itself (VRRP does).
#[test]
fn a_next_hop_that_announces_its_new_mac_is_followed() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let Lab { router, node2, .. } = &scene.lab;
        let port = &node2.router_port;
        // The kernel believes no second announcement within a second.
        let settled = "ipv4/neigh/eth0/locktime";
        node2.netns.set_sysctl(settled, "0").unwrap();
        router.set_sysctl(&format!("ipv4/conf/{port}/arp_notify"), "1").unwrap();
        let (perf, sit) = scene.pods();
        for mac in [[2, 0, 0, 0, 0, 0x77], node2.gateway_mac] {
            router.ip(&format!("link set {port} address {}", mac_text(mac))).unwrap();
            let is_new = |nodes: &Value| nodes["items"][0]["next_hop_mac"] == mac_text(mac);
            scene.daemon2.wait_json(&["nodes", "list"], SOON, is_new).unwrap();
            let stream = stream_between(perf, sit, 5013);
            assert_answered(&sit.netns, perf.ip);
            assert_lossless(stream);
        }
        scene.assert_nothing_plain();
    });
}

/// Packets with a cached MAC are no use of the neighbour that the kernel could
/// see, so the daemon has it asked again as long as there is traffic.
#[test]
fn a_next_hop_that_keeps_silent_about_its_new_mac_is_found() {
    Scene::each_by(
        |setup| Scene::with(lab(), setup, "", &HASTY),
        |scene| {
            scene.warm_up();
            let Lab { router, node2, .. } = &scene.lab;
            // Half a minute in the field; a second here.
            for (key, value) in [
                ("base_reachable_time_ms", "500"),
                ("delay_first_probe_time", "1"),
                ("retrans_time_ms", "100"),
                ("locktime", "0"),
            ] {
                node2.netns.set_sysctl(&format!("ipv4/neigh/eth0/{key}"), value).unwrap();
            }
            // The entry there is has a timer of the old kind.
            node2.netns.ip("neigh flush dev eth0").unwrap();
            scene.warm_up();
            let (perf, sit) = scene.pods();
            let port = &node2.router_port;
            let becomes = |mac| {
                router.ip(&format!("link set {port} address {}", mac_text(mac))).unwrap();
            };
            let are_heard = || {
                until("pods hear each other again", 2 * SOON, || {
                    answers(&perf.netns, sit.ip).then_some(())
                });
            };
            becomes([2, 0, 0, 0, 0, 0x77]);
            are_heard();
            // Back, and no need to find that out.
            becomes(node2.gateway_mac);
            node2.netns.ip("neigh flush dev eth0").unwrap();
            are_heard();
            scene.assert_nothing_plain();
        },
    );
}
