//! What systemd hears from us (`sd_notify(3)`). Without systemd, nothing.

use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!("sd_notify: {error}");
    }
}

/// Not everything is in place yet. systemd shall be patient: it is tried again
/// and again, and a restart would help nobody.
pub fn starting(summary: &str) {
    tell(&[NotifyState::ExtendTimeoutUsec(60_000_000), NotifyState::Status(summary)]);
}

/// Everything was in place after a round.
pub fn ready(summary: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(summary)]);
}

/// The configuration is being read again. systemd wants to know when.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Reading again is over, whatever came of it.
pub fn ready_again() {
    tell(&[NotifyState::Ready]);
}

/// One line for `systemctl status`.
pub fn status(summary: &str) {
    tell(&[NotifyState::Status(summary)]);
}

/// We still go round.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// We are about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How long systemd waits for a sign of life.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    watchdog_enabled()
}
