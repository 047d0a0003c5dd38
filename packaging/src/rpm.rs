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
        let place = format!("/{}", file.display());
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
    use super::*;

    #[test]
    fn the_libraries_version_is_debians() {
        assert_eq!(glibc("libgcc-s1 (>= 4.2), libc6 (>= 2.34)"), Some("2.34"));
        assert_eq!(glibc("libc6"), None);
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
