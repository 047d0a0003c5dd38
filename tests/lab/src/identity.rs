//! Who owns what: names, the lab's directory, and the removal of all of it.
//!
//! Everything a lab makes carries its id `tl<pid>x<n>` in its name:
//! namespaces (`tl7x1-node1`), bpffs directories
//! (`/sys/fs/bpf/tunless-lab-tl7x1-node1`), control groups (`tunless-lab-tl7x1-node1`)
//! and files (`/run/tunless-lab/tl7x1`).
//! So removal needs no memory of what was made, several labs live side by
//! side, and a lab whose process was killed is swept by the next one.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    netns::{NETNS_DIR, Netns},
    systemd,
};

const RUN_DIR: &str = "/run/tunless-lab";
const BPFFS: &str = "/sys/fs/bpf";
/// What stands before the lab's id in the names of bpffs directories and control groups.
pub(crate) const PREFIX: &str = "tunless-lab-";
/// Where daemons lock their pins; each lock bears the name of its directory.
const LOCK_DIR: &str = "/run/tunless";
/// A file in the lab's directory that keeps the sweep away.
const KEPT: &str = "kept";

/// A directory in which labs, and others, leave things.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What is in it, in words.
    pub what: &'static str,
    /// The directory.
    pub dir: &'static str,
    /// What stands before the lab's id in a name of the lab's.
    before_id: &'static str,
    /// The names in it.
    names: fn(&'static str) -> Vec<String>,
}

impl Place {
    /// Every place where something of a lab can be.
    pub const ALL: [Self; 5] = [
        Self::new("network namespace", NETNS_DIR, ""),
        Self::new("directory", RUN_DIR, ""),
        Self::new("directory of pins", BPFFS, PREFIX),
        // Named after the whole path of the pins.
        Self::new("file of a daemon", LOCK_DIR, PREFIX),
        Self {
            names: |_| systemd::control_groups(),
            ..Self::new("control group", "/sys/fs/cgroup", PREFIX)
        },
    ];

    const fn new(what: &'static str, dir: &'static str, before_id: &'static str) -> Self {
        Self { what, dir, before_id, names: names_in }
    }

    /// Returns the lab that a name in this place belongs to; `None` for what others put there.
    #[must_use]
    pub fn lab_of(self, name: &str) -> Option<LabId> {
        LabId::of(name.split_once(self.before_id)?.1)
    }

    /// Returns the names in this place; none where there is no such directory.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        (self.names)(self.dir)
    }
}

/// Counts the labs of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The id of one lab, and with it everything the lab owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabId(String);

impl LabId {
    /// Takes a new id and makes its directory.
    pub(crate) fn claim() -> Result<Self> {
        fs::create_dir_all(RUN_DIR).with_context(|| format!("cannot make {RUN_DIR}"))?;
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let id = Self(format!("tl{}x{n}", std::process::id()));
            // 0700: the daemon's configuration lies in it.
            match fs::DirBuilder::new().mode(0o700).create(id.dir()) {
                Ok(()) => return Ok(id),
                // A dead process had our pid.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {:?}", id.dir()));
                }
            }
        }
    }

    /// The id as text, e.g. `tl4711x1`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The lab's own directory: configurations, logs, sockets.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.0)
    }

    /// The namespace of this lab called `label`.
    #[must_use]
    pub fn netns(&self, label: &str) -> Netns {
        Netns::named(&format!("{}-{label}", self.0))
    }

    /// The bpffs directory that a daemon on `node` uses.
    #[must_use]
    pub fn bpffs(&self, node: &str) -> PathBuf {
        Path::new(BPFFS).join(format!("{PREFIX}{}-{node}", self.0))
    }

    /// Names of the namespaces that exist.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Netns> {
        let prefix = format!("{}-", self.0);
        names_in(NETNS_DIR)
            .iter()
            .filter(|name| name.starts_with(&prefix))
            .map(|name| Netns::named(name))
            .collect()
    }

    /// The bpffs directories that exist.
    #[must_use]
    pub fn bpffs_dirs(&self) -> Vec<PathBuf> {
        let prefix = format!("{PREFIX}{}-", self.0);
        names_in(BPFFS)
            .iter()
            .filter(|name| name.starts_with(&prefix))
            .map(|name| Path::new(BPFFS).join(name))
            .collect()
    }

    /// Whether anything of this lab exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dir().exists()
            || !self.namespaces().is_empty()
            || !self.bpffs_dirs().is_empty()
            || !systemd::groups_of(self).is_empty()
    }

    /// Removes everything of this lab. Goes on after an error and returns the
    /// first one. Safe to call twice, and from a signal handler's thread.
    pub fn remove(&self) -> Result<()> {
        let mut first = Netns::remove_many(&self.namespaces());
        for dir in self.bpffs_dirs() {
            first = first.and(remove_dir(&dir));
        }
        self.remove_locks();
        first = first.and(systemd::remove_groups(self));
        first.and(remove_dir(&self.dir()))
    }

    /// A lock outlives its daemon, since whoever removes one may remove that of
    /// another daemon. Ours are of no use to anybody else.
    fn remove_locks(&self) {
        let prefix = format!("sys%2Ffs%2Fbpf%2F{PREFIX}{}-", self.0);
        for name in names_in(LOCK_DIR).iter().filter(|name| name.starts_with(&prefix)) {
            // An empty file left in /run is not worth an error.
            let _ = fs::remove_file(Path::new(LOCK_DIR).join(name));
        }
    }

    /// Keeps the lab when its process ends.
    pub(crate) fn keep(&self) -> Result<()> {
        let path = self.dir().join(KEPT);
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
    }

    fn is_kept(&self) -> bool {
        self.dir().join(KEPT).exists()
    }

    /// Returns whether the process that made the lab still runs.
    #[must_use]
    pub fn owner_is_alive(&self) -> bool {
        self.owner().is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
    }

    fn owner(&self) -> Option<u32> {
        let (pid, n) = self.0.strip_prefix("tl")?.split_once('x')?;
        n.parse::<u32>().ok()?;
        pid.parse().ok()
    }

    /// Returns the lab that a namespace (`tl7x1-node1`) or a directory belongs to.
    fn of(name: &str) -> Option<Self> {
        let id = Self(name.split(['-', '.']).next()?.to_owned());
        id.owner().map(|_| id)
    }
}

/// Removes what labs of dead processes left, except labs that were kept.
pub fn sweep() -> Result<()> {
    remove_all(all_labs().into_iter().filter(|id| !id.owner_is_alive() && !id.is_kept()))
}

/// Removes the labs of this process, except labs that were kept: for a signal
/// handler that cannot know how far the building of a lab has come.
pub fn remove_own() -> Result<()> {
    let own = std::process::id();
    remove_all(all_labs().into_iter().filter(|id| id.owner() == Some(own) && !id.is_kept()))
}

/// Labs that were kept, alive process or not.
#[must_use]
pub fn kept_labs() -> Vec<LabId> {
    all_labs().into_iter().filter(LabId::is_kept).collect()
}

pub(crate) fn remove_all(labs: impl Iterator<Item = LabId>) -> Result<()> {
    // All of them, whatever becomes of one.
    let results: Vec<Result<()>> =
        labs.map(|id| id.remove().with_context(|| format!("cannot remove lab {}", id.0))).collect();
    results.into_iter().collect()
}

fn all_labs() -> Vec<LabId> {
    let mut ids: Vec<LabId> = Vec::new();
    for place in Place::ALL {
        for id in place.names().iter().filter_map(|name| place.lab_of(name)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    ids
}

fn names_in(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Like `rm -r`. Another process may sweep at the same moment, and a daemon
/// that was just killed may still be making files: try for a while.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
        }
    }
}
