//! What a daemon must still be able to do after it was restarted: it then uses programs and
//! links that an earlier daemon made.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use aya::programs::TcAttachType;
use dataplane_common::IfIndex;
use dataplane_user::bpf::sys::tcx_programs;
use nix::net::if_::if_nametoindex;
use tunless_lab::{Daemon, Lab, Node, Pod};
use tunless_tests::scene::{SOON, Scene, Setup, assert_answered, endpoint_of, until};

/// More pods than a process with [`SOFT_LIMIT`] open files can hold two links each of.
const CROWD: u16 = 600;
/// The limit that the daemon of the test with a crowd runs under.
const SOFT_LIMIT: u32 = 1024;

/// How many links of eBPF programs a process holds open.
fn links_held(daemon: &Daemon) -> usize {
    let directory = format!("/proc/{}/fd", daemon.pid().unwrap());
    let entries = fs::read_dir(directory).unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().contains("bpf-link"))
        .count()
}

/// Interface and number of attached programs, for each interface whose name begins so.
fn programs(daemon: &Daemon, prefix: &str) -> BTreeMap<String, usize> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let mut found = BTreeMap::new();
    for attachment in status["attachments"].as_array().unwrap() {
        let interface = attachment["interface"].as_str().unwrap();
        if interface.starts_with(prefix) {
            *found.entry(interface.to_owned()).or_default() += 1;
        }
    }
    found
}

/// Waits until the only route is `active`, or `unreachable`.
fn wait_for_state(daemon: &Daemon, state: &str) {
    let is_so = |routes: &serde_json::Value| routes["items"][0]["state"] == state;
    daemon.wait_json(&["routes", "list"], SOON, is_so).unwrap();
}

/// A pin alone holds a link. One that a daemon kept open would outlive its pin, and with it the
/// program and the maps of an older version.
#[test]
fn no_link_is_held_open() {
    Scene::each(&Lab::new(), |scene| {
        scene.warm_up();
        for restart in 0..3 {
            // While it attaches programs it holds the link at hand.
            until(&format!("no link is held after {restart} restarts"), SOON, || {
                (links_held(&scene.daemon2) == 0).then_some(())
            });
            scene.daemon2.kill9().unwrap();
            scene.daemon2.restart().unwrap();
        }
    });
}

/// `ifdown`, `ifup`, DHCP and netplan remove the node's address and add it again.
#[test]
fn an_address_that_goes_and_comes_back_is_served_again() {
    for setup in [Setup::OFF, Setup::VERIFIED, Setup::VERIFIED_XDP] {
        let mut scene = Scene::new(Lab::new(), setup);
        scene.warm_up();
        scene.daemon2.kill9().unwrap();
        scene.daemon2.restart().unwrap();
        let node = &scene.lab.node2;
        let gateway = node.gateway;
        for _ in 0..2 {
            let shown = node.netns.ip("-o -4 addr show dev eth0").unwrap();
            let address = shown.split_whitespace().nth(3).unwrap().to_owned();
            node.netns.ip(&format!("addr del {address} dev eth0")).unwrap();
            wait_for_state(&scene.daemon2, "unreachable");
            node.netns.ip(&format!("addr add {address} dev eth0")).unwrap();
            node.netns.ip(&format!("route replace default via {gateway}")).unwrap();
            wait_for_state(&scene.daemon2, "active");
            scene.daemon2.wait_json(&["status"], SOON, |status| status["ready"] == true).unwrap();
            scene.warm_up();
        }
        scene.finish();
    }
}

/// A pod's interface that the file no longer names loses its programs, and gets them again.
#[test]
fn interfaces_are_narrowed_and_widened() {
    let mut scene = Scene::new(Lab::new(), Setup::VERIFIED);
    scene.warm_up();
    scene.daemon2.kill9().unwrap();
    scene.daemon2.restart().unwrap();
    let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
    let cali = scene.lab.perf().cali.clone();
    let attached = |node: &Node| {
        let count = || {
            let ifindex = IfIndex(if_nametoindex(cali.as_str())?);
            let directions = [TcAttachType::Ingress, TcAttachType::Egress];
            let programs = directions.map(|direction| tcx_programs(ifindex, direction));
            Ok(programs.into_iter().map(|programs| programs.unwrap().len()).sum::<usize>())
        };
        node.netns.run(count).unwrap()
    };
    assert_eq!(attached(&node2), 2);
    for _ in 0..2 {
        let narrow = "workloads: {interfaces: [none*]}\n";
        scene.daemon2.replace_config(&scene.setup.config(&node2, &node1, narrow)).unwrap();
        until("the kernel has no program of ours there", SOON, || {
            (attached(&node2) == 0 && programs(&scene.daemon2, "cali").is_empty()).then_some(())
        });
        scene.daemon2.replace_config(&scene.setup.config(&node2, &node1, "")).unwrap();
        until("the kernel has both programs again", SOON, || {
            (attached(&node2) == 2 && programs(&scene.daemon2, "cali")[&cali] == 2).then_some(())
        });
    }
    scene.warm_up();
    scene.finish();
}

/// Links took a file each: 520 pods under systemd's usual limit of 1,024 could not be served
/// after a restart.
#[test]
fn more_pods_than_open_files() {
    let mut scene = Scene::new(Lab::new(), Setup::VERIFIED);
    scene.warm_up();
    let node2 = scene.lab.node2.clone();
    let first = u32::from(Ipv4Addr::new(10, 20, 106, 0));
    let crowd: Vec<_> =
        (1..=CROWD).map(|n| (format!("crowd-{n}"), Ipv4Addr::from(first + u32::from(n)))).collect();
    let pods: Vec<Pod> = node2.add_pods(&crowd).unwrap();
    endpoint_of(&scene.daemon2, pods.last().unwrap());
    let limit = |daemon: &Daemon| {
        let pid = daemon.pid().unwrap().to_string();
        let limit = format!("--nofile={SOFT_LIMIT}:{SOFT_LIMIT}");
        node2.netns.exec("prlimit", &["--pid", &pid, &limit]).unwrap();
    };
    for _ in 0..2 {
        scene.daemon2.kill9().unwrap();
        scene.daemon2.launch().unwrap();
        limit(&scene.daemon2);
        scene.daemon2.wait_notified("READY=1", SOON).unwrap();
        scene.daemon2.wait_json(&["status"], SOON, |status| status["ready"] == true).unwrap();
        // Each link is replaced by itself, and waits for the kernel (RCU), which takes its time on busy CPUs.
        until("every pod has its programs", 5 * SOON, || {
            let programs = programs(&scene.daemon2, "cali");
            let is_whole = programs.values().all(|count| *count == 2);
            (is_whole && programs.len() == usize::from(CROWD) + 1).then_some(())
        });
        assert_eq!(links_held(&scene.daemon2), 0);
    }
    assert_answered(&scene.lab.sit().netns, scene.lab.perf().ip);
    drop(pods);
    scene.finish();
}
