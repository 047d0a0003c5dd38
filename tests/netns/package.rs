//! The Debian package on a node with a real systemd: installed, upgraded, removed and purged by
//! dpkg while numbered packets pass.
//!
//! All packages here hold the binary under test. That of another version leaves maps of
//! another version: when its daemon stops, systemd renames their directory, which is what a daemon
//! with other layouts would leave (see `upgrade`). `TUNLESS_PREVIOUS` names the binary of a version
//! that really has other layouts; then the upgrade is from its package, and back to it.

use std::{env, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use tunless_lab::{Lab, Systemd, cmd::Output, daemon::tunless_binary, trace::Snapshot};
use tunless_package::{Compression, Tree, Version};
use tunless_tests::scene::{
    SOON, assert_lossless,
    under_systemd::{UnderSystemd, good, refused},
    until,
};

/// A drop-in: what a daemon with other layouts of its maps would leave.
const ANOTHER_VERSION: &str = "[Service]\n\
    ExecStopPost=+/bin/sh -c 'cd /sys/fs/bpf/tunless && mv v* vdeadbeef'\n";

/// Packages of the binary under test, from one tree.
struct Packages {
    tree: Tree,
}

impl Packages {
    fn stage() -> Self {
        Self { tree: Tree::stage(&tunless_binary().unwrap()).unwrap() }
    }

    /// With the binary that `TUNLESS_PREVIOUS` names, if it names one. It may be too old to write pages.
    fn stage_previous() -> Option<Self> {
        let binary = env::var_os("TUNLESS_PREVIOUS")?;
        let packages = Self::stage();
        let program = packages.tree.root().join("usr/bin/tunless");
        fs::copy(&binary, program).unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        Some(packages)
    }

    /// Puts the package of a version into the node; returns its path there.
    fn put(&self, systemd: &Systemd, version: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let version = Version::new(version, 1).unwrap();
        let package =
            tunless_package::debian(&self.tree, &version, directory.path(), Compression::Fast);
        let inside = format!("/root/tunless_{}.deb", version.upstream());
        fs::copy(package.unwrap(), systemd.path(&inside)).unwrap();
        inside
    }

    /// Installs a version; returns what that printed.
    fn install(&self, systemd: &Systemd, version: &str) -> String {
        let package = self.put(systemd, version);
        let said = well(dpkg(systemd, &["--install", &package]));
        assert_eq!(state(systemd), format!("install ok installed {version}-1"));
        said
    }

    /// Installs a version, configures it as an operator does, and starts it.
    fn install_and_start(&self, scene: &UnderSystemd, version: &str) {
        self.install(&scene.systemd, version);
        scene.configure(good);
        scene.systemd.exec("systemctl", &["enable", "--now", "tunless"]).unwrap();
        scene.assert_answered();
    }
}

/// Runs dpkg with no terminal, as `apt-get` in a script does.
fn dpkg(systemd: &Systemd, args: &[&str]) -> Output {
    systemd.try_exec("dpkg", args).unwrap()
}

/// What a command printed that has to succeed.
fn well(output: Output) -> String {
    let said = output.stdout + &output.stderr;
    assert_eq!(output.status, Some(0), "{said}");
    said
}

/// What a command printed that has to fail.
fn badly(output: Output) -> String {
    let said = output.stdout + &output.stderr;
    assert_eq!(output.status, Some(1), "{said}");
    said
}

/// How dpkg sees the package: wanted, error, state, version.
fn state(systemd: &Systemd) -> String {
    let format = "--showformat=${Status} ${Version}";
    systemd.exec("dpkg-query", &["--show", format, "tunless"]).unwrap()
}

fn pid(systemd: &Systemd) -> String {
    systemd.property("MainPID").unwrap()
}

/// The directories of maps, of whatever version.
fn versions(systemd: &Systemd) -> Vec<PathBuf> {
    let entries = fs::read_dir(systemd.pins()).unwrap().map(|entry| entry.unwrap().path());
    let is_version = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('v');
    entries.filter(is_version).collect()
}

/// Which directory the maps of the installed version are in, by its inode.
fn maps(systemd: &Systemd) -> u64 {
    let abi = systemd.tunless_json(&["version"]).unwrap()["abi"].as_str().unwrap().to_owned();
    fs::metadata(systemd.pins().join(format!("v{abi}"))).unwrap().ino()
}

fn assert_says(said: &str, wanted: &[&str]) {
    for it in wanted {
        assert!(said.contains(it), "no `{it}` in:\n{said}");
    }
}

/// Every file of the host, but for what dpkg and systemd keep for themselves.
fn files(systemd: &Systemd) -> Vec<String> {
    let mut arguments = vec!["/etc", "/opt", "/root", "/run/tunless", "/usr", "/var"];
    for kept in ["/var/lib/dpkg", "/var/log", "/var/lib/systemd", "/var/cache"] {
        arguments.extend(["-path", kept, "-prune", "-o"]);
    }
    arguments.push("-print");
    // `find` fails for /run/tunless, which is not there unless tunless is.
    let found = systemd.try_exec("find", &arguments).unwrap().stdout;
    let mut files: Vec<String> =
        found.lines().filter(|line| !line.ends_with(".deb")).map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn it_is_installed_configured_and_started() {
    let scene = UnderSystemd::without_tunless();
    let systemd = &scene.systemd;
    let packages = Packages::stage();
    let said = packages.install(systemd, "0.1.1");
    assert_says(
        &said,
        &[
            "not started: /etc/tunless/config.yaml has no routes yet",
            "tunless config validate --here && systemctl enable --now tunless.service",
        ],
    );
    scene.assert_properties(&[("ActiveState", "inactive"), ("UnitFileState", "disabled")]);
    assert!(!systemd.pins().exists());
    assert_eq!(dpkg(systemd, &["--verify", "tunless"]).stdout, "");
    // Nothing is amiss in the unit, and what it names is there.
    let verified = systemd.try_exec("systemd-analyze", &["verify", "tunless.service"]).unwrap();
    assert_eq!(verified.stderr, "");
    let documentation = systemd.property("Documentation").unwrap();
    let document = documentation.strip_prefix("file://").expect("a file");
    assert!(systemd.path(document).is_file(), "{document}");
    for page in ["tunless.8.gz", "tunless-detach.8.gz", "tunless-routes-list.8.gz"] {
        assert!(systemd.path("/usr/share/man/man8").join(page).is_file(), "{page}");
    }
    // The shipped file is one that is accepted.
    assert_says(&well(systemd.tunless(&["config", "validate"]).unwrap()), &["0 routes"]);

    scene.configure(good);
    systemd.exec("systemctl", &["enable", "--now", "tunless"]).unwrap();
    let streams = scene.both_ways();
    scene.assert_properties(&[("ActiveState", "active"), ("UnitFileState", "enabled")]);
    assert!(streams.iter().all(|stream| stream.wait_for(50, SOON)));
    streams.into_iter().for_each(assert_lossless);
    let changed = dpkg(systemd, &["--verify", "tunless"]).stdout;
    assert!(changed.trim_end().ends_with("c /etc/tunless/config.yaml"), "{changed}");
    assert_eq!(changed.lines().count(), 1, "{changed}");
    scene.finish();
}

#[test]
fn an_upgrade_from_another_version_loses_no_packet() {
    let scene = UnderSystemd::without_tunless();
    let systemd = &scene.systemd;
    let packages = Packages::stage();
    let previous = Packages::stage_previous();
    let older = previous.as_ref().unwrap_or(&packages);
    older.install_and_start(&scene, "0.1.0");
    if previous.is_none() {
        systemd.drop_in(ANOTHER_VERSION).unwrap();
    }
    let configuration = fs::read_to_string(systemd.path("/etc/tunless/config.yaml")).unwrap();
    let (old, old_maps) = (pid(systemd), maps(systemd));
    let streams = scene.both_ways();

    let said = packages.install(systemd, "0.1.1");
    assert!(!said.contains("tunless: "), "nothing to report: {said}");
    assert_ne!(pid(systemd), old);
    scene.assert_properties(&[("ActiveState", "active"), ("NRestarts", "0")]);
    assert_eq!(systemd.tunless_json(&["status"]).unwrap()["ready"], true);
    let is_alone = || (versions(systemd).len() == 1).then_some(());
    until("the other version's maps are gone", SOON, is_alone);
    let kept = fs::read_to_string(systemd.path("/etc/tunless/config.yaml")).unwrap();
    assert_eq!(kept, configuration);
    let new_maps = maps(systemd);
    assert_ne!(new_maps, old_maps, "the directory was made anew");

    // And back.
    let new = pid(systemd);
    older.install(systemd, "0.1.0");
    assert_ne!(pid(systemd), new);
    until("the other version's maps are gone", SOON, is_alone);
    assert_ne!(maps(systemd), new_maps, "the directory was made anew");
    streams.into_iter().for_each(assert_lossless);

    // One that an operator stopped stays stopped.
    systemd.stop().unwrap();
    assert_says(&packages.install(systemd, "0.1.1"), &["To start it: systemctl start tunless"]);
    scene.assert_properties(&[("ActiveState", "inactive")]);
    scene.finish();
}

#[test]
fn an_upgrade_that_cannot_start_leaves_packets_alone() {
    let scene = UnderSystemd::without_tunless();
    let systemd = &scene.systemd;
    let packages = Packages::stage();
    packages.install_and_start(&scene, "0.1.0");
    let old = pid(systemd);
    let streams = scene.both_ways();

    // The file is refused: the daemon of the version before goes on.
    scene.configure(refused);
    scene.wait_for_message("bogus");
    let said = packages.install(systemd, "0.1.1");
    assert_says(
        &said,
        &[
            "this version refuses /etc/tunless/config.yaml:",
            "bogus",
            "the daemon of the version before goes on",
            "Correct the file, then: systemctl restart tunless",
        ],
    );
    assert_eq!(pid(systemd), old);
    scene.configure(good);
    systemd.restart().unwrap();
    assert_ne!(pid(systemd), old);

    // The unit fails: what is attached goes on.
    systemd.drop_in("[Service]\nExecStartPre=/bin/false\n").unwrap();
    let said = packages.install(systemd, "0.1.2");
    assert_says(
        &said,
        &[
            "the daemon of this version does not start. Pods' traffic goes on",
            "systemctl status tunless",
        ],
    );
    assert!(streams[0].wait_for(50, SOON), "forwarding goes on");
    systemd.drop_in("[Service]\n").unwrap();
    systemd.start().unwrap();
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn removed_it_goes_on_and_purged_it_is_gone() {
    let scene = UnderSystemd::without_tunless();
    let systemd = &scene.systemd;
    let before = (files(systemd), Snapshot::take(&scene.lab.node2.netns).unwrap());
    let packages = Packages::stage();
    packages.install_and_start(&scene, "0.1.1");
    let streams = scene.both_ways();

    let said = well(dpkg(systemd, &["--remove", "tunless"]));
    assert_says(
        &said,
        &["what is attached stays and carries pods' traffic", "/var/lib/tunless/tunless detach"],
    );
    assert!(!systemd.path("/usr/bin/tunless").exists());
    scene.assert_properties(&[("LoadState", "not-found")]);
    let kept = |args: &[&str]| systemd.try_exec("/var/lib/tunless/tunless", args).unwrap();
    assert_says(&well(kept(&["endpoints", "list"])), &[&scene.lab.perf().ip.to_string()]);

    // Installed again, the daemon takes over.
    packages.install(systemd, "0.1.1");
    assert!(!systemd.path("/var/lib/tunless").exists());
    systemd.start().unwrap();
    assert!(streams[0].wait_for(50, SOON), "forwarding goes on");

    // While pods talk by it alone, there is no purge.
    let said = badly(dpkg(systemd, &["--purge", "tunless"]));
    assert_says(
        &said,
        &[
            "nothing is purged: pods of this node talk by what is attached",
            "/var/lib/tunless/tunless detach; then purge again",
        ],
    );
    assert!(streams[1].wait_for(50, SOON), "forwarding goes on");
    streams.into_iter().for_each(assert_lossless);

    well(kept(&["detach"]));
    assert!(!systemd.pins().exists());
    well(dpkg(systemd, &["--purge", "tunless"]));
    let unknown = dpkg(systemd, &["--status", "tunless"]);
    assert_says(&badly(unknown), &["'tunless' is not installed"]);
    let after = (files(systemd), Snapshot::take(&scene.lab.node2.netns).unwrap());
    assert_eq!(before.1.difference(&after.1), Vec::<String>::new());
    assert_eq!(before.0, after.0);
    scene.finish();
}

#[test]
fn without_pods_a_purge_detaches() {
    let lab = Lab::new().default_pods(false).build().unwrap();
    let systemd = Systemd::boot_without_tunless(&lab.node2).unwrap();
    let before = (files(&systemd), Snapshot::take(&lab.node2.netns).unwrap());
    let packages = Packages::stage();
    packages.install(&systemd, "0.1.1");
    // Never started, there is nothing to detach.
    assert!(!well(dpkg(&systemd, &["--purge", "tunless"])).contains("detach"));
    assert_eq!(files(&systemd), before.0);

    packages.install(&systemd, "0.1.1");
    systemd.configure(&good(&lab.node2, &lab.node1)).unwrap();
    systemd.exec("systemctl", &["enable", "--now", "tunless"]).unwrap();
    assert!(systemd.pins().exists());
    assert_says(
        &well(dpkg(&systemd, &["--purge", "tunless"])),
        &["removed", "the device tunless0"],
    );
    assert!(!systemd.pins().exists());
    let after = (files(&systemd), Snapshot::take(&lab.node2.netns).unwrap());
    assert_eq!(before.1.difference(&after.1), Vec::<String>::new());
    assert_eq!(before.0, after.0);
    systemd.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}

#[test]
fn an_installation_by_hand_is_named_and_goes_on() {
    const PROGRAM: &str = "/usr/local/bin/tunless";
    const UNIT: &str = "/etc/systemd/system/tunless.service";
    let scene = UnderSystemd::without_tunless();
    let systemd = &scene.systemd;
    let packages = Packages::stage();
    let tree: PathBuf = packages.tree.root();
    fs::copy(tree.join("usr/bin/tunless"), systemd.path(PROGRAM)).unwrap();
    let unit = fs::read_to_string(tree.join("usr/lib/systemd/system/tunless.service")).unwrap();
    systemd.write(UNIT, &unit.replace("/usr/bin/tunless", PROGRAM)).unwrap();
    fs::create_dir(systemd.path("/etc/tunless")).unwrap();
    scene.configure(good);
    systemd.exec("systemctl", &["enable", "--now", "tunless"]).unwrap();
    scene.assert_answered();
    let by_hand = pid(systemd);
    let streams = scene.both_ways();

    // dpkg asks about the operator's file, and has no terminal to ask on.
    let package = packages.put(systemd, "0.1.1");
    let said = badly(dpkg(systemd, &["--install", &package]));
    assert_says(&said, &["/etc/tunless/config.yaml"]);
    let named = [
        "/etc/systemd/system/tunless.service hides this package's unit",
        "/usr/local/bin/tunless is an installation by hand",
        "the daemon of an installation by hand runs, and goes on",
    ];
    let keep = ["--force-confold", "--configure", "tunless"];
    assert_says(&well(dpkg(systemd, &keep)), &named);
    assert_says(
        &well(dpkg(systemd, &["--remove", "tunless"])),
        &["the daemon that runs is of an installation by hand, and goes on"],
    );
    assert!(!systemd.path("/var/lib/tunless").exists());
    assert_says(&packages.install(systemd, "0.1.1"), &named);
    assert_eq!(pid(systemd), by_hand);

    // What it says leads to the package's daemon.
    fs::remove_file(systemd.path(PROGRAM)).unwrap();
    fs::remove_file(systemd.path(UNIT)).unwrap();
    systemd.exec("systemctl", &["daemon-reload"]).unwrap();
    systemd.restart().unwrap();
    assert_ne!(pid(systemd), by_hand);
    let program = fs::read_link(systemd.path(&format!("/proc/{}/exe", pid(systemd)))).unwrap();
    assert_eq!(program, PathBuf::from("/usr/bin/tunless"));
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}
