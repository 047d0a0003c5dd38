//! Ctrl-C, SIGTERM and a closed terminal: stop, and remove labs and guests.
//!
//! The handler only says so. Whoever waits looks at it and returns an error,
//! which unwinds as any other: daemons and guests are stopped, labs go. Should
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

static WATCHED: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From here on signals are heard; before it there is nothing to remove. Whoever is about
/// to set something up calls it: a process may do more than one such thing.
pub fn watch() -> Result<()> {
    if WATCHED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        REQUESTED.store(true, Ordering::Relaxed);
        eprintln!("\ninterrupted: stopping, and removing what was set up …");
        // The main thread ends the process, and this one with it.
        thread::sleep(PATIENCE);
        if let Err(error) = identity::remove_own() {
            eprintln!("error: {error:#}");
        }
        process::exit(1);
    })
    .context("the handler for Ctrl-C cannot be set")
}

/// Whether a signal has come.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error once a signal has come.
pub fn check() -> Result<()> {
    if is_requested() {
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

#[cfg(test)]
mod tests {
    /// As `cargo xtask bench` does, part after part.
    #[test]
    fn one_process_may_watch_more_than_once() {
        super::watch().unwrap();
        super::watch().unwrap();
    }
}
