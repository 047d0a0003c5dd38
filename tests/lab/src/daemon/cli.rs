//! The `tunless` command, run on a node.

use std::{
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::binary::binary_for;
use crate::{
    cmd::{self, Output},
    topology::Node,
};

/// `tunless`, with the configuration and the bpffs directory of one node.
///
/// It works without a daemon, as for looking at pins while the daemon is down.
#[derive(Debug, Clone)]
pub struct Tunless {
    node: Node,
    config: Option<PathBuf>,
}

impl Tunless {
    /// The command for a node; without a configuration only `--bpffs` is given.
    #[must_use]
    pub fn new(node: &Node, config: Option<PathBuf>) -> Self {
        Self { node: node.clone(), config }
    }

    /// Runs `tunless ARGS`, see [`Self::command`]. A failing exit code is an answer.
    ///
    /// # Panics
    /// With the feature `schemas`, if it prints JSON that is not as its schema says.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        let output = cmd::run(&mut self.command(args)?, b"", cmd::DEADLINE)?;
        // Of a stand-in there are no schemas.
        #[cfg(feature = "schemas")]
        if self.node.shared.tunless.is_none() {
            crate::schemas::check(args, &output.stdout);
        }
        Ok(output)
    }

    /// `tunless ARGS` in the node's namespace. `--config` and `--bpffs` are added unless `args`
    /// hold them.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.node.netns.command(&binary_for(&self.node)?);
        command.args(args);
        let given = |flag| args.contains(&flag);
        if let Some(config) = self.config.as_ref().filter(|_| !given("--config")) {
            command.arg("--config").arg(config);
        }
        if !given("--bpffs") {
            command.arg("--bpffs").arg(&self.node.bpffs);
        }
        Ok(command)
    }

    /// Runs `tunless ARGS -o json`, which must succeed.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.run(&[args, &["-o", "json"]].concat())?;
        let shown = args.join(" ");
        if !output.success() {
            bail!("`tunless {shown}` ended with {:?}: {}", output.status, output.stderr.trim());
        }
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("`tunless {shown}` printed no JSON: {}", output.stdout))
    }

    /// Polls `tunless ARGS -o json` until it shows what is wanted, and returns
    /// that; an error with the last answer when it does not in time.
    pub fn wait_json(
        &self,
        args: &[&str],
        timeout: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + timeout;
        loop {
            let answer = self.json(args);
            match answer {
                Ok(value) if wanted(&value) => return Ok(value),
                answer if Instant::now() > end => {
                    let args = args.join(" ");
                    bail!("`tunless {args}` did not show it within {timeout:?}: {answer:#?}");
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}
