//! Compiles the eBPF programs and leaves the object where `load.rs` includes it.
//!
//! `core` for `bpfel-unknown-none` has to be built from source, which stable
//! Rust does not do. Two toolchains can: a rustup nightly that has `rust-src`,
//! or Debian's `rustc-web` linked as the rustup toolchain `ebpf`
//! (`cargo xtask setup` makes the second where the first is missing).

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().context("the crate lies in a workspace")?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", workspace.join("dataplane-common").display());

    let toolchain = toolchain()?;
    put_linker_on_path(workspace)?;
    // The flag is for this build alone: set outside, every crate would take
    // itself for nightly.
    // SAFETY: a build script's main has started no other thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };

    let root_dir = workspace.join("dataplane-ebpf");
    let root_dir = root_dir.to_str().context("the project's path is not UTF-8")?;
    aya_build::build_ebpf(
        [Package { name: "dataplane-ebpf", root_dir, no_default_features: false, features: &[] }],
        toolchain,
    )
    .context("the eBPF programs do not build; `cargo xtask setup` installs what they need")
}

fn toolchain() -> Result<Toolchain<'static>> {
    if has_core_source("nightly") {
        return Ok(Toolchain::Nightly);
    }
    if has_core_source("ebpf") {
        return Ok(Toolchain::Custom("ebpf"));
    }
    bail!(
        "no Rust toolchain here can build `core` for eBPF: run `cargo xtask setup` as root once \
         (or `rustup toolchain install nightly --component rust-src`)"
    )
}

fn has_core_source(toolchain: &str) -> bool {
    Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        // Cargo names its own compiler to build scripts; rustup must not use it.
        .env_remove("RUSTC")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core").is_dir())
}

/// `cargo xtask setup` caches the pinned bpf-linker under `target/tools`.
fn put_linker_on_path(workspace: &Path) -> Result<()> {
    let tools = workspace.join("target/tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(tools).chain(env::split_paths(&path));
    // SAFETY: a build script's main has started no other thread.
    unsafe { env::set_var("PATH", env::join_paths(paths)?) };
    Ok(())
}
