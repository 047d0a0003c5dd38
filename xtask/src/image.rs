//! `cargo xtask image`: the container image, from a release build.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use tunless_lab::container;
use tunless_package::{Compression, Tree, Version, image};

use crate::{setup, workspace};

/// Build the container image.
///
/// An archive that containerd, podman and skopeo import: the stripped program, nft and what both need,
/// of Debian's packages. Builds the program first; needs neither a registry nor Docker. The same
/// commit and the same packages give the same bytes. `docs/kubernetes.md` has how to install it. Run it
/// as root.
#[derive(Args)]
pub struct Arguments {
    /// A `tunless` that is built already.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the image goes [default: target/package].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Builds it, and prints where it is.
pub fn run(arguments: &Arguments) -> Result<()> {
    setup::root()?;
    setup::image_root()?;
    let binary = workspace::program(arguments.binary.as_deref())?;
    let output = workspace::package_directory(arguments.output.as_deref())?;
    let version = Version::this()?;
    let tree = Tree::stage(&binary)?;
    let image = image::build(&container::base()?, &tree, &version, &output, Compression::Best)?;
    let bytes = fs::metadata(&image).with_context(|| image.display().to_string())?.len();
    let shown = workspace::shown(&image);
    println!("{shown} ({:.1} MB): {}:{}", bytes as f64 / 1e6, image::NAME, version.tag());
    Ok(())
}
