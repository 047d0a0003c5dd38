//! What breaks on a node is in `tunless status`, with its level and its cause; what can be
//! repaired is repaired, and logged.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::Value;
use tunless_lab::{Daemon, Lab, LabBuilder, Node, cmd, netns::Netns};
use tunless_tests::scene::{
    SOON, Scene, Setup, answers, assert_answered, assert_lossless, stream_between, until,
};

/// How long a node may take to become unready: a *down* problem counts after ten seconds.
const HOLD: Duration = SOON.saturating_mul(2);

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn status(daemon: &Daemon) -> Value {
    let output = daemon.cli(&["status", "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

/// The problem of this code, once `status` lists it.
fn problem(daemon: &Daemon, code: &str) -> Value {
    until(&format!("`status` lists {code}"), SOON, || {
        let problems = status(daemon)["problems"].as_array().unwrap().clone();
        problems.into_iter().find(|problem| problem["code"] == code)
    })
}

/// Until nothing is wrong.
fn wait_well(daemon: &Daemon) {
    until("nothing is wrong", SOON, || {
        let status = status(daemon);
        (status["ready"] == true && status["problems"] == serde_json::json!([])).then_some(())
    });
}

/// A *down* problem makes the node unready once it lasts.
fn assert_becomes_unready(daemon: &Daemon) {
    until("the node is not ready", HOLD, || (status(daemon)["ready"] == false).then_some(()));
    let output = daemon.cli(&["status"]).unwrap();
    assert_eq!(output.status, Some(3), "{}", output.stdout);
}

/// A problem is logged once when it comes and once when it goes, however often it is seen.
fn assert_logged_once(daemon: &Daemon, what: &str) {
    // `status` sees at once that it is over, the daemon when it compares everything again.
    let resolved = format!("resolved: {what}");
    until("it is resolved", SOON, || daemon.log().contains(&resolved).then_some(()));
    let log = daemon.log();
    assert_eq!(log.matches(what).count(), 2, "{log}");
}

#[test]
fn a_kernel_that_does_not_forward_is_down() {
    let scene = Scene::new(lab(), Setup::OFF);
    scene.warm_up();
    let forward = |value: &str| scene.lab.node2.netns.set_sysctl("ipv4/ip_forward", value);
    forward("0").unwrap();
    let found = problem(&scene.daemon2, "forwarding-off");
    assert_eq!((&found["level"], &found["where"]), (&"down".into(), &"tunless0".into()));
    assert!(found["remedy"].as_str().unwrap().contains("net.ipv4.ip_forward=1"), "{found}");
    assert_becomes_unready(&scene.daemon2);
    forward("1").unwrap();
    scene.daemon2.wait_json(&["status"], SOON, |status| status["ready"] == true).unwrap();
    assert_logged_once(&scene.daemon2, "net.ipv4.conf.tunless0.forwarding is 0");

    // Each pod's own interface counts as well: one of two, then both.
    let node2 = &scene.lab.node2;
    let second = node2.add_pod("second", Lab::pod_ip(node2, 20)).unwrap();
    let both = [scene.lab.perf().cali.clone(), second.cali.clone()];
    let forward = |cali: &str, value| {
        let key = format!("ipv4/conf/{cali}/forwarding");
        node2.netns.set_sysctl(&key, value).unwrap();
    };
    forward(&both[0], "0");
    until("two pods are listed", SOON, || (status(&scene.daemon2)["endpoints"] == 2).then_some(()));
    let found = problem(&scene.daemon2, "pod-forwarding-off");
    assert_eq!((&found["level"], &found["where"]), (&"degraded".into(), &"pods".into()));
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("1 of 2 pod interfaces") && what.ends_with(&both[0]), "{what}");
    assert!(!answers(&scene.lab.perf().netns, scene.lab.sit().ip), "it is as bad as reported");
    forward(&both[1], "0");
    assert_eq!(problem(&scene.daemon2, "forwarding-off")["where"], "pods");
    both.iter().for_each(|cali| forward(cali, "1"));
    wait_well(&scene.daemon2);
    scene.finish();
}

#[test]
fn routes_that_lead_nowhere_are_down() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let node = &scene.lab.node2;
    node.netns.ip("route del default").unwrap();
    problem(&scene.daemon2, "node-unreachable");
    assert_eq!(problem(&scene.daemon2, "all-routes-unreachable")["level"], "down");
    // Meanwhile everything is compared again, which is no new beginning.
    for _ in 0..5 {
        node.netns
            .ip_batch("link add other0 type veth peer name other1\nlink del other0\n")
            .unwrap();
        thread::sleep(Duration::from_millis(300));
    }
    assert_becomes_unready(&scene.daemon2);
    node.netns.ip(&format!("route add default via {}", node.gateway)).unwrap();
    wait_well(&scene.daemon2);
    assert_logged_once(&scene.daemon2, "no route is reachable");
    scene.finish();
}

/// A longer route takes pods' packets past us, unencapsulated.
#[test]
fn a_foreign_route_inside_ours_is_listed() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let node = &scene.lab.node2;
    let longer = "10.20.42.0/27";
    node.netns.ip(&format!("route add {longer} via {}", node.gateway)).unwrap();
    let found = problem(&scene.daemon2, "foreign-route");
    assert_eq!((&found["level"], &found["where"]), (&"degraded".into(), &longer.into()));
    assert!(found["what"].as_str().unwrap().contains("dev eth0"), "{found}");
    let ready = scene.daemon2.cli(&["status"]).unwrap();
    assert_eq!(ready.status, Some(0), "degraded is ready: {}", ready.stdout);
    let strict = scene.daemon2.cli(&["status", "--strict", "--brief"]).unwrap();
    assert_eq!(strict.status, Some(3));
    assert_eq!(strict.stdout.lines().count(), 1, "{}", strict.stdout);
    let diff = scene.daemon2.cli(&["routes", "diff", "-o", "json"]).unwrap();
    assert_eq!(diff.status, Some(3));
    let diff: Value = serde_json::from_str(&diff.stdout).unwrap();
    assert_eq!(diff["items"][0]["cidr"], longer, "{diff}");
    let get = |address: &str| {
        let output = scene.daemon2.cli(&["routes", "get", address, "-o", "json"]).unwrap();
        let answer: Value = serde_json::from_str(&output.stdout).unwrap();
        (output.status, answer["foreign_route"].clone())
    };
    let leads = format!("via {} dev eth0", node.gateway);
    let taken = serde_json::json!({"cidr": longer, "leads": leads});
    assert_eq!(get("10.20.42.31"), (Some(3), taken));
    assert_eq!(get("10.20.42.33"), (Some(0), Value::Null), "not in the longer route");
    let text = scene.daemon2.cli(&["routes", "get", "10.20.42.31"]).unwrap().stdout;
    assert!(text.contains(&format!("but the kernel routes {longer} {leads}")), "{text}");
    let remedy = found["remedy"].as_str().unwrap();
    assert!(text.contains(remedy) && remedy.contains("ip route del"), "{remedy}: {text}");
    node.netns.ip(&format!("route del {longer}")).unwrap();
    wait_well(&scene.daemon2);
    let diff = scene.daemon2.cli(&["routes", "diff"]).unwrap();
    assert_eq!(diff.status, Some(0), "{}", diff.stdout);
    // A rule leads to another table: only the kernel knows.
    node.netns.ip(&format!("route add default via {} table 77", node.gateway)).unwrap();
    node.netns.ip("rule add to 10.20.42.31 lookup 77").unwrap();
    assert_eq!(get("10.20.42.31"), (Some(3), serde_json::json!({"cidr": null, "leads": leads})));
    node.netns.ip("rule del to 10.20.42.31 lookup 77").unwrap();
    assert_eq!(get("10.20.42.31"), (Some(0), Value::Null));
    scene.finish();
}

#[test]
fn a_removed_nft_table_is_seen_without_a_daemon() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let delete = |netns: &Netns| {
        netns.exec("nft", &["delete", "table", "ip", "tunless"]).unwrap();
    };
    let netns = scene.lab.node2.netns.clone();
    delete(&netns);
    until("it was made again, and that is logged", SOON, || {
        scene
            .daemon2
            .log()
            .contains("was removed by another program; it was made again")
            .then_some(())
    });
    scene.daemon2.kill9().unwrap();
    delete(&netns);
    assert_eq!(problem(&scene.daemon2, "mark-table")["level"], "degraded");
    assert_eq!(problem(&scene.daemon2, "daemon-stopped")["level"], "info");
    scene.daemon2.restart().unwrap();
    wait_well(&scene.daemon2);
    scene.finish();
}

/// Everything below the directory of pins goes, and with it every program. The programs that all
/// traffic needs are back at once, and so are the pods'.
#[test]
fn pins_that_are_removed_are_made_again() {
    for setup in [Setup::OFF, Setup::VERIFIED_XDP] {
        for restart in [false, true] {
            let mut scene = Scene::new(lab(), setup);
            scene.warm_up();
            if restart {
                scene.daemon2.kill9().unwrap();
                scene.daemon2.restart().unwrap();
            }
            let (perf, sit) = scene.pods();
            fs::remove_dir_all(&scene.lab.node2.bpffs).unwrap();
            until("the pods talk again", SOON, || answers(&perf.netns, sit.ip).then_some(()));
            wait_well(&scene.daemon2);
            let log = scene.daemon2.log();
            for program in ["decap_tc on eth0", "encap_host on tunless0"] {
                assert!(
                    log.contains(&format!("{program} was lost (its pin was removed)")),
                    "{log}"
                );
            }
            scene.assert_nothing_plain();
            scene.warm_up();
            scene.finish();
        }
    }
}

#[test]
fn a_detached_program_is_attached_again_and_that_is_logged() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    scene.daemon2.kill9().unwrap();
    scene.daemon2.restart().unwrap();
    let pin = fs::read_dir(scene.lab.node2.bpffs.join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("decap_tc_"))
        .unwrap();
    cmd::check(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&pin), b"").unwrap();
    until("it is attached again", SOON, || {
        let log = scene.daemon2.log();
        log.contains("decap_tc on eth0 was lost (it was detached by another program)").then_some(())
    });
    wait_well(&scene.daemon2);
    assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);
    scene.finish();
}

/// A refused file stops nothing, at a reload and at a start, and stays in `status`.
#[test]
fn a_refused_file_is_reported_until_it_is_repaired() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
    let good = scene.setup.config(&node2, &node1, "");
    let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
    let stream = stream_between(&perf, &sit, 5001);
    let bad = format!("{good}colour: red\n");
    scene.daemon2.replace_config(&bad).unwrap();
    let line = bad.lines().count();
    let expected = format!("{}:{line}", scene.daemon2.config_path().display());
    for restarts in 0..3 {
        let found = problem(&scene.daemon2, "config-refused");
        assert_eq!(found["where"], expected, "after {restarts} restarts: {found}");
        assert!(found["what"].as_str().unwrap().contains("colour"), "{found}");
        // A new pod's reconcile does not hide it, as systemd's status line once did.
        node2.add_pod(&format!("new-{restarts}"), Lab::pod_ip(&node2, 20 + restarts)).unwrap();
        let new = Lab::pod_ip(&node2, 20 + restarts);
        until("the new pod talks", SOON, || answers(&sit.netns, new).then_some(()));
        problem(&scene.daemon2, "config-refused");
        scene.daemon2.kill9().unwrap();
        scene.daemon2.restart().unwrap();
    }
    scene.daemon2.replace_config(&good).unwrap();
    wait_well(&scene.daemon2);
    assert_lossless(stream);
    scene.finish();
}

/// Nothing serves and no text was ever accepted: an exit status of its own.
#[test]
fn a_first_file_that_is_refused_ends_the_daemon() {
    let lab = lab().build().unwrap();
    let (status, error) = tunless_lab::daemon::expect_failure(&lab.node2, "colour: red\n").unwrap();
    assert_eq!(status, 78, "{error}");
    assert!(error.contains("colour"), "{error}");
}

/// The directory of pins is named otherwise from now on.
#[test]
fn a_new_directory_of_pins_takes_the_old_one_over() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
    let stream = stream_between(&perf, &sit, 5001);
    scene.daemon2.terminate().unwrap();
    let old = scene.lab.node2.bpffs.clone();
    let new = old.with_file_name(format!("{}-moved", old.file_name().unwrap().to_string_lossy()));
    let text = fs::read_to_string(scene.daemon2.config_path()).unwrap();
    let moved = text.replace(&old.display().to_string(), &new.display().to_string());
    assert_ne!(moved, text);
    fs::write(scene.daemon2.config_path(), &moved).unwrap();
    scene.daemon2.restart().unwrap();
    let root = new.display().to_string();
    let output = scene.daemon2.cli(&["status", "--strict", "--bpffs", &root]).unwrap();
    assert_eq!(output.status, Some(0), "{}", output.stdout);
    assert!(!old.exists() && new.exists());
    // And back, so that the lab finds what it made.
    scene.daemon2.terminate().unwrap();
    fs::write(scene.daemon2.config_path(), &text).unwrap();
    scene.daemon2.restart().unwrap();
    wait_well(&scene.daemon2);
    assert!(old.exists() && !new.exists());
    assert_lossless(stream);
    scene.finish();
}

/// What lies in the directory of pins and makes no sense takes nothing away that forwards.
#[test]
fn a_half_written_directory_takes_nothing_away() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let node2: Node = scene.lab.node2.clone();
    let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
    let stream = stream_between(&perf, &sit, 5001);
    for name in ["v00000000", "vffffffff"] {
        scene.daemon2.kill9().unwrap();
        // A version that was killed before it had made a single map.
        fs::create_dir(node2.bpffs.join(name)).unwrap();
        scene.daemon2.restart().unwrap();
        wait_well(&scene.daemon2);
        assert!(!node2.bpffs.join(name).exists(), "it is of no use");
    }
    // The symlink points nowhere.
    scene.daemon2.kill9().unwrap();
    let serving = node2.bpffs.join("serving");
    fs::remove_file(&serving).unwrap();
    std::os::unix::fs::symlink("vdeadbeef", &serving).unwrap();
    scene.daemon2.restart().unwrap();
    wait_well(&scene.daemon2);
    // There is no memory, as after 0.1.
    scene.daemon2.kill9().unwrap();
    fs::remove_file(node2.bpffs.join("memory")).unwrap();
    scene.daemon2.restart().unwrap();
    wait_well(&scene.daemon2);
    assert_lossless(stream);
    scene.assert_nothing_plain();
    scene.finish();
}
