//! Real Prometheus on a node: Debian's, unpacked by `cargo xtask setup`.
//!
//! It is killed when the [`Prometheus`] is dropped, and by the kernel when the test is.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    cmd::{self, Output},
    daemon::target_dir,
    topology::Node,
};

/// The server's program.
pub const SERVER: &str = "prometheus";
/// The program that checks figures, rules and configurations.
pub const TOOL: &str = "promtool";
/// Where the server answers, in its namespace.
const ADDRESS: &str = "127.0.0.1:9090";
/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

/// Where both programs are.
pub fn directory() -> Result<PathBuf> {
    Ok(target_dir()?.join("prometheus"))
}

fn program(name: &str) -> Result<PathBuf> {
    let program = directory()?.join(name);
    ensure!(program.is_file(), "no {}: `cargo xtask test` unpacks it", program.display());
    Ok(program)
}

/// `promtool ARGS` with `input`; a failing exit code is an answer.
pub fn promtool(args: &[&str], input: &str) -> Result<Output> {
    cmd::run(Command::new(program(TOOL)?).args(args), input.as_bytes(), cmd::DEADLINE)
}

/// A Prometheus on a node that scrapes daemons.
#[derive(Debug)]
pub struct Prometheus {
    node: Node,
    log: PathBuf,
    child: Child,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, addresses with ports, each second and evaluates the rules in
    /// `rules`, and waits until it answers.
    pub fn start(node: &Node, targets: &[String], rules: &Path) -> Result<Self> {
        let dir = node.shared.id.dir().join(format!("{}-prometheus", node.label));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (config, log) = (dir.join("prometheus.yml"), dir.join("prometheus.log"));
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n- {{job_name: tunless, static_configs: [{{targets: {targets:?}}}]}}\n",
            rules.display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let output = File::create(&log)?;
        let program = program(SERVER)?;
        let mut command = node.netns.command("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C in a terminal is for the tests.
            .process_group(0);
        let shown = cmd::show(&command);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        let mut prometheus = Self { node: node.clone(), log, child };
        let end = Instant::now() + START;
        while let Err(error) = prometheus.query("up") {
            let has_ended = prometheus.child.try_wait()?.is_some();
            if has_ended || Instant::now() > end {
                bail!("`{shown}`: {error:#}; its log:\n{}", prometheus.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(prometheus)
    }

    /// The answer to a query now: a list of series, each with its labels and its value.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = self.ask("query", &["--data-urlencode", &format!("query={query}")])?;
        let found = answer["data"]["result"].as_array().context("no list of results")?;
        Ok(found.clone())
    }

    /// The answer to a query over time, from `start` to `end` (seconds of Unix time) each `step` seconds: a list
    /// of series, each with its labels and its values.
    pub fn query_range(
        &self,
        query: &str,
        (start, end): (f64, f64),
        step: u32,
    ) -> Result<Vec<Value>> {
        let [query, start, end, step] = [
            format!("query={query}"),
            format!("start={start:.3}"),
            format!("end={end:.3}"),
            format!("step={step}"),
        ];
        let data = [&query, &start, &end, &step].map(|it| ["--data-urlencode", it]);
        let answer = self.ask("query_range", &data.concat())?;
        let found = answer["data"]["result"].as_array().context("no list of results")?;
        Ok(found.clone())
    }

    /// What it knows of its targets.
    pub fn targets(&self) -> Result<Value> {
        self.ask("targets", &[])
    }

    fn ask(&self, what: &str, data: &[&str]) -> Result<Value> {
        let url = format!("http://{ADDRESS}/api/v1/{what}");
        let arguments = [&["-sS", "--max-time", "10", "-G", &url], data].concat();
        let text = self.node.netns.exec("curl", &arguments)?;
        let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(answer["status"] == "success", "{what} {data:?}: {text}");
        Ok(answer)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // What cannot be killed has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
