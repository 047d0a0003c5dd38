//! A node whose daemon runs in a container, by crun: with what the manifest for Kubernetes grants, and
//! nothing else.
//!
//! ```text
//! packaging/kubernetes/tunless.yaml ─┐
//! the image, unpacked by umoci ──────┼─► config.json ─► crun
//! the node: its name, its host ──────┘
//! ```
//!
//! What a kubelet and containerd do with the pod is in [`spec`]. The paths of the host lead to places of
//! the lab: the BPF file system to a directory in the machine's, `/run/tunless` to one in the lab's.

mod image;
mod seccomp;
mod spec;

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub use self::{
    image::{base, unpacked},
    seccomp::{Profile, file as seccomp_file},
};
use crate::{
    cmd::{self, Output},
    daemon::{READY, STOP, ensure_bpffs},
    topology::Node,
    traffic::http,
};

/// Where the manifest has its probes ask.
const PROBED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9469);

/// What a pod gets of its node and its cluster.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// The documents of the manifest.
    pub manifest: Vec<Value>,
    /// The text in the `ConfigMap`, if it is not the manifest's.
    pub config: Option<String>,
    /// What the kubelet adds to the environment.
    pub environment: Vec<(String, String)>,
    /// What the account's volume holds: names of files, and their content.
    pub account: Vec<(String, String)>,
    /// Mounts that are left out, by where they are in the container.
    pub without_mounts: Vec<String>,
    /// Capabilities that are left out.
    pub without_capabilities: Vec<String>,
    /// What `RuntimeDefault` means.
    pub profile: Profile,
}

/// A container of a node. Dropping it ends it, and leaves what the daemon attached; what is left of it
/// goes by [`Container::detach`].
#[derive(Debug)]
pub struct Container {
    node: Node,
    id: String,
    bundle: PathBuf,
    child: Option<Child>,
}

impl Container {
    /// Prepares one; nothing runs. `image`: what [`unpacked`] returned.
    pub fn new(node: &Node, image: &Path, pod: &Pod) -> Result<Self> {
        ensure_bpffs()?;
        let lab = node.shared.id.dir();
        let bundle = lab.join(format!("{}-bundle", node.label));
        let host = spec::Host {
            name: node.name.to_owned(),
            netns: node.netns.path(),
            bpffs: node.bpffs.clone(),
            run: lab.join(format!("{}-run", node.label)),
            volumes: lab.join(format!("{}-volumes", node.label)),
        };
        for directory in [&bundle, &host.bpffs, &host.run, &host.volumes] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let config = spec::runtime(pod, &host, image)?;
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&config)?)
            .context("cannot write the container's configuration")?;
        // Of the container that was here before.
        let _ = fs::remove_file(bundle.join("log"));
        let id = format!("tunless-{}-{}", node.shared.id.as_str(), node.label);
        Ok(Self { node: node.clone(), id, bundle, child: None })
    }

    /// Starts it and waits until the daemon is ready.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let end = Instant::now() + READY;
        loop {
            if let Some(status) = self.ended()? {
                bail!("the container ended with {status}: {}", self.log());
            }
            if self.is_ready() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the daemon is not ready: {}", self.log());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks as a kubelet does.
    fn is_ready(&self) -> bool {
        let request = "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let answer = http::send(&self.node.netns, PROBED, request, Duration::from_secs(5));
        answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200 "))
    }

    /// Starts it.
    pub fn launch(&mut self) -> Result<()> {
        // One log for all runs, so appended.
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.crun(&["run", "--bundle"]);
        command.arg(&self.bundle).arg(&self.id);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("crun does not start: `cargo xtask setup`")?);
        Ok(())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the container was not started")?;
        Ok(child.try_wait()?)
    }

    /// Starts it, and waits until it ends by itself.
    pub fn run(&mut self) -> Result<ExitStatus> {
        self.launch()?;
        self.wait()
    }

    /// Sends a signal to the daemon, by its name, and waits for the end.
    pub fn end(&mut self, signal: &str) -> Result<ExitStatus> {
        cmd::check(self.crun(&["kill"]).args([&self.id, signal]), b"")?;
        self.wait()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + STOP;
        while Instant::now() < end {
            if let Some(status) = self.ended()? {
                self.child = None;
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("the container runs on: {}", self.log())
    }

    /// Runs `tunless ARGS` in it, as `kubectl exec` does.
    pub fn exec(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.crun(&["exec", &self.id, "/usr/bin/tunless"]);
        cmd::run(command.args(args), b"", cmd::DEADLINE)
    }

    /// The same with `-o json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.exec(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("{args:?}: {}{}", output.stdout, output.stderr))
    }

    /// Runs another program of the image in a container of its own, with the same rights; returns its
    /// exit status. What it prints is in the log.
    pub fn run_instead(&mut self, command: &[&str]) -> Result<ExitStatus> {
        let path = self.bundle.join("config.json");
        let text = fs::read_to_string(&path)?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["process"]["args"] = command.into();
        fs::write(&path, config.to_string())?;
        let status = self.run();
        fs::write(&path, text)?;
        status
    }

    /// Removes what the daemon left, by a container with `tunless detach`.
    pub fn detach(&mut self) -> Result<()> {
        let status = self.run_instead(&["/usr/bin/tunless", "detach"])?;
        if !status.success() {
            bail!("`tunless detach` ended with {status}: {}", self.log());
        }
        Ok(())
    }

    /// All that was printed in it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.bundle.join("log")
    }

    /// The process id of the daemon.
    pub fn pid(&self) -> Result<u32> {
        let text = cmd::check(self.crun(&["state"]).arg(&self.id), b"")?;
        let state: Value = serde_json::from_str(&text)?;
        let pid = state["pid"].as_u64().context("no process id")?;
        Ok(u32::try_from(pid)?)
    }

    fn crun(&self, args: &[&str]) -> Command {
        // crun does not start where the machine has both versions of control groups, although it is to
        // have no part in them. In a mount namespace of its own it sees the newer alone.
        let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", "crun"]);
        command.arg("--root").arg(self.bundle.join("crun")).arg("--cgroup-manager=disabled");
        command.args(args);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the container on {}:\n{}", self.node.label, self.log());
        }
        let is_running = matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)));
        if is_running && let Err(error) = self.end("KILL") {
            self.node.shared.report(format!("the container on {}: {error:#}", self.node.label));
        }
        // Of a container that ended there may be nothing.
        let _ = cmd::run(self.crun(&["delete", "--force"]).arg(&self.id), b"", cmd::DEADLINE);
        if thread::panicking() && self.node.bpffs.exists() {
            let _ = self.detach();
        }
    }
}
