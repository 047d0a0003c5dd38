//! One daemon per directory of pins.
//!
//! | lock | keeps out |
//! |---|---|
//! | the directory of pins itself | daemons in other mount namespaces, as in containers, each with a `/run` of its own |
//! | a file in `/run` | 0.1, which locks nothing else; it holds the process id |
//!
//! Any user who may open a file may lock it. Both are in reach of root alone.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    bpf::Pins,
    run_dir::{self, DIRECTORY, READ_WRITE},
};

/// How long a lock is waited for that may be gone at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// Held as long as the daemon runs; the kernel lets go of it when it dies.
pub struct Lock {
    path: PathBuf,
    file: Flock<File>,
    /// `None` while there is no directory of pins, as in a `detach` without any.
    directory: Option<Flock<File>>,
}

/// Another process has the lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "another tunless ({owner}) keeps {}; stop it, or give this one a directory of its own \
     (`bpffs:` in the file, or --bpffs)",
    root.display()
)]
pub struct Held {
    /// Its process id, as it wrote it, or why that is unknown.
    owner: String,
    /// The directory of pins.
    root: PathBuf,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`Held`] if another daemon has it; anything else if the kernel refuses.
    pub fn take(pins: &Pins) -> Result<Self> {
        let path = path(pins);
        Ok(Self { file: lock_file(&path, pins)?, directory: lock_directory(pins)?, path })
    }

    /// Takes the lock of what was removed, replaced or made since, so that it is always that of
    /// the directory and the file that another daemon would find.
    ///
    /// # Errors
    /// [`Held`] if another daemon was faster; anything else if the kernel refuses.
    pub fn renew(&mut self, pins: &Pins) -> Result<()> {
        if !is_at(&self.file, &self.path) {
            self.file = lock_file(&self.path, pins)?;
        }
        if !self.directory.as_ref().is_some_and(|directory| is_at(directory, pins.root())) {
            self.directory = lock_directory(pins)?;
        }
        Ok(())
    }

    /// Gives up the lock and leaves nothing behind.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))?;
        // Others may have locks there, and systemd may keep it.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(())
    }
}

/// Locks the file in `/run` and writes our process id into it.
fn lock_file(path: &Path, pins: &Pins) -> Result<Flock<File>> {
    run_dir::prepare()?;
    let open = || {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(READ_WRITE).open(path)
    };
    let Some(mut file) = lock(path, open)? else {
        let owner = fs::read_to_string(path).unwrap_or_default();
        return Err(held(pins, format!("process {}", owner.trim())));
    };
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Locks the directory of pins; `None` if there is none.
fn lock_directory(pins: &Pins) -> Result<Option<Flock<File>>> {
    let root = pins.root();
    if !pins.exist() {
        return Ok(None);
    }
    match lock(root, || File::open(root))? {
        None => Err(held(pins, "not in this /run, perhaps in a container".to_owned())),
        directory => Ok(directory),
    }
}

fn held(pins: &Pins, owner: String) -> anyhow::Error {
    Held { owner, root: pins.root().to_owned() }.into()
}

/// Locks what `open` opens; `None` if another process keeps its lock for longer than
/// [`PATIENCE`].
fn lock(path: &Path, open: impl Fn() -> io::Result<File>) -> Result<Option<Flock<File>>> {
    let started = Instant::now();
    loop {
        let file = open().with_context(|| path.display().to_string())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // `detach` may have removed it while we waited for it.
            Ok(file) if !is_at(&file, path) => {}
            Ok(file) => return Ok(Some(file)),
            // The CLI asks by locking, too, for a moment.
            Err(_) if started.elapsed() < PATIENCE => thread::sleep(PATIENCE / 20),
            Err(_) => return Ok(None),
        }
    }
}

/// Returns whether a daemon keeps these pins, in whatever mount namespace it is.
#[must_use]
pub fn is_running(pins: &Pins) -> bool {
    is_locked(&path(pins)) || is_locked(pins.root())
}

/// A lock that this user may not look at counts as held: "not permitted" is not "absent".
fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns the process that keeps these pins; 0 if its number is not to be had, as that of a
/// daemon in another mount namespace.
#[must_use]
pub fn running(pins: &Pins) -> Option<u32> {
    if !is_running(pins) {
        return None;
    }
    if !is_locked(&path(pins)) {
        return Some(0);
    }
    let owner = fs::read_to_string(path(pins)).unwrap_or_default();
    Some(owner.trim().parse().unwrap_or(0))
}

fn path(pins: &Pins) -> PathBuf {
    run_dir::file(pins, "lock")
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
