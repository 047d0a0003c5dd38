//! What users of the node who are not root can do, and what they are answered.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use tunless_lab::{
    Lab, LabBuilder, Node,
    cmd::{self, Output},
};
use tunless_tests::scene::{Scene, Setup};

const RUN_DIR: &str = "/run/tunless";

fn lab() -> LabBuilder {
    Lab::new()
}

/// Runs a program on the node as the user `nobody`, without groups and capabilities.
fn as_nobody(node: &Node, program: &str, arguments: &[&str]) -> Output {
    let mut command: Command = node.netns.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]).args(arguments);
    cmd::run(&mut command, b"", cmd::DEADLINE).unwrap()
}

/// The files that the node's daemon keeps in `/run`.
fn run_files(node: &Node) -> Vec<PathBuf> {
    let pins = node.bpffs.display().to_string();
    let prefix = format!("{}.", pins.trim_start_matches('/').replace('/', "%2F"));
    let entries = fs::read_dir(RUN_DIR).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A lock needs no write permission: before, `flock` by any user kept the daemon from
/// starting.
#[test]
fn a_lock_of_another_user_keeps_no_daemon_from_starting() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    assert_eq!(mode(Path::new(RUN_DIR)), 0o700);
    assert_eq!(fs::metadata(RUN_DIR).unwrap().uid(), 0);
    let node = scene.lab.node2.clone();
    let files = run_files(&node);
    let lock = files.iter().find(|path| path.extension().is_some_and(|end| end == "lock"));
    let lock = lock.expect("a running daemon has a lock").display().to_string();
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    scene.daemon2.terminate().unwrap();
    let locked = as_nobody(&node, "flock", &["--nonblock", "--exclusive", &lock, "true"]);
    assert!(!locked.success() && locked.stderr.contains("Permission denied"), "{locked:?}");
    scene.daemon2.restart().unwrap();
    scene.finish();
}
