//! `CLOCK_MONOTONIC`, the clock the programs stamp with.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since boot, suspend excluded.
#[must_use]
pub fn monotonic() -> Duration {
    // The clock exists on every Linux; zero would only age everything.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The same in whole seconds, as maps hold it.
#[must_use]
pub fn seconds() -> u32 {
    u32::try_from(monotonic().as_secs()).unwrap_or(u32::MAX)
}
