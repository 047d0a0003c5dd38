//! The unit `tunless.service`: asked and acted on as an operator does.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Entry, Systemd, journal};
use crate::cmd::Output;

/// The unit's name.
const UNIT: &str = "tunless";

impl Systemd {
    /// Runs `systemctl ARGS`. A failing exit code is an answer.
    pub fn systemctl(&self, args: &[&str]) -> Result<Output> {
        self.try_exec("systemctl", args)
    }

    /// Starts the unit, and waits until it is active.
    pub fn start(&self) -> Result<()> {
        self.exec("systemctl", &["start", UNIT]).map(drop)
    }

    /// Stops the unit, and waits until it has stopped.
    pub fn stop(&self) -> Result<()> {
        self.exec("systemctl", &["stop", UNIT]).map(drop)
    }

    /// Restarts the unit, and waits until it is active.
    pub fn restart(&self) -> Result<()> {
        self.exec("systemctl", &["restart", UNIT]).map(drop)
    }

    /// Reloads the unit; systemd waits for `ExecReload=` alone.
    pub fn reload(&self) -> Result<()> {
        self.exec("systemctl", &["reload", UNIT]).map(drop)
    }

    /// A property of the unit, as `systemctl show` prints it, e.g. `ActiveState`.
    pub fn property(&self, name: &str) -> Result<String> {
        let text = self.exec("systemctl", &["show", UNIT, "--value", "--property", name])?;
        Ok(text.trim().to_owned())
    }

    /// Some properties of the unit, by one call: the unit changes from one call to the next.
    pub fn properties<const N: usize>(&self, names: [&str; N]) -> Result<[String; N]> {
        let list = names.join(",");
        let text = self.exec("systemctl", &["show", UNIT, "--property", &list])?;
        let mut values = [const { String::new() }; N];
        for (value, name) in values.iter_mut().zip(names) {
            let mut lines = text.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.with_context(|| format!("no {name} in `{text}`"))?.clone_into(value);
        }
        Ok(values)
    }

    /// Polls a property until it is as wanted, and returns it; an error with the last
    /// value when it is not in time.
    pub fn wait_property(
        &self,
        name: &str,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let end = Instant::now() + timeout;
        loop {
            let value = self.property(name)?;
            if wanted(&value) {
                return Ok(value);
            }
            if Instant::now() > end {
                bail!("{name} was {value:?} for {timeout:?}; {}", self.account());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Adds settings to the unit (`tunless.service.d/lab.conf`).
    pub fn drop_in(&self, text: &str) -> Result<()> {
        self.write("/etc/systemd/system/tunless.service.d/lab.conf", text)?;
        self.exec("systemctl", &["daemon-reload"]).map(drop)
    }

    /// A file of the daemon's in `/proc`, like `status` or `limits`.
    pub fn process_file(&self, name: &str) -> Result<String> {
        let path = self.path(&format!("/proc/{}/{name}", self.property("MainPID")?));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The unit's journal: what the daemon wrote, and systemd about it.
    pub fn journal(&self) -> Result<Vec<Entry>> {
        self.exec("journalctl", &["--sync"])?;
        let args = ["--unit", UNIT, "--output=json", "--no-pager", "--quiet"];
        journal::parse(&self.exec("journalctl", &args)?)
    }

    /// Runs `tunless ARGS` as an operator does, with no option for where things are.
    /// A failing exit code is an answer.
    ///
    /// # Panics
    /// As [`crate::daemon::Tunless::run`].
    pub fn tunless(&self, args: &[&str]) -> Result<Output> {
        let output = self.try_exec("tunless", args)?;
        #[cfg(feature = "schemas")]
        crate::schemas::check(args, &output.stdout);
        Ok(output)
    }

    /// Runs `tunless ARGS -o json`; the exit code may tell of problems.
    pub fn tunless_json(&self, args: &[&str]) -> Result<Value> {
        let output = self.tunless(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("`tunless {}` printed no JSON: {output:?}", args.join(" ")))
    }

    /// The directory of the daemon's pins, as a path that this process can use.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.path("/sys/fs/bpf/tunless")
    }

    /// What a person would look at first: the unit's state and its journal.
    pub(super) fn account(&self) -> String {
        let ask = |program: &str, args: &[&str]| match self.try_exec(program, args) {
            Ok(output) => output.stdout + &output.stderr,
            Err(error) => format!("{error:#}\n"),
        };
        format!(
            "systemd on {}:\n{}{}",
            self.node.label,
            ask("systemctl", &["status", UNIT, "--no-pager", "--lines=0"]),
            ask("journalctl", &["--unit", UNIT, "--no-pager", "--quiet", "--lines=200"]),
        )
    }
}
