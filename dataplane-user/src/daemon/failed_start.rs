//! A start that failed: the next one with the same failure pauses first, longer each time.
//!
//! systemd before 254 knows constant pauses only, and a file that is refused would fill the
//! journal. So the daemon itself waits, not ready, with the failure in systemd's status line
//! ([ADR 8](../../../docs/adr/0008-a-start-that-fails.md)). It goes on at once when the file is
//! saved. The first failure ends it at once, so that `systemctl start` returns with the error.

use std::{
    env, fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Error, Result};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::{config_watch::ConfigWatch, report::unix_now, service};
use crate::{bpf::Pins, clock, run_dir};

/// The pauses grow up to this, seconds.
const LONGEST: u64 = 30;
/// Seconds after which a failure is forgotten: an operator who starts the unit later gets the
/// error at once.
const FORGOTTEN: u64 = 2 * LONGEST;

/// The last start that failed, as the run directory has it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct FailedStart {
    /// Why.
    pub error: String,
    /// When it failed so for the first time, Unix seconds.
    pub since: u64,
    /// How often it has failed so before.
    repeated: u32,
    /// When the configuration file was saved last, Unix nanoseconds.
    saved: Option<u128>,
    /// When it failed, and had paused: `CLOCK_MONOTONIC`, seconds.
    at: u64,
}

/// How a pause ended.
pub enum Paused {
    /// By itself.
    Elapsed,
    /// The file was saved, or SIGHUP came: another try may go well.
    Saved,
    /// By a signal that ends the daemon, which has this name.
    Stopped(&'static str),
}

impl FailedStart {
    /// The start that failed last; `None` if the last one went well.
    #[must_use]
    pub fn read(pins: &Pins) -> Option<Self> {
        let text = fs::read(run_dir::file(pins, "failed.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Forgets failures.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn forget(pins: &Pins) -> Result<()> {
        run_dir::remove(&run_dir::file(pins, "failed.json"))
    }

    /// Records a failure. Returns it, and how long to pause.
    #[must_use]
    pub fn record(pins: &Pins, path: &Path, error: &Error) -> (Self, Duration) {
        let now = clock::monotonic().as_secs();
        let before = Self::read(pins);
        let error = format!("{error:#}");
        let (mut failed, pause) = Self::after(before.as_ref(), error, saved(path), now);
        failed.at = now + pause.as_secs();
        let written = serde_json::to_vec(&failed)
            .context("writing it down")
            .and_then(|text| run_dir::replace(&run_dir::file(pins, "failed.json"), &text));
        if let Err(error) = written {
            tracing::debug!("the failed start is not recorded: {error:#}");
        }
        (failed, pause)
    }

    /// A failure at `now`, seconds, after the one `before`.
    fn after(
        before: Option<&Self>,
        error: String,
        saved: Option<u128>,
        now: u64,
    ) -> (Self, Duration) {
        let is_same = |before: &&Self| {
            before.error == error && before.saved == saved && now <= before.at + FORGOTTEN
        };
        let before = before.filter(is_same);
        let repeated = before.map_or(0, |before| before.repeated.saturating_add(1));
        let pause = match repeated {
            0 => 0,
            times => 1u64.checked_shl(times - 1).map_or(LONGEST, |pause| pause.min(LONGEST)),
        };
        let since = before.map_or_else(unix_now, |before| before.since);
        (Self { error, since, repeated, saved, at: now }, Duration::from_secs(pause))
    }

    /// Waits for the pause to end. Systemd's status line has the failure.
    ///
    /// # Errors
    /// If a signal cannot be listened to.
    pub async fn pause(&self, path: &Path, pause: Duration) -> Result<Paused> {
        let what = self.error.lines().next().unwrap_or_default();
        let seconds = pause.as_secs();
        service::pausing(
            &format!("{what} (next try in {seconds} s, or when the file is saved)"),
            pause,
        );
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut watch = ConfigWatch::new(path, &text).ok();
        let saved = async {
            match &mut watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let mut hangup = signal(SignalKind::hangup()).context("listening to SIGHUP")?;
        let mut terminate = signal(SignalKind::terminate()).context("listening to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening to SIGINT")?;
        Ok(tokio::select! {
            () = tokio::time::sleep(pause) => Paused::Elapsed,
            () = saved => Paused::Saved,
            _ = hangup.recv() => Paused::Saved,
            _ = terminate.recv() => Paused::Stopped("SIGTERM"),
            _ = interrupt.recv() => Paused::Stopped("SIGINT"),
        })
    }
}

/// Whether systemd started this very process, and starts it again when it fails. A person at a
/// terminal gets an error at once, however often.
#[must_use]
pub fn is_service() -> bool {
    let started = env::var("SYSTEMD_EXEC_PID");
    started.is_ok_and(|pid| pid.parse() == Ok(std::process::id()))
}

/// When the file was saved last, Unix nanoseconds.
fn saved(path: &Path) -> Option<u128> {
    let modified = fs::metadata(path).and_then(|file| file.modified()).ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_pauses_longer_each_time() {
        let mut before = None;
        let mut now = 1_000;
        for expected in [0, 1, 2, 4, 8, 16, 30, 30] {
            let (mut failed, pause) =
                FailedStart::after(before.as_ref(), "bogus".into(), Some(7), now);
            assert_eq!(pause.as_secs(), expected);
            failed.at = now + pause.as_secs();
            now = failed.at + 1;
            before = Some(failed);
        }
        let before = before.unwrap();
        let pause = |error: &str, saved, now| {
            FailedStart::after(Some(&before), error.into(), saved, now).1.as_secs()
        };
        assert_eq!(pause("bogus", Some(7), now + FORGOTTEN - 1), LONGEST);
        // Another failure, another text, or a start by hand much later: an answer at once.
        assert_eq!(pause("other", Some(7), now), 0);
        assert_eq!(pause("bogus", Some(8), now), 0);
        assert_eq!(pause("bogus", None, now), 0);
        assert_eq!(pause("bogus", Some(7), now + FORGOTTEN), 0);
        let many = FailedStart { repeated: u32::MAX, ..before.clone() };
        let (failed, pause) = FailedStart::after(Some(&many), "bogus".into(), Some(7), now);
        assert_eq!((failed.repeated, pause.as_secs()), (u32::MAX, LONGEST));
        assert_eq!(failed.since, before.since);
    }

    #[tokio::test]
    async fn a_saved_file_ends_the_pause() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, "bogus: 1\n").unwrap();
        let (failed, _) = FailedStart::after(None, "bogus".into(), None, 0);
        let paused = failed.pause(&path, Duration::from_secs(3_600));
        // The watch may not have begun at the first of these.
        let save = async {
            loop {
                std::fs::write(&path, "spoof: drop\n").unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            paused = paused => assert!(matches!(paused, Ok(Paused::Saved))),
            () = save => {}
        }
        let paused = failed.pause(&path, Duration::from_millis(1)).await;
        assert!(matches!(paused, Ok(Paused::Elapsed)));
    }
}
