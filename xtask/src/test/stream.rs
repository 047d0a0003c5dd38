//! Runs a command and shows its output live while reading it.
//!
//! The command gets a process group of its own, so that running out of time or
//! Ctrl-C reaches the test binaries and what they started, not cargo alone.

use std::{
    io::{self, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicI32, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

const POLL: Duration = Duration::from_millis(100);
/// How long output may still arrive from processes that outlive the command.
const DRAIN: Duration = Duration::from_secs(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The running command's process group; 0: none.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With exit code 0.
    Well,
    /// With another exit code, or by a signal.
    Badly,
    /// We stopped it at the deadline.
    OutOfTime,
}

/// Hands Ctrl-C and SIGTERM on to the running command.
pub fn forward_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::Relaxed);
        signal_group(GROUP.load(Ordering::Relaxed), Signal::SIGINT);
    })
    .context("the handler for Ctrl-C cannot be set")
}

/// Whether Ctrl-C or SIGTERM has come.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Runs `command`, passes its output on and gives each line to `on_line`.
pub fn run(
    command: &mut Command,
    deadline: Instant,
    mut on_line: impl FnMut(&str),
) -> Result<Ended> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("`{}` does not start", command.get_program().display()))?;
    let group = i32::try_from(child.id()).context("a process id beyond i32")?;
    GROUP.store(group, Ordering::Relaxed);

    let (sender, lines) = mpsc::channel();
    let output = child.stdout.take().context("the command's output is not piped")?;
    thread::spawn(move || show(output, &sender));

    let mut status = None;
    let mut out_of_time = false;
    let mut give_up = None;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => on_line(&line),
            // The output has ended; the command may not have.
            Err(RecvTimeoutError::Disconnected) if status.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if status.is_none() {
            status = child.try_wait()?;
            if status.is_some() {
                // What a test left running would hold the output open.
                signal_group(group, Signal::SIGKILL);
                give_up = Some(Instant::now() + DRAIN);
            } else if !out_of_time && Instant::now() > deadline {
                out_of_time = true;
                signal_group(group, Signal::SIGKILL);
            }
        } else if give_up.is_some_and(|at| Instant::now() > at) {
            break;
        }
    }
    GROUP.store(0, Ordering::Relaxed);

    Ok(match status {
        _ if out_of_time => Ended::OutOfTime,
        Some(status) if status.success() => Ended::Well,
        _ => Ended::Badly,
    })
}

/// Bytes go on at once, so that `test x ...` shows while x runs.
fn show(mut output: impl Read, lines: &Sender<String>) {
    let mut buffer = [0; 4096];
    let mut line = Vec::new();
    while let Ok(length @ 1..) = output.read(&mut buffer) {
        let bytes = &buffer[..length];
        let mut stdout = io::stdout().lock();
        // Nobody may be reading; the results still count.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
        for byte in bytes {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    }
}

fn signal_group(group: i32, signal: Signal) {
    if group > 0 {
        // Gone already: fine.
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> (Ended, Vec<String>) {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ended = run(&mut command, Instant::now() + patience, |line| {
            lines.push(line.into());
        })
        .expect("sh starts");
        (ended, lines)
    }

    #[test]
    fn lines_and_exit_codes_arrive() {
        let patience = Duration::from_secs(60);
        let (ended, lines) = shell("printf 'one\\ntw'; printf 'o\\n'", patience);
        assert_eq!((ended, lines), (Ended::Well, vec!["one".into(), "two".into()]));
        assert_eq!(shell("exit 3", patience).0, Ended::Badly);
    }

    #[test]
    fn the_deadline_reaches_what_the_command_started() {
        let started = Instant::now();
        let (ended, lines) = shell("echo on; sleep 60 & sleep 60", Duration::from_millis(300));
        assert_eq!((ended, lines), (Ended::OutOfTime, vec!["on".into()]));
        assert!(started.elapsed() < DRAIN, "the background process held the output");
    }

    #[test]
    fn what_outlives_the_command_does_not_hold_it_up() {
        let started = Instant::now();
        assert_eq!(shell("sleep 60 &", Duration::from_secs(60)).0, Ended::Well);
        assert!(started.elapsed() < DRAIN, "the background process held the output");
    }
}
