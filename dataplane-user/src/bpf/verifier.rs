//! A refused program: the end of the verifier's log in the message, the whole of it in a
//! file. It has thousands of lines, and the reason is in the last.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Error, Result, anyhow};
use aya::programs::ProgramError;

use super::Pins;
use crate::{output, run_dir};

/// How many lines the message has.
const SHOWN: usize = 20;

/// Returns the file that keeps the log of the last refusal.
#[must_use]
pub fn log_file(pins: &Pins) -> PathBuf {
    run_dir::file(pins, "verifier.log")
}

/// Says why the kernel did not load `program`; the verifier's log, if there is one, is
/// written to [`log_file`].
pub fn explain(pins: &Pins, program: &str, error: ProgramError) -> Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return Error::new(error).context(format!("loading the program {program}"));
    };
    let path = log_file(pins);
    refused(program, io_error, &verifier_log.to_string(), &path, |log| {
        run_dir::replace(&path, log.as_bytes())
    })
}

fn refused(
    program: &str,
    error: io::Error,
    log: &str,
    path: &Path,
    keep: impl FnOnce(&str) -> Result<()>,
) -> Error {
    match summary(log, path, keep) {
        Some(summary) => anyhow!("the kernel refuses the program {program} ({error}): {summary}"),
        // Not by the verifier: a permission is missing, or memory.
        None => Error::new(error).context(format!("loading the program {program}")),
    }
}

/// The last lines of a log, and where the rest is, which `keep` has written; `None` of
/// an empty one.
fn summary(log: &str, path: &Path, keep: impl FnOnce(&str) -> Result<()>) -> Option<String> {
    let lines: Vec<&str> = log.trim_end().lines().collect();
    if lines.is_empty() {
        return None;
    }
    let place = match keep(log) {
        Ok(()) => format!("the whole is in {}", path.display()),
        Err(error) => format!("the whole is lost: {error:#}"),
    };
    let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    let count = output::count(lines.len(), "line");
    Some(format!("the end of the verifier's log ({count}; {place}):\n{end}"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    const FILE: &str = "/run/tunless/x.verifier.log";

    fn made_up(lines: usize) -> String {
        (1..=lines).map(|number| format!("{number}: (b7) r0 = {number}\n")).collect()
    }

    #[test]
    fn the_message_has_the_end_and_the_file_the_whole() {
        let log = made_up(3000);
        let file = RefCell::new(String::new());
        let keep = |log: &str| {
            file.borrow_mut().push_str(log);
            Ok(())
        };
        let summary = summary(&log, Path::new(FILE), keep).expect("a summary");
        let (head, end) = summary.split_once('\n').expect("a head and lines");
        assert_eq!(
            head,
            "the end of the verifier's log (3000 lines; the whole is in \
             /run/tunless/x.verifier.log):"
        );
        assert_eq!(end.lines().count(), 20);
        assert!(end.starts_with("2981: ") && end.ends_with("3000: (b7) r0 = 3000"), "{end}");
        assert_eq!(*file.borrow(), log);
    }

    #[test]
    fn a_short_log_is_shown_whole() {
        let summary = summary("R0 !read_ok\n", Path::new(FILE), |_| Ok(())).expect("a summary");
        assert!(summary.ends_with("\nR0 !read_ok"), "{summary}");
        assert_eq!(super::summary("\n", Path::new(FILE), |_| panic!("nothing to keep")), None);
    }

    #[test]
    fn a_log_that_cannot_be_kept_is_still_a_message() {
        let full = |_: &str| bail!("no space left on device");
        let summary = summary(&made_up(30), Path::new(FILE), full).expect("a summary");
        assert!(summary.contains("the whole is lost: no space left on device"), "{summary}");
        assert!(summary.ends_with("r0 = 30"), "{summary}");
    }

    #[test]
    fn without_a_log_the_error_stands_alone() {
        let text = |number, log| {
            let error = io::Error::from_raw_os_error(number);
            format!("{:#}", refused("decap_tc", error, log, Path::new(FILE), |_| Ok(())))
        };
        assert_eq!(
            text(libc::EPERM, ""),
            "loading the program decap_tc: Operation not permitted (os error 1)"
        );
        assert_eq!(
            text(libc::EACCES, "R0 !read_ok\n"),
            "the kernel refuses the program decap_tc (Permission denied (os error 13)): the \
             end of the verifier's log (1 line; the whole is in \
             /run/tunless/x.verifier.log):\nR0 !read_ok"
        );
    }
}
