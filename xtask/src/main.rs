//! The project's own commands: `cargo xtask <command>`.
//!
//! One module per command. What a command needs from the machine it sets up
//! by itself (`setup`), so that a newcomer types one line.

mod apt;
mod bench;
mod demo;
#[cfg(test)]
mod docs;
mod image;
mod interrupt;
mod mirror;
mod package;
mod progress;
mod screens;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands: set the machine up, show tunless, test it,
/// measure it.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building, testing and the demo need.
    ///
    /// Debian packages, a Rust toolchain that can compile for eBPF, the pinned
    /// bpf-linker (kept under `target/tools`) and the BPF file system. Says
    /// what it installs and why; does nothing where nothing is missing. Other
    /// commands run it first, so it is rarely typed. After it a plain `cargo
    /// build` works. It also makes the system that the tests of the systemd unit
    /// boot (under `target/systemd-root`), and unpacks Prometheus (`target/prometheus`) and Helm (`target/helm`). Run it as root.
    Setup,
    Demo(demo::Arguments),
    Test(test::Arguments),
    Bench(bench::Arguments),
    Package(package::Arguments),
    Screens(screens::Arguments),
    Image(image::Arguments),
    #[command(subcommand)]
    Vm(vm::Command),
    #[command(hide = true)]
    DemoServer(demo::ServerArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Setup => {
            setup::run().and_then(|()| setup::systemd_root()).and_then(|()| setup::helm())
        }
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoServer(arguments) => demo::serve(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Package(arguments) => package::run(&arguments),
        Command::Screens(arguments) => screens::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Vm(command) => vm::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
