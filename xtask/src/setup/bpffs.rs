//! The BPF file system, where maps and links are pinned.

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount as mount_file_system},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

const BPFFS: &str = "/sys/fs/bpf";

/// Mounts the BPF file system unless it is there; true if it was mounted.
pub fn mount() -> Result<bool> {
    let found = statfs(BPFFS).with_context(|| {
        format!("no {BPFFS}: this kernel has no BPF file system (CONFIG_BPF_SYSCALL)")
    })?;
    if found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(false);
    }
    println!("set-up: mount the BPF file system on {BPFFS}, where maps and links are pinned");
    mount_file_system(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("the BPF file system cannot be mounted on {BPFFS}"))?;
    Ok(true)
}
