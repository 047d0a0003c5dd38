//! The compiler for eBPF, and the version of its LLVM.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{progress, workspace};

#[path = "../../../dataplane-user/build/toolchain.rs"]
mod choice;
pub use choice::{DEBIAN, find};

/// Makes Debian's compiler the rustup toolchain that the build looks for.
pub fn link_debian() -> Result<&'static str> {
    println!("set-up: rustup toolchain `{DEBIAN}` = Debian's rustc in /usr",);
    let linked = progress::run(
        "rustup toolchain link",
        Command::new("rustup").args(["toolchain", "link", DEBIAN, "/usr"]),
    )?;
    ensure!(linked.success, "rustup does not take Debian's rustc: {}", linked.tail());
    find().context(
        "Debian's rustc is there but not the source of `core`: reinstall rust-web-src, then run \
         this again",
    )
}

/// The major version of the LLVM inside this toolchain's rustc.
pub fn llvm_major(toolchain: &str) -> Result<u32> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "-vV"])
        .env_remove("RUSTC")
        .output()
        .context("`rustup` does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_llvm_major(&text)
        .with_context(|| format!("rustc of toolchain `{toolchain}` does not tell its LLVM version"))
}

fn parse_llvm_major(version: &str) -> Option<u32> {
    let version = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// Adds rustfmt and clippy to the project's own toolchain.
pub fn lint_tools() -> Result<()> {
    let runs = |tool| {
        workspace::cargo([tool, "--version"]).output().is_ok_and(|output| output.status.success())
    };
    if runs("fmt") && runs("clippy") {
        return Ok(());
    }
    println!("set-up: rustfmt and clippy, for the suite `lint`");
    let added = progress::run(
        "rustup component add",
        Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
    )?;
    if !added.success {
        bail!("rustup cannot add rustfmt and clippy: {}", added.tail());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        let stable = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                      release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_llvm_major(stable), Some(22));
        assert_eq!(parse_llvm_major("LLVM version: 23.0\n"), Some(23));
        assert_eq!(parse_llvm_major("rustc 1.96.0\n"), None);
        assert_eq!(parse_llvm_major("LLVM version: \n"), None);
    }
}
