//! What is reported to systemd (`sd_notify(3)`). Without systemd, nothing.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!("sd_notify: {error}");
    }
}

/// What can be decided is in place; with one line for `systemctl status`.
pub fn ready(summary: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(summary)]);
}

/// The configuration is being read again. systemd wants to know when.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// Reading again is over, whatever came of it.
pub fn ready_again() {
    send(&[NotifyState::Ready]);
}

/// The daemon is alive.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// Not ready yet: pausing for so long, with one line for `systemctl status`.
pub fn pausing(summary: &str, pause: Duration) {
    let start = pause + Duration::from_secs(30);
    let extend = u32::try_from(start.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Status(summary), NotifyState::ExtendTimeoutUsec(extend)]);
}

/// The daemon is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// How long systemd waits for a sign of life.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    watchdog_enabled()
}
