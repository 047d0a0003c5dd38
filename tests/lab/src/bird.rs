//! BIRD on nodes, with the configuration that is shipped.
//!
//! What is the same on every node is packaging/bird.conf's; what is the node's own
//! comes after it, with timers that suit a test. Each BIRD is a process in
//! its node's namespace, ended by its own id.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cmd, topology::Node};

/// The configuration that is shipped.
const SHIPPED: &str = include_str!("../../../packaging/bird.conf");
/// Where in it the node's own part begins.
const OWN: &str = "# ---- This node:";
/// Timers, seconds. Sessions come up soon, and a BIRD that is started again is in time, however slow
/// the machine.
const TIMERS: &str = "keepalive time 2; graceful restart time 75; connect delay time 1; \
                      connect retry time 2; error wait time 1, 2;";
/// After so many seconds without a word a node is lost, as with the configuration that is shipped:
/// longer than a busy machine stands still.
const HOLD: u32 = 30;
/// The same where no node is to be lost.
const LONG_HOLD: u32 = 75;
/// How long BIRD may take to start or to stop.
const SOON: Duration = Duration::from_secs(60);

/// Another BIRD to talk to.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// The node it is on.
    pub node: Node,
    /// Routes of others are reflected to it.
    pub is_client: bool,
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// Everybody to everybody.
    Mesh,
    /// Everybody to the first node only, which reflects.
    Reflector,
}

/// A BIRD on a node, running or not. Dropping it ends it.
#[derive(Debug)]
pub struct Bird {
    node: Node,
    dir: PathBuf,
    neighbours: Vec<Neighbour>,
    /// Seconds.
    hold: u32,
    blocks: Vec<String>,
    child: Option<Child>,
}

impl Bird {
    /// Starts one on each node, each announcing its node's block. A node that falls silent is lost
    /// after half a minute.
    pub fn start_all(nodes: &[&Node], sessions: Sessions) -> Result<Vec<Self>> {
        Self::start_all_with(nodes, sessions, HOLD)
    }

    /// [`Bird::start_all`], where no node is to be lost: what stands still for a minute is not.
    pub fn start_all_for_good(nodes: &[&Node], sessions: Sessions) -> Result<Vec<Self>> {
        Self::start_all_with(nodes, sessions, LONG_HOLD)
    }

    fn start_all_with(nodes: &[&Node], sessions: Sessions, hold: u32) -> Result<Vec<Self>> {
        let others = |index: usize| {
            let others = nodes.iter().enumerate().filter(move |(other, _)| *other != index);
            others
                .filter(move |(other, _)| sessions == Sessions::Mesh || index == 0 || *other == 0)
                .map(move |(_, node)| Neighbour {
                    node: (*node).clone(),
                    is_client: sessions == Sessions::Reflector && index == 0,
                })
                .collect()
        };
        let start = |(index, node): (usize, &&Node)| Self::start(node, others(index), hold);
        nodes.iter().enumerate().map(start).collect()
    }

    /// Starts one that announces its node's block.
    fn start(node: &Node, neighbours: Vec<Neighbour>, hold: u32) -> Result<Self> {
        let dir = node.shared.id.dir().join(format!("{}-bird", node.label));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let blocks = vec![node.block.to_owned()];
        let mut bird = Self { node: node.clone(), dir, neighbours, hold, blocks, child: None };
        bird.write()?;
        bird.restart()?;
        Ok(bird)
    }

    /// Starts it again, as after [`Bird::kill9`], and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "BIRD on {} is running", self.node.label);
        let log = File::options().create(true).append(true).open(self.dir.join("bird.log"))?;
        let mut command = self.node.netns.command("bird");
        command
            .args(["-f", "-R", "-c"])
            .arg(self.config())
            .arg("-s")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal is for whoever started it.
            .process_group(0);
        let shown = cmd::show(&command);
        self.child = Some(command.spawn().with_context(|| format!("cannot start `{shown}`"))?);
        let end = Instant::now() + SOON;
        while let Err(error) = self.ask("show status") {
            if !self.is_running() || Instant::now() > end {
                bail!("`{shown}`: {error:#}; its log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("bird.ctl")
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// `birdc QUESTION`; what it prints.
    pub fn ask(&self, question: &str) -> Result<String> {
        let socket = self.socket();
        let socket = socket.to_str().context("a path that is no text")?;
        self.node.netns.exec("birdc", &["-s", socket, question])
    }

    /// Announces these blocks from now on, and no others.
    pub fn announce(&mut self, blocks: &[impl AsRef<str>]) -> Result<()> {
        self.blocks = blocks.iter().map(|block| block.as_ref().to_owned()).collect();
        self.write()?;
        let said = self.ask("configure")?;
        ensure!(said.contains("Reconfigur"), "BIRD on {}: {said}", self.node.label);
        Ok(())
    }

    /// Whether all of its sessions are up.
    pub fn is_established(&self) -> Result<bool> {
        let said = self.ask("show protocols")?;
        Ok(said.matches("Established").count() == self.neighbours.len())
    }

    /// SIGKILL: its neighbours keep its routes for a while.
    pub fn kill9(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// SIGTERM: it takes its routes back.
    pub fn terminate(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// SIGSTOP or SIGCONT: it answers nobody, or again.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("BIRD is not running")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal).context("cannot signal BIRD")
    }

    /// Whether the process lives.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// All it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("bird.log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let child = self.child.as_mut().context("BIRD is not running")?;
        let end = Instant::now() + SOON;
        while child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "BIRD lived on {SOON:?} after {signal}");
            thread::sleep(Duration::from_millis(5));
        }
        self.child = None;
        Ok(())
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("bird.conf")
    }

    fn write(&self) -> Result<()> {
        let (common, _) = SHIPPED.split_once(OWN).context("bird.conf has no part of the node")?;
        // The lab has no syslog; a message there would go to the machine's.
        let common = common.replace("log syslog all;", "log stderr all;");
        let common = common.replace("graceful restart wait 60;", "graceful restart wait 15;");
        let routes: String =
            self.blocks.iter().map(|block| format!("\troute {block} blackhole;\n")).collect();
        let sessions: String = self.neighbours.iter().map(|it| session(it, self.hold)).collect();
        let text = format!(
            "{common}router id {};\nprotocol static pods {{\n\tipv4;\n{routes}}}\n{sessions}",
            self.node.ip
        );
        let path = self.config();
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of BIRD on {}:\n{}", self.node.label, self.log());
        }
        if self.node.shared.is_kept() || !self.is_running() {
            return;
        }
        if let Err(error) = self.kill9() {
            self.node.shared.report(format!("{error:#}"));
        }
    }
}

fn session(neighbour: &Neighbour, hold: u32) -> String {
    let Neighbour { node, is_client } = neighbour;
    let template = if *is_client { "served" } else { "node" };
    format!(
        "protocol bgp {} from {template} {{ neighbor {} as 64512; hold time {hold}; {TIMERS} }}\n",
        node.label, node.ip
    )
}
