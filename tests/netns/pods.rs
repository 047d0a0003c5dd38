//! Pods come and go, one at a time and by the hundred.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tunless_lab::{Daemon, Lab, LabBuilder, Node};
use tunless_tests::scene::{
    SOON, Scene, Setup, assert_answered, assert_lossless, endpoint_of, stream_between, until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn wait_until_listed(daemon: &Daemon, count: usize, timeout: Duration) -> Vec<Value> {
    let has_all = |answer: &Value| answer["items"].as_array().is_some_and(|all| all.len() == count);
    let answer = daemon.wait_json(&["endpoints", "list"], timeout, has_all).unwrap();
    answer["items"].as_array().unwrap().clone()
}

/// Interfaces whose `encap_pod` is pinned.
fn pod_links(node: &Node) -> BTreeSet<u64> {
    let names = fs::read_dir(node.bpffs.join("links")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_prefix("encap_pod_")?.parse().ok()).collect()
}

#[test]
fn a_pod_can_talk_as_soon_as_it_is_listed() {
    Scene::each(&lab(), |scene| {
        let (node2, sit) = (&scene.lab.node2, scene.lab.sit());
        let stream = stream_between(scene.lab.perf(), sit, 5005);
        let mut indices = BTreeSet::new();
        // Three pods one after the other, with the same address.
        for name in ["first", "second", "third"] {
            let pod = node2.add_pod(name, Lab::pod_ip(node2, 40)).unwrap();
            let endpoint = endpoint_of(&scene.daemon2, &pod);
            assert_eq!(endpoint["ip"], pod.ip.to_string());
            let ifindex = endpoint["ifindex"].as_u64().unwrap();
            assert!(indices.insert(ifindex), "another interface");
            assert_eq!(assert_answered(&pod.netns, sit.ip).ttl(), Some(62));
            assert_answered(&sit.netns, pod.ip);
            assert_answered(&pod.netns, scene.lab.perf().ip);
            if scene.setup.is_fast() {
                until("its program is pinned", SOON, || {
                    pod_links(node2).contains(&ifindex).then_some(())
                });
            }
            node2.remove_pod(&pod).unwrap();
            let left = wait_until_listed(&scene.daemon2, 1, SOON);
            assert_eq!(left[0]["ip"], scene.lab.perf().ip.to_string());
            until("its pin is gone", SOON, || (!pod_links(node2).contains(&ifindex)).then_some(()));
        }
        assert_lossless(stream);
        scene.assert_nothing_plain();
    });
}

/// As after a node's restart.
#[test]
fn a_hundred_pods_at_once() {
    let scene = |setup: Setup| {
        let lab = lab().build().unwrap();
        let (node1, node2) = (&lab.node1, &lab.node2);
        // A second block, with room for them.
        let routes = [(node2.block, node2.ip), ("10.20.106.0/24", node2.ip)];
        let daemon1 = Daemon::start(node1, &setup.config_with(node1, &routes, "")).unwrap();
        let daemon2 = Daemon::start(node2, &setup.config(node2, node1, "")).unwrap();
        Scene { daemon1, daemon2, lab, setup }
    };
    Scene::each_by(scene, |scene| {
        let node2 = &scene.lab.node2;
        let stream = stream_between(scene.lab.perf(), scene.lab.sit(), 5006);

        let wanted: Vec<_> =
            (1..=100).map(|n| (format!("crowd-{n}"), Ipv4Addr::new(10, 20, 106, n))).collect();
        let pods = node2.add_pods(&wanted).unwrap();
        let endpoints = wait_until_listed(&scene.daemon2, 101, 2 * SOON);
        let indices: BTreeSet<u64> =
            endpoints.iter().map(|item| item["ifindex"].as_u64().unwrap()).collect();
        assert_eq!(indices.len(), 101);
        if scene.setup.is_fast() {
            until("every pod has its program", 2 * SOON, || {
                (pod_links(node2) == indices).then_some(())
            });
        }
        let status = scene.daemon2.cli_json(&["status", "--wait=15s"]).unwrap();
        assert_eq!((&status["endpoints"], &status["ready"]), (&101.into(), &true.into()));
        for pod in [&pods[0], &pods[57], &pods[99]] {
            assert_eq!(assert_answered(&pod.netns, scene.lab.sit().ip).ttl(), Some(62));
        }

        node2.remove_pods(&pods).unwrap();
        wait_until_listed(&scene.daemon2, 1, 2 * SOON);
        let left = usize::from(scene.setup.is_fast());
        until("their pins are gone", 2 * SOON, || (pod_links(node2).len() == left).then_some(()));
        scene.daemon2.cli_json(&["status", "--wait=15s"]).unwrap();
        assert_lossless(stream);
        scene.assert_nothing_plain();
    });
}

/// A node that starts with many pods attaches programs to them for seconds; a route that is saved
/// meanwhile does not wait for the last of them.
#[test]
fn a_saved_route_does_not_wait_for_a_hundred_pods() {
    const PODS: u8 = 150;
    const LATER: &str = "10.20.44.0/26";
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let crowd: Vec<_> =
        (1..=PODS).map(|n| (format!("crowd-{n}"), Ipv4Addr::new(10, 20, 106, n))).collect();
    node2.add_pods(&crowd).unwrap();
    let config =
        |routes: &[(&'static str, Ipv4Addr)]| Setup::VERIFIED.config_with(node2, routes, "");
    let first = (node1.block, node1.ip);
    let daemon = Daemon::start(node2, &config(&[first])).unwrap();
    daemon.rewrite_config(&config(&[first, (LATER, node1.ip)])).unwrap();
    let attached = until("the route is active", SOON, || {
        let attached = pod_links(node2).len();
        let routes = daemon.cli_json(&["routes", "list"]).unwrap();
        routes["items"].to_string().contains(LATER).then_some(attached)
    });
    assert!(attached < usize::from(PODS), "all pods came first");
    until("every pod has its program", SOON, || {
        (pod_links(node2).len() == usize::from(PODS) + 1).then_some(())
    });
    daemon.finish().unwrap();
}
