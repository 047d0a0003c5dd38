//! What boots measured, kept in `target/bench/figures`, a file for each: a path can
//! be measured again without the others.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tunless_vm::{Kernel, figures::Figure};

use super::Boot;
use crate::workspace;

/// What one boot measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// The kernel's release.
    pub release: String,
    /// In the order they were measured.
    pub figures: Vec<Figure>,
}

/// By kernel and path.
pub type Kept = BTreeMap<(&'static str, &'static str), Measured>;

/// Keeps what a boot measured instead of what an earlier one did.
pub fn keep(kernel: Kernel, path: &str, release: &str, figures: Vec<Figure>) -> Result<()> {
    let file = place(kernel, path);
    let parent = file.parent().context("a file in no directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let measured = Measured { release: release.to_owned(), figures };
    fs::write(&file, serde_json::to_string_pretty(&measured)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

/// All that is kept of these.
pub fn kept(boots: &[Boot]) -> Result<Kept> {
    let mut kept = Kept::new();
    for (kernel, path) in boots {
        let file = place(*kernel, path);
        match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
            Ok(bytes) => {
                let measured = serde_json::from_slice(&bytes).with_context(|| {
                    format!("{} is not of this version: remove it", file.display())
                })?;
                kept.insert((kernel.name(), path), measured);
            }
        }
    }
    Ok(kept)
}

fn place(kernel: Kernel, path: &str) -> PathBuf {
    let name = format!("{}-{path}.json", kernel.name());
    workspace::root().join("target/bench/figures").join(name)
}
