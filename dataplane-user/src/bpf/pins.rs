//! Where maps and links are kept while no process holds them.
//!
//! ```text
//! /sys/fs/bpf/tunless/
//! ├── v1a2b3c4d/          maps of one layout (`dataplane_common::abi::ABI`)
//! │   ├── ROUTES …
//! ├── serving              symlink: the version whose maps the programs use
//! ├── memory               what the daemon remembers (`daemon::decide::Memory`)
//! └── links/              one per program and interface, whatever the layout; where
//!     │                   there are no links (before 6.6), the programs in filters
//!     ├── decap_tc_2 …
//! ```
//!
//! Links are outside the versioned directory: an upgrade whose maps look
//! different makes its own maps, fills them, and then swaps the program in each
//! link, so there is never a moment without one. Names hold no dots (bpffs
//! refuses them), so links are named by interface index.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use dataplane_common::{IfIndex, Program, abi::ABI};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::links;

/// How often long work says how far it is. For each program the kernel waits until no packet is
/// in it: some 13 ms, so 7 s on a node of 250 pods.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

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

    /// Returns whether an instance ever ran here. A directory that this user may not
    /// look at counts: "not permitted" is not "absent".
    #[must_use]
    pub fn exist(&self) -> bool {
        match fs::metadata(&self.root) {
            Ok(found) => found.is_dir(),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
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
    pub fn link(&self, program: Program, ifindex: IfIndex) -> PathBuf {
        self.links().join(format!("{program}_{ifindex}"))
    }

    /// Says that an interface's `clsact` qdisc is of our making (see
    /// [`super::filters`]).
    #[must_use]
    pub fn own_qdisc(&self, ifindex: IfIndex) -> PathBuf {
        self.links().join(format!("clsact_{ifindex}"))
    }

    /// The interfaces whose `clsact` qdisc is of our making.
    #[must_use]
    pub fn own_qdiscs(&self) -> Vec<IfIndex> {
        let entries = fs::read_dir(self.links()).into_iter().flatten().flatten();
        let ifindex = |entry: fs::DirEntry| {
            let name = entry.file_name();
            Some(IfIndex(name.to_str()?.strip_prefix("clsact_")?.parse().ok()?))
        };
        entries.filter_map(ifindex).collect()
    }

    /// Whether this version's maps are there.
    #[must_use]
    pub fn have_maps(&self) -> bool {
        self.map("ROUTES").exists()
    }

    /// The map with what the daemon remembers, whatever its version.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.root.join("memory")
    }

    fn serving(&self) -> PathBuf {
        self.root.join("serving")
    }

    /// The directory with the maps that attached programs use; `None` if there is none.
    ///
    /// 0.1 leaves no symlink. Then it is another version's directory, if there is one: ours
    /// beside it is unfinished.
    #[must_use]
    pub fn active(&self) -> Option<PathBuf> {
        let target = fs::read_link(self.serving()).ok();
        let named = target.and_then(|target| Some(self.root.join(target.file_name()?)));
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
        // A daemon makes its directory before its maps.
        let has_routes = |directory: &PathBuf| directory.join("ROUTES").exists();
        named.filter(has_routes).or_else(|| {
            let others = self.other_versions().unwrap_or_default().into_iter();
            let others = others.filter(has_routes);
            others.max_by_key(changed).or_else(|| self.have_maps().then(|| self.maps()))
        })
    }

    /// Our maps are full and our programs are about to use them.
    ///
    /// # Errors
    /// If the symlink cannot be replaced.
    pub fn serve(&self) -> Result<()> {
        self.point_serving_at(&self.maps())
    }

    /// Has the symlink name what is [active](Self::active), before maps of ours are made: it
    /// may name our directory from a time before another version, and then would name maps that
    /// are not full.
    ///
    /// # Errors
    /// If the symlink cannot be replaced.
    pub fn settle_active(&self) -> Result<()> {
        match self.active() {
            Some(active) => self.point_serving_at(&active),
            None => match fs::remove_file(self.serving()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("removing {}", self.serving().display()))
                }
                _ => Ok(()),
            },
        }
    }

    fn point_serving_at(&self, directory: &Path) -> Result<()> {
        let name = directory.file_name().context("a directory without a name")?;
        if fs::read_link(self.serving()).is_ok_and(|target| target == *name) {
            return Ok(());
        }
        let new = self.root.join("serving-new");
        let _ = fs::remove_file(&new);
        symlink(name, &new).and_then(|()| fs::rename(&new, self.serving())).with_context(|| {
            format!("pointing {} at {}", self.serving().display(), directory.display())
        })
    }

    /// Makes the directories, readable by root and its group alone: who may
    /// write a pin decides where packets go.
    ///
    /// # Errors
    /// If the place is not on a bpffs, with what to do about it.
    pub fn prepare(&self) -> Result<()> {
        self.check_place()?;
        for directory in [self.root.clone(), self.maps(), self.links()] {
            fs::create_dir_all(&directory)
                .and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)))
                .with_context(|| format!("making {}", directory.display()))?;
        }
        Ok(())
    }

    /// Checks that the directory is, or would be, on a bpffs.
    ///
    /// # Errors
    /// If not, with what to do about it.
    pub fn check_place(&self) -> Result<()> {
        self.refuse_mount_point()?;
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
        Ok(())
    }

    /// Directories of maps that versions with another layout left.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let ours = self.maps();
        Ok(self.versions()?.into_iter().filter(|directory| *directory != ours).collect())
    }

    /// Directories named like ours: `v` and eight hexadecimal digits. Others may
    /// keep pins of their own beside them.
    fn versions(&self) -> io::Result<Vec<PathBuf>> {
        let is_version = |name: &str| {
            name.strip_prefix('v').is_some_and(|abi| {
                abi.len() == 8 && abi.bytes().all(|digit| digit.is_ascii_hexdigit())
            })
        };
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().and_then(|n| n.to_str()).is_some_and(is_version) {
                versions.push(path);
            }
        }
        Ok(versions)
    }

    /// Removes a version's directory and the maps in it.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove_version(directory: &Path) -> Result<()> {
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        fs::remove_dir(directory).with_context(|| format!("removing {}", directory.display()))
    }

    /// Removes what is ours, and the directories if nothing else is in them.
    /// Programs leave their hooks before their pins go: pods' first, the
    /// wire's last, TC behind XDP. Returns how many there were.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove_all(&self) -> Result<usize> {
        let links = links::list(self)?;
        let mut progress_shown = Instant::now();
        for (done, (at, _)) in links.iter().rev().enumerate() {
            links::end(self, *at)?;
            if progress_shown.elapsed() > PROGRESS_INTERVAL {
                progress_shown = Instant::now();
                tracing::info!("{} of {} programs are off their interfaces", done + 1, links.len());
            }
        }
        for directory in self.versions()? {
            Self::remove_version(&directory)?;
        }
        for file in [self.serving(), self.root.join("serving-new"), self.memory()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", file.display()));
                }
                _ => {}
            }
        }
        for directory in [self.links(), self.root.clone()] {
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    tracing::warn!("{} holds what is not ours, so it stays", directory.display());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => {
                    outcome.with_context(|| format!("removing {}", directory.display()))?;
                }
            }
        }
        Ok(links.len())
    }

    /// The bpffs itself is everybody's: neither restricted nor emptied by us.
    fn refuse_mount_point(&self) -> Result<()> {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
        let parent = self.root.parent().unwrap_or(&self.root);
        if self.root.is_dir() && device(&self.root).ok() != device(parent).ok() {
            bail!(
                "{} is the bpffs itself; name a directory below it, like {}/tunless",
                self.root.display(),
                self.root.display()
            );
        }
        Ok(())
    }
}

/// Restricts a pin that was just made.
pub(super) fn restrict(pin: &Path) -> Result<()> {
    fs::set_permissions(pin, fs::Permissions::from_mode(0o640))
        .with_context(|| format!("restricting {}", pin.display()))
}
