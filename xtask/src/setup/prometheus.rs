//! Debian's Prometheus and its promtool, unpacked below `target`.
//!
//! Not installed: the package would start a service, and depends on the scripts of its old web pages.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::prometheus;

use super::debian;
use crate::{apt::Apt, workspace};

/// The package with both programs in Debian 12, and with the first from 13 on.
const PACKAGE: &str = "prometheus";
/// The package with the second.
const TOOL: &str = "promtool";
/// Where both are in the unpacked tree.
const PROGRAMS: &str = "usr/bin";

/// Unpacks both unless they are there.
pub fn make() -> Result<()> {
    let place = prometheus::directory()?;
    if is_complete(&place) {
        return Ok(());
    }
    println!("set-up: Prometheus in {}, once; tests scrape with it", workspace::shown(&place));
    build(&place).context("the tests of the metrics have no Prometheus")
}

fn is_complete(place: &Path) -> bool {
    [prometheus::SERVER, prometheus::TOOL].iter().all(|program| place.join(program).is_file())
}

/// Unpacks in a directory beside it, so that a tree with its name is a complete one.
fn build(place: &Path) -> Result<()> {
    let parent = place.parent().context("it has no parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("no directory can be made in {}", parent.display()))?;
    let (downloads, root) = (work.path().join("downloads"), work.path().join("root"));
    let apt = Apt::of_machine(&downloads)?;
    // Its result is not the answer: one unreachable source that we do not need fails it.
    drop(debian::update()?);
    apt.unpack(&[PACKAGE.to_owned()], &root)?;
    if !root.join(PROGRAMS).join(TOOL).exists() {
        apt.unpack(&[TOOL.to_owned()], &root)?;
    }
    let programs = root.join(PROGRAMS);
    ensure!(is_complete(&programs), "Debian's packages do not hold both programs");
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&programs, place).with_context(|| format!("cannot make {}", place.display()))
}
