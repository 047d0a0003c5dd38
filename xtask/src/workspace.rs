//! Where the project lies, and its cargo.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The top level of the project.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// What set-up builds for the build: kept with the other build products.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// A path as one would type it in the project's top level.
pub fn shown(path: &Path) -> String {
    let root = root();
    path.strip_prefix(&root).unwrap_or(path).display().to_string()
}

/// The cargo that runs us, in the project's top level.
pub fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Builds the `tunless` binary that the lab runs.
pub fn build_release() -> Result<()> {
    build_release_of("dataplane-user")
}

/// The program that is packed: this one, or else a release build.
pub fn program(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    build_release()?;
    Ok(root().join("target/release/tunless"))
}

/// Where packages and images go: there, or else below `target`. Makes the directory.
pub fn package_directory(given: Option<&Path>) -> Result<PathBuf> {
    let directory = given.map_or_else(|| root().join("target/package"), Path::to_owned);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// Builds one package for release.
pub fn build_release_of(package: &str) -> Result<()> {
    build(&["build", "--release", "--package", package])
}

/// Builds an example of a package for release; where it is.
pub fn build_example(package: &str, example: &str) -> Result<PathBuf> {
    build(&["build", "--release", "--package", package, "--example", example])?;
    Ok(root().join("target/release/examples").join(example))
}

fn build(arguments: &[&str]) -> Result<()> {
    let status = cargo(arguments.iter().copied()).status().context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` failed", arguments.join(" "));
    Ok(())
}
