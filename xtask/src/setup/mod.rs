//! `cargo xtask setup`: from a fresh Debian machine with stable Rust to one
//! that builds, tests and shows tunless.
//!
//! Every step looks first and acts only where something is missing, so a
//! second run is quick and prints one line.

mod bpffs;
mod checks;
mod debian;
mod helm;
mod image_root;
mod linker;
mod packages;
mod prometheus;
mod systemd_root;
mod toolchain;

use anyhow::Result;

pub use self::debian::Installation;

/// Sets the machine up, or says in one sentence why that cannot be.
pub fn run() -> Result<()> {
    checks::run()?;

    let mut wanted = packages::BASE.to_vec();
    let toolchain = toolchain::find();
    if toolchain.is_none() {
        wanted.extend(packages::TOOLCHAIN);
    }
    let mut changed = debian::install(&wanted)?;

    let toolchain = match toolchain {
        Some(name) => name,
        None => {
            changed = true;
            toolchain::link_debian()?
        }
    };
    changed |= linker::install(toolchain)?;
    changed |= bpffs::mount()?;

    if changed {
        println!("set-up: done; `cargo build` works now");
    } else {
        println!("set-up: everything is in place");
    }
    Ok(())
}

/// For what needs root and nothing to be installed.
pub fn root() -> Result<()> {
    checks::root()
}

/// Adds what `cargo xtask vm` makes its guests of.
pub fn vm_tools() -> Result<()> {
    debian::install(packages::VM).map(drop)
}

/// The package with the emulator that boots them.
pub const EMULATOR: &str = packages::EMULATOR.name;

/// Whether the emulator is installed.
pub fn has_emulator() -> Result<bool> {
    Ok(debian::missing(&[packages::EMULATOR])?.is_empty())
}

/// Adds the emulator, unless something has to go for it.
pub fn emulator() -> Result<Installation> {
    debian::try_install(&[packages::EMULATOR])
}

/// Makes the system that the tests of the systemd unit boot, unless it is there.
pub fn systemd_root() -> Result<()> {
    systemd_root::make()
}

/// Unpacks the Prometheus that tests scrape with, unless it is there.
pub fn prometheus() -> Result<()> {
    prometheus::make()
}

/// Puts the Helm that tests render the chart with below `target`, unless it is there.
pub fn helm() -> Result<()> {
    helm::make()
}

/// Makes the base of the container image, unless it is there.
pub fn image_root() -> Result<()> {
    image_root::make()
}

/// Adds what runs and unpacks the container image in tests.
pub fn container_tools() -> Result<()> {
    debian::install(packages::CONTAINER).map(drop)
}

/// Adds the components that `cargo xtask test --only lint` needs: rustup's
/// minimal profile comes without them.
pub fn lint_tools() -> Result<()> {
    toolchain::lint_tools()
}
