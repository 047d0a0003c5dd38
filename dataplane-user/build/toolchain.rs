//! Which Rust toolchain builds the eBPF programs.
//!
//! `core` for `bpfel-unknown-none` has to be built from source, which stable
//! Rust does not do. Two toolchains can: a rustup nightly that has `rust-src`,
//! or Debian's `rustc-web` linked as the rustup toolchain `ebpf`.
//!
//! `build.rs` and `cargo xtask setup` both include this file, so the compiler
//! that set-up prepares is the one that the build takes.

use std::{path::PathBuf, process::Command};

/// The name under which set-up links Debian's compiler.
pub const DEBIAN: &str = "ebpf";
/// The rustup toolchain that comes first, where it has `rust-src`.
pub const NIGHTLY: &str = "nightly";

/// The first toolchain here that can build `core`, if any.
pub fn find() -> Option<&'static str> {
    [NIGHTLY, DEBIAN].into_iter().find(|name| has_core_source(name))
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
