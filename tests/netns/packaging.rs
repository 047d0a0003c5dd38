//! The systemd unit as it is shipped: the daemon works with just the
//! capabilities it is given there.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tunless_lab::{Lab, daemon::tunless_binary, traffic::ping};
use tunless_tests::scene::{Scene, Setup};

/// The capabilities of `packaging/tunless.service`, as setpriv(1) writes them.
fn capabilities() -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/tunless.service");
    let unit = fs::read_to_string(unit).expect("the unit is there");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .expect("the unit bounds capabilities");
    let mut list = "-all".to_owned();
    for capability in line.split_whitespace() {
        let name = capability.strip_prefix("CAP_").expect("a capability");
        list += &format!(",+{}", name.to_ascii_lowercase());
    }
    list
}

#[test]
fn the_daemon_works_with_the_capabilities_of_its_unit() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = directory.path().join("tunless");
    // Only the daemon is confined; whoever types a command is root.
    let script = format!(
        "#!/bin/sh\n\
         [ \"$1\" = run ] || exec {binary} \"$@\"\n\
         exec setpriv --no-new-privs --inh-caps -all --bounding-set {capabilities} {binary} \"$@\"\n",
        binary = tunless_binary().expect("the binary is built").display(),
        capabilities = capabilities(),
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();

    for setup in [Setup::OFF, Setup::TRUSTED] {
        Scene::new(Lab::new().tunless(&wrapper).fabric_filter(true), setup).case(|scene| {
            let pid = scene.daemon2.pid().expect("it runs");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
            // NET_ADMIN 12, NET_RAW 13, PERFMON 38, BPF 39 (linux/capability.h).
            assert_eq!(effective.trim(), format!("{:016x}", 3u64 << 12 | 3 << 38));

            let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
            let report = ping::ping(&perf.netns, sit.ip, &ping::Options::default()).unwrap();
            assert!(report.all_answered(), "{setup:?}: {}", report.text);
            let status = scene.daemon2.cli_json(&["status"]).unwrap();
            assert_eq!(status["ready"], true, "{status}");
            assert!(
                !scene.daemon2.log().contains("no raw socket"),
                "path MTU discovery needs the raw socket: {}",
                scene.daemon2.log()
            );
        });
    }
}

/// `systemctl help tunless` opens what the README's commands install.
#[test]
fn the_document_that_the_unit_names_is_installed() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let unit = read("packaging/tunless.service");
    let document = unit.lines().find_map(|line| line.strip_prefix("Documentation=file://"));
    let document = document.expect("the unit names a file");
    let readme = read("README.md");
    let install = format!("install -D -m 644 README.md {document}");
    assert!(readme.lines().any(|line| line == install), "no `{install}` in the README");
}
