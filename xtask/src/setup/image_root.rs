//! The base of the container image: what the program runs and needs, of Debian's packages.
//!
//! From the machine's own sources, as the program is linked against the machine's own libraries. They
//! are unpacked below `target`, and only what is needed of them is taken. A newer version of a package
//! has it made anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use tunless_lab::container;

use super::debian;
use crate::{apt::Apt, workspace};

/// What is needed, with the libraries that they depend on.
const PACKAGES: [&str; 3] = [
    // The program's own libraries.
    "libgcc-s1",
    // Leases are granted by a table of it.
    "nftables",
    // Where rules are made by iptables-legacy, nothing else reads them.
    "iptables",
];
/// What is needed without what they depend on: data, and one program.
const ALONE: [&str; 4] = [
    // Authorities for the API and etcd, where the configuration names none.
    "ca-certificates",
    // What a container runs after `tunless detach`.
    "coreutils",
    // Not for the image: the default seccomp profile, by which tests run it.
    "golang-github-containers-common",
    // The names of protocols and ports, which nft prints.
    "netbase",
];

/// Programs that are taken. Of the links in the packages those that lead to them come along.
const PROGRAMS: [&str; 4] = [
    "usr/sbin/nft",
    "usr/sbin/xtables-legacy-multi",
    "usr/sbin/iptables-legacy-save",
    "usr/bin/sleep",
];
/// Other files that are taken.
const FILES: [&str; 3] = ["etc/protocols", "etc/services", "etc/ssl/certs/ca-certificates.crt"];
/// Files that are made.
const MADE: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/:/usr/sbin/nologin\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];
/// Directories that are mounted on.
const PLACES: [&str; 7] =
    ["dev", "etc/tunless", "host/proc/sys/net", "proc", "run/tunless", "sys", "tmp"];
/// Since Debian 12 these are links, and packages that do not follow yet are put behind them.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The profile, in its package.
const SECCOMP: &str = "usr/share/containers/seccomp.json";

/// A file in the directory above the tree that holds the versions of its packages.
const RECIPE: &str = "recipe";

/// Makes the tree unless one of the same packages is there.
pub fn make() -> Result<()> {
    let place = container::base()?;
    let parent = place.parent().context("it has no parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("no directory can be made in {}", parent.display()))?;
    let apt = Apt::of_machine(&work.path().join("downloads"))?;
    let mut packages = closure(&apt)?;
    let recipe = recipe(&packages);
    if fs::read_to_string(parent.join(RECIPE)).is_ok_and(|found| found == recipe)
        && place.is_dir()
        && container::seccomp_file()?.is_file()
    {
        return Ok(());
    }
    println!("set-up: the base of the container image, in {}", workspace::shown(&place));
    // Its result is not the answer: one unreachable source that we do not need fails it.
    drop(debian::update()?);
    packages = closure(&apt)?;
    let unpacked = work.path().join("unpacked");
    let names: Vec<String> =
        packages.iter().map(|(name, version)| format!("{name}={version}")).collect();
    apt.unpack(&names, &unpacked)?;
    let root = work.path().join("root");
    fs::create_dir(&root)?;
    gather(&unpacked, &root).context("the base of the container image cannot be made")?;
    check(&root)?;
    let profile = unpacked.join(SECCOMP);
    fs::copy(&profile, container::seccomp_file()?)
        .with_context(|| format!("no {}", profile.display()))?;
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&root, &place).with_context(|| format!("cannot make {}", place.display()))?;
    fs::write(parent.join(RECIPE), self::recipe(&packages)).context("cannot write the recipe")
}

/// What the tree is made of: the packages, and what is taken of them.
fn recipe(packages: &BTreeMap<String, String>) -> String {
    let mut text: String =
        packages.iter().map(|(name, version)| format!("{name}={version}\n")).collect();
    for path in PROGRAMS.into_iter().chain(FILES).chain(PLACES) {
        text += &format!("/{path}\n");
    }
    text
}

/// All packages with their versions.
fn closure(apt: &Apt) -> Result<BTreeMap<String, String>> {
    let mut packages = BTreeMap::new();
    let mut open: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
    while let Some(package) = open.pop() {
        if packages.contains_key(&package) {
            continue;
        }
        // Programs that packages want beside them are not run here.
        let libraries = apt.depends(&package)?.into_iter().filter(|name| name.starts_with("lib"));
        open.extend(libraries);
        let version = apt.version(&package)?;
        packages.insert(package, version);
    }
    for package in ALONE {
        packages.insert(package.to_owned(), apt.version(package)?);
    }
    Ok(packages)
}

/// Takes what is needed of the unpacked packages.
fn gather(unpacked: &Path, root: &Path) -> Result<()> {
    for name in MERGED {
        symlink(Path::new("usr").join(name), root.join(name))?;
        fs::create_dir_all(root.join("usr").join(name))?;
    }
    for place in PLACES {
        fs::create_dir_all(root.join(place))?;
    }
    let mut authorities = BTreeSet::new();
    for path in all(unpacked, Path::new(""))? {
        let to = merged(&path);
        if to.starts_with("usr/share/ca-certificates/mozilla") {
            authorities.insert(path);
        } else if is_wanted(&to) {
            take(&unpacked.join(&path), root, &to)?;
        }
    }
    let mut bundle = String::new();
    for path in authorities {
        bundle += &fs::read_to_string(unpacked.join(path))?;
    }
    ensure!(bundle.contains("BEGIN CERTIFICATE"), "ca-certificates has no authority");
    fs::create_dir_all(root.join("etc/ssl/certs"))?;
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), bundle)?;
    for (path, text) in MADE {
        fs::write(root.join(path), text)?;
    }
    open_to_all(root)
}

/// Where a package's file is on a system whose /bin is a link.
fn merged(path: &Path) -> PathBuf {
    if MERGED.iter().any(|name| path.starts_with(name)) {
        Path::new("usr").join(path)
    } else {
        path.to_owned()
    }
}

fn is_wanted(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let is_library = (text.starts_with("usr/lib/") || text.starts_with("usr/lib64/"))
        && text.contains(".so")
        // Conversions of character sets, which are most of glibc's size.
        && !text.contains("/gconv/");
    is_library
        || PROGRAMS.contains(&&*text)
        || FILES.contains(&&*text)
        || (text.starts_with("usr/share/doc/") && text.ends_with("/copyright"))
}

fn take(from: &Path, root: &Path, to: &Path) -> Result<()> {
    let place = root.join(to);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    if from.is_symlink() {
        symlink(fs::read_link(from)?, &place)?;
    } else {
        fs::copy(from, &place)?;
    }
    Ok(())
}

/// All files and links below, by paths relative to it.
fn all(root: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => found.extend(all(root, &path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

/// The mask of the user who builds has no part in it.
fn open_to_all(root: &Path) -> Result<()> {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if entry.file_type()?.is_file() {
                let is_program = entry.metadata()?.permissions().mode() & 0o111 != 0;
                let mode = if is_program { 0o755 } else { 0o644 };
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
            }
        }
    }
    Ok(())
}

/// Has each program start in there, by which the loader finds all its libraries.
fn check(root: &Path) -> Result<()> {
    for command in [
        ["/usr/sbin/nft", "--version"],
        ["/usr/sbin/iptables-legacy-save", "--version"],
        ["/usr/bin/sleep", "0"],
    ] {
        let output = Command::new("chroot").arg(root).args(command).output()?;
        if !output.status.success() {
            bail!(
                "`{}` does not run in the image: {}",
                command.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    for file in FILES {
        ensure!(root.join(file).is_file(), "the packages hold no /{file}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_link_is_put_there() {
        assert_eq!(merged(Path::new("lib/x/libc.so.6")), Path::new("usr/lib/x/libc.so.6"));
        assert_eq!(merged(Path::new("bin/sleep")), Path::new("usr/bin/sleep"));
        assert_eq!(merged(Path::new("usr/sbin/nft")), Path::new("usr/sbin/nft"));
        assert_eq!(merged(Path::new("library")), Path::new("library"));
    }

    #[test]
    fn programs_libraries_and_licences_are_taken_and_nothing_else() {
        for wanted in [
            "usr/sbin/nft",
            "usr/lib64/ld-linux-x86-64.so.2",
            "usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/x86_64-linux-gnu/xtables/libxt_tcp.so",
            "usr/share/doc/nftables/copyright",
            "etc/protocols",
        ] {
            assert!(is_wanted(Path::new(wanted)), "{wanted}");
        }
        for other in [
            "usr/bin/ls",
            "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
            "usr/share/doc/nftables/changelog.gz",
            "usr/share/man/man8/nft.8.gz",
            "etc/rpc",
        ] {
            assert!(!is_wanted(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn another_version_of_a_package_is_another_recipe() {
        let of = |version: &str| recipe(&[("nftables".to_owned(), version.to_owned())].into());
        assert_ne!(of("1.0.6-2"), of("1.0.6-3"));
        assert!(of("1.0.6-2").starts_with("nftables=1.0.6-2\n/usr/sbin/nft\n"));
    }
}
