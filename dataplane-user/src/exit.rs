//! Exit statuses, the same for every command.

use std::process::ExitCode;

use anyhow::Error;

use crate::config::Refusal;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done; or the answer is yes.
    Ok,
    /// Something failed; trying again may help.
    Failed,
    /// The answer is no: not ready, no such route, differences found.
    No,
    /// The daemon refused its configuration; only another file helps. `EX_CONFIG` of
    /// sysexits.h, which systemd names in its log.
    Refused,
}

/// What the statuses mean, for `--help`. (2 is clap's own.)
pub const MEANINGS: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 the answer is no, \
                            78 `run` refused its configuration file.";

impl Exit {
    /// Returns how the daemon ends after this error, so that a service manager can
    /// distinguish a refused file from something that may be there a moment later.
    #[must_use]
    pub fn of_daemon(error: &Error) -> Self {
        let is_refusal = error.chain().any(<dyn std::error::Error>::is::<Refusal>);
        if is_refusal { Self::Refused } else { Self::Failed }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::No => 3,
            Exit::Refused => 78,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_has_a_status_of_its_own() {
        let refusal = || Error::from(Refusal("config.yaml:2: colour: unknown".to_owned()));
        assert_eq!(Exit::of_daemon(&refusal()), Exit::Refused);
        assert_eq!(Exit::of_daemon(&refusal().context("starting")), Exit::Refused);
        assert_eq!(Exit::of_daemon(&anyhow::anyhow!("no route yet")), Exit::Failed);
        assert_eq!(ExitCode::from(Exit::Refused), ExitCode::from(78));
    }
}
