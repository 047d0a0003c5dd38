//! A shell in the lab, on the serial console.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use tunless_lab::Lab;

use crate::{Kernel, tunl0};

/// Builds the lab with the kernel's tunl0 on both nodes, then becomes a shell.
#[must_use]
pub fn run(kernel: Kernel) -> ExitCode {
    let lab = match build() {
        Ok(lab) => Some(lab),
        Err(error) => {
            // Someone may want to see why.
            println!("the lab could not be built: {error:#}");
            None
        }
    };
    println!("\nkernel {}; `exit` switches the machine off (or type Ctrl-A x)", kernel.name());
    if let Some(lab) = &lab {
        println!("two nodes, a router, two pods, tunl0 on both nodes; enter them by\n");
        println!("{}", lab.shell_hint());
        let (perf, sit) = (lab.perf().netns.path(), lab.sit().ip);
        println!("try: nsenter --net={} ping -c 3 {sit}\n", perf.display());
    }
    // Not busybox's shell: it prefers its own `ip` and `ping` to the real ones. But
    // without a controlling terminal, which busybox gives it, Ctrl-C does nothing.
    let error = Command::new("busybox").args(["setsid", "busybox", "cttyhack", "bash"]).exec();
    eprintln!("error: no shell: {error}");
    ExitCode::FAILURE
}

fn build() -> Result<Lab> {
    let lab = Lab::new().build()?;
    tunl0::raise_on_both(&lab)?;
    // The shell takes this process's place; the lab goes with the machine.
    lab.keep().context("the lab cannot be kept")?;
    Ok(lab)
}
