//! A node whose service manager is systemd, with the unit as it is shipped.
//!
//! [`Systemd::boot`] boots Debian's systemd as process 1 of namespaces of its own,
//! inside a node's network namespace, and needs no virtual machine for it:
//!
//! ```text
//! network namespace   the node's
//! mount               an overlay of the tree that `cargo xtask setup` makes, its upper
//!                     layer in memory; /usr/bin/tunless, the unit and a configuration
//! bpffs               its own: pins are where a user has them, and go with the namespace
//! PID, IPC, UTS       its own: when process 1 ends, the kernel ends every other
//! control groups      a group of its own is the root of what it sees
//! ```
//!
//! The machine's bpffs is not bound into it: then two tests, or a test and a daemon of
//! this machine, would share `/sys/fs/bpf/tunless`, where tunless pins by default.
//! [`Systemd::root`] shows its files, pins included, to the test.

mod cgroup;
mod journal;
mod mounts;
mod unit;

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use cgroup::ControlGroup;
pub use cgroup::control_groups;
pub(crate) use cgroup::{groups_of, remove_groups};
pub use journal::Entry;
use mounts::{Image, Service};

use crate::{
    cmd::{self, Output},
    config_file,
    daemon::{binary_for, target_dir},
    identity::remove_dir,
    lab::keeps_failed,
    topology::Node,
};

/// What process 1 does before it becomes systemd.
const INIT: &str = include_str!("init.sh");
/// The search path of Debian's root.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// All namespaces of process 1, as nsenter(1) names them.
const NAMESPACES: [&str; 6] = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--net"];
/// How long systemd may take to boot.
const BOOT: Duration = Duration::from_secs(60);

/// A booted systemd. Dropping it ends it, with everything that runs in it.
#[derive(Debug)]
pub struct Systemd {
    node: Node,
    init: Child,
    group: ControlGroup,
    /// Where its root is made; what is mounted there only it sees.
    dir: PathBuf,
}

impl Systemd {
    /// Boots with this configuration, and waits until systemd has booted. The unit is
    /// installed and does not run yet.
    pub fn boot(node: &Node, yaml: &str) -> Result<Self> {
        let service = Service { tunless: binary_for(node)?.into(), config: yaml.to_owned() };
        Self::boot_with(node, Some(service))
    }

    /// Boots a host on which nothing of tunless is installed.
    pub fn boot_without_tunless(node: &Node) -> Result<Self> {
        Self::boot_with(node, None)
    }

    fn boot_with(node: &Node, service: Option<Service>) -> Result<Self> {
        let tree = tree()?;
        ensure!(tree.is_dir(), "no {}: run `cargo xtask setup`", tree.display());
        let dir = node.shared.id.dir().join(format!("systemd-{}", node.label));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let group = ControlGroup::create(&node.shared.id, node.label)?;
        let image =
            Image { tree, hostname: node.name.to_owned(), service, group: group.path().to_owned() };
        let init = spawn(node, &dir, &image)?;
        let systemd = Self { node: node.clone(), init, group, dir };
        systemd.wait_for_boot()?;
        Ok(systemd)
    }

    /// Its root directory, as a path that this process can use.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        Path::new("/proc").join(self.init.id().to_string()).join("root")
    }

    /// A file in its root, given by an absolute path.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    /// A command that, once started, runs inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.env_clear().env("PATH", PATH).args(["--target", &self.init.id().to_string()]);
        command.args(NAMESPACES).args(["--", program]);
        command
    }

    /// Runs a program inside; returns standard output, or an error that says what was
    /// run and what it printed.
    pub fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        cmd::check(self.command(program).args(args), b"")
    }

    /// Runs a program inside whose failure is an answer, not an error.
    pub fn try_exec(&self, program: &str, args: &[&str]) -> Result<Output> {
        cmd::run(self.command(program).args(args), b"", cmd::DEADLINE)
    }

    /// Writes the configuration in place.
    pub fn configure(&self, yaml: &str) -> Result<()> {
        config_file::write(&self.path(mounts::CONFIG), yaml)
    }

    /// Writes a file of its root, given by an absolute path.
    pub fn write(&self, inside: &str, text: &str) -> Result<()> {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// How a person enters it.
    #[must_use]
    pub fn hint(&self) -> String {
        format!("nsenter --target {} {} bash\n", self.init.id(), NAMESPACES.join(" "))
    }

    /// Ends it, as dropping does, but with an error when it left something behind.
    pub fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn wait_for_boot(&self) -> Result<()> {
        let end = Instant::now() + BOOT;
        let socket = self.path("/run/systemd/private");
        while !socket.exists() {
            ensure!(
                Instant::now() < end && self.root().exists(),
                "systemd does not boot; its console: {}",
                fs::read_to_string(console(&self.dir)).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(20));
        }
        let state = self.systemctl(&["is-system-running", "--wait"])?.stdout;
        // Degraded: a unit of Debian's failed, which concerns no test.
        match state.trim() {
            "running" | "degraded" => Ok(()),
            other => bail!("systemd has not booted: it is {other}"),
        }
    }

    /// The kernel ends every process of a PID namespace with its process 1, and removes
    /// the mounts with the last of them.
    fn end(&mut self) -> Result<()> {
        if self.init.try_wait()?.is_none() {
            self.init.kill()?;
            self.init.wait()?;
        }
        self.group.remove()?;
        remove_dir(&self.dir)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.account());
        }
        if self.node.shared.is_kept() || keeps_failed() {
            eprintln!("systemd on {} is kept; enter it by\n{}", self.node.label, self.hint());
            return;
        }
        if let Err(error) = self.end() {
            self.node.shared.report(format!("systemd on {}: {error:#}", self.node.label));
        }
    }
}

/// Starts process 1. A thread makes the namespaces, since it can enter and leave the
/// process alone; its child is what lives in them.
fn spawn(node: &Node, dir: &Path, image: &Image) -> Result<Child> {
    let console = console(dir);
    let console =
        File::create(&console).with_context(|| format!("cannot make {}", console.display()))?;
    node.netns.run(|| {
        mounts::unshare()?;
        mounts::enter(&image.mount(dir)?)?;
        Ok(Command::new("/bin/sh")
            .args(["-euc", INIT])
            .env_clear()
            .envs([("PATH", PATH), ("container", "tunless-lab")])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .process_group(0)
            .spawn()?)
    })
}

/// What process 1 prints until systemd has a journal: beside its directory, which is hidden
/// by what is mounted on it.
fn console(dir: &Path) -> PathBuf {
    dir.with_extension("console")
}

/// Where `cargo xtask setup` makes the root that systemd boots on.
pub fn tree() -> Result<PathBuf> {
    Ok(target_dir()?.join("systemd-root"))
}
