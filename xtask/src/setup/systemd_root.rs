//! A minimal Debian with systemd, which the tests of the unit boot.
//!
//! It is made once by debootstrap, from the machine's own mirror. Tests never write
//! into it: each boots an overlay of it (`tests/lab/src/systemd`).

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::systemd;

use super::{debian, packages};
use crate::{mirror, progress, workspace};

/// The oldest release whose systemd (252) the unit is written for.
const SUITE: &str = "bookworm";

/// What is needed beyond Debian's minimum: the service manager, what the daemon runs,
/// and what a person who looks around needs.
const INCLUDE: [&str; 6] = ["systemd", "dbus", "iproute2", "nftables", "kmod", "procps"];

/// What only a package manager needs: a third of the size.
const CACHES: [&str; 2] = ["var/cache/apt", "var/lib/apt/lists"];

/// A file in the tree that holds [`recipe`].
const RECIPE: &str = "etc/tunless-recipe";

/// Makes the tree unless one of this recipe is there.
pub fn make() -> Result<()> {
    let place = systemd::tree()?;
    if fs::read_to_string(place.join(RECIPE)).is_ok_and(|found| found == recipe()) {
        return Ok(());
    }
    debian::install(&[packages::DEBOOTSTRAP, packages::KEYRING])?;
    println!(
        "set-up: Debian {SUITE} with systemd in {}, once; the tests of the unit boot it",
        workspace::shown(&place)
    );
    build(&place).with_context(|| {
        format!(
            "the tests of the systemd unit have no system to boot: {}",
            workspace::shown(&place)
        )
    })
}

/// What the tree is made of. A tree of another recipe is made anew.
fn recipe() -> String {
    format!("{SUITE} {}\n", INCLUDE.join(","))
}

/// Builds in a directory beside it, so that a tree with its name is a complete one.
fn build(place: &Path) -> Result<()> {
    let parent = place.parent().context("it has no parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("no directory can be made in {}", parent.display()))?;
    let root = work.path().join("root");
    let mut command = debootstrap(&root, &mirror::find()?);
    if let Some(proxy) = mirror::proxy()? {
        command.env("http_proxy", proxy);
    }
    let made = progress::run(&format!("debootstrap {SUITE}"), command.env("LC_ALL", "C"))?;
    ensure!(
        made.success,
        "debootstrap failed: check the network and apt's sources (it fetches from the mirror of \
         Debian that they name), then run this again\n  | {}",
        made.tail()
    );
    for cache in CACHES {
        let path = root.join(cache);
        fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
    }
    fs::write(root.join(RECIPE), recipe()).context("cannot write the recipe")?;
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&root, place).with_context(|| format!("cannot make {}", place.display()))
}

/// debootstrap mounts file systems below the tree. In a mount namespace of its own
/// they are gone when it ends, even when it is killed.
fn debootstrap(root: &Path, mirror: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "debootstrap", "--variant=minbase"])
        .arg(format!("--include={}", INCLUDE.join(",")))
        .arg("--force-check-gpg")
        .arg(SUITE)
        .arg(root)
        .arg(mirror);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_names_all_that_the_tree_is_made_of() {
        assert_eq!(recipe(), "bookworm systemd,dbus,iproute2,nftables,kmod,procps\n");
        let command = debootstrap(Path::new("/target/root"), "http://mirror.example/debian/");
        let arguments: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
        assert!(arguments.contains(&"--include=systemd,dbus,iproute2,nftables,kmod,procps".into()));
        assert_eq!(
            arguments[arguments.len() - 3..],
            ["bookworm", "/target/root", "http://mirror.example/debian/"]
        );
    }
}
