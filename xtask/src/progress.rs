//! Long commands: quiet while they work, loud when they fail.
//!
//! Their output goes to a temporary file. Meanwhile one line counts the
//! seconds, in place on a terminal, now and then in a log.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Seek as _, Write as _},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

const POLL: Duration = Duration::from_millis(100);
const TERMINAL_TICK: Duration = Duration::from_secs(1);
const LOG_TICK: Duration = Duration::from_secs(15);

/// A command that came to its end.
pub struct Ended {
    /// It exited with 0.
    pub success: bool,
    /// All it printed, both streams in order.
    pub output: String,
}

impl Ended {
    /// The end of the output: where tools say what went wrong.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(12)..].join("\n  | ")
    }
}

/// Runs `command`, showing `what` is being done and for how long.
pub fn run(what: &str, command: &mut Command) -> Result<Ended> {
    let mut log = tempfile::tempfile().context("no temporary file can be made")?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);

    let started = Instant::now();
    println!("  {what} …");
    let mut child = command
        .spawn()
        .with_context(|| format!("`{}` does not start", command.get_program().display()))?;
    let mut ticker = Ticker::new(started);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        ticker.tick(what);
        thread::sleep(POLL);
    };
    ticker.finish(what, status);
    read_back(&mut log).map(|output| Ended { success: status.success(), output })
}

fn read_back(log: &mut File) -> Result<String> {
    log.rewind()?;
    let mut output = Vec::new();
    log.read_to_end(&mut output)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

struct Ticker {
    started: Instant,
    last: Instant,
    terminal: bool,
}

impl Ticker {
    fn new(started: Instant) -> Self {
        Self { started, last: started, terminal: io::stdout().is_terminal() }
    }

    fn tick(&mut self, what: &str) {
        let pause = if self.terminal { TERMINAL_TICK } else { LOG_TICK };
        if self.last.elapsed() < pause {
            return;
        }
        self.last = Instant::now();
        let seconds = self.started.elapsed().as_secs();
        if self.terminal {
            // Over the line that is there; a failing terminal is no reason to stop.
            print!("\x1b[1A\r\x1b[K  {what} … {seconds} s\n");
            let _ = io::stdout().flush();
        } else {
            println!("  {what} … {seconds} s");
        }
    }

    fn finish(&self, what: &str, status: ExitStatus) {
        let seconds = self.started.elapsed().as_secs();
        let end = if status.success() { "done" } else { "failed" };
        let up = if self.terminal { "\x1b[1A\r\x1b[K" } else { "" };
        println!("{up}  {what}: {end} after {seconds} s");
    }
}
