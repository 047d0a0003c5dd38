//! Compiles the eBPF programs, checks the objects (`build/gate.rs`) and leaves
//! them where `object.rs` includes them.

#[path = "build/gate.rs"]
mod gate;
#[path = "build/share.rs"]
mod share;
#[path = "build/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

fn main() {
    if let Err(error) = build() {
        // Cargo shows these lines and fails the build; of a failing script it
        // would show all the output, with ours somewhere in it.
        for line in format!("{error:#}").lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<()> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().context("the crate lies in a workspace")?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed={}", workspace.join("dataplane-common").display());

    let toolchain = toolchain::find().context(
        "no Rust toolchain here can build `core` for eBPF: run `cargo xtask setup` as root once \
         (or `rustup toolchain install nightly --component rust-src`)",
    )?;
    put_linker_on_path(workspace)?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    share::link(&workspace.join("target/ebpf"), &out_dir.join("aya-build/target"))?;
    // The flag is for this build alone: set outside, every crate would take
    // itself for nightly.
    // SAFETY: a build script's main has started no other thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };

    let root_dir = workspace.join("dataplane-ebpf");
    let root_dir = root_dir.to_str().context("the project's path is not UTF-8")?;
    aya_build::build_ebpf(
        [Package { name: "dataplane-ebpf", root_dir, no_default_features: false, features: &[] }],
        Toolchain::Custom(toolchain),
    )
    .context("the eBPF programs do not build; `cargo xtask setup` installs what they need")?;

    for name in ["dataplane", "listing", "trace"] {
        let object = out_dir.join(name);
        let elf = fs::read(&object).with_context(|| format!("no object {}", object.display()))?;
        gate::check(&elf).with_context(|| format!("the eBPF object `{name}`"))?;
    }
    Ok(())
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
