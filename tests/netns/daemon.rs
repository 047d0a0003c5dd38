//! The daemon dies, returns, is told to stop: packets do not care. And when it
//! is told to take everything away, everything of it goes.

use std::{fs, process::Command};

use dataplane_common::Reason;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Node,
    daemon::{expect_failure, expect_failure_by, tunless_binary},
    trace::Snapshot,
    traffic::stream::Stream,
};
use tunless_tests::scene::{
    Counters, HASTY, SOON, Scene, Setup, answers, assert_answered, assert_lossless, link_pins,
    stream_between, until,
};

use crate::security::run_files;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A stream each way between the pods.
fn both_ways(scene: &Scene) -> [Stream; 2] {
    let (perf, sit) = scene.pods();
    [stream_between(perf, sit, 5011), stream_between(sit, perf, 5012)]
}

/// Waits until node2 counts a stream's packets under one of these reasons, or under none of
/// them: the kernel frees a program a moment after it was detached.
fn wait_for_counted(scene: &Scene, stream: &Stream, wanted: bool, is_one: impl Fn(Reason) -> bool) {
    until("the programs of this setup alone see packets", SOON, || {
        let before = Counters::of(&scene.daemon2);
        assert!(stream.wait_for(50, SOON));
        let moved = before.moved(&scene.daemon2);
        (moved.keys().any(|reason| is_one(*reason)) == wanted).then_some(())
    });
}

#[test]
fn killing_the_daemon_loses_nothing() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let pins = link_pins(&scene.lab.node2);
        let counters = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let streams = both_ways(scene);
        for _ in 0..3 {
            scene.daemon2.kill9().unwrap();
            assert!(streams[0].wait_for(20, SOON), "forwarding goes on");
            scene.daemon2.restart().unwrap();
            assert!(streams[1].wait_for(20, SOON));
            assert_eq!(link_pins(&scene.lab.node2), pins, "taken over in place");
        }
        streams.into_iter().for_each(assert_lossless);
        counters[0].assert_nothing_dropped(&scene.daemon1);
        counters[1].assert_nothing_dropped(&scene.daemon2);
        scene.assert_nothing_plain();
    });
}

#[test]
fn the_command_line_works_while_the_daemon_is_down() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let streams = both_ways(scene);
        let pins = link_pins(&scene.lab.node2);
        scene.daemon2.terminate().unwrap();
        assert!(streams[0].wait_for(20, SOON), "forwarding goes on after SIGTERM");

        let status = scene.daemon2.cli_json(&["status"]).unwrap();
        assert_eq!((&status["ready"], &status["daemon"]["running"]), (&true.into(), &false.into()));
        assert_eq!(status["fastpath"], scene.setup.fastpath);
        for list in ["routes", "nodes", "endpoints", "counters"] {
            let output = scene.daemon2.cli(&[list, "list", "-o", "json"]).unwrap();
            assert_eq!(output.status, Some(0), "{}", output.stderr);
            assert!(output.stderr.contains("daemon is not running"), "{}", output.stderr);
            let answer: Value = serde_json::from_str(&output.stdout).unwrap();
            assert!(!answer["items"].as_array().unwrap().is_empty(), "{list}");
        }
        assert_eq!(scene.daemon2.cli(&["routes", "get", "10.20.42.31"]).unwrap().status, Some(0));
        scene.daemon2.cli(&["counters", "flush"]).unwrap();

        scene.daemon2.restart().unwrap();
        assert_eq!(link_pins(&scene.lab.node2), pins);
        streams.into_iter().for_each(assert_lossless);
    });
}

#[test]
fn the_fast_path_goes_on_and_off_under_traffic() {
    for decap in ["tc", "xdp"] {
        let [off, trusted, verified] =
            ["off", "trusted", "verified"].map(|fastpath| Setup { fastpath, decap });
        Scene::new(lab(), off).case(|scene| {
            scene.warm_up();
            let streams = both_ways(scene);
            let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
            for setup in [trusted, verified, off, verified, trusted, off] {
                for (daemon, node, peer) in
                    [(&scene.daemon1, node1, node2), (&scene.daemon2, node2, node1)]
                {
                    daemon.rewrite_config(&setup.config(node, peer, "")).unwrap();
                    let is_so = |status: &Value| {
                        let pods = status["attachments"].to_string().contains("encap_pod");
                        status["fastpath"] == setup.fastpath && pods == setup.is_fast()
                    };
                    daemon.wait_json(&["status", "--wait=10s"], SOON, is_so).unwrap();
                }
                // What is attached is one thing, what packets meet another.
                wait_for_counted(scene, &streams[0], setup.is_fast(), |reason| {
                    reason.as_str().starts_with("pod_")
                });
            }
            streams.into_iter().for_each(assert_lossless);
            scene.assert_nothing_plain();
        });
    }
}

#[test]
fn unwrapping_moves_between_tc_and_xdp() {
    for fastpath in ["off", "trusted"] {
        let [tc, xdp] = ["tc", "xdp"].map(|decap| Setup { fastpath, decap });
        Scene::new(lab(), tc).case(|scene| {
            scene.warm_up();
            let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
            for setup in [xdp, tc] {
                scene.daemon2.rewrite_config(&setup.config(node2, node1, "")).unwrap();
                let is_so = |status: &Value| {
                    status["attachments"].to_string().contains("decap_xdp") == setup.is_xdp()
                };
                scene.daemon2.wait_json(&["status", "--wait=10s"], SOON, is_so).unwrap();
                let (perf, sit) = scene.pods();
                let streams = both_ways(scene);
                assert_eq!(assert_answered(&perf.netns, sit.ip).ttl(), Some(62));
                wait_for_counted(scene, &streams[1], setup.is_xdp(), |reason| {
                    reason == Reason::XdpUnwrapped
                });
                streams.into_iter().for_each(assert_lossless);
            }
        });
    }
}

/// Things of others that look a little like ours.
fn furnish(node: &Node) {
    node.netns
        .ip_batch(
            "route add 10.20.200.0/24 dev eth0 proto 116\n\
             route add blackhole 10.20.201.0/24\n\
             link add other0 type veth peer name other1\n",
        )
        .unwrap();
    let run = |program: &str, args: &str| {
        node.netns.exec(program, &args.split(' ').collect::<Vec<_>>()).unwrap();
    };
    run("tc", "qdisc add dev eth0 clsact");
    run("nft", "add table ip tunless_of_somebody_else");
}

#[test]
fn detach_leaves_no_trace() {
    for setup in Setup::ALL {
        let lab = lab().build().unwrap();
        furnish(&lab.node2);
        for after_a_restart in [false, true] {
            println!("{setup:?}, after a restart: {after_a_restart}");
            assert_detached_without_trace(&lab, setup, after_a_restart);
        }
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

fn assert_detached_without_trace(lab: &Lab, setup: Setup, after_a_restart: bool) {
    let (node1, node2) = (&lab.node1, &lab.node2);
    let before = Snapshot::take(&node2.netns).unwrap();
    let daemon1 = Daemon::start(node1, &setup.config(node1, node2, "")).unwrap();
    let mut daemon2 = Daemon::start(node2, &setup.config(node2, node1, "")).unwrap();
    if after_a_restart {
        daemon2.kill9().unwrap();
        daemon2.restart().unwrap();
    }
    assert_answered(&lab.perf().netns, lab.sit().ip);
    let during = before.difference(&Snapshot::take(&node2.netns).unwrap());
    assert!(during.iter().any(|line| line.contains("tunless0")), "{during:?}");

    let refused = daemon2.cli(&["detach"]).unwrap();
    assert_eq!(refused.status, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("stop it first"), "{}", refused.stderr);
    assert_answered(&lab.perf().netns, lab.sit().ip);

    daemon2.terminate().unwrap();
    let output = daemon2.cli(&["detach"]).unwrap();
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    let after = Snapshot::take(&node2.netns).unwrap();
    assert_eq!(before.difference(&after), Vec::<String>::new());
    assert!(!node2.bpffs.exists());
    let name = node2.bpffs.file_name().unwrap().to_str().unwrap();
    let files = fs::read_dir("/run/tunless").unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = files.filter(|file| file.contains(name)).collect();
    assert_eq!(left, Vec::<String>::new(), "in /run/tunless");
    // Once more: there is nothing to do, and that is fine.
    let again = daemon2.cli(&["detach"]).unwrap();
    assert_eq!(again.status, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("nothing of ours"), "{}", again.stderr);
    daemon2.finish().unwrap();
    daemon1.finish().unwrap();
}

/// Runs `tunless` as in a container: with mounts, processes and a `/run` of its own, on the same
/// bpffs.
fn in_a_container(node: &Node, tunless: &str) -> Command {
    let mut command = node.netns.command("unshare");
    let script = "mount -t tmpfs tmpfs /run/tunless && exec \"$@\"";
    command.args(["--mount", "--pid", "--fork", "sh", "-c", script, "sh", tunless]);
    command
}

#[test]
fn one_daemon_per_set_of_pins() {
    Scene::new(lab(), Setup::OFF).case(|scene| {
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let pid = scene.daemon2.pid().unwrap().to_string();
        let config = Setup::OFF.config(node2, node1, "");
        let root = node2.bpffs.display().to_string();
        let (code, stderr) = expect_failure(node2, &config).unwrap();
        assert_eq!(code, 1, "{stderr}");
        for said in [&format!("process {pid}"), &root, "--bpffs"] {
            assert!(stderr.contains(said), "no {said} in {stderr}");
        }
        let assert_refused_in_a_container = || {
            let container = |tunless: &str| in_a_container(node2, tunless);
            let (code, stderr) = expect_failure_by(node2, &config, container).unwrap();
            assert_eq!(code, 1, "{stderr}");
            for said in ["container", &root, "--bpffs"] {
                assert!(stderr.contains(said), "no {said} in {stderr}");
            }
        };
        assert_refused_in_a_container();
        let run = |command: &str| {
            let tunless = tunless_binary().unwrap();
            let mut process = in_a_container(node2, tunless.to_str().unwrap());
            process.args([command, "--bpffs", &root, "-o", "json"]).output().unwrap()
        };
        let detach = run("detach");
        assert_eq!(detach.status.code(), Some(1));
        let stderr = String::from_utf8(detach.stderr).unwrap();
        assert!(stderr.contains(&root) && stderr.contains("stop it first"), "{stderr}");
        let status: Value = serde_json::from_slice(&run("status").stdout).unwrap();
        assert_eq!(status["daemon"]["running"], true, "{status}");
        assert_eq!(status["problems"][0]["code"], "report-unreadable", "{status}");

        // The directory is made anew, and locked again before anything else is in it.
        fs::remove_dir_all(&node2.bpffs).unwrap();
        until("the routes are back", SOON, || {
            let routes = scene.daemon2.cli_json(&["routes", "list"]).ok()?;
            (routes["items"][0]["state"] == "active").then_some(())
        });
        assert_refused_in_a_container();
        assert!(scene.daemon2.is_running());
        until("they talk", SOON, || {
            answers(&scene.lab.perf().netns, scene.lab.sit().ip).then_some(())
        });
        // node1's daemon never minded: it has pins of its own.
        assert!(node1.bpffs.exists() && node2.bpffs.exists() && node1.bpffs != node2.bpffs);
    });
}

/// `/run` loses its files: the daemon goes on, stays alone, and writes them again.
#[test]
fn a_run_directory_that_vanished_is_made_again() {
    let mut scene = Scene::with(lab(), Setup::VERIFIED, "", &HASTY);
    scene.warm_up();
    let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
    let streams = both_ways(&scene);
    let pid = scene.daemon2.pid().unwrap();
    let files = run_files(&node2);
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        fs::remove_file(file).unwrap();
    }
    let (code, stderr) = expect_failure(&node2, &scene.setup.config(&node2, &node1, "")).unwrap();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&node2.bpffs.display().to_string()), "{stderr}");
    let is_whole = |status: &Value| {
        status["ready"] == true && status["daemon"]["pid"] == pid && status["node"].is_string()
    };
    scene.daemon2.wait_json(&["status"], SOON, is_whole).unwrap();
    assert!(scene.daemon2.is_running());
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn ready_means_that_everything_is_in_place() {
    Scene::each(&lab(), |scene| {
        // Scene has waited for READY=1 and for nothing else.
        let (perf, sit) = scene.pods();
        for (daemon, peer) in
            [(&scene.daemon1, "10.20.105.192/26"), (&scene.daemon2, "10.20.42.0/26")]
        {
            let status = daemon.cli_json(&["status"]).unwrap();
            assert_eq!(status["ready"], true);
            assert_eq!((&status["routes"], &status["endpoints"]), (&1.into(), &1.into()));
            let routes = daemon.cli_json(&["routes", "list"]).unwrap();
            assert_eq!(routes["items"][0]["cidr"], peer);
        }
        assert_answered(&perf.netns, sit.ip);
    });
}

#[test]
fn systemd_hears_what_it_wants_to() {
    Scene::with(lab(), Setup::OFF, "", &[("WATCHDOG_USEC", "2000000")]).case(|scene| {
        let daemon = &mut scene.daemon2;
        // Twice, so that it is not the one at the start. Nothing else happens here.
        for _ in 0..2 {
            daemon.wait_notified("WATCHDOG=1", SOON).unwrap();
        }
        let pid = Pid::from_raw(daemon.pid().unwrap().cast_signed());
        kill(pid, Signal::SIGHUP).unwrap();
        let said = daemon.wait_notified("RELOADING=1", SOON).unwrap();
        let value = |key| said.lines().find_map(|line| line.strip_prefix(key));
        let when: u64 = value("MONOTONIC_USEC=").expect(&said).parse().unwrap();
        assert!(when > 0);
        daemon.wait_notified("READY=1", SOON).unwrap();
    });
}
