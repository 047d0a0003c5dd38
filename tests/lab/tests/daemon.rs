//! The daemon's life, with a stand-in for `tunless`.

use std::{env, fs, path::PathBuf, time::Duration};

use serde_json::Value;
use tunless_lab::{Daemon, Lab, daemon::expect_failure};

const SOON: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    Lab::new().default_pods(false).tunless(fake_tunless()).build().unwrap()
}

/// Cargo names no path for an example; it lies beside the tests' own directory.
fn fake_tunless() -> PathBuf {
    let this = env::current_exe().unwrap();
    let profile = this.ancestors().nth(2).unwrap();
    let fake = profile.join("examples/fake-tunless");
    assert!(fake.exists(), "no {}: `cargo test` without --test builds it", fake.display());
    fake
}

#[test]
fn it_starts_reloads_dies_and_is_gone() {
    let lab = lab();
    let node = &lab.node2;
    let mut daemon = Daemon::start(node, "mode: replace").unwrap();
    assert!(daemon.is_running());
    assert!(node.netns.has_process(daemon.pid().unwrap()));
    assert!(node.bpffs.join("v1").exists());
    assert!(daemon.log().contains("the fake is ready"));
    daemon.reload().unwrap();
    daemon.kill9().unwrap();
    assert!(!daemon.is_running());
    assert!(node.bpffs.join("v1").exists(), "pins outlive the daemon");
    daemon.restart().unwrap();
    daemon.terminate().unwrap();
    daemon.finish().unwrap();
    assert!(!node.bpffs.exists());
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn the_command_line_answers_while_the_configuration_changes() {
    let lab = lab();
    let mut daemon = Daemon::start_mounted(&lab.node1, "mode: replace").unwrap();
    for mode in ["replace", "accelerate"] {
        daemon.swap_config(&format!("mode: {mode}")).unwrap();
        let wanted = |answer: &Value| answer["items"][0]["mode"] == mode;
        daemon.wait_json(&["status"], SOON, wanted).unwrap();
    }
    let output = daemon.cli(&["nonsense"]).unwrap();
    assert!(!output.success() && output.stderr.contains("no command nonsense"));
}

#[test]
fn a_refusal_is_reported() {
    let lab = lab();
    let (code, stderr) = expect_failure(&lab.node1, "mode: refused").unwrap();
    assert_eq!((code, stderr.trim()), (2, "config.yaml:1: mode: no such mode"));
    let error = format!("{:#}", Daemon::start(&lab.node1, "mode: refused").unwrap_err());
    assert!(error.contains("no such mode"), "the log is in the error: {error}");
}

#[test]
fn what_detach_leaves_is_a_problem_and_is_removed() {
    let lab = lab();
    drop(Daemon::start(&lab.node1, "mode: untidy").unwrap());
    assert_eq!(lab.problems().len(), 1, "{:?}", lab.problems());
    assert!(lab.problems()[0].contains("`tunless detach` left /sys/fs/bpf/tunless-lab-"));
    assert!(!lab.node1.bpffs.exists());
}

#[test]
fn a_dropped_lab_takes_its_daemons_along() {
    let lab = lab();
    let daemon = Daemon::start(&lab.node2, "mode: untidy").unwrap();
    let (pid, bpffs) = (daemon.pid().unwrap(), lab.node2.bpffs.clone());
    drop(lab);
    assert!(!bpffs.exists());
    // A zombie until the daemon's handle is dropped, but no more a process.
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(status.is_empty() || status.contains(") Z "), "{status}");
    drop(daemon);
}

#[test]
fn a_kept_lab_stays_until_it_is_removed_by_name() {
    let lab = lab();
    let id = lab.id().clone();
    let daemon = Daemon::start(&lab.node1, "mode: replace").unwrap();
    let pid = daemon.pid().unwrap();
    lab.keep().unwrap();
    drop(daemon);
    drop(lab);
    tunless_lab::identity::sweep().unwrap();
    assert_eq!(id.namespaces().len(), 3, "router and two nodes");
    assert!(id.netns("node1").has_process(pid), "the daemon goes on");
    assert!(tunless_lab::identity::kept_labs().contains(&id));
    // Not `Lab::remove_kept`: it would take a person's kept labs along.
    id.remove().unwrap();
    assert!(!id.exists());
}
