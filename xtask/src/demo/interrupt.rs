//! Ctrl-C, SIGTERM and a closed terminal: stop, and remove the lab.
//!
//! The handler only says so. Whoever waits looks at it and returns an error,
//! which unwinds as any other: daemons are stopped, then the lab goes. Should
//! that hang, or take the user too long, the handler removes the lab by force.

use std::{
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tunless_lab::identity;

/// How long the orderly way may take.
const PATIENCE: Duration = Duration::from_secs(10);

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From here on signals are heard; before it there is nothing to remove.
pub fn watch() -> Result<()> {
    ctrlc::set_handler(|| {
        REQUESTED.store(true, Ordering::Relaxed);
        eprintln!("\ninterrupted: stopping, and removing the lab …");
        // The main thread ends the process, and this one with it.
        thread::sleep(PATIENCE);
        if let Err(error) = identity::remove_own() {
            eprintln!("error: {error:#}");
        }
        process::exit(1);
    })
    .context("the handler for Ctrl-C cannot be set")
}

/// An error once a signal has come.
pub fn check() -> Result<()> {
    if REQUESTED.load(Ordering::Relaxed) {
        bail!("interrupted; the lab is removed");
    }
    Ok(())
}

/// Sleeps, but not through a signal.
pub fn sleep(duration: Duration) -> Result<()> {
    let tick = Duration::from_millis(20);
    let mut left = duration;
    while !left.is_zero() {
        check()?;
        let pause = left.min(tick);
        thread::sleep(pause);
        left -= pause;
    }
    check()
}
