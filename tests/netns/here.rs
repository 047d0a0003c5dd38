//! `tunless config validate --here`: what the daemon would do, before there is one.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tunless_lab::{Lab, LabBuilder, Node, daemon::Tunless};
use tunless_tests::scene::{Scene, Setup};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Writes a node's file, with further lines.
fn file(lab: &Lab, node: &Node, more: &str) -> PathBuf {
    let path = lab.dir().join("here.yaml");
    fs::write(&path, Setup::VERIFIED.config(node, &lab.node1, more)).unwrap();
    path
}

fn codes(here: &Value) -> Vec<&str> {
    here["problems"].as_array().unwrap().iter().filter_map(|it| it["code"].as_str()).collect()
}

#[test]
fn without_a_daemon_it_shows_what_one_would_do() {
    let lab = lab().build().unwrap();
    let node = &lab.node2;
    let validate = |more: &str| {
        let tunless = Tunless::new(node, Some(file(&lab, node, more)));
        let text = tunless.run(&["config", "validate", "--here"]).unwrap();
        assert_eq!(text.status, Some(0), "{}", text.stderr);
        let answer = tunless.json(&["config", "validate", "--here"]).unwrap();
        (text.stdout, answer["here"].clone())
    };
    let before = node.netns.ip("-o link").unwrap();
    let (text, here) = validate("");
    for (key, value) in [
        ("node", json!("172.16.36.10")),
        ("mode", json!("replace")),
        ("fastpath", json!("verified")),
        ("tunnel_address", json!("10.20.105.192")),
        ("tunnel_mtu", json!(1480)),
        ("routes", json!(1)),
        ("endpoints", json!(1)),
        ("problems", json!([])),
    ] {
        assert_eq!(here[key], value, "{key}");
    }
    for shown in [
        "node:       172.16.36.10 (the kernel's source towards the nodes)",
        "mode:       replace (auto: tunl0 does not carry the routes to pods), fast path verified",
        "tunnel:     tunless0 10.20.105.192 mtu 1480",
        "would list no problem",
    ] {
        assert!(text.contains(shown), "no {shown:?} in {text}");
    }

    // What `status` would list: forwarding, the MTU, a node without a path, a foreign route, a
    // source that does not answer.
    node.netns.set_sysctl("ipv4/ip_forward", "0").unwrap();
    node.netns.ip("route add 10.20.42.0/27 via 172.16.36.1").unwrap();
    let (text, here) = validate("mtu: 9000\nsources: {bird: {socket: /run/no-such-bird.ctl}}\n");
    let expected = ["forwarding-off", "foreign-route", "mtu-too-large", "source-waiting"];
    let found = codes(&here);
    for code in expected {
        assert!(found.contains(&code), "no {code} in {here}");
    }
    for shown in [
        "down: net.ipv4.conf.tunless0.forwarding is 0",
        "sysctl -w net.ipv4.ip_forward=1",
        "info: mtu: 9000 in the file is more than eth0 carries: 1480",
        "/run/no-such-bird.ctl",
    ] {
        assert!(text.contains(shown), "no {shown:?} in {text}");
    }
    node.netns.ip("route del 10.20.42.0/27").unwrap();
    node.netns.set_sysctl("ipv4/ip_forward", "1").unwrap();

    // Without a bpffs there is nothing to start from.
    let elsewhere = lab.dir().join("pins").display().to_string();
    let tunless = Tunless::new(node, Some(file(&lab, node, "")));
    let output = tunless.run(&["config", "validate", "--here", "--bpffs", &elsewhere]).unwrap();
    assert_eq!(output.status, Some(1));
    assert!(output.stderr.contains("is not on a bpffs; mount one: `mount -t bpf"), "{output:?}");

    assert_eq!(node.netns.ip("-o link").unwrap(), before, "nothing was made");
    assert!(!node.bpffs.exists());
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// A source does not answer: each command names it once, in plain lines without a log's time.
#[test]
fn a_silent_source_is_named_once() {
    let source = "sources: {bird: {socket: /run/no-such-bird.ctl}}\n";
    let scene = Scene::with(lab(), Setup::OFF, source, &[]);
    let diff = scene.daemon2.cli(&["routes", "diff", "--timeout=1s"]).unwrap();
    assert_eq!(diff.status, Some(3), "{}", diff.stderr);
    assert_eq!(diff.stderr.matches("no-such-bird").count(), 1, "{}", diff.stderr);
    for line in diff.stderr.lines() {
        assert!(line.starts_with("source bird: ") || line == "none", "{}", diff.stderr);
    }
    let status = scene.daemon2.cli(&["status"]).unwrap();
    assert_eq!(status.stderr, "");
    assert_eq!(status.stdout.matches("no-such-bird").count(), 1, "{}", status.stdout);
    let log = scene.daemon2.log();
    assert_eq!(log.matches("no-such-bird").count(), 1, "{log}");
    assert!(log.contains(" 1 node,") && !log.contains("0.0.0.0"), "{log}");
    scene.finish();
}
