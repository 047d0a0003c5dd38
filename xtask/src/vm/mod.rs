//! `cargo xtask vm`: real kernels, with a real tunl0, in an emulator.
//!
//! ```text
//! apt ─ kernels            Debian's kernels, fetched once, under target/vm
//! apt ─ emulator           qemu, where it can only be unpacked, not installed
//! modules ─ tools ─ tree ─ initramfs   what the guest's memory begins with
//! qemu ─ guest ─ panics ─ verdict      one boot, and what it came to
//! run ─ matrix             boots until there is a result, and shows it
//! measure                  boots for figures, for `cargo xtask bench`
//! ```
//!
//! What runs inside is the crate `tunless-vm`.

mod emulator;
mod guest;
mod initramfs;
mod kernels;
mod matrix;
pub mod measure;
mod modules;
mod panics;
mod qemu;
mod run;
mod shell;
mod tools;
mod tree;
mod verdict;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Subcommand, ValueEnum};
use tunless_vm::{Kernel, suites};

use self::{emulator::Emulator, qemu::Clock};
use crate::{setup, workspace};

/// Boot Debian's kernels in an emulator and try tunless beside the kernel's tunl0.
///
/// Kernels come from the machine's own Debian mirror, once, into `target/vm`;
/// the guest runs from memory, on this project's binaries and this machine's
/// tools. Run it as root.
#[derive(Subcommand)]
pub enum Command {
    /// Run a suite inside, kernel after kernel.
    ///
    /// Prints every case as it ends. A guest that hangs is killed; what a dying
    /// kernel printed is kept under `target/vm/panics`. A boot that died in the
    /// emulator, outside of tunless, is tried again, and that is said.
    Test(TestArguments),
    /// Open a shell in the same lab: two nodes, a router, tunl0 on both nodes.
    Shell(ShellArguments),
}

/// What to run, and where.
#[derive(clap::Args)]
pub struct TestArguments {
    /// Which kernels.
    #[arg(long, value_enum, default_value_t = Kernels::All)]
    kernel: Kernels,
    /// The suite; may be given more than once; `all` for every one.
    #[arg(long, default_value = suites::SMOKE, value_parser = suite_names())]
    suite: Vec<String>,
    /// How many kernels to run at a time; a guest keeps one processor busy.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    jobs: usize,
    /// Write the table of each suite that has one to docs/SUITE.md, if everything
    /// passed. Takes every kernel.
    #[arg(long)]
    write_docs: bool,
    #[command(flatten)]
    common: Common,
}

/// Where to open a shell.
#[derive(clap::Args)]
pub struct ShellArguments {
    /// Which kernel.
    #[arg(long, value_parser = kernel, default_value = Kernel::V6_12.name())]
    kernel: Kernel,
    #[command(flatten)]
    common: Common,
}

/// What both commands take.
#[derive(clap::Args)]
struct Common {
    /// Let the guest's clock count instructions, on one processor: what is
    /// measured inside is the same in every run, and a boot takes longer.
    #[arg(long)]
    icount: bool,
    /// Fetch the kernels anew, for the newest of each.
    #[arg(long)]
    refresh: bool,
}

impl Common {
    fn clock(&self) -> Clock {
        if self.icount { Clock::Instructions } else { Clock::Host }
    }
}

/// Which kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kernels {
    /// Of Debian 12: no TCX links.
    #[value(name = "6.1")]
    V6_1,
    /// Of Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// Of Debian 13's backports, whatever is newest.
    #[value(name = "7.x")]
    V7,
    /// Each of them.
    All,
}

impl Kernels {
    fn list(self) -> Vec<Kernel> {
        match self {
            Self::V6_1 => vec![Kernel::V6_1],
            Self::V6_12 => vec![Kernel::V6_12],
            Self::V7 => vec![Kernel::V7],
            Self::All => Kernel::ALL.to_vec(),
        }
    }
}

fn kernel(name: &str) -> Result<Kernel, String> {
    Kernel::from_name(name).ok_or_else(|| {
        let names = Kernel::ALL.map(Kernel::name).join(", ");
        format!("one of {names}")
    })
}

fn suite_names() -> Vec<&'static str> {
    suites::ALL.iter().map(|suite| suite.name).chain([ALL_SUITES]).collect()
}

const ALL_SUITES: &str = "all";

/// Runs the command.
pub fn run(command: &Command) -> Result<()> {
    let emulator = prepare()?;
    match command {
        Command::Test(arguments) => run::run(&emulator, arguments),
        Command::Shell(arguments) => shell::run(emulator, arguments),
    }
}

/// All that a boot takes but for the kernel.
fn prepare() -> Result<Emulator> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the guests' kernels are for x86-64, and the programs in them are this machine's: run \
         this on an x86-64 machine"
    );
    setup::run()?;
    setup::vm_tools()?;
    let emulator = emulator::get()?;
    build()?;
    Ok(emulator)
}

/// The binaries that the guest gets.
fn build() -> Result<()> {
    workspace::build_release()?;
    workspace::build_release_of("tunless-vm")
}

/// Everything of ours that outlives a run.
fn directory() -> PathBuf {
    workspace::root().join("target/vm")
}
