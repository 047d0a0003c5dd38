//! What an instance keeps in `/run`, which a reboot empties as it does the
//! kernel's state.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::bpf::Pins;

/// The directory.
pub const DIRECTORY: &str = "/run/tunless";

/// The file `<pins>.<extension>`: one name per directory of pins, whatever way
/// it is written.
#[must_use]
pub fn file(pins: &Pins, extension: &str) -> PathBuf {
    let root = fs::canonicalize(pins.root()).unwrap_or_else(|_| pins.root().to_owned());
    let name = root.display().to_string();
    let name = name.trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
    PathBuf::from(DIRECTORY).join(format!("{name}.{extension}"))
}

/// Replaces a file of the run directory as a whole: a reader sees the old or the new text.
///
/// # Errors
/// If the directory cannot be made or written.
pub fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let context = || format!("writing {}", path.display());
    fs::create_dir_all(DIRECTORY).with_context(|| format!("making {DIRECTORY}"))?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).with_context(context)
}

/// Removes a file of the run directory; that there is none is fine.
///
/// # Errors
/// If that is refused.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
