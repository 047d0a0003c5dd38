//! Pins that the daemon cannot read: each is named, and nothing that forwards is taken away.

use std::{fs, os::unix::fs::symlink, path::Path};

use dataplane_user::bpf::{frozen, sys};
use serde_json::{Value, json};
use tunless_lab::{
    Daemon, Lab,
    bpf::{
        instruction, load_classifier,
        opcode::{EXIT, MOVE},
    },
};
use tunless_tests::{
    bird::PATIENCE,
    route_source::RouteSource,
    scene::{SOON, Setup, answers, assert_lossless, stream_between, until},
};

/// Another version's directory of maps.
const OTHER: &str = "vdeadbeef";

/// Puts a map that is not tunless's in the place of a pin.
fn put_foreign_map(pin: &Path) {
    let _ = fs::remove_file(pin);
    sys::pin(&sys::create_array("foreign", 8).unwrap(), pin).unwrap();
}

/// Puts a program that is not tunless's in the place of a pin.
fn put_foreign_program(pin: &Path) {
    let _ = fs::remove_file(pin);
    // `r0 = 0; exit`
    let code = [instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)];
    sys::pin(&load_classifier(&code).unwrap(), pin).unwrap();
}

/// Waits until `status` lists the problem with these words, whatever else it lists; returns all.
fn wait_for_problem(daemon: &Daemon, code: &str, words: &str) -> Value {
    until(words, SOON, || {
        let status = daemon.cli(&["status", "-o", "json"]).unwrap().stdout;
        let problems = serde_json::from_str::<Value>(&status).ok()?["problems"].take();
        let is_it = |problem: &Value| {
            problem["code"] == code && problem["what"].as_str().unwrap().contains(words)
        };
        problems.as_array()?.iter().any(is_it).then_some(problems)
    })
}

fn wait_well(daemon: &Daemon) {
    let is_well = |status: &Value| status["ready"] == true && status["problems"] == json!([]);
    daemon.wait_json(&["status"], PATIENCE, is_well).unwrap();
}

#[test]
fn what_cannot_be_read_is_named_and_takes_nothing_away() {
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let mut source = RouteSource::start("kubernetes", &lab);
    let setup = Setup::VERIFIED;
    let daemon1 = Daemon::start(&node1, &source.config(setup, &lab, &node1, &node2)).unwrap();
    let mut daemon2 = Daemon::start(&node2, &source.config(setup, &lab, &node2, &node1)).unwrap();
    let (perf, sit) = (lab.perf().clone(), lab.sit().clone());
    until("both nodes know each other", PATIENCE, || answers(&perf.netns, sit.ip).then_some(()));
    let before = lab.plain_packets_on_wire().unwrap();
    let streams = [stream_between(&perf, &sit, 5001), stream_between(&sit, &perf, 5002)];
    let serving = node2.bpffs.join("serving");
    let ours = fs::read_link(&serving).unwrap();

    println!("another version's routes, in another format, while the source is down");
    daemon2.terminate().unwrap();
    source.down(&daemon2);
    let other = node2.bpffs.join(OTHER);
    fs::rename(node2.bpffs.join(&ours), &other).unwrap();
    fs::remove_file(&serving).unwrap();
    symlink(OTHER, &serving).unwrap();
    put_foreign_map(&other.join("ROUTES"));
    daemon2.restart().unwrap();
    let words = "ROUTES is not a map of routes";
    let problems = wait_for_problem(&daemon2, "active-unreadable", words);
    let is_degraded = |problem: &Value| problem["level"] == "degraded";
    assert!(problems.as_array().unwrap().iter().all(is_degraded), "{problems}");
    assert!(other.exists());
    source.up(&daemon2);
    until("the other version is gone", PATIENCE, || (!other.exists()).then_some(()));
    wait_well(&daemon2);

    println!("maps and programs that another program put in the place of our maps and memory");
    let (nodes, memory) = (node2.bpffs.join(&ours).join("NODES"), node2.bpffs.join("memory"));
    let replaced: [(_, fn(&Path), _); 4] = [
        (&nodes, put_foreign_map, "NODES is not as this version"),
        (&memory, put_foreign_map, "memory"),
        (&nodes, put_foreign_program, "NODES"),
        (&memory, put_foreign_program, "memory"),
    ];
    for (pin, put_foreign, words) in replaced {
        daemon2.terminate().unwrap();
        put_foreign(pin);
        daemon2.restart().unwrap();
        wait_for_problem(&daemon2, "reconcile-failed", words);
        daemon2.terminate().unwrap();
        fs::remove_file(pin).unwrap();
        daemon2.restart().unwrap();
        wait_well(&daemon2);
    }

    println!("a memory that is no memory");
    daemon2.terminate().unwrap();
    frozen::write_memory(&node2.bpffs.join("memory"), b"garbage").unwrap();
    daemon2.restart().unwrap();
    wait_well(&daemon2);
    assert!(daemon2.log().contains("holds no memory of tunless"), "{}", daemon2.log());

    println!("foreign pins among the links");
    daemon2.terminate().unwrap();
    put_foreign_map(&node2.bpffs.join("links/encap_pod_4711"));
    put_foreign_program(&node2.bpffs.join("links/encap_pod_4712"));
    daemon2.restart().unwrap();
    wait_well(&daemon2);

    streams.into_iter().for_each(assert_lossless);
    assert_eq!(lab.plain_packets_on_wire().unwrap(), before);
    daemon1.finish().unwrap();
    daemon2.finish().unwrap();
    drop(source);
    assert_eq!(lab.problems(), Vec::<String>::new());
}
