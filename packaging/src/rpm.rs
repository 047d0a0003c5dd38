//! The RPM package. The scripts are those of the Debian package: their arguments are made from
//! how many versions of the package are there once rpm is done.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder};

use crate::{
    contents::{BINARY, CONFIG},
    debian::{depends, maintainer},
    tree::Tree,
    version::Version,
};

const SUMMARY: &str = "IP-in-IP between Calico nodes without the kernel's tunl0";
const DESCRIPTION: &str = "\
eBPF programs on the pods' interfaces and on the host's NIC encapsulate and decapsulate pods' packets, \
as RFC 2003 and the kernel's tunl0 do. Installing the package starts nothing. Stopping, upgrading or \
removing it stops no pods' traffic: `tunless detach` is what removes the programs.";

/// Builds `tunless-<version>-<revision>.<architecture>.rpm` in a directory that is there; returns its path.
///
/// # Errors
/// If something cannot be read or written, or dpkg-shlibdeps fails.
pub fn build(tree: &Tree, version: &Version, output: &Path) -> Result<PathBuf> {
    let architecture = env::consts::ARCH;
    let date =
        u32::try_from(tree.date().as_second()).context("a package has a date before 2106")?;
    let mut builder = PackageBuilder::new(
        "tunless",
        version.upstream(),
        "MIT OR Apache-2.0",
        architecture,
        SUMMARY,
    );
    builder
        .using_config(BuildConfig::v4().compression(CompressionType::Gzip).source_date(date))
        .release(version.revision().to_string())
        .description(DESCRIPTION)
        .packager(maintainer())
        // The hosts that build it have no part in it.
        .build_host("localhost")
        .post_install_script(script(
            "1) set -- configure '' ;; *) set -- configure older ;;",
            POSTINST,
        ))
        .pre_uninstall_script(script("0) set -- remove ;; *) set -- upgrade ;;", PRERM))
        .post_uninstall_script(script("0) set -- remove ;; *) set -- upgrade ;;", POSTRM))
        .requires(Dependency::any("/bin/sh"))
        .requires(Dependency::any("systemd"))
        .recommends(Dependency::any("nftables"));
    if let Some(oldest) = glibc(&depends(&tree.root().join(BINARY))?) {
        builder.requires(Dependency::greater_eq("glibc", oldest));
    }
    for file in tree.files()? {
        let place = place(&file);
        let options = FileOptions::new(&place);
        let options =
            if file == Path::new(CONFIG) { options.config().noreplace() } else { options };
        builder
            .with_file(tree.root().join(&file), options)
            .with_context(|| format!("cannot add {place}"))?;
    }
    let name = format!("tunless-{}-{}.{architecture}.rpm", version.upstream(), version.revision());
    let package = output.join(name);
    builder
        .build()
        .and_then(|built| built.write_file(&package))
        .with_context(|| format!("cannot make {}", package.display()))?;
    Ok(package)
}

/// Where a file goes: zsh looks for completions of packages elsewhere than on Debian.
fn place(file: &Path) -> String {
    format!("/{}", file.display()).replace("/zsh/vendor-completions/", "/zsh/site-functions/")
}

const POSTINST: &str = include_str!("../scripts/postinst");
const PRERM: &str = include_str!("../scripts/prerm");
const POSTRM: &str = include_str!("../scripts/postrm");

/// A script of Debian's behind what makes its arguments: `cases` of rpm's only one.
fn script(cases: &str, body: &str) -> String {
    format!("case \"$1\" in {cases} esac\n{body}")
}

/// The version of glibc in what Debian calls dependencies.
fn glibc(depends: &str) -> Option<&str> {
    let version = depends.split(", ").find_map(|it| it.strip_prefix("libc6 (>= "))?;
    version.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use rpm::FileFlags;

    use super::*;

    #[test]
    fn zsh_finds_its_completions() {
        assert_eq!(
            place(Path::new("usr/share/zsh/vendor-completions/_tunless")),
            "/usr/share/zsh/site-functions/_tunless"
        );
        assert_eq!(place(Path::new(BINARY)), "/usr/bin/tunless");
    }

    #[test]
    fn the_libraries_version_is_debians() {
        assert_eq!(glibc("libgcc-s1 (>= 4.2), libc6 (>= 2.34)"), Some("2.34"));
        assert_eq!(glibc("libc6"), None);
    }

    #[test]
    fn the_package_has_every_file_and_keeps_the_configuration() {
        let tree = Tree::of(Path::new("/bin/true")).unwrap();
        let output = tempfile::tempdir().unwrap();
        let version = Version::new("0.2.0-rc.1", 2).unwrap();
        let path = build(&tree, &version, output.path()).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name, format!("tunless-0.2.0~rc.1-2.{}.rpm", env::consts::ARCH));
        let package = rpm::Package::open(&path).unwrap().metadata;
        assert_eq!(package.get_version().unwrap(), "0.2.0~rc.1");
        assert_eq!(package.get_release().unwrap(), "2");

        let entries = package.get_file_entries().unwrap();
        let files = tree.files().unwrap();
        assert_eq!(entries.len(), files.len());
        for file in &files {
            let place = PathBuf::from(super::place(file));
            let entry = entries.iter().find(|entry| entry.path() == place);
            let entry = entry.unwrap_or_else(|| panic!("no {}", place.display()));
            let wanted = if file == Path::new(BINARY) { 0o755 } else { 0o644 };
            assert_eq!(entry.mode().permissions(), wanted, "{}", place.display());
            assert_eq!(entry.user(), "root", "{}", place.display());
            let is_kept = entry.flags().contains(FileFlags::CONFIG | FileFlags::NOREPLACE);
            assert_eq!(is_kept, file == Path::new(CONFIG), "{}", place.display());
        }
        let requires: Vec<_> =
            package.get_requires().unwrap().iter().map(ToString::to_string).collect();
        assert!(requires.iter().any(|it| it.starts_with("glibc >= 2.")), "{requires:?}");
        let script = package.get_pre_uninstall_script().unwrap().script;
        assert!(script.ends_with(PRERM), "{script}");
    }

    #[test]
    fn rpms_argument_becomes_debians() {
        let ask = |count: &str| {
            let text =
                script("0) set -- remove ;; *) set -- upgrade ;;", "#!/bin/sh\necho \"$@\"\n");
            let mut sh = std::process::Command::new("sh");
            crate::tool::text(sh.args(["-euc", &text, "sh", count])).unwrap()
        };
        assert_eq!(ask("0"), "remove\n");
        assert_eq!(ask("1"), "upgrade\n");
    }
}
