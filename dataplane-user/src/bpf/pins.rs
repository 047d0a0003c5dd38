//! Where maps and links are kept while no process holds them.
//!
//! ```text
//! /sys/fs/bpf/tunless/
//! ├── v1a2b3c4d/          maps of one layout (`dataplane_common::abi::ABI`)
//! │   ├── ROUTES …
//! └── links/              one per program and interface, whatever the layout
//!     ├── decap_tc_2 …
//! ```
//!
//! Links are outside the versioned directory: an upgrade whose maps look
//! different makes its own maps, fills them, and then swaps the program in each
//! link, so there is never a moment without one. Names hold no dots (bpffs
//! refuses them), so links are named by interface index.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use dataplane_common::abi::ABI;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Hook;

/// The pins of one instance.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins below `root`; nothing is touched yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether an instance ever ran here.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.root.is_dir()
    }

    /// The directory of this version's maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI:08x}"))
    }

    /// A map's pin.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The directory of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// A link's pin.
    #[must_use]
    pub fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.links().join(format!("{}_{ifindex}", hook.program()))
    }

    /// Makes the directories, readable by root and its group alone: who may
    /// write a pin decides where packets go.
    ///
    /// # Errors
    /// If the place is not on a bpffs, with what to do about it.
    pub fn prepare(&self) -> Result<()> {
        let existing = self
            .root
            .ancestors()
            .find(|ancestor| ancestor.is_dir())
            .context("a path without any existing directory")?;
        let filesystem = statfs(existing).with_context(|| existing.display().to_string())?;
        if filesystem.filesystem_type() != BPF_FS_MAGIC {
            bail!(
                "{} is not on a bpffs; mount one: `mount -t bpf bpf /sys/fs/bpf`",
                self.root.display()
            );
        }
        for directory in [self.root.clone(), self.maps(), self.links()] {
            fs::create_dir_all(&directory)
                .and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)))
                .with_context(|| format!("making {}", directory.display()))?;
        }
        Ok(())
    }

    /// Names of the maps pinned by versions with another layout.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let ours = self.maps();
        Ok(directories(&self.root)?
            .into_iter()
            .filter(|path| {
                *path != ours
                    && path
                        .file_name()
                        .and_then(|name| name.to_str())
                        .is_some_and(|name| name.starts_with('v'))
            })
            .collect())
    }

    /// Removes one directory of pins and the pins in it.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove_directory(directory: &Path) -> Result<()> {
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        fs::remove_dir(directory).with_context(|| format!("removing {}", directory.display()))
    }

    /// Removes everything. Programs in links leave their hooks with the pin.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove_all(&self) -> Result<()> {
        for directory in directories(&self.root)? {
            Self::remove_directory(&directory)?;
        }
        fs::remove_dir(&self.root).with_context(|| format!("removing {}", self.root.display()))
    }
}

/// Restricts a pin that was just made.
pub(super) fn restrict(pin: &Path) -> Result<()> {
    fs::set_permissions(pin, fs::Permissions::from_mode(0o640))
        .with_context(|| format!("restricting {}", pin.display()))
}

fn directories(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() {
            directories.push(path);
        }
    }
    Ok(directories)
}
