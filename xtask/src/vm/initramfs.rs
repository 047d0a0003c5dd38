//! The guest's file system: our binaries, the tools they call, the modules.
//!
//! Kept under `target/vm/initramfs`, named after what is in it.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tunless_vm::{MODULES, TUNLESS};

use super::{directory, kernels::Installed, modules, tools, tree::Tree};
use crate::workspace;

/// As Debian has them; the guest's own directories come with its mounts.
const LINKS: [(&str, &str); 4] =
    [("/bin", "usr/bin"), ("/sbin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")];

/// Where init and the tools expect directories.
const DIRECTORIES: [&str; 8] =
    ["/dev", "/etc", "/proc", "/root", "/run", "/sys", "/tmp", "/usr/sbin"];

/// What a person in the shell finds of busybox.
const APPLETS: [&str; 16] = [
    "cat", "dmesg", "grep", "head", "less", "ls", "lsmod", "ps", "rm", "sed", "sh", "sleep",
    "tail", "top", "uname", "vi",
];

/// The archive for this kernel, made unless the very same is there. `more` binaries: where
/// each is in the guest, and here.
pub fn get(kernel: &Installed, more: &[(&Path, &Path)]) -> Result<PathBuf> {
    let mut archive = Vec::new();
    plant(kernel, more)?.write(&mut archive).context("the guest's file system cannot be packed")?;

    let mut hasher = DefaultHasher::new();
    archive.hash(&mut hasher);
    let place = directory().join("initramfs");
    let prefix = format!("{}-", kernel.kernel.name());
    let path = place.join(format!("{prefix}{:016x}.cpio", hasher.finish()));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    remove_older(&place, &prefix)?;
    // Complete or not there.
    let part = path.with_extension("part");
    fs::write(&part, archive).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, &path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn remove_older(place: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn plant(kernel: &Installed, more: &[(&Path, &Path)]) -> Result<Tree> {
    let release = workspace::root().join("target/release");
    let (tunless, runner) = (release.join("tunless"), release.join("tunless-vm"));

    let mut tree = Tree::default();
    for path in DIRECTORIES {
        tree.directory(path);
    }
    for (path, target) in LINKS {
        tree.link(path, target);
    }
    tree.link("/init", "usr/bin/tunless-vm");
    add(&mut tree, Path::new("/usr/bin/tunless-vm"), &runner)?;
    add(&mut tree, Path::new(TUNLESS), &tunless)?;
    for (guest, here) in more {
        add(&mut tree, guest, here)?;
    }
    let binaries: Vec<&Path> =
        [&*runner, &*tunless].into_iter().chain(more.iter().map(|(_, here)| *here)).collect();
    for (guest, here) in tools::collect(&binaries)?.files {
        add(&mut tree, &guest, &here)?;
    }
    for applet in APPLETS {
        tree.link(Path::new("/usr/bin").join(applet), "busybox");
    }
    tree.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/bash\n".to_vec());
    tree.file("/etc/group", 0o644, b"root:x:0:\n".to_vec());

    let mut list = String::new();
    for module in modules::collect(kernel)? {
        let path = format!("/usr/lib/modules/{}/{}", kernel.release, module.path);
        list.push_str(&path);
        list.push('\n');
        tree.file(path, 0o644, module.object);
    }
    tree.file(MODULES, 0o644, list.into_bytes());
    Ok(tree)
}

fn add(tree: &mut Tree, guest: &Path, here: &Path) -> Result<()> {
    let content = fs::read(here).with_context(|| format!("cannot read {}", here.display()))?;
    let mode = fs::metadata(here)?.permissions().mode() & 0o777;
    tree.file(guest, mode, content);
    Ok(())
}
