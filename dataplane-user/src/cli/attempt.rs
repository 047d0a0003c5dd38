//! `tunless try`: what may be typed. What it does is in [`crate::daemon::attempt`].

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::duration;
use crate::{
    bpf::Pins,
    daemon::{self, attempt},
    exit::Exit,
    output::{self, Format},
};

/// Shorter than this nothing could be seen of it.
const SHORTEST: Duration = Duration::from_secs(5);
/// Beyond this it is no try any more, and would hide what it hides for too long.
const LONGEST: Duration = Duration::from_hours(24);

/// How to use it.
pub const EXAMPLES: &str = "\
Examples:
  tunless try --for 10m   # in one terminal, or `nohup tunless try --for 10m &`
  tunless status          # in another: is it ready, what is wrong
  tunless try --keep      # it goes on; start the service then (`systemctl start tunless`)
  tunless detach          # or all of it goes, once the process has ended";

/// What may be given.
#[derive(Args, Debug)]
pub struct Options {
    /// For how long, such as 90s or 30m: 5 seconds to a day.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = length)]
    pub length: Duration,
    /// Go on with what is tried now, or was tried until a moment ago. Needs no daemon.
    #[arg(long, conflicts_with = "length")]
    pub keep: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    let length = duration(text)?;
    if (SHORTEST..=LONGEST).contains(&length) {
        return Ok(length);
    }
    Err("it has to be from 5s to 1440m (a day)".to_owned())
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Kept {
    /// What goes on, for people.
    pub(super) kept: String,
    /// Whether a daemon runs, which keeps the tables up to date.
    pub(super) daemon_runs: bool,
}

/// `tunless try --keep`.
pub fn keep(pins: &Pins, format: Format) -> Result<Exit> {
    let kept = attempt::keep(pins)?;
    let daemon_runs = daemon::is_running(pins);
    if !daemon_runs {
        eprintln!(
            "no daemon runs, so routes and pods that change are not followed: `systemctl start tunless`"
        );
    }
    output::done(format, &Kept { kept: kept.clone(), daemon_runs }, &kept)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_makes_sense() {
        assert_eq!(length("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(length("1440m"), Ok(LONGEST));
        for bad in ["0s", "4s", "1441m", "1h", "soon", "-1m"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}
