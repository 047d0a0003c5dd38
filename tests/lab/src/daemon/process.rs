//! The daemon's process: started, signalled, waited for, its log kept.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{READY, STOP};
use crate::{cmd, notify::NotifySocket};

#[derive(Debug)]
pub(super) struct Process {
    child: Option<Child>,
    log: PathBuf,
    notify: NotifySocket,
}

impl Process {
    /// Nothing runs yet.
    pub fn new(log: PathBuf, notify_socket: &Path) -> Result<Self> {
        Ok(Self { child: None, log, notify: NotifySocket::bind(notify_socket)? })
    }

    /// Starts the command and waits for READY.
    pub fn start(&mut self, command: &mut Command) -> Result<()> {
        self.launch(command)?;
        self.wait_for("READY=1", READY).with_context(|| cmd::show(command)).map(drop)
    }

    /// Starts the command and waits for nothing.
    pub fn launch(&mut self, command: &mut Command) -> Result<()> {
        if self.is_running() {
            bail!("the daemon is running");
        }
        self.notify.forget()?;
        // One log for all runs of this daemon, so appended.
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        command
            .env("NOTIFY_SOCKET", self.notify.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the demo's terminal is for the demo, which then stops
            // its daemons in order.
            .process_group(0);
        let shown = cmd::show(command);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the daemon says `state` to systemd; the whole message.
    pub fn wait_for(&mut self, state: &str, timeout: Duration) -> Result<String> {
        let Self { notify, child, log } = self;
        let result = notify.wait_for(state, timeout, || match child {
            Some(child) => match child.try_wait()? {
                Some(status) => bail!("the daemon ended: {status}"),
                None => Ok(()),
            },
            None => bail!("the daemon is not running"),
        });
        result.with_context(|| format!("its log:\n{}", tail(log)))
    }

    pub fn forget_notifications(&self) -> Result<()> {
        self.notify.forget()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the daemon is not running")?;
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {pid}"))
    }

    /// Sends a signal that ends the process, and waits for the end.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait_end(STOP).with_context(|| format!("after {signal}"))
    }

    /// Waits for the end.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("the daemon is not running")?;
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("process {} lived on for {timeout:?}", child.id());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The last 200 lines of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(200)..].join("\n")
}
