//! Where `tunless` is, and what it needs of the machine.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{cmd, topology::Node};

const BPFFS: &str = "/sys/fs/bpf";

/// The binary: `TUNLESS_BIN`, or the workspace's release build.
pub fn tunless_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("TUNLESS_BIN") {
        return existing(Path::new(&path)).context("TUNLESS_BIN names no file");
    }
    existing(&target_dir()?.join("release/tunless"))
        .context("run `cargo build --release`, or set TUNLESS_BIN")
}

/// Where cargo and `cargo xtask setup` put what they make.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .or(workspace.map(|dir| dir.join("target")))
        .context("no target directory")
}

/// The binary that the node's lab was told to use.
pub(crate) fn binary_for(node: &Node) -> Result<String> {
    let path = node.shared.tunless.clone().map_or_else(tunless_binary, Ok)?;
    Ok(path.to_string_lossy().into_owned())
}

fn existing(path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) => bail!("{}: {error}", path.display()),
    }
}

/// Mounts the BPF file system where it is expected, unless it is there. A
/// machine with systemd has it; a container or a bare test machine may not.
pub fn ensure_bpffs() -> Result<()> {
    // Two at a time would mount it twice, one over the other's pins.
    let lock = File::open(BPFFS).with_context(|| format!("cannot open {BPFFS}"))?;
    lock.lock().with_context(|| format!("cannot lock {BPFFS}"))?;
    if statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    cmd::check(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]), b"").map(drop)
}
