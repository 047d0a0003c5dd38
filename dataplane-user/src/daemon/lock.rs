//! One daemon per set of pins.
//!
//! The lock lies in `/run`, not beside the pins: whoever may open a directory
//! may lock it.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    bpf::Pins,
    run_dir::{self, DIRECTORY},
};

/// How long a lock is waited for that may be gone at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// Held as long as the daemon runs; the kernel lets go of it when it dies.
pub struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// If another daemon has it: its process id.
    pub fn take(pins: &Pins) -> Result<Self> {
        fs::create_dir_all(DIRECTORY).with_context(|| format!("making {DIRECTORY}"))?;
        let path = path(pins);
        let started = Instant::now();
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| path.display().to_string())?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Somebody may have removed the file while we waited for it.
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
                    bail!(
                        "another tunless (process {}) keeps {}; stop it, or give this one a \
                         directory of its own (`bpffs:` in the file, or --bpffs)",
                        owner.trim(),
                        pins.root().display()
                    )
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

/// Whether a daemon keeps these pins.
#[must_use]
pub fn is_running(pins: &Pins) -> bool {
    running(pins).is_some()
}

/// The process that keeps these pins; 0 if it has not written down its number yet.
#[must_use]
pub fn running(pins: &Pins) -> Option<u32> {
    let file = File::open(path(pins)).ok()?;
    let (mut file, _) = Flock::lock(file, FlockArg::LockSharedNonblock).err()?;
    let mut owner = String::new();
    file.read_to_string(&mut owner).ok()?;
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
