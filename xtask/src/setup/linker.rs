//! bpf-linker, pinned, built against the LLVM of the eBPF compiler.
//!
//! It reads the compiler's LLVM bitcode, so both must be of one LLVM; a
//! prebuilt one would fit by chance only. Building it takes minutes, so it
//! stays under `target/tools` until the pin or the compiler's LLVM changes. Where
//! LLVM lies elsewhere than in Debian, `LLVM_PREFIX` says so.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    debian,
    packages::{self, Package},
    toolchain,
};
use crate::{progress, workspace};

const VERSION: &str = "0.13.0";

/// Builds bpf-linker for this toolchain unless it is there; true if it was built.
pub fn install(toolchain: &str) -> Result<bool> {
    let tools = workspace::tools();
    let major = toolchain::llvm_major(toolchain)?;
    let (feature, package) = choose_llvm(major, toolchain)?;
    if is_installed(&tools, &feature) {
        return Ok(false);
    }

    println!("set-up: bpf-linker {VERSION}, which links the eBPF programs (LLVM {major})");
    let prefix = env::var("LLVM_PREFIX").unwrap_or_else(|_| format!("/usr/lib/llvm-{major}"));
    if !has_llvm(Path::new(&prefix)) {
        debian::install(&[package]).with_context(|| {
            format!(
                "the eBPF compiler (rustup toolchain `{toolchain}`) has LLVM {major}, and no \
                 {} can be installed for it",
                package.name
            )
        })?;
    }
    let built = progress::run(
        "build bpf-linker (a few minutes, once)",
        workspace::cargo(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
            .args(["--no-default-features", "--features", &feature, "--root"])
            .arg(&tools)
            .env("LLVM_PREFIX", prefix),
    )?;
    if !built.success {
        bail!(
            "bpf-linker {VERSION} could not be built: check that cargo can download crates, then \
             run this again\n  | {}",
            built.tail()
        );
    }
    Ok(true)
}

/// Whether the library to link is there, from whatever distribution.
fn has_llvm(prefix: &Path) -> bool {
    ["lib64", "lib"].iter().any(|directory| prefix.join(directory).join("libLLVM.so").exists())
}

/// bpf-linker's feature and Debian's package for this LLVM.
fn choose_llvm(major: u32, toolchain: &str) -> Result<(String, Package)> {
    let known = packages::LLVM.iter().find(|(known, _)| *known == major);
    let (_, package) = known.with_context(|| {
        format!(
            "bpf-linker {VERSION} takes LLVM 21 to 23, but the eBPF compiler (rustup toolchain \
             `{toolchain}`) has LLVM {major}: {}, then run this again",
            other_compiler(toolchain)
        )
    })?;
    Ok((format!("llvm-{major}"), *package))
}

/// How to get a compiler with another LLVM.
fn other_compiler(toolchain: &str) -> &'static str {
    if toolchain == toolchain::DEBIAN {
        "add Debian's security updates to apt's sources and upgrade rustc-web, cargo-web and \
         rust-web-src"
    } else {
        "remove its component rust-src to use Debian's compiler"
    }
}

fn is_installed(tools: &Path, feature: &str) -> bool {
    let recorded = fs::read_to_string(tools.join(".crates2.json"))
        .is_ok_and(|record| records(&record, feature));
    // Running it finds an LLVM library that has gone since.
    recorded
        && Command::new(tools.join("bin/bpf-linker"))
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
}

/// Whether cargo's record of installed crates names this version with this LLVM.
fn records(record: &str, feature: &str) -> bool {
    let Ok(record) = serde_json::from_str::<Value>(record) else {
        return false;
    };
    let Some(installs) = record["installs"].as_object() else {
        return false;
    };
    installs.iter().any(|(name, install)| {
        name.starts_with(&format!("bpf-linker {VERSION} "))
            && install["features"]
                .as_array()
                .is_some_and(|features| features.iter().any(|found| found == feature))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feature_and_the_package_follow_the_compiler() {
        let (feature, package) = choose_llvm(22, "ebpf").expect("LLVM 22 is known");
        assert_eq!((feature.as_str(), package.name), ("llvm-22", "llvm-22-dev"));
    }

    #[test]
    fn an_llvm_without_a_linker_is_refused_with_what_to_do() {
        for (major, toolchain, remedy) in [
            (24, "nightly", "remove its component rust-src"),
            (19, toolchain::DEBIAN, "add Debian's security updates"),
        ] {
            let message = choose_llvm(major, toolchain).expect_err("no such feature").to_string();
            assert!(
                message.contains(&format!("`{toolchain}`) has LLVM {major}: {remedy}")),
                "{message}"
            );
        }
    }

    #[test]
    fn only_the_pinned_version_with_the_right_llvm_counts() {
        let record = |version: &str, feature: &str| {
            serde_json::json!({"installs": {
                format!("bpf-linker {version} (registry+https://…)"): {"features": [feature]},
            }})
            .to_string()
        };
        assert!(records(&record("0.13.0", "llvm-22"), "llvm-22"));
        assert!(!records(&record("0.13.0", "llvm-21"), "llvm-22"));
        assert!(!records(&record("0.12.0", "llvm-22"), "llvm-22"));
        assert!(!records("{}", "llvm-22"));
        assert!(!records("", "llvm-22"));
    }
}
