//! `cargo xtask package`: what is installed on nodes, from a release build.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use tunless_package::{Compression, Tree, Version};

use crate::workspace;

/// Build the packages that are installed on nodes.
///
/// A Debian package and an RPM of the same files: the stripped program, the unit, the
/// configuration, manual pages, completions and documents. Builds the program first.
/// The Debian package is examined by lintian where that is installed; what it finds is an error.
/// `docs/operations.md` has what the packages do on a node.
#[derive(Args)]
pub struct Arguments {
    /// Which package.
    #[arg(long, value_enum, default_value_t = Format::All)]
    format: Format,
    /// A `tunless` that is built already.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the packages go [default: target/package].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Which package of this version it is, from 1.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    revision: u32,
}

/// What can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Both.
    All,
    /// For Debian and what descends from it.
    Deb,
    /// For Red Hat's, SUSE's and others.
    Rpm,
}

/// Builds them, and prints where they are.
pub fn run(arguments: &Arguments) -> Result<()> {
    let version = Version::new(env!("CARGO_PKG_VERSION"), arguments.revision)?;
    let binary = workspace::program(arguments.binary.as_deref())?;
    let output = workspace::package_directory(arguments.output.as_deref())?;
    let tree = Tree::stage(&binary)?;
    if arguments.format != Format::Rpm {
        let package = tunless_package::debian(&tree, &version, &output, Compression::Best)?;
        report(&package)?;
        examine(&package)?;
    }
    if arguments.format != Format::Deb {
        report(&tunless_package::rpm(&tree, &version, &output)?)?;
    }
    Ok(())
}

fn report(package: &Path) -> Result<()> {
    let bytes = fs::metadata(package).with_context(|| package.display().to_string())?.len();
    println!("{} ({:.1} MB)", workspace::shown(package), bytes as f64 / 1e6);
    Ok(())
}

/// Has Debian's checker look at a package, if it is installed.
fn examine(package: &Path) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join("lintian").is_file()) {
        println!("lintian is not installed, so the package is not examined");
        return Ok(());
    }
    let status = Command::new("lintian")
        .args(["--fail-on", "error,warning", "--allow-root"])
        .arg(package)
        .status()
        .context("`lintian` does not start")?;
    ensure!(status.success(), "lintian finds faults in {}", workspace::shown(package));
    Ok(())
}
