//! The `tunless` binary: parse, do, print what failed as a chain.

use std::{
    env,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Parser as _;
use dataplane_user::cli::Cli;
use nix::sys::stat::{Mode, umask};
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. The Kubernetes client calls every failed
/// attempt an error; the source tells what is worth telling.
const FILTER: &str = "info,kube_client=off";

fn main() -> ExitCode {
    // Every file that we make is root's alone.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    // Data goes to stdout, notes to stderr; the journal has its own clock.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    match env::var_os("JOURNAL_STREAM") {
        Some(_) => subscriber.without_time().with_ansi(false).init(),
        None => subscriber.with_target(false).with_ansi(colour).init(),
    }
    match Cli::parse().execute() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("tunless: {:#}", failure.error);
            failure.exit.into()
        }
    }
}
