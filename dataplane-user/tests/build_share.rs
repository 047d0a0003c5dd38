//! Where the build script has the eBPF programs built.

#[path = "../build/share.rs"]
mod share;

use std::{fs, os::unix::fs::symlink, path::Path};

/// What is written by the one way is there by the other.
fn assert_linked(shared: &Path, own: &Path) {
    share::link(shared, own).unwrap();
    fs::write(own.join("built"), "").unwrap();
    assert!(shared.join("built").is_file());
}

#[test]
fn whatever_was_there_becomes_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("target/ebpf");
    let own = directory.path().join("out/aya-build/target");
    assert_linked(&shared, &own);
    assert_linked(&shared, &own);

    // Removed by hand.
    fs::remove_dir_all(&shared).unwrap();
    assert_linked(&shared, &own);

    // The project was moved: where the link leads is another's, or gone.
    for other in [directory.path().join("other"), directory.path().join("gone")] {
        fs::remove_file(&own).unwrap();
        symlink(&other, &own).unwrap();
        if other.ends_with("other") {
            fs::create_dir(&other).unwrap();
            fs::write(other.join("kept"), "").unwrap();
        }
        assert_linked(&shared, &own);
    }
    assert!(directory.path().join("other/kept").is_file());
    assert!(!directory.path().join("other/built").exists());

    // Built before there were links.
    fs::remove_file(&own).unwrap();
    fs::create_dir_all(own.join("dataplane-ebpf")).unwrap();
    assert_linked(&shared, &own);
}
