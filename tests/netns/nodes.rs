//! `tunless nodes list`: what another node is called, what it forges, and since when it is not heard.

use std::net::Ipv4Addr;

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use dataplane_common::{Ipv4Be, NodeCounter, Reason};
use dataplane_user::{
    bpf::{Maps, Pins},
    clock,
};
use serde_json::{Value, json};
use tunless_lab::{Daemon, Lab, LabBuilder, Netns, Node, packet::Ipv4, traffic::ping};
use tunless_tests::scene::{
    Counters, HASTY, SOON, Scene, Setup, answers, assert_answered, examined::Rows, hostile::Attack,
    until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// The one other node, as a daemon's command lists it.
fn listed(daemon: &Daemon) -> Value {
    daemon.cli_json(&["nodes", "list"]).unwrap()["items"][0].clone()
}

fn number(daemon: &Daemon, key: &str) -> u64 {
    let item = listed(daemon);
    item[key].as_u64().unwrap_or_else(|| panic!("no number `{key}` in {item:#}"))
}

/// Sends that many pings which are not answered.
fn ping_in_vain(from: &Netns, to: Ipv4Addr, count: u32) {
    let wait = std::time::Duration::from_millis(200);
    let options = ping::Options { count, wait, ..ping::Options::default() };
    assert_eq!(ping::ping(from, to, &options).unwrap().received, 0);
}

/// It is counted once, whichever program drops it or leaves it to the kernel.
#[test]
fn what_a_node_forges_is_counted_for_it() {
    for (setup, more, own, other) in [
        (Setup::OFF, "", Reason::DecapOwnSource, Reason::DecapForgedSource),
        (Setup::VERIFIED_XDP, "", Reason::DecapOwnSource, Reason::DecapForgedSource),
        (Setup::VERIFIED, "spoof: stack\n", Reason::DecapOwnToStack, Reason::DecapForgedToStack),
        (Setup::OFF_XDP, "spoof: stack\n", Reason::DecapOwnToStack, Reason::DecapForgedToStack),
    ] {
        let scene = Scene::with(lab(), setup, more, &[]);
        scene.warm_up();
        // A third node's pods, behind no program of ours.
        let daemon = &scene.daemon2;
        let good = std::fs::read_to_string(daemon.config_path()).unwrap();
        let third = "    - {cidr: 10.20.7.64/26, node: 172.16.36.77, name: node3}\n";
        daemon
            .rewrite_config(&good.replace("  static:\n", &format!("  static:\n{third}")))
            .unwrap();
        until("the third node is there, with its name", SOON, || {
            let nodes = daemon.cli_json(&["nodes", "list"]).unwrap();
            (nodes["items"][1]["name"] == "node3").then_some(())
        });
        assert_eq!(number(daemon, "forged_packets"), 0);
        let (counted, decapsulated) = (Counters::of(daemon), number(daemon, "decap_packets"));
        let attack = Attack::new(&scene);
        for source in [scene.lab.perf().ip, scene.lab.node2.tunnel, Ipv4Addr::new(10, 20, 7, 70)] {
            attack.send(&attack.outer().packet(&attack.inner(source)));
        }
        // A sender that no route names is not counted.
        let stranger = Ipv4::ipip(Ipv4Addr::new(198, 51, 100, 7), scene.lab.node2.ip);
        attack.send(&stranger.packet(&attack.inner(scene.lab.perf().ip)));
        until("all three are counted", SOON, || {
            let moved = counted.moved(daemon);
            (moved.get(&own) == Some(&2) && moved.get(&other) == Some(&1)).then_some(())
        });
        assert_eq!(number(daemon, "forged_packets"), 3, "{setup:?} {more}");
        let nodes = daemon.cli_json(&["nodes", "list"]).unwrap();
        assert_eq!(nodes["items"][1]["forged_packets"], 0, "{nodes:#}");
        if more.is_empty() {
            assert_eq!(number(daemon, "decap_packets"), decapsulated);
            attack.assert_nothing_delivered();
        }
        assert!(daemon.cli(&["counters", "flush"]).unwrap().success());
        assert_eq!(number(daemon, "forged_packets"), 0);
        scene.finish();
    }
}

/// The router loses the packets and reports each.
#[test]
fn a_node_that_falls_silent_shows_what_was_sent_since_and_what_is_reported() {
    Scene::with(lab(), Setup::OFF, "", &HASTY).case(|scene| {
        scene.warm_up();
        let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
        let router = scene.lab.router.clone();
        router.set_sysctl("ipv4/icmp_ratemask", "0").unwrap();
        let daemon = &scene.daemon2;
        until("nothing was sent since", SOON, || {
            (listed(daemon)["sent_since_heard"] == 0).then_some(())
        });
        let (errors, sent) = (number(daemon, "underlay_errors"), number(daemon, "encap_packets"));

        let unreachable = format!("unreachable {}/32", scene.lab.node1.ip);
        router.ip(&format!("route add {unreachable}")).unwrap();
        let since = until("it counts", SOON, || {
            ping_in_vain(&perf.netns, sit.ip, 1);
            Some(number(daemon, "sent_since_heard")).filter(|since| *since > 0)
        });
        assert!(since <= number(daemon, "encap_packets") - sent, "no more than was sent");
        ping_in_vain(&perf.netns, sit.ip, 3);
        assert_eq!(number(daemon, "sent_since_heard"), since + 3);
        let item = until("the router's reports are counted", SOON, || {
            Some(listed(daemon)).filter(|it| it["underlay_errors"].as_u64() > Some(errors))
        });
        assert_eq!(item["last_error"]["from"], json!(scene.lab.node2.gateway));
        assert_eq!(item["last_error"]["what"], "host unreachable");
        assert!(item["last_seen_seconds"].as_f64() > Some(0.0), "{item:#}");
        let table = daemon.cli(&["nodes", "list"]).unwrap().stdout;
        let mut lines = table.lines();
        let header = lines.next().unwrap();
        for column in ["NAME", "PREFIXES", "FORGED", "LAST SEEN", "SENT SINCE", "ERRORS"] {
            assert!(header.contains(column), "no {column} in {header}");
        }
        assert!(lines.next().unwrap().contains("host unreachable (172.16.36.1)"), "{table}");

        // What the daemon has noticed outlives it.
        scene.daemon2.kill9().unwrap();
        ping_in_vain(&perf.netns, sit.ip, 2);
        assert_eq!(number(&scene.daemon2, "sent_since_heard"), since + 5);
        scene.daemon2.restart().unwrap();
        router.ip(&format!("route del {unreachable}")).unwrap();
        until("they talk again", SOON, || answers(&perf.netns, sit.ip).then_some(()));
        assert_answered(&perf.netns, sit.ip);
        assert_eq!(number(&scene.daemon2, "sent_since_heard"), 0);
    });
}

/// Sets when node1 was last heard, on every CPU.
fn set_last_seen(node2: &Node, node1: Ipv4Addr, at: u64) {
    let pins = Pins::new(&node2.bpffs);
    let maps = Maps::open(&pins).unwrap();
    let (_, index) = maps.nodes.get(Ipv4Be::from(node1)).unwrap();
    let map = MapData::from_pin(pins.map("NODE_COUNTERS")).unwrap();
    let mut counters: PerCpuArray<_, NodeCounter> = Map::PerCpuArray(map).try_into().unwrap();
    let now = counters.get(&index.0, 0).unwrap();
    let set: Vec<_> = now.iter().map(|it| NodeCounter { last_seen: at, ..*it }).collect();
    counters.set(index.0, PerCpuValues::try_from(set).unwrap(), 0).unwrap();
}

/// Five minutes are too long for a test, so the test writes an earlier time into the map.
#[test]
fn doctor_names_a_node_that_became_silent() {
    let mut scene = Scene::with(lab(), Setup::OFF, "", &HASTY);
    scene.warm_up();
    let good = std::fs::read_to_string(scene.daemon2.config_path()).unwrap();
    let node1 = scene.lab.node1.ip;
    let named = good.replace(&format!("node: {node1}}}"), &format!("node: {node1}, name: first}}"));
    scene.daemon2.rewrite_config(&named).unwrap();
    until("it has its name", SOON, || (listed(&scene.daemon2)["name"] == "first").then_some(()));
    Rows::of(&scene.daemon2, &[]).one("peers", "PASS", &["1 of 1 node heard"]);
    until("this host is up for long enough", std::time::Duration::from_secs(400), || {
        (clock::monotonic().as_secs() > 310).then_some(())
    });
    let router = scene.lab.router.clone();
    router.ip(&format!("route add blackhole {node1}/32")).unwrap();
    set_last_seen(&scene.lab.node2, node1, 1);
    let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
    until("the daemon has counted enough", SOON, || {
        ping_in_vain(&perf.netns, sit.ip, 1);
        (listed(&scene.daemon2)["sent_since_heard"].as_u64()? >= 5).then_some(())
    });
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    let row = rows.one("peers", "WARN", &["first (172.16.35.4) was last heard", "packets since"]);
    assert_eq!(row["where"], json!(node1));
    assert_eq!(row["remedy"], format!("run `tunless doctor --peer {node1}`"));
    router.ip(&format!("route del blackhole {node1}/32")).unwrap();
    assert_answered(&perf.netns, sit.ip);
    Rows::of(&scene.daemon2, &[]).one("peers", "PASS", &["1 of 1 node heard"]);

    // The name stays while no daemon runs, and goes with everything else.
    let names = scene.lab.node2.run_file("names.json");
    scene.daemon2.kill9().unwrap();
    assert_eq!(listed(&scene.daemon2)["name"], "first");
    assert!(names.exists());
    scene.daemon2.restart().unwrap();
    scene.daemon2.terminate_and_detach().unwrap();
    assert!(!names.exists());
    scene.daemon2.restart().unwrap();
    scene.finish();
}
