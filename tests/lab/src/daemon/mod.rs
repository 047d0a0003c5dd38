//! `tunless run` on a node, as systemd would run it.
//!
//! Known by its command line only. Every daemon has its own bpffs directory,
//! so that many run on one machine. Dropping a [`Daemon`] stops it and runs
//! `tunless detach`; what that leaves behind is removed and reported in
//! [`crate::Lab::problems`].

mod binary;
mod cli;
mod confined;
mod process;

use std::{path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

pub(crate) use binary::{binary_for, target_dir};
pub use binary::{ensure_bpffs, tunless_binary};
pub use cli::Tunless;
use confined::confinement;
use process::Process;

use crate::{cmd, config_file::ConfigFile, identity::remove_dir, topology::Node};

/// How long a daemon may take to become ready, also in an emulator on a machine that has other work.
pub const READY: Duration = Duration::from_secs(120);
/// How long a daemon may take to end. It ends between two answers of the kernel, and an answer may
/// wait while other labs make and remove their interfaces.
pub const STOP: Duration = Duration::from_secs(60);

/// A running (or killed) daemon.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    config: ConfigFile,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    process: Process,
    tunless: Tunless,
    finished: bool,
}

impl Daemon {
    /// Starts `tunless run` with this configuration and waits for READY.
    ///
    /// A `bpffs:` key is added unless there is one.
    pub fn start(node: &Node, yaml: &str) -> Result<Self> {
        Self::start_with(node, yaml, &[])
    }

    /// [`Daemon::start`] with further environment variables.
    pub fn start_with(node: &Node, yaml: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let config = ConfigFile::plain(&config_dir(node), &node.bpffs, yaml)?;
        Self::start_from(node, config, environment)
    }

    /// [`Daemon::start`] by another command than `run`, such as `try --for 10m`.
    pub fn start_by(node: &Node, arguments: &[&str], yaml: &str) -> Result<Self> {
        let config = ConfigFile::plain(&config_dir(node), &node.bpffs, yaml)?;
        let mut daemon = Self::new(node, config, &[])?;
        daemon.restart_by(arguments)?;
        Ok(daemon)
    }

    /// Starts it with its configuration mounted as Kubernetes mounts a
    /// `ConfigMap`; change it by [`Daemon::swap_config`].
    pub fn start_mounted(node: &Node, yaml: &str) -> Result<Self> {
        let config = ConfigFile::mounted(&config_dir(node), &node.bpffs, yaml)?;
        Self::start_from(node, config, &[])
    }

    fn start_from(node: &Node, config: ConfigFile, environment: &[(&str, &str)]) -> Result<Self> {
        let mut daemon = Self::new(node, config, environment)?;
        daemon.restart()?;
        Ok(daemon)
    }

    fn new(node: &Node, config: ConfigFile, environment: &[(&str, &str)]) -> Result<Self> {
        ensure_bpffs()?;
        let dir = node.shared.id.dir();
        let log = dir.join(format!("{}.log", node.label));
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Ok(Self {
            tunless: Tunless::new(node, Some(config.path())),
            process: Process::new(log, &dir.join(format!("{}.notify", node.label)))?,
            node: node.clone(),
            config,
            environment: environment.iter().map(owned).collect(),
            arguments: vec!["run".to_owned()],
            finished: false,
        })
    }

    /// Starts the daemon again after [`Daemon::kill9`] or [`Daemon::terminate`].
    pub fn restart(&mut self) -> Result<()> {
        self.process.start(&mut self.command()?)
    }

    /// [`Daemon::restart`] by this command instead of `run`, now and from now on.
    pub fn restart_by(&mut self, arguments: &[&str]) -> Result<()> {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.restart()
    }

    /// [`Daemon::restart`] without waiting for READY.
    pub fn launch(&mut self) -> Result<()> {
        self.process.launch(&mut self.command()?)
    }

    fn command(&self) -> Result<Command> {
        let (netns, binary) = (&self.node.netns, binary_for(&self.node)?);
        let mut command = match self.node.shared.confined {
            false => netns.command(&binary),
            true => {
                let mut command = netns.command("setpriv");
                command.args(confinement()?).arg(binary);
                command
            }
        };
        command.args(&self.arguments).arg("--config").arg(self.config.path());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }

    /// The process id, which is the daemon's own.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Whether the process lives.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.config.path()
    }

    /// All that the daemon wrote to stdout and stderr.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Changes the configuration in place. The daemon notices by itself.
    pub fn rewrite_config(&self, yaml: &str) -> Result<()> {
        self.config.rewrite(yaml)
    }

    /// Changes the configuration by renaming a new file over it.
    pub fn replace_config(&self, yaml: &str) -> Result<()> {
        self.config.replace(yaml)
    }

    /// Changes a configuration that was mounted: swaps the symlink.
    pub fn swap_config(&mut self, yaml: &str) -> Result<()> {
        self.config.swap(yaml)
    }

    /// SIGHUP; waits until the daemon said RELOADING, then READY.
    pub fn reload(&mut self) -> Result<()> {
        self.process.forget_notifications()?;
        self.process.signal(Signal::SIGHUP)?;
        self.process.wait_for("RELOADING=1", READY)?;
        self.process.wait_for("READY=1", READY).map(drop)
    }

    /// Waits until the daemon says something to systemd, e.g. `WATCHDOG=1`;
    /// returns the whole message.
    pub fn wait_notified(&mut self, state: &str, timeout: Duration) -> Result<String> {
        self.process.wait_for(state, timeout)
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.end(Signal::SIGKILL).map(drop)
    }

    /// Waits until it ends by itself. An error when it does not exit with 0.
    pub fn wait_end(&mut self, timeout: Duration) -> Result<()> {
        let status = self.process.wait_end(timeout)?;
        if !status.success() {
            bail!("the daemon ended with {status}; its log:\n{}", self.process.log_tail());
        }
        Ok(())
    }

    /// SIGTERM; waits for the end. An error when it does not exit with 0.
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.process.end(Signal::SIGTERM)?;
        if !status.success() {
            let log = self.process.log_tail();
            bail!("after SIGTERM the daemon ended with {status}; its log:\n{log}");
        }
        Ok(())
    }

    /// [`Daemon::terminate`], then `tunless detach`. [`Daemon::restart`] starts it again.
    pub fn terminate_and_detach(&mut self) -> Result<()> {
        self.terminate()?;
        let output = self.cli(&["detach"])?;
        if !output.success() {
            bail!("`tunless detach` failed: {}", output.stderr);
        }
        Ok(())
    }

    /// The `tunless` command for this daemon's configuration and pins.
    #[must_use]
    pub fn tunless(&self) -> &Tunless {
        &self.tunless
    }

    /// Runs `tunless ARGS`; see [`Tunless::run`].
    pub fn cli(&self, args: &[&str]) -> Result<cmd::Output> {
        self.tunless.run(args)
    }

    /// Runs `tunless ARGS -o json`; see [`Tunless::json`].
    pub fn cli_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        self.tunless.json(args)
    }

    /// Polls `tunless ARGS -o json` until it shows what is wanted.
    pub fn wait_json(
        &self,
        args: &[&str],
        timeout: Duration,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        self.tunless.wait_json(args, timeout, wanted)
    }

    /// Stops the daemon and detaches, as dropping does, but with an error when
    /// anything of it failed or was left behind.
    pub fn finish(mut self) -> Result<()> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        let mut problems = Vec::new();
        if self.is_running() {
            if let Err(error) = self.terminate() {
                problems.push(format!("{error:#}"));
            }
            if self.is_running() {
                // The last resort; what SIGTERM did not do is reported.
                let _ = self.kill9();
            }
        }
        let detach = self.cli(&["detach"]);
        match detach {
            Ok(output) if output.success() => {}
            Ok(output) => problems.push(format!("`tunless detach` failed: {}", output.stderr)),
            Err(error) => problems.push(format!("`tunless detach` failed: {error:#}")),
        }
        if self.node.bpffs.exists() {
            let left = self.node.bpffs.display();
            problems.push(format!("`tunless detach` left {left}"));
            problems.extend(remove_dir(&self.node.bpffs).err().map(|error| format!("{error:#}")));
        }
        if problems.is_empty() {
            return Ok(());
        }
        bail!("{}: {}", self.node.label, problems.join("; "))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of tunless on {}:\n{}", self.node.label, self.process.log_tail());
        }
        if self.node.shared.is_kept() {
            return;
        }
        if let Err(error) = self.shut_down() {
            self.node.shared.report(format!("{error:#}"));
        }
    }
}

/// Runs `tunless run` with a configuration it must refuse; returns its exit
/// code and what it printed on stderr. An error when it goes on running.
pub fn expect_failure(node: &Node, yaml: &str) -> Result<(i32, String)> {
    expect_failure_by(node, yaml, |tunless| node.netns.command(tunless))
}

/// [`expect_failure`] with a command of the caller's own, made from the path of
/// the binary; for less than a whole machine around it.
pub fn expect_failure_by(
    node: &Node,
    yaml: &str,
    command: impl FnOnce(&str) -> Command,
) -> Result<(i32, String)> {
    ensure_bpffs()?;
    let dir = node.shared.id.dir().join(format!("{}-refused", node.label));
    let config = ConfigFile::plain(&dir, &node.bpffs, yaml)?;
    let mut command = command(&binary_for(node)?);
    command.args(["run", "--config"]).arg(config.path());
    let output = cmd::run(&mut command, b"", STOP)?;
    match output.status {
        Some(code) if code != 0 => Ok((code, output.stderr)),
        status => bail!("it was accepted: {status:?}, {}", output.stderr),
    }
}

fn config_dir(node: &Node) -> PathBuf {
    node.shared.id.dir().join(format!("{}-config", node.label))
}
