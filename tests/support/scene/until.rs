//! Waiting for something to become true, never for time to pass.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that should be done at once. Only a bug waits so
/// long; a slow machine does not come near it.
pub const SOON: Duration = Duration::from_secs(60);

/// Polls until `done` gives something.
///
/// # Panics
/// When it does not in time: `what` was awaited.
pub fn until<T>(what: &str, timeout: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + timeout;
    loop {
        if let Some(found) = done() {
            return found;
        }
        if Instant::now() >= end {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    // Perhaps this process alone stood still, or everything did: then it is done by now, or a
    // moment later.
    thread::sleep(Duration::from_secs(1));
    done().unwrap_or_else(|| panic!("not within {timeout:?}: {what}"))
}

/// What `observe` saw in a try that was over before `limit`, so that nothing of it had lapsed when it
/// looked. It asserts nothing that depends on time; that is for the caller, afterwards. Each try gets a
/// new number, e.g. for a port of its own.
///
/// # Panics
/// When no try was quick enough.
pub fn in_time<T>(limit: Duration, mut observe: impl FnMut(u16) -> T) -> T {
    let attempt = |number| {
        let began = Instant::now();
        let seen = observe(number);
        (began.elapsed() < limit).then_some(seen)
    };
    (0..20).find_map(attempt).unwrap_or_else(|| panic!("none of 20 tries took less than {limit:?}"))
}
