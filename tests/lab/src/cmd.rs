//! Running the system's own tools (`ip`, `nft`, `iptables`…).
//!
//! One place, so that every failure says what was run and what it printed on
//! stderr, and so that nothing can hang a test: each command has a deadline.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a command may take unless the caller says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a finished command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; `None` when a signal ended the command.
    pub status: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command ended with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }
}

/// Runs `command` with `input` on its standard input and waits for it.
///
/// The command is killed, and an error returned, when `deadline` passes. A
/// failing exit code is not an error here: see [`check`].
pub fn run(command: &mut Command, input: &[u8], deadline: Duration) -> Result<Output> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // Each pipe has its own thread, or a full one would block the others.
        scope.spawn(move || {
            // A command that does not read its input closes the pipe: no error.
            stdin.map(|mut pipe| pipe.write_all(input))
        });
        let stdout = scope.spawn(move || read_all(stdout));
        let stderr = scope.spawn(move || read_all(stderr));
        let end = Instant::now() + deadline;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("`{shown}` was killed: it took longer than {deadline:?}");
            }
            thread::sleep(Duration::from_millis(1));
        };
        Ok(Output {
            status: status.code(),
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
        })
    })
}

/// Runs `command` and returns its standard output; a failing exit code is an
/// error that carries standard error.
pub fn check(command: &mut Command, input: &[u8]) -> Result<String> {
    let shown = show(command);
    let output = run(command, input, DEADLINE)?;
    if !output.success() {
        let Output { status, stdout, stderr } = output;
        let status = status.map_or("a signal".to_owned(), |code| code.to_string());
        bail!("`{shown}` ended with {status}: {}{}", stderr.trim(), about_input(input, &stdout));
    }
    Ok(output.stdout)
}

/// The command as a person would type it.
#[must_use]
pub fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn about_input(input: &[u8], stdout: &str) -> String {
    let mut text = String::new();
    if !stdout.trim().is_empty() {
        text.push_str("\nstdout: ");
        text.push_str(stdout.trim());
    }
    if !input.is_empty() {
        text.push_str("\ninput was:\n");
        for (number, line) in String::from_utf8_lossy(input).lines().enumerate() {
            text.push_str(&format!("{:4} {line}\n", number + 1));
        }
    }
    text
}
