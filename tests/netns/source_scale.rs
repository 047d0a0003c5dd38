//! A table of the size we are meant for, and one change in it. What is printed is
//! in docs/scale.md; what is asserted does not depend on the machine's speed.

use std::{fmt::Write as _, time::Instant};

use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Node,
    scale::{BLOCKS, BORROWED, NODES, Usage, block, lent, node, route},
};
use tunless_tests::scene::{scraped::get, until};

/// Changes whose cost is averaged.
const CHANGES: u32 = 500;
/// Far beyond what a slow machine takes for all of it.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

fn add(at: &Node, lines: impl Iterator<Item = String>) {
    at.netns.ip_batch(&lines.collect::<String>()).unwrap();
}

fn wait_for(daemon: &Daemon, what: &str, is_so: impl Fn(&[Value]) -> bool) {
    until(what, LONG, || {
        let answer = daemon.cli_json(&["routes", "list"]).unwrap();
        is_so(answer["items"].as_array().unwrap()).then_some(())
    });
}

/// Milliseconds of CPU, and memory in KiB.
fn usage(pid: u32) -> (u64, u64) {
    let Usage { cpu, memory } = Usage::of(pid).unwrap();
    (cpu.as_millis() as u64, memory >> 10)
}

/// Moves block 3 from node to node; milliseconds of CPU for each move.
fn cost_of_changes(at: &Node, daemon: &Daemon) -> f64 {
    let pid = daemon.pid().unwrap();
    let before = usage(pid).0;
    for n in 0..CHANGES {
        let last = node(10 + n % 2);
        at.netns.ip_batch(&route("replace", 3, last)).unwrap();
    }
    let last = node(10 + (CHANGES - 1) % 2).to_string();
    let cidr = format!("{}/26", block(3));
    wait_for(daemon, "the last change", |items| {
        items.iter().any(|item| item["cidr"] == *cidr && item["node"] == *last)
    });
    (usage(pid).0 - before) as f64 / f64::from(CHANGES)
}

#[test]
fn ten_thousand_blocks_of_five_thousand_nodes() {
    let lab = Lab::new().default_pods(false).build().unwrap();
    let at = &lab.node2;
    let text = format!(
        "node: {{name: {}, tunnel_address: {}}}\nmode: replace\nfastpath: off\n\
         sources: {{kernel: {{}}}}\n",
        at.name, at.tunnel
    );
    let mut daemon = Daemon::start(at, &text).unwrap();
    let mut report = String::new();
    let few = 10;
    add(at, (0..few).map(|n| route("add", n, node(n))));
    wait_for(&daemon, "a few routes", |items| items.len() == few as usize);
    let small = cost_of_changes(at, &daemon);
    let pid = daemon.pid().unwrap();
    writeln!(report, "{few} blocks: {small:.2} ms CPU a change, {} KiB", usage(pid).1).unwrap();

    let (start, before) = (Instant::now(), usage(pid).0);
    add(at, (few..BLOCKS).map(|n| route("add", n, node(n))));
    add(at, (0..BORROWED).map(lent));
    let all = (BLOCKS + BORROWED) as usize;
    wait_for(&daemon, "all routes", |items| items.len() == all);
    writeln!(
        report,
        "all {all} routes: {:.1} s, {} ms CPU, {} KiB",
        start.elapsed().as_secs_f64(),
        usage(pid).0 - before,
        usage(pid).1
    )
    .unwrap();
    let large = cost_of_changes(at, &daemon);
    writeln!(report, "{all} routes: {large:.2} ms CPU a change").unwrap();

    let scraped = get(at, "/metrics");
    let routes = scraped.figure("tunless_routes{source=\"kernel\",encap=\"ipip\"}");
    assert_eq!(routes, all as f64, "in the maps");
    let took = scraped.figure("tunless_maps_read_duration_seconds") * 1e3;
    writeln!(report, "{all} routes: a scrape reads the maps in {took:.1} ms").unwrap();

    // A start finds everything in place, and reads it all again.
    daemon.terminate().unwrap();
    let start = Instant::now();
    daemon.restart().unwrap();
    let pid = daemon.pid().unwrap();
    writeln!(
        report,
        "restart: ready after {:.1} s, {} ms CPU, {} KiB",
        start.elapsed().as_secs_f64(),
        usage(pid).0,
        usage(pid).1
    )
    .unwrap();
    wait_for(&daemon, "all routes again", |items| items.len() == all);

    // A node goes: its blocks and what it borrowed, and nothing else.
    let gone = node(7);
    let of_gone = [7, 7 + NODES].map(|n| route("del", n, gone));
    add(at, of_gone.into_iter().chain([lent(6).replace("add", "del")]));
    wait_for(&daemon, "a node's routes are gone", |items| items.len() == all - 3);
    let nodes = daemon.cli_json(&["nodes", "list"]).unwrap();
    let nodes = nodes["items"].as_array().unwrap();
    assert_eq!(nodes.len(), NODES as usize - 1);
    assert!(nodes.iter().all(|node| node["node"] != *gone.to_string()));
    println!("{report}");
    daemon.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}
