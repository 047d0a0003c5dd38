//! The `tunless` binary: parse, do, report what failed as a chain.

use std::process::ExitCode;

use clap::Parser as _;
use dataplane_user::{cli::Cli, logging::Log};
use nix::sys::stat::{Mode, umask};

fn main() -> ExitCode {
    // Every file that we make is root's alone.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let cli = Cli::parse();
    let log = Log::start(cli.is_silent());
    match cli.execute() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            log.fail(&failure.error);
            failure.exit.into()
        }
    }
}
