//! The lab's own life: it comes up, and nothing of it stays.

use std::{panic, path::Path, process::Command, time::Instant};

use tunless_lab::{
    Lab, Netns,
    identity::{LabId, sweep},
};

fn is_gone(id: &LabId) {
    assert!(id.namespaces().is_empty(), "{:?}", id.namespaces());
    assert!(id.bpffs_dirs().is_empty(), "{:?}", id.bpffs_dirs());
    assert!(!id.dir().exists());
}

#[test]
fn everything_goes_on_drop() {
    let lab = Lab::new().third_node(true).build().unwrap();
    let id = lab.id().clone();
    assert_eq!(id.namespaces().len(), 6, "router, three nodes, two pods");
    assert_eq!(lab.shell_hint().lines().count(), 6);
    drop(lab);
    is_gone(&id);
}

#[test]
fn everything_goes_after_a_panic() {
    let mut id = None;
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = Lab::new().build().unwrap();
        id = Some(lab.id().clone());
        panic!("on purpose");
    }));
    assert!(result.is_err());
    is_gone(&id.unwrap());
}

#[test]
fn processes_inside_are_ended() {
    let lab = Lab::new().build().unwrap();
    let mut sleeper = lab.node1.netns.command("sleep").arg("1000").spawn().unwrap();
    while !lab.node1.netns.has_process(sleeper.id()) {}
    drop(lab);
    assert!(!sleeper.wait().unwrap().success(), "killed, not finished");
}

#[test]
fn the_sweep_removes_labs_of_dead_processes_only() {
    // A process that has surely ended, and whose id we know.
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let dead = format!("tl{}x1", child.id());
    // The sweep of another test's lab may come while it is being made.
    let made = (0..10).any(|_| Netns::create(&format!("{dead}-node1")).is_ok());
    assert!(made, "the namespace cannot be made");
    let files = Path::new("/run/tunless-lab").join(&dead);
    std::fs::create_dir_all(&files).unwrap();
    let alive = Lab::new().default_pods(false).build().unwrap();
    // Building has swept; do it once more to see that it can be repeated.
    sweep().unwrap();
    assert!(!Netns::named(&format!("{dead}-node1")).exists());
    assert!(!files.exists());
    assert!(alive.node1.netns.exists());
}

#[test]
fn a_hundred_pods_come_and_go() {
    let lab = Lab::new().build().unwrap();
    let wanted: Vec<_> =
        (0..100_u8).map(|n| (format!("pod{n}"), std::net::Ipv4Addr::new(10, 20, 106, n))).collect();
    let start = Instant::now();
    let pods = lab.node2.add_pods(&wanted).unwrap();
    eprintln!("100 pods took {:?}", start.elapsed());
    let routes = lab.node2.netns.ip("route show").unwrap();
    assert!(routes.contains(&format!("{} dev {} scope link", pods[99].ip, pods[99].cali)));
    lab.node2.remove_pods(&pods).unwrap();
    let routes = lab.node2.netns.ip("route show").unwrap();
    assert!(!routes.contains("10.20.106."), "{routes}");
    assert!(!pods[0].netns.exists());
}

#[test]
fn errors_say_what_was_run_and_why_it_failed() {
    let lab = Lab::new().default_pods(false).build().unwrap();
    let error = format!("{:#}", lab.node1.netns.ip("link set nosuch up").unwrap_err());
    assert!(error.contains("ip link set nosuch up"), "{error}");
    assert!(error.contains("Cannot find device"), "{error}");
}
