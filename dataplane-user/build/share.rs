//! One directory to build the eBPF programs in, whatever they are built for.
//!
//! `aya_build` has one for each profile and each set of features of this crate; the
//! programs, and `core` with them, are the same for all.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result};

/// Makes `own` a link to `shared`, whatever it was: a directory of an earlier build, or a link to
/// where the project lay before it was moved.
///
/// # Errors
/// If something cannot be made or removed, with both paths.
pub fn link(shared: &Path, own: &Path) -> Result<()> {
    let failed = || format!("cannot make {} a link to {}", own.display(), shared.display());
    fs::create_dir_all(shared).with_context(failed)?;
    if fs::read_link(own).is_ok_and(|to| to == shared) {
        return Ok(());
    }
    if own.symlink_metadata().is_ok() {
        fs::remove_dir_all(own).with_context(failed)?;
    }
    let parent = own.parent().context("a link lies in a directory")?;
    fs::create_dir_all(parent).with_context(failed)?;
    symlink(shared, own).with_context(failed)
}
