//! One daemon per set of pins.
//!
//! The lock lies in `/run`, not beside the pins: every user who may open a file
//! may lock it, and only there is the directory closed to all but root.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
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
    _file: Flock<File>,
}

/// Another process has the lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "another tunless (process {owner}) keeps {}; stop it, or give this one a directory of its \
     own (`bpffs:` in the file, or --bpffs)",
    root.display()
)]
pub struct Held {
    /// Its process id, as it wrote it.
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
        run_dir::prepare()?;
        let path = path(pins);
        let started = Instant::now();
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(READ_WRITE)
                .open(&path)
                .with_context(|| path.display().to_string())?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // `detach` may have removed the file while we waited for it.
                Ok(file) if !is_at(&file, &path) => {}
                Ok(mut file) => {
                    file.set_len(0)?;
                    writeln!(file, "{}", std::process::id())?;
                    return Ok(Self { path, _file: file });
                }
                // The CLI asks by locking, too, for a moment.
                Err(_) if started.elapsed() < PATIENCE => thread::sleep(PATIENCE / 20),
                Err((mut file, _)) => {
                    let mut owner = String::new();
                    file.read_to_string(&mut owner)?;
                    let owner = owner.trim().to_owned();
                    return Err(Held { owner, root: pins.root().to_owned() }.into());
                }
            }
        }
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

/// Returns whether a daemon keeps these pins. A lock that this user may not look at
/// counts as held: "not permitted" is not "absent".
#[must_use]
pub fn is_running(pins: &Pins) -> bool {
    match File::open(path(pins)) {
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_err(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns the process that keeps these pins; 0 if its number is not to be had.
#[must_use]
pub fn running(pins: &Pins) -> Option<u32> {
    if !is_running(pins) {
        return None;
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
