//! `mode: shadow` where tunless carries packets, and where nothing was watched. What it does beside a real
//! tunl0 are the cases `shadow_beside_tunl0` (suite `smoke`) and `shadow` (suite `parity`) in virtual machines.

use serde_json::Value;
use tunless_lab::{Daemon, Lab};
use tunless_tests::scene::{SOON, Setup};

#[test]
fn a_daemon_that_carries_packets_does_not_turn_to_looking_on() {
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let yaml = Setup::VERIFIED.config(node2, node1, "");
    let shadow = format!("mode: shadow\n{yaml}");
    let mut daemon = Daemon::start(node2, &yaml).unwrap();
    let links = || std::fs::read_dir(node2.bpffs.join("links")).unwrap().count();
    let attached = links();
    let refused = |status: &Value| {
        let problems = status["problems"].as_array().into_iter().flatten();
        problems.filter_map(|it| it["what"].as_str()).any(|what| what.contains("`shadow` looks on"))
    };
    daemon.rewrite_config(&shadow).unwrap();
    daemon.wait_json(&["status"], SOON, refused).unwrap();
    // Nor does a restart: the text that was accepted last stays.
    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    let status = daemon.wait_json(&["status"], SOON, refused).unwrap();
    assert_eq!((&status["shadow"], links()), (&Value::Bool(false), attached), "{status}");

    let report = daemon.cli(&["shadow", "report"]).unwrap();
    assert_eq!(report.status, Some(1), "{report:?}");
    assert!(report.stderr.contains("nothing was watched"), "{}", report.stderr);
    assert!(daemon.cli(&["shadow", "reset"]).unwrap().success(), "there is nothing to forget");
    assert_eq!(daemon.cli(&["shadow", "soon"]).unwrap().status, Some(2));
    daemon.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}
