//! Command lines as a person would type them, on a node or in a pod.

use std::{
    io::{self, PipeReader, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tunless_lab::Netns;

use super::wrap::WIDTH;
use crate::interrupt;

/// Far beyond what any line of the demo takes.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Where command lines run.
#[derive(Clone, Debug)]
pub struct Place {
    /// As the prompt shows it.
    pub name: String,
    netns: Netns,
    /// What a shell reads first.
    preamble: String,
}

/// What a command line came to.
#[derive(Debug)]
pub struct Said {
    /// Both streams, in order.
    pub text: String,
    /// It ended with 0.
    pub success: bool,
}

impl Place {
    /// A pod, or the router.
    pub fn new(name: &str, netns: &Netns) -> Self {
        Self { name: name.to_owned(), netns: netns.clone(), preamble: String::new() }
    }

    /// Makes `tunless` known there, by that name alone.
    pub fn with_tunless(mut self, binary: &Path, config: &Path) -> Self {
        self.preamble += &format!(
            "tunless() {{ '{}' \"$@\" --config '{}'; }}\n",
            binary.display(),
            config.display()
        );
        self
    }

    /// Makes `etcdctl` find the etcd there.
    pub fn with_etcdctl(mut self, endpoints: &[String]) -> Self {
        let endpoints = endpoints.join(",");
        self.preamble +=
            &format!("etcdctl() {{ command etcdctl --endpoints='{endpoints}' \"$@\"; }}\n");
        self
    }

    /// Makes `birdc` find the BIRD there.
    pub fn with_birdc(mut self, socket: &Path) -> Self {
        self.preamble +=
            &format!("birdc() {{ command birdc -s '{}' \"$@\"; }}\n", socket.display());
        self
    }

    /// Runs a line to its end.
    pub fn run(&self, line: &str) -> Result<Said> {
        self.start(line)?.finish()
    }

    /// Starts a line and leaves it running.
    pub fn start(&self, line: &str) -> Result<Running> {
        interrupt::check()?;
        Running::start(
            self.netns.command("sh").arg("-c").arg(format!("{}{line}", self.preamble)),
            line,
        )
    }

    /// What a person's shell there reads first: the same, and the same prompt.
    pub fn rc_file(&self) -> String {
        format!("{}PS1='{}# '\n", self.preamble, self.name)
    }

    /// How a person gets a shell there.
    pub fn enter(&self, rc_file: &Path) -> String {
        let netns = self.netns.path();
        format!("exec nsenter --net={} bash --rcfile {}\n", netns.display(), rc_file.display())
    }
}

/// A command line that runs.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    fn start(command: &mut Command, line: &str) -> Result<Self> {
        let (reader, writer) = io::pipe().context("no pipe can be made")?;
        let child = command
            .env("LC_ALL", "C")
            .env("COLUMNS", WIDTH.to_string())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            // A shell and what it starts end together, and not by the
            // terminal's Ctrl-C, which is for us.
            .process_group(0)
            .spawn()
            .with_context(|| format!("`{line}` does not start"))?;
        // Or the pipe would never end: the command holds its writing end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let text = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&text);
        let reader = Some(thread::spawn(move || keep(reader, &kept)));
        Ok(Self { line: line.to_owned(), child, text, reader })
    }

    /// What it has printed so far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it has printed `word`.
    pub fn wait_for(&mut self, word: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while !self.text().contains(word) {
            interrupt::check()?;
            ensure!(self.is_running()?, "`{}` ended early: {}", self.line, self.text().trim());
            ensure!(Instant::now() < end, "`{}` never printed `{word}`", self.line);
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Said> {
        let line = self.line.clone();
        match self.finish_within(DEADLINE)? {
            Some(said) => Ok(said),
            None => bail!("`{line}` took longer than {} s", DEADLINE.as_secs()),
        }
    }

    /// Waits for its end, or stops it.
    pub fn finish_within(mut self, patience: Duration) -> Result<Option<Said>> {
        let end = Instant::now() + patience;
        let status = loop {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > end {
                return Ok(None);
            }
            thread::sleep(POLL);
        };
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has kept what it had read.
            let _ = reader.join();
        }
        Ok(Some(Said { text: self.text(), success: status.success() }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Gone in this very moment is as good.
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn keep(mut pipe: PipeReader, text: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        let new = String::from_utf8_lossy(&buffer[..length]);
        text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&new);
    }
}
