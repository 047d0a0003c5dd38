//! Pods come and go, one at a time and by the hundred.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Node,
    addr::{POD_GATEWAY, mac_text},
    inject::Injector,
    packet::ethernet,
};
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

/// An ARP packet as `sender`, which has `mac`: an announcement to all, or a question for `target`.
fn arp(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    const ARP: u16 = 0x0806;
    let is_announcement = sender == target;
    let operation = [0, if is_announcement { 2 } else { 1 }];
    let head = [0, 1, 8, 0, 6, 4].into_iter().chain(operation);
    let body: Vec<u8> =
        head.chain(mac).chain(sender.octets()).chain([0; 6]).chain(target.octets()).collect();
    ethernet([0xff; 6], mac, ARP, &body)
}

/// A pod may announce other MACs as often as it likes, and neighbours that do not exist: its own
/// entry follows, and nothing else is looked at for it.
#[test]
fn a_pods_arp_costs_its_own_entry_alone() {
    let verbose = [("RUST_LOG", "info,dataplane_user=debug")];
    Scene::with(lab(), Setup::VERIFIED, "", &verbose).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        // The kernel believes no second announcement within a second.
        let locktime = format!("ipv4/neigh/{}/locktime", perf.cali);
        let node2 = &scene.lab.node2.netns;
        node2.set_sysctl(&locktime, "0").unwrap();
        let injector = Injector::new(&perf.netns, "eth0").unwrap();
        let compared = || scene.daemon2.log().matches("compared everything").count();
        let (before, began) = (compared(), Instant::now());
        let mac = |last| [2, 0, 0, 0, 0x99, last];
        let has_mac = |mac: [u8; 6]| {
            let endpoint = endpoint_of(&scene.daemon2, perf);
            endpoint["mac"] == mac_text(mac)
        };
        for number in 0..60_u8 {
            injector.send(&arp(mac(number), perf.ip, perf.ip)).unwrap();
            // A question by a machine that does not exist, for the pods' gateway.
            let stranger = Ipv4Addr::new(10, 77, 0, number);
            injector.send(&arp(mac(number), stranger, POD_GATEWAY)).unwrap();
            thread::sleep(Duration::from_millis(30));
        }
        until("the entry has the last MAC", SOON, || has_mac(mac(59)).then_some(()));
        injector.send(&arp(perf.mac, perf.ip, perf.ip)).unwrap();
        until("the entry has its own MAC again", SOON, || has_mac(perf.mac).then_some(()));
        // Everything is compared every ten seconds anyway.
        let allowed = 2 + began.elapsed().as_secs() / 10;
        let more = compared() - before;
        assert!(more as u64 <= allowed, "everything was compared {more} times");
        let listed = scene.daemon2.cli_json(&["endpoints", "list"]).unwrap();
        assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
        node2.set_sysctl(&locktime, "100").unwrap();
        assert_answered(&sit.netns, perf.ip);
        let stream = stream_between(sit, perf, 5006);
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
