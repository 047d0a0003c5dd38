//! The image on this machine's disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cmd, daemon::target_dir, identity::remove_dir};

/// The base of the container image, which `cargo xtask setup` makes.
pub fn base() -> Result<PathBuf> {
    Ok(target_dir()?.join("image/base"))
}

/// Unpacks an image (an archive of the OCI layout) below `to`: `rootfs`, and `config.json` with what
/// the image says of its process.
pub fn unpacked(archive: &Path, to: &Path) -> Result<PathBuf> {
    remove_dir(to)?;
    let layout = to.join("layout");
    fs::create_dir_all(&layout).with_context(|| format!("cannot make {}", layout.display()))?;
    cmd::check(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&layout), b"")?;
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let tag = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    let tag = tag.as_str().context("the image has no tag")?;
    let bundle = to.join("bundle");
    let image = format!("{}:{tag}", layout.display());
    cmd::check(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle), b"")?;
    remove_dir(&layout)?;
    Ok(bundle)
}
