//! `cargo xtask demo`: two nodes' pods talk, and there is no tunl0.
//!
//! A lab of network namespaces is built, tunless is started on both nodes, and
//! each step shows one thing as a person would check it: what is typed, what
//! is printed, and what it proves. The proofs are checks: the first that fails
//! ends the demo. Whatever ends it, the lab is removed, unless it is to stay.

mod capture;
mod keep;
mod options;
mod page;
mod server;
mod shell;
mod stage;
mod steps;
mod wrap;

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    options::{Decap, Fastpath, Options, Source},
    page::Page,
    stage::Stage,
    steps::Step,
};
pub use self::{
    page::{PROVED, REFUTED},
    server::{Arguments as ServerArguments, serve},
    steps::narrow_path,
};
use crate::{interrupt, progress, setup, workspace};

/// Show tunless at work: two nodes, two pods, one command.
///
/// Sets the machine up first (see `setup`) and builds tunless, then makes two
/// nodes in network namespaces, runs tunless on both and shows step by step
/// what it does. All of it is removed at the end, also after Ctrl-C. Run it as
/// root.
#[derive(clap::Args)]
pub struct Arguments {
    /// Leave the lab up at the end, and say how to enter it.
    #[arg(long)]
    keep: bool,
    /// Which way packets take through a node.
    #[arg(long, value_enum, value_name = "WAY", default_value = "verified")]
    fastpath: Fastpath,
    /// Where arriving packets are unwrapped.
    #[arg(long, value_enum, value_name = "WHERE", default_value = "auto")]
    decap: Decap,
    /// Where routes are learnt.
    #[arg(long, value_enum, value_name = "SOURCE", default_value = "file")]
    source: Source,
    /// Remove the labs that --keep left, and do nothing else.
    #[arg(long, conflicts_with_all = ["keep", "fastpath", "decap", "source"])]
    remove: bool,
}

/// Runs the demo; an error at the first check that fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.remove {
        setup::root()?;
        return keep::remove();
    }
    let started = Instant::now();
    setup::run()?;
    build()?;
    interrupt::watch()?;

    let Arguments { fastpath, decap, source, .. } = *arguments;
    let options = Options { fastpath, decap, source };
    let steps = steps::plan(options, arguments.keep);
    let mut page = Page::new(steps.len());
    // Dropped on every way out of here, a panic's included.
    let mut stage = Stage::build(options)?;
    perform(&mut page, &mut stage, &steps)?;
    if arguments.keep {
        keep::keep(&page, &stage)?;
    }
    let problems = stage.tidy();
    summary(&page, started.elapsed(), arguments.keep);
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("not everything went away: {}", problems.join("; ")),
    }
}

/// Builds the tunless that the lab runs, unless `TUNLESS_BIN` names one.
pub fn build() -> Result<()> {
    if env::var_os("TUNLESS_BIN").is_some() {
        return Ok(());
    }
    let mut command = workspace::cargo(["build", "--release", "--package", "dataplane-user"]);
    let built = progress::run("build tunless (cargo build --release)", &mut command)?;
    if !built.success {
        bail!("tunless cannot be built:\n  | {}", built.tail());
    }
    Ok(())
}

fn perform(page: &mut Page, stage: &mut Stage, steps: &[Step]) -> Result<()> {
    for (number, step) in (1..).zip(steps) {
        page.begin(step.title, step.why);
        match (step.show)(page, stage) {
            Ok(proof) => page.prove(&proof),
            Err(error) => {
                // A signal is no fault of the step.
                interrupt::check()?;
                page.refute(&format!("{error:#}"));
                eprint!("\n{}", stage.logs());
                return Err(error).with_context(|| format!("the demo stops at step {number}"));
            }
        }
    }
    Ok(())
}

fn summary(page: &Page, took: Duration, kept: bool) {
    page.heading("Summary");
    page.say(&format!(
        "{} of {} steps proved in {:.0} s, set-up and build included.",
        page.proved(),
        page.steps(),
        took.as_secs_f64()
    ));
    if kept {
        page.say("The lab stays up: see above how to enter it and how to remove it.");
        return;
    }
    page.say("The lab is gone. What to try next:");
    page.picture(
        "cargo xtask demo --keep               the lab stays, and says how to enter nodes and pods\n\
         cargo xtask demo --fastpath off       every packet through the kernel's stack\n\
         cargo xtask demo --fastpath trusted   no packet of a pod through it\n\
         cargo xtask demo --decap xdp          unwrap before the kernel sees the packet\n\
         cargo xtask demo --source bird        no route in the file: BIRD has them\n\
         cargo xtask demo --source etcd        … or Calico's datastore\n\
         cargo xtask test                      all the tests",
    );
}
