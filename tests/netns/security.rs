//! What users of the node who are not root can do, and what they are answered.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tunless_lab::{
    Lab, LabBuilder, Node,
    cmd::{self, Output},
    daemon::{Tunless, tunless_binary},
};
use tunless_tests::scene::{Scene, Setup};

const RUN_DIR: &str = "/run/tunless";

fn lab() -> LabBuilder {
    Lab::new()
}

/// The user `nobody`.
const NOBODY: u32 = 65534;

/// Runs a program on the node as the user `nobody`, without groups; `more` are further
/// options of setpriv(1).
fn as_nobody(node: &Node, more: &[&str], program: &str, arguments: &[&str]) -> Output {
    let mut command: Command = node.netns.command("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}"));
    command.arg("--clear-groups").args(more).arg(program).args(arguments);
    cmd::run(&mut command, b"", cmd::DEADLINE).unwrap()
}

/// A directory that every user may enter, with the binary and a configuration in it.
struct Open {
    /// Goes with this.
    _directory: TempDir,
    binary: String,
    config: String,
}

impl Open {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        let path = |name| directory.path().join(name);
        fs::copy(tunless_binary().unwrap(), path("tunless")).unwrap();
        set_mode(&path("tunless"), 0o755);
        fs::write(path("config.yaml"), "fastpath: off\n").unwrap();
        set_mode(&path("config.yaml"), 0o644);
        let shown = |name| path(name).display().to_string();
        Self { binary: shown("tunless"), config: shown("config.yaml"), _directory: directory }
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The files that the node's daemon keeps in `/run`.
pub fn run_files(node: &Node) -> Vec<PathBuf> {
    let pins = node.bpffs.display().to_string();
    let prefix = format!("{}.", pins.trim_start_matches('/').replace('/', "%2F"));
    let entries = fs::read_dir(RUN_DIR).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix))
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A lock needs no write permission, so only the directory keeps other users from it.
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
    let locked = as_nobody(&node, &[], "flock", &["--nonblock", "--exclusive", &lock, "true"]);
    assert!(!locked.success() && locked.stderr.contains("Permission denied"), "{locked:?}");
    scene.daemon2.restart().unwrap();
    scene.finish();
}

/// One line that is true, instead of "no pins" and the like.
#[test]
fn without_root_there_is_one_honest_line() {
    let scene = Scene::new(lab(), Setup::OFF);
    let node = &scene.lab.node2;
    let open = Open::new();
    let bpffs = node.bpffs.display().to_string();
    let run = |arguments: &[&str]| {
        let given = ["--config", &open.config, "--bpffs", &bpffs];
        as_nobody(node, &[], &open.binary, &[arguments, &given].concat())
    };
    for arguments in [
        ["run"].as_slice(),
        &["status"],
        &["status", "-o", "json"],
        &["status", "--wait=10s"],
        &["routes", "list"],
        &["routes", "get", "10.20.42.31"],
        &["routes", "diff"],
        &["nodes", "list"],
        &["endpoints", "list"],
        &["leases", "list"],
        &["leases", "flush"],
        &["counters", "list"],
        &["counters", "flush"],
        &["config", "validate", "--here"],
        &["detach"],
    ] {
        let output = run(arguments);
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert!(lines.len() == 1, "{arguments:?}: {}", output.stderr);
        assert!(lines[0].starts_with("tunless: run as root: "), "{arguments:?}: {}", lines[0]);
    }
    for arguments in [
        ["version"].as_slice(),
        &["completions", "bash"],
        &["schema", "status"],
        &["config", "example"],
        &["config", "show"],
        &["config", "validate"],
        &["--help"],
        &["status", "--help"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status, Some(0), "{arguments:?}: {}", output.stderr);
    }
    scene.finish();
}

/// The kernel would let it, the pins' directory does not.
#[test]
fn a_refused_permission_is_not_an_absent_file() {
    let scene = Scene::new(lab(), Setup::OFF);
    let node = &scene.lab.node2;
    let open = Open::new();
    let bpffs = node.bpffs.display().to_string();
    let capable = ["--inh-caps=+bpf,+net_admin", "--ambient-caps=+bpf,+net_admin"];
    let arguments = ["routes", "list", "--bpffs", &bpffs];
    let output = as_nobody(node, &capable, &open.binary, &arguments);
    assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{}", output.stderr);
    assert!(output.stderr.starts_with("tunless: run as root: "), "{}", output.stderr);
    assert!(output.stderr.contains("Permission denied"), "{}", output.stderr);
    scene.finish();
}

/// The file decides where packets go, so no other user may change it: not by itself,
/// not by a directory above it.
#[test]
fn a_configuration_that_others_can_change_is_refused() {
    let lab = lab().build().unwrap();
    let node = &lab.node2;
    let directory = lab.dir().join("etc/tunless");
    let path = directory.join("config.yaml");
    fs::create_dir_all(&directory).unwrap();
    fs::write(&path, format!("bpffs: {}\n", node.bpffs.display())).unwrap();
    let above = lab.dir().join("etc");
    let reset = || {
        for (path, mode) in [(&above, 0o755), (&directory, 0o755), (&path, 0o644)] {
            chown(path, Some(0), Some(0)).unwrap();
            set_mode(path, mode);
        }
    };
    let give = |path: &Path, user, group| chown(path, Some(user), Some(group)).unwrap();
    // Whose, and what has to be said.
    let cases: [(&Path, &dyn Fn(), &str, &str); 6] = [
        (&path, &|| give(&path, NOBODY, 0), "user 65534 owns this file", "chown root"),
        (&path, &|| set_mode(&path, 0o646), "anybody may write this file (mode 0646)", "chmod o-w"),
        (
            &path,
            &|| {
                give(&path, 0, 50);
                set_mode(&path, 0o664);
            },
            "group 50 may write this file (mode 0664)",
            "chmod g-w",
        ),
        (&directory, &|| give(&directory, NOBODY, 0), "owns this directory", "chown root"),
        (&directory, &|| set_mode(&directory, 0o777), "anybody may write", "chmod o-w"),
        (&above, &|| give(&above, NOBODY, NOBODY), "owns this directory", "chown root"),
    ];
    let tunless = Tunless::new(node, Some(path.clone()));
    for (at, spoil, what, remedy) in cases {
        reset();
        spoil();
        let output = tunless.run(&["run"]).unwrap();
        assert_eq!(output.status, Some(78), "{}", output.stderr);
        let command = format!("run `{remedy} {}`", at.display());
        for said in [format!("{}: ", at.display()), what.to_owned(), command] {
            assert!(output.stderr.contains(&said), "no `{said}` in {}", output.stderr);
        }
        assert!(!node.bpffs.exists(), "refused before anything was made");
    }
    reset();
    // A group of root's may write, and others in a sticky directory only what is theirs.
    set_mode(&path, 0o664);
    set_mode(&above, 0o1777);
    let output = tunless.run(&["config", "validate"]).unwrap();
    assert!(output.success(), "{}", output.stderr);
}

/// As Kubernetes mounts one: symlinks in a directory of mode 0777, read-only.
#[test]
fn a_mounted_config_map_is_taken() {
    let lab = lab().build().unwrap();
    let mount = lab.dir().join("mount");
    fs::create_dir_all(mount.join("..1")).unwrap();
    fs::write(mount.join("..1/config.yaml"), "fastpath: off\n").unwrap();
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/config.yaml", mount.join("config.yaml")).unwrap();
    set_mode(&mount, 0o777);
    let config = mount.join("config.yaml").display().to_string();
    let validate = |script: &str| {
        let binary = tunless_binary().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script, "sh"]).arg(&mount).arg(binary).arg(&config);
        cmd::run(&mut command, b"", cmd::DEADLINE).unwrap()
    };
    let writable = validate("exec \"$2\" config validate \"$3\"");
    assert!(writable.stderr.contains("anybody may write this directory"), "{}", writable.stderr);
    let mounted = validate(
        "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"
         exec \"$2\" config validate \"$3\"",
    );
    assert!(mounted.success(), "{}", mounted.stderr);
}
