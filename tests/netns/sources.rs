//! Where routes come from: the file and the kernel side by side, sources that
//! have not spoken, and routes that are direct.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tunless_lab::{Daemon, Lab, LabBuilder, Node, RpFilter};
use tunless_tests::scene::{
    SOON, Scene, Setup, answers, assert_answered, assert_lossless, stream_between, until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true).third_node(true)
}

/// Without any route of its own.
fn config(setup: Setup, node: &Node, more: &str) -> String {
    format!(
        "node: {{name: {}, tunnel_address: {}}}\nmode: replace\n\
         underlay: {{decap: {}}}\nfastpath: {}\n{more}",
        node.name, node.tunnel, setup.decap, setup.fastpath,
    )
}

const KERNEL: &str = "sources: {kernel: {}}\n";

fn routes(daemon: &Daemon) -> Vec<Value> {
    let answer = daemon.cli_json(&["routes", "list"]).unwrap();
    let items = answer["items"].as_array().unwrap().iter();
    items.map(|item| json!([item["cidr"], item["node"], item["source"], item["encap"]])).collect()
}

fn wait_for_routes(daemon: &Daemon, expected: &Value) {
    let expected = expected.as_array().unwrap();
    until(&format!("the routes are {expected:?}"), SOON, || {
        (routes(daemon) == *expected).then_some(())
    });
}

/// As BIRD or Felix would make it.
fn foreign_route(node: &Node, verb: &str, cidr: &str, via: Ipv4Addr, protocol: u8) {
    let route = format!("{cidr} via {via} dev tunless0 onlink proto {protocol} metric 32");
    node.netns.ip(&format!("route {verb} {route}")).unwrap();
}

#[test]
fn routes_of_the_kernel_are_followed_as_they_change() {
    for setup in [Setup::OFF, Setup::VERIFIED] {
        let lab = lab().build().unwrap();
        let (node1, node2) = (&lab.node1, &lab.node2);
        let daemon1 = Daemon::start(node1, &config(setup, node1, KERNEL)).unwrap();
        let daemon2 = Daemon::start(node2, &config(setup, node2, KERNEL)).unwrap();
        Scene { daemon1, daemon2, lab, setup }.case(follow_the_kernel);
    }
}

/// What comes goes again.
fn follow_the_kernel(scene: &mut Scene) {
    let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
    let node3 = scene.lab.node3.clone().unwrap();
    let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
    wait_for_routes(&scene.daemon2, &json!([]));
    assert!(!answers(&perf.netns, sit.ip));

    foreign_route(&node1, "add", node2.block, node2.ip, 80);
    foreign_route(&node2, "add", node1.block, node1.ip, 12);
    // Of a protocol that is not listed.
    foreign_route(&node2, "add", node3.block, node3.ip, 4);
    let one = json!([[node1.block, node1.ip, "kernel", "ipip"]]);
    wait_for_routes(&scene.daemon2, &one);
    wait_for_routes(&scene.daemon1, &json!([[node2.block, node2.ip, "kernel", "ipip"]]));
    assert_answered(&perf.netns, sit.ip);
    let diff = scene.daemon2.cli(&["routes", "diff"]).unwrap();
    assert_eq!(diff.status, Some(0), "{}{}", diff.stdout, diff.stderr);

    // A borrowed address, and a block of our own that is no route.
    let borrowed = format!("{}/32", Lab::pod_ip(&node1, 50));
    foreign_route(&node2, "add", &borrowed, node3.ip, 12);
    let own = node2.block;
    node2.netns.ip(&format!("route add blackhole {own} proto 12 metric 32")).unwrap();
    wait_for_routes(
        &scene.daemon2,
        &json!([[node1.block, node1.ip, "kernel", "ipip"], [borrowed, node3.ip, "kernel", "ipip"]]),
    );
    node2.netns.ip(&format!("route del {borrowed} proto 12 metric 32")).unwrap();
    wait_for_routes(&scene.daemon2, &one);

    // The block moves, and comes back; a stream to it goes on when it has.
    foreign_route(&node2, "replace", node1.block, node3.ip, 12);
    wait_for_routes(&scene.daemon2, &json!([[node1.block, node3.ip, "kernel", "ipip"]]));
    let item = |daemon: &Daemon| daemon.cli_json(&["nodes", "list"]).unwrap()["items"].clone();
    let nodes = item(&scene.daemon2);
    let nodes: Vec<_> = nodes.as_array().unwrap().iter().map(|node| &node["node"]).collect();
    assert_eq!(nodes, [&json!(node3.ip)]);
    foreign_route(&node2, "replace", node1.block, node1.ip, 12);
    wait_for_routes(&scene.daemon2, &one);
    assert_answered(&perf.netns, sit.ip);

    // A restart loses nothing: what is pinned serves until the kernel was read.
    let stream = stream_between(&perf, &sit, 5001);
    scene.daemon2.terminate().unwrap();
    scene.daemon2.restart().unwrap();
    scene.daemon2.kill9().unwrap();
    scene.daemon2.restart().unwrap();
    wait_for_routes(&scene.daemon2, &one);
    assert_lossless(stream);

    // Gone in the kernel, gone with us.
    node2.netns.ip(&format!("route del {} proto 12 metric 32", node1.block)).unwrap();
    wait_for_routes(&scene.daemon2, &json!([]));
    let kernel = node2.netns.ip("route show proto 116").unwrap();
    assert_eq!(kernel.trim(), "", "neither route nor backstop is left");

    node1.netns.ip(&format!("route del {} proto 80 metric 32", node2.block)).unwrap();
    node2.netns.ip(&format!("route del {} proto 4 metric 32", node3.block)).unwrap();
    node2.netns.ip(&format!("route del blackhole {own} proto 12 metric 32")).unwrap();
    wait_for_routes(&scene.daemon1, &json!([]));
}

#[test]
fn the_file_is_right_unless_it_says_otherwise() {
    let lab = lab().build().unwrap();
    let (node1, node2, node3) = (&lab.node1, &lab.node2, lab.node3.as_ref().unwrap());
    let fixed = |precedence: &str| {
        let text = format!(
            "routes: {{static: [{{cidr: {}, node: {}}}]}}\nsources: {{kernel: {{}}{precedence}}}\n",
            node1.block, node1.ip
        );
        config(Setup::OFF, node2, &text)
    };
    let daemon = Daemon::start(node2, &fixed("")).unwrap();
    foreign_route(node2, "add", node1.block, node3.ip, 12);
    // Something that comes later, to know that the former was seen.
    foreign_route(node2, "add", node3.block, node3.ip, 12);
    let last = json!([node3.block, node3.ip, "kernel", "ipip"]);
    wait_for_routes(&daemon, &json!([last, [node1.block, node1.ip, "file", "ipip"]]));
    let diff = daemon.cli(&["routes", "diff", "-o", "json"]).unwrap();
    assert_eq!(diff.status, Some(3));
    let answer: Value = serde_json::from_str(&diff.stdout).unwrap();
    let found = &answer["items"][0];
    assert_eq!((&found["cidr"], &found["place"]), (&json!(node1.block), &json!("kernel")));

    daemon.replace_config(&fixed(", precedence: [kernel, file]")).unwrap();
    wait_for_routes(&daemon, &json!([last, [node1.block, node3.ip, "kernel", "ipip"]]));
    daemon.finish().unwrap();
}

/// Two nodes for one prefix: the old one stays, and `status` says why.
#[test]
fn a_conflict_changes_nothing_and_is_told() {
    let lab = lab().build().unwrap();
    let (node1, node2, node3) = (&lab.node1, &lab.node2, lab.node3.as_ref().unwrap());
    let daemon = Daemon::start(node2, &config(Setup::OFF, node2, KERNEL)).unwrap();
    foreign_route(node2, "add", node1.block, node1.ip, 12);
    let old = json!([[node1.block, node1.ip, "kernel", "ipip"]]);
    wait_for_routes(&daemon, &old);
    let two = format!(
        "nexthop via {} dev tunless0 onlink nexthop via {} dev tunless0 onlink",
        node3.ip, node1.ip
    );
    node2.netns.ip(&format!("route replace {} proto 12 metric 32 {two}", node1.block)).unwrap();
    let alarmed = |status: &Value| {
        let alarms = status["alarms"].as_array().unwrap();
        alarms.iter().any(|alarm| alarm.as_str().unwrap().contains("is claimed by"))
    };
    let status = until("the conflict is told", SOON, || {
        let status = daemon.cli(&["status", "--strict", "-o", "json"]).unwrap();
        let value: Value = serde_json::from_str(&status.stdout).unwrap();
        alarmed(&value).then_some(status)
    });
    assert_eq!(status.status, Some(3), "{}", status.stdout);
    assert_eq!(json!(routes(&daemon)), old);
    // One lets go.
    foreign_route(node2, "replace", node1.block, node3.ip, 12);
    wait_for_routes(&daemon, &json!([[node1.block, node3.ip, "kernel", "ipip"]]));
    daemon.wait_json(&["status"], SOON, |status| status["alarms"] == json!([])).unwrap();
    daemon.finish().unwrap();
}

/// Nothing goes before every source has spoken: not at a start, not at a reload.
#[test]
fn a_source_that_never_speaks_takes_nothing_away() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let fixed = |node: &Node, peer: &Node| {
        let text = format!("routes: {{static: [{{cidr: {}, node: {}}}]}}\n", peer.block, peer.ip);
        config(Setup::VERIFIED, node, &text)
    };
    let daemon1 = Daemon::start(&node1, &fixed(&node1, &node2)).unwrap();
    let daemon2 = Daemon::start(&node2, &fixed(&node2, &node1)).unwrap();
    Scene { daemon1, daemon2, lab, setup: Setup::VERIFIED }.case(|scene| {
        let stream = stream_between(scene.lab.perf(), scene.lab.sit(), 5002);
        let silent = "sources: {bird: {socket: /nowhere/bird.ctl}}\n";
        scene.daemon2.replace_config(&config(Setup::VERIFIED, &node2, silent)).unwrap();
        let waiting = |status: &Value| {
            let sources = status["sources"].as_array().unwrap();
            sources.iter().any(|it| it["source"] == "bird" && it["state"] == "waiting")
        };
        let status = |daemon: &Daemon| {
            until("status tells of the silent source", SOON, || {
                let status = daemon.cli(&["status", "--strict", "-o", "json"]).unwrap();
                let value: Value = serde_json::from_str(&status.stdout).unwrap();
                waiting(&value).then_some(status)
            })
        };
        assert_eq!(status(&scene.daemon2).status, Some(3));
        let here = json!([[node1.block, node1.ip, "file", "ipip"]]);
        assert_eq!(json!(routes(&scene.daemon2)), here);
        scene.daemon2.kill9().unwrap();
        scene.daemon2.restart().unwrap();
        assert_eq!(status(&scene.daemon2).status, Some(3));
        assert_eq!(json!(routes(&scene.daemon2)), here);
        assert_lossless(stream);
        assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);

        // Without it everybody has spoken.
        scene.daemon2.replace_config(&config(Setup::VERIFIED, &node2, "")).unwrap();
        wait_for_routes(&scene.daemon2, &json!([]));
    });
}

/// Wrapped, plain, and wrapped again, under a stream both ways. While the two
/// nodes are not of one mind packets come back another way than they went, which
/// strict `rp_filter` would not have: whoever switches sets it to loose.
#[test]
fn encapsulation_is_switched_under_traffic() {
    for setup in [Setup::OFF, Setup::VERIFIED] {
        let lab = Lab::new().rp_filter(RpFilter::Loose).build().unwrap();
        let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
        // The fabric knows the pods, as with plain BGP.
        for node in [&node1, &node2] {
            lab.router.ip(&format!("route add {} via {}", node.block, node.ip)).unwrap();
        }
        let text = |node: &Node, peer: &Node, encap: &str| {
            let text = format!(
                "routes:\n  static: [{{cidr: {}, node: {}}}]\n  \
                 pools: [{{cidr: 10.20.0.0/16, encap: {encap}}}]\n",
                peer.block, peer.ip
            );
            config(setup, node, &text)
        };
        let daemon1 = Daemon::start(&node1, &text(&node1, &node2, "ipip")).unwrap();
        let daemon2 = Daemon::start(&node2, &text(&node2, &node1, "ipip")).unwrap();
        Scene { daemon1, daemon2, lab, setup }.case(|scene| {
            assert_eq!(
                assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip).ttl(),
                Some(62)
            );
            let there = stream_between(scene.lab.perf(), scene.lab.sit(), 5003);
            let back = stream_between(scene.lab.sit(), scene.lab.perf(), 5004);
            for (encap, is) in [
                ("direct", "direct"),
                ("ipip", "ipip"),
                ("direct", "direct"),
                ("cross-subnet", "ipip"),
            ] {
                scene.daemon1.replace_config(&text(&node1, &node2, encap)).unwrap();
                wait_for_routes(&scene.daemon1, &json!([[node2.block, node2.ip, "file", is]]));
                scene.daemon2.replace_config(&text(&node2, &node1, encap)).unwrap();
                wait_for_routes(&scene.daemon2, &json!([[node1.block, node1.ip, "file", is]]));
                scene.daemon1.cli_json(&["status", "--wait=15s"]).unwrap();
                scene.daemon2.cli_json(&["status", "--wait=15s"]).unwrap();
                // The router counts a hop of what travels plain.
                let ttl = if is == "direct" { 61 } else { 62 };
                until(&format!("pings travel {encap}"), SOON, || {
                    let report = assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);
                    (report.ttl() == Some(ttl)).then_some(())
                });
            }
            assert_lossless(there);
            assert_lossless(back);
        });
    }
}
