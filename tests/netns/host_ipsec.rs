//! IPsec between the nodes: what the kernel would encrypt, or refuse, never travels in the clear.

use std::net::Ipv4Addr;

use dataplane_common::Reason;
use serde_json::{Value, json};
use tunless_lab::{Daemon, Lab, sent::IPIP};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, answers, assert_answered, hostile::Attack, until,
};

/// Waits until `status` lists the other node as unreachable for the policy, and this one as down.
fn wait_withheld(daemon: &Daemon, direction: &str) {
    until("the node is withheld", SOON, || {
        let text = daemon.cli(&["status", "-o", "json"]).unwrap().stdout;
        let status: Value = serde_json::from_str(&text).ok()?;
        let find = |code: &str| {
            status["problems"].as_array()?.iter().find(|problem| problem["code"] == code)
        };
        let what = find("node-unreachable")?["what"].as_str()?;
        let is_named = what.contains("IPsec") && what.contains(direction);
        (is_named && find("all-routes-unreachable").is_some()).then_some(())
    });
}

fn wait_talk(scene: &Scene) {
    let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
    until("they talk", SOON, || answers(&perf.netns, sit.ip).then_some(()));
    assert_answered(&perf.netns, sit.ip);
}

#[test]
fn nothing_leaves_in_the_clear_where_ipsec_is_wanted() {
    let mut scene = Scene::new(Lab::new().fabric_filter(true), Setup::OFF);
    scene.lab.count_sent(&[IPIP]).unwrap();
    wait_talk(&scene);
    let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
    let (ours, theirs) = (node2.ip, node1.ip);
    let template = "tmpl proto esp mode transport";
    for (policy, direction) in [
        (format!("src {ours} dst {theirs} dir out {template}"), "dir out"),
        (format!("src {ours} dst {theirs} proto 4 dir out action block"), "dir out"),
        (format!("src {theirs} dst {ours} dir in {template}"), "dir in"),
        (format!("src 0.0.0.0/0 dst {theirs}/16 dir out priority 50 {template}"), "dir out"),
        // Of packets without a mark, and of an interface that only the kernel knows.
        (format!("src {ours} dst {theirs} dir out mark 0 mask 0xff action block"), "dir out"),
        (format!("src {ours} dst {theirs} dev eth0 dir out action block"), "dir out"),
    ] {
        println!("{policy}");
        let selector = policy.split(" action").next().unwrap().split(" tmpl").next().unwrap();
        let selector = selector.split(" priority").next().unwrap();
        node2.netns.ip(&format!("xfrm policy add {policy}")).unwrap();
        wait_withheld(&scene.daemon2, direction);
        for is_restarted in [false, true] {
            if is_restarted {
                scene.daemon2.kill9().unwrap();
                scene.daemon2.restart().unwrap();
            }
            let before = scene.lab.sent("node2", IPIP).unwrap();
            assert!(!answers(&scene.lab.perf().netns, scene.lab.sit().ip));
            assert_eq!(scene.lab.sent("node2", IPIP).unwrap(), before, "nothing leaves node2");
            // node1 has no such policy, and sends: node2 takes nothing of it in.
            let before = scene.lab.sent("node1", IPIP).unwrap();
            assert!(!answers(&scene.lab.sit().netns, scene.lab.perf().ip));
            assert!(scene.lab.sent("node1", IPIP).unwrap() > before, "node1 sends");
        }
        // `ip` finds no policy of a mark by its selector.
        let how = if selector.contains(" mark ") { "flush" } else { &format!("delete {selector}") };
        node2.netns.ip(&format!("xfrm policy {how}")).unwrap();
        wait_talk(&scene);
    }

    println!(
        "policies of marked packets and of xfrm interfaces are about others, as in the kernel"
    );
    let others = ["mark 5 mask 0xff", "if_id 42"]
        .map(|of| format!("src {ours} dst {theirs} dir out {of} action block"));
    for policy in &others {
        node2.netns.ip(&format!("xfrm policy add {policy}")).unwrap();
    }
    scene.daemon2.kill9().unwrap();
    scene.daemon2.restart().unwrap();
    wait_talk(&scene);
    assert_answered(&node2.netns, theirs);
    let status = scene.daemon2.cli(&["status", "-o", "json"]).unwrap().stdout;
    assert!(!status.contains("IPsec"), "{status}");
    node2.netns.ip("xfrm policy flush").unwrap();

    println!("what counts without a policy");
    for direction in ["out", "in"] {
        node2.netns.ip(&format!("xfrm policy setdefault {direction} block")).unwrap();
        wait_withheld(&scene.daemon2, &format!("setdefault {direction} block"));
        let ping = node2.netns.try_exec("ping", &["-c1", "-W1", &theirs.to_string()], SOON);
        assert!(!ping.unwrap().success(), "the kernel obeys it: {direction}");
        node2.netns.ip(&format!("xfrm policy setdefault {direction} accept")).unwrap();
        wait_talk(&scene);
    }

    println!("an exception for IPIP comes before the policy");
    let exception = format!("src {ours} dst {theirs} proto 4 dir out");
    node2.netns.ip(&format!("xfrm policy add {exception} priority 1 action allow")).unwrap();
    let policy = format!("src {ours} dst {theirs} dir out");
    node2.netns.ip(&format!("xfrm policy add {policy} priority 9 {template}")).unwrap();
    wait_talk(&scene);
    node2.netns.ip(&format!("xfrm policy delete {exception}")).unwrap();
    wait_withheld(&scene.daemon2, "dir out");
    let is_down = |status: &tunless_lab::cmd::Output| status.status == Some(3);
    until("not ready", SOON, || is_down(&scene.daemon2.cli(&["status"]).unwrap()).then_some(()));
    println!("and the policies go all at once");
    node2.netns.ip("xfrm policy flush").unwrap();
    wait_talk(&scene);
    assert_eq!(scene.lab.plain_packets_on_wire().unwrap(), 0);
    scene.finish();
}

/// Another address that node1 may send from.
const EXTRA: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);

/// Whether a packet of node2's pod to node1's travels without encapsulation; the fabric drops it.
fn is_sent_plain(scene: &Scene) -> bool {
    let before = scene.lab.plain_packets_on_wire().unwrap();
    assert!(!answers(&scene.lab.perf().netns, scene.lab.sit().ip));
    scene.lab.plain_packets_on_wire().unwrap() > before
}

/// Node1's pods are reached without encapsulation, and wrapped packets of theirs may still arrive;
/// not once a policy forbids them, whatever entry the inner source has.
#[test]
fn no_source_of_a_protected_node_is_accepted() {
    for setup in [Setup::OFF, Setup::OFF_XDP, Setup::VERIFIED] {
        println!("{setup:?}");
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
        let routes = format!(
            "    - {{cidr: {}, node: {}, encap: direct}}\n  nodes:\n    - {{node: {}, \
             extra_sources: [{EXTRA}/32]}}\n",
            node1.block, node1.ip, node1.ip
        );
        let daemon1 = Daemon::start(&node1, &setup.config(&node1, &node2, "")).unwrap();
        let daemon2 = Daemon::start(&node2, &setup.config_with(&node2, &[], &routes)).unwrap();
        let mut scene = Scene { daemon1, daemon2, lab, setup };
        let sources = [scene.lab.sit().ip, node1.ip, EXTRA];
        let attack = Attack::new(&scene);
        for source in sources {
            attack.send(&attack.outer().packet(&attack.inner(source)));
            attack.wait_for_delivery(|frame| {
                frame.outer().is_some_and(|(ip, _)| ip.source == source)
            });
        }
        drop(attack);
        assert!(is_sent_plain(&scene));

        let policy = format!("src {} dst {} proto 4 dir in", node1.ip, node2.ip);
        node2.netns.ip(&format!("xfrm policy add {policy} action block")).unwrap();
        let is_listed = |daemon: &Daemon| {
            let nodes = daemon.cli_json(&["nodes", "list"]).unwrap();
            (nodes["items"][0]["protected"] == true).then_some(())
        };
        for is_restarted in [false, true] {
            if is_restarted {
                scene.daemon2.kill9().unwrap();
                scene.daemon2.restart().unwrap();
            }
            until("the node is protected", SOON, || is_listed(&scene.daemon2));
            let attack = Attack::new(&scene);
            for source in sources {
                let before = Counters::of(&scene.daemon2);
                attack.send(&attack.outer().packet(&attack.inner(source)));
                before.wait_for_only(&scene.daemon2, Reason::DecapSourceUnknown, 1, SOON);
            }
            // What is sent there still goes by the kernel's route, not into the tunnel device.
            assert!(is_sent_plain(&scene));
            let routes = scene.daemon2.cli_json(&["routes", "list"]).unwrap();
            let mut routes = routes["items"].as_array().unwrap().iter();
            let block = routes.find(|item| item["cidr"] == node1.block).unwrap();
            assert_eq!((&block["encap"], &block["state"]), (&json!("direct"), &json!("active")));
            drop(attack);
        }
        node2.netns.ip(&format!("xfrm policy delete {policy}")).unwrap();
        until("it is protected no more", SOON, || {
            is_listed(&scene.daemon2).is_none().then_some(())
        });
        let attack = Attack::new(&scene);
        attack.send(&attack.good());
        let sit = scene.lab.sit().ip;
        attack.wait_for_delivery(|frame| frame.outer().is_some_and(|(ip, _)| ip.source == sit));
        drop(attack);
        scene.finish();
    }
}
