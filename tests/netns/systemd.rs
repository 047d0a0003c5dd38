//! The unit as it is shipped, under a real systemd: what it grants, and what becomes of
//! packets in each of its transitions.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
    time::Duration,
};

use tunless_lab::{Lab, Systemd, systemd::control_groups};
use tunless_tests::scene::{
    SOON, assert_lossless,
    scraped::get,
    under_systemd::{UnderSystemd, good, refused, starts},
    until,
};

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    let lab = Lab::new().default_pods(false).build().unwrap();
    let systemd = Systemd::boot(&lab.node2, &good(&lab.node2, &lab.node1)).unwrap();
    let output = systemd.try_exec("systemd-analyze", &["verify", "tunless.service"]).unwrap();
    assert_eq!(output.stderr, "");

    // Out of 100, and the lower the better: what the sandbox keeps from the daemon.
    let limit = ["security", "--threshold=25", "tunless.service"];
    let output = systemd.try_exec("systemd-analyze", &limit).unwrap();
    assert!(output.success(), "{}", output.stdout);

    systemd.exec("systemctl", &["enable", "tunless"]).unwrap();
    let wanted = systemd.exec("systemctl", &["list-dependencies", "multi-user.target"]).unwrap();
    assert!(wanted.contains("tunless.service"), "it starts at boot: {wanted}");
    systemd.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn nothing_is_left_of_a_systemd_that_a_test_dropped() {
    let lab = Lab::new().default_pods(false).build().unwrap();
    let boot = || Systemd::boot(&lab.node2, &good(&lab.node2, &lab.node1)).unwrap();
    let systemd = boot();
    let root = systemd.root();
    let is_ours = |name: &String| name.contains(lab.id().as_str());
    assert!(root.exists() && control_groups().iter().any(is_ours));
    drop(systemd);
    assert!(!root.exists() && !control_groups().iter().any(is_ours));
    // So the node boots again.
    boot().finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn a_started_unit_is_ready_and_confined() {
    let scene = UnderSystemd::started();
    // `systemctl start` has returned: everything is in place.
    scene.assert_answered();
    let systemd = &scene.systemd;
    assert_eq!(systemd.tunless_json(&["status"]).unwrap()["ready"], true);
    assert_eq!(get(&scene.lab.node2, "/readyz").body, "ready\n");
    assert_eq!(get(&scene.lab.node2, "/metrics").figure("tunless_maps_readable"), 1.0);
    scene.assert_properties(&[
        ("ActiveState", "active"),
        ("SubState", "running"),
        ("NRestarts", "0"),
        ("StatusText", "1 route, 1 endpoint"),
    ]);

    let status = systemd.process_file("status").unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key} in {status}")).trim()
    };
    // NET_ADMIN 12, NET_RAW 13, PERFMON 38, BPF 39 (linux/capability.h).
    let granted = format!("{:016x}", 3u64 << 12 | 3 << 38);
    for key in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(value(key), granted, "{key}");
    }
    let none = format!("{:016x}", 0);
    for key in ["CapInh", "CapAmb"] {
        assert_eq!(value(key), none, "{key}");
    }
    assert_eq!(value("NoNewPrivs"), "1");
    assert_eq!(value("Seccomp"), "2", "SECCOMP_MODE_FILTER");

    // A link and its program are open for a moment each, a netlink socket and a few files
    // for good. Where the machine allows less, systemd grants what it allows.
    scene.assert_properties(&[("LimitNOFILESoft", "65536")]);
    let limits = systemd.process_file("limits").unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let numbers = files.split_whitespace().map_while(|word| word.parse::<u32>().ok());
    let [soft, hard] = numbers.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(soft, hard.min(65536));
    scene.finish();
}

#[test]
fn a_reload_applies_a_good_file_and_survives_a_refused_one() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    let pid = systemd.property("MainPID").unwrap();
    let streams = scene.both_ways();
    let routes = || systemd.tunless_json(&["routes", "list"]).unwrap().to_string();

    scene.configure(refused);
    systemd.reload().unwrap();
    scene.wait_for_message("bogus");
    scene.assert_properties(&[("ActiveState", "active"), ("MainPID", &pid)]);
    assert!(routes().contains(scene.lab.node1.block));

    let more = "10.20.77.0/26";
    scene.configure(|node, peer| {
        UnderSystemd::SETUP.config_with(node, &[(peer.block, peer.ip), (more, peer.ip)], "")
    });
    systemd.reload().unwrap();
    until("the new route is there", SOON, || routes().contains(more).then_some(()));
    systemd.wait_property("StatusText", SOON, |text| text.starts_with("2 routes")).unwrap();
    systemd.wait_property("ActiveState", SOON, |state| state == "active").unwrap();

    scene.assert_properties(&[("MainPID", &pid), ("NRestarts", "0")]);
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn forwarding_survives_restart_kill_and_stop() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    let pid = systemd.property("MainPID").unwrap();
    let streams = scene.both_ways();

    systemd.restart().unwrap();
    let pid = scene.wait_for_successor(&pid);
    scene.assert_properties(&[("NRestarts", "0")]);

    systemd.exec("systemctl", &["kill", "--signal=KILL", "tunless"]).unwrap();
    let pid = scene.wait_for_successor(&pid);
    scene.assert_properties(&[("NRestarts", "1")]);

    systemd.stop().unwrap();
    scene.assert_properties(&[
        ("ActiveState", "inactive"),
        ("Result", "success"),
        ("ExecMainStatus", "0"),
    ]);
    assert!(streams[0].wait_for(50, SOON), "forwarding goes on");

    systemd.start().unwrap();
    scene.wait_for_successor(&pid);
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn the_run_directory_outlives_the_daemon() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    let identity = || {
        let found: Metadata = fs::metadata(systemd.path("/run/tunless")).unwrap();
        (found.ino(), found.mode() & 0o7777, found.uid(), found.gid())
    };
    let before = identity();
    let mode = systemd.property("RuntimeDirectoryMode").unwrap();
    assert_eq!(before.1, u32::from_str_radix(&mode, 8).unwrap());
    for transition in [Systemd::stop, Systemd::start, Systemd::restart] {
        transition(systemd).unwrap();
        assert_eq!(identity(), before, "it holds what `detach` and the next daemon need");
    }

    systemd.stop().unwrap();
    let detach = systemd.tunless(&["detach"]).unwrap();
    assert!(detach.success(), "{}", detach.stderr);
    assert!(!systemd.pins().exists());
    scene.finish();
}

#[test]
fn a_daemon_that_hangs_is_replaced() {
    let scene = UnderSystemd::boot(good);
    let systemd = &scene.systemd;
    systemd.drop_in("[Service]\nWatchdogSec=3s\n").unwrap();
    systemd.start().unwrap();
    let pid = systemd.property("MainPID").unwrap();
    let streams = scene.both_ways();
    systemd.exec("systemctl", &["kill", "--signal=STOP", "tunless"]).unwrap();
    scene.wait_for_successor(&pid);
    scene.wait_for_entry("systemd", "Watchdog timeout");
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

/// Stops the unit, and lets its maps look like another version's; returns their directory.
fn become_another_version(systemd: &Systemd) -> PathBuf {
    systemd.stop().unwrap();
    let other = systemd.pins().join("vdeadbeef");
    fs::rename(version(systemd), &other).unwrap();
    other
}

/// The directory of the one version whose maps are pinned.
fn version(systemd: &Systemd) -> PathBuf {
    let entries = fs::read_dir(systemd.pins()).unwrap().map(|entry| entry.unwrap().path());
    let is_version = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('v');
    let versions: Vec<_> = entries.filter(is_version).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    versions[0].clone()
}

#[test]
fn an_upgrade_loses_no_packet() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    let streams = scene.both_ways();
    let other = become_another_version(systemd);
    systemd.start().unwrap();
    until("the other version is gone", SOON, || (!other.exists()).then_some(()));
    assert_ne!(version(systemd), other);
    assert_eq!(systemd.tunless_json(&["status"]).unwrap()["ready"], true);
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn an_upgrade_outlasts_a_source_that_is_away() {
    // Long enough for a slow machine to get to the first time that the daemon asks for more.
    let patience = Duration::from_secs(15);
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    systemd.drop_in(&format!("[Service]\nTimeoutStartSec={}s\n", patience.as_secs())).unwrap();
    let streams = scene.both_ways();
    become_another_version(systemd);
    scene.configure(|node, _| {
        format!(
            "node: {{name: {}, tunnel_address: {}}}\nfastpath: verified\n\
             sources: {{bird: {{socket: /run/bird.ctl}}}}\n",
            node.name, node.tunnel,
        )
    });
    systemd.exec("systemctl", &["start", "--no-block", "tunless"]).unwrap();
    let pid = systemd.wait_property("MainPID", SOON, |pid| pid != "0").unwrap();
    // systemd would end a start that asks for no more time.
    thread::sleep(patience + Duration::from_secs(3));
    scene.assert_properties(&[("MainPID", &pid), ("NRestarts", "0")]);
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn a_file_refused_at_start_is_shown_and_the_repaired_one_taken() {
    let scene = UnderSystemd::boot(refused);
    let systemd = &scene.systemd;
    let start = systemd.systemctl(&["start", "tunless"]).unwrap();
    assert_eq!(start.status, Some(1), "{}", start.stderr);
    // What `systemctl status` shows, by one look: a second later the next try begins.
    until("it waits for the next try", SOON, || {
        let [state, result, code] =
            systemd.properties(["SubState", "Result", "ExecMainStatus"]).unwrap();
        (state == "auto-restart").then(|| assert_eq!([result, code], ["exit-code", "78"]))
    });
    let refusal = scene.wait_for_message("bogus");
    assert!(refusal.message.contains("/etc/tunless/config.yaml:"), "{}", refusal.message);
    assert_eq!(refusal.priority, 3, "an error");

    // A pause lies between two tries, longer each time, so that they do not fill the journal:
    // one second of systemd's, and the daemon's own, in which `systemctl status` has the reason.
    let starts = until("a third try", SOON, || Some(starts(systemd)).filter(|it| it.len() > 2));
    let pauses: Vec<Duration> = starts.windows(2).map(|it| it[1] - it[0]).collect();
    assert!(pauses[0] >= Duration::from_secs(1), "{pauses:?}");
    assert!(pauses[1] >= Duration::from_secs(2), "{pauses:?}");
    let is_waiting = |text: &str| text.contains("bogus") && text.contains("next try in");
    systemd.wait_property("StatusText", SOON, is_waiting).unwrap();
    scene.assert_properties(&[("ActiveState", "activating")]);
    let status = systemd.tunless_json(&["status"]).unwrap();
    let codes: Vec<&str> = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["code"].as_str())
        .collect();
    assert!(codes.contains(&"start-failed"), "{status}");

    scene.configure(good);
    systemd.wait_property("ActiveState", SOON, |state| state == "active").unwrap();
    scene.assert_answered();
    let status = systemd.tunless_json(&["status"]).unwrap();
    assert_eq!((&status["ready"], &status["problems"]), (&true.into(), &serde_json::json!([])));
    scene.finish();
}
