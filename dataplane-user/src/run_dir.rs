//! What an instance keeps in `/run`, which a reboot empties as it does the
//! kernel's state.

use std::{fs, path::PathBuf};

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
