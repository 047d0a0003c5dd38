//! What nodes are called, for the command line: a file of its own beside the report, because it is long
//! and hardly ever changes.

use std::fs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{bpf::Pins, run_dir, sources::names::NodeNames};

/// The file's content.
#[derive(Default, Deserialize, Serialize)]
struct Content {
    names: NodeNames,
}

/// Puts them where [`read`] finds them.
///
/// # Errors
/// If the run directory cannot be written.
pub fn write(pins: &Pins, names: &NodeNames) -> Result<()> {
    let content = Content { names: names.clone() };
    run_dir::replace(&path(pins), &serde_json::to_vec(&content)?)
}

/// Returns the names as the daemon last knew them; none where it knew none, or they cannot be read: they
/// are an extra.
#[must_use]
pub fn read(pins: &Pins) -> NodeNames {
    let text = fs::read(path(pins)).unwrap_or_default();
    serde_json::from_slice::<Content>(&text).unwrap_or_default().names
}

/// Removes the file.
///
/// # Errors
/// If that is refused.
pub fn remove(pins: &Pins) -> Result<()> {
    run_dir::remove(&path(pins))
}

fn path(pins: &Pins) -> std::path::PathBuf {
    run_dir::file(pins, "names.json")
}
