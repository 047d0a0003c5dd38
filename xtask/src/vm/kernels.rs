//! Debian's kernels, unpacked and kept under `target/vm/kernels`.
//!
//! ```text
//! target/vm/kernels/6.12/vmlinuz
//! target/vm/kernels/6.12/lib/modules/6.12.117+deb13-cloud-amd64/
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use tunless_vm::Kernel;

use super::directory;
use crate::{apt::Apt, mirror, progress};

/// The package that depends on the newest kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel on disk.
#[derive(Debug)]
pub struct Installed {
    /// Which one.
    pub kernel: Kernel,
    /// The image to boot.
    pub image: PathBuf,
    /// As `uname -r` will say.
    pub release: String,
    /// The directory of this release's modules.
    pub modules: PathBuf,
}

/// The suite that has this kernel. For the newest that is the backports of the stable release: a
/// release of Linux is there sooner than in unstable.
fn suite(kernel: Kernel) -> &'static str {
    match kernel {
        Kernel::V6_1 => "bookworm",
        Kernel::V6_12 => "trixie",
        Kernel::V7 => "trixie-backports",
    }
}

/// The kernel, fetched if it is not there yet or is to be `refresh`ed.
pub fn get(kernel: Kernel, refresh: bool) -> Result<Installed> {
    let place = directory().join("kernels").join(kernel.name());
    if refresh || !place.exists() {
        println!("vm: kernel {} of Debian {}, once", kernel.name(), suite(kernel));
        fetch(kernel, &place).with_context(|| format!("kernel {}", kernel.name()))?;
    }
    open(kernel, &place).with_context(|| {
        format!("{} is no complete kernel: remove it, then run this again", place.display())
    })
}

/// Fetches into a directory beside it, so that what is there is complete.
fn fetch(kernel: Kernel, place: &Path) -> Result<()> {
    let parent = place.parent().context("no directory for kernels")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("no directory can be made in {}", parent.display()))?;

    let apt = Apt::of_suite(&work.path().join("apt"), &mirror::find()?, suite(kernel))?;
    let root = work.path().join("root");
    apt.unpack(&packages(&apt)?, &root)?;

    let made = work.path().join("kernel");
    arrange(kernel, &root, &made)?;
    depmod(&made, &open(kernel, &made)?.release)?;
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&made, place).with_context(|| format!("cannot make {}", place.display()))
}

/// What an image package is made of, from 7.x on.
const PARTS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];

/// The packages with the files: the image package, and its parts if it has any.
fn packages(apt: &Apt) -> Result<Vec<String>> {
    let image = apt
        .depends(META_PACKAGE)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{META_PACKAGE} depends on no linux-image-…"))?;
    let parts = apt.depends(&image)?;
    let parts = parts.into_iter().filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
    Ok([image].into_iter().chain(parts).collect())
}

/// Moves image and modules to where we look for them, whatever the layout.
fn arrange(kernel: Kernel, root: &Path, made: &Path) -> Result<()> {
    let all = ["lib/modules", "usr/lib/modules"].map(|directory| root.join(directory));
    let from = all.iter().find(|directory| directory.is_dir()).context("it has no modules")?;
    let release = release_in(from)?;
    ensure!(kernel.is(&release), "Debian {} has kernel {release} now", suite(kernel));
    let image = [from.join(&release).join("vmlinuz"), root.join(format!("boot/vmlinuz-{release}"))]
        .into_iter()
        .find(|path| path.is_file())
        .context("it has no vmlinuz")?;
    fs::create_dir_all(made.join("lib/modules"))?;
    fs::rename(image, made.join("vmlinuz"))?;
    fs::rename(from.join(&release), made.join("lib/modules").join(&release))?;
    Ok(())
}

/// Which module needs which: a package leaves that to its installation.
fn depmod(base: &Path, release: &str) -> Result<()> {
    let ended = progress::run("depmod", Command::new("depmod").arg("-b").arg(base).arg(release))?;
    if !ended.success {
        bail!("`depmod` failed: {}", ended.tail());
    }
    Ok(())
}

fn open(kernel: Kernel, place: &Path) -> Result<Installed> {
    let image = place.join("vmlinuz");
    ensure!(image.is_file(), "no {}", image.display());
    let modules = place.join("lib/modules");
    let release = release_in(&modules)?;
    Ok(Installed { kernel, image, modules: modules.join(&release), release })
}

/// The one release whose modules are here.
fn release_in(modules: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))?
    {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    match names.as_slice() {
        [release] => Ok(release.clone()),
        _ => bail!("{} has modules of {} releases, not of one", modules.display(), names.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_of_packages_are_understood() {
        for (image, modules) in [
            ("boot/vmlinuz-6.12.1-cloud-amd64", "usr/lib/modules/6.12.1-cloud-amd64"),
            ("boot/vmlinuz-6.12.1-cloud-amd64", "lib/modules/6.12.1-cloud-amd64"),
            ("usr/lib/modules/6.12.1/vmlinuz", "usr/lib/modules/6.12.1"),
        ] {
            let work = tempfile::tempdir().unwrap();
            let (root, made) = (work.path().join("root"), work.path().join("made"));
            fs::create_dir_all(root.join(modules).join("kernel")).unwrap();
            fs::create_dir_all(root.join("boot")).unwrap();
            fs::write(root.join(image), "image").unwrap();
            arrange(Kernel::V6_12, &root, &made).unwrap();
            let found = open(Kernel::V6_12, &made).unwrap();
            assert!(Kernel::V6_12.is(&found.release));
            assert!(found.modules.join("kernel").is_dir());
            assert_eq!(fs::read_to_string(found.image).unwrap(), "image");
        }
    }

    #[test]
    fn a_suite_that_moved_on_is_refused() {
        let work = tempfile::tempdir().unwrap();
        fs::create_dir_all(work.path().join("root/lib/modules/7.2.0")).unwrap();
        let error = arrange(Kernel::V6_12, &work.path().join("root"), &work.path().join("made"));
        assert_eq!(error.unwrap_err().to_string(), "Debian trixie has kernel 7.2.0 now");
    }
}
