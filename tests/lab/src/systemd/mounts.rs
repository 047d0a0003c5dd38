//! The file systems that systemd boots on.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{self, CloneFlags},
    unistd::pivot_root,
};

use crate::config_file;

/// The unit as it is shipped.
const UNIT: &str = include_str!("../../../../packaging/tunless.service");
/// Where Debian's packages have units.
const UNIT_PATH: &str = "/usr/lib/systemd/system/tunless.service";
const BINARY: &str = "/usr/bin/tunless";
pub(super) const CONFIG: &str = "/etc/tunless/config.yaml";

/// Timers would start what Debian does daily, like asking its mirrors for updates.
const MASKED: [&str; 1] = ["timers.target"];

/// Device nodes that programs expect everywhere.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What is to be booted.
pub(super) struct Image {
    /// A Debian root with systemd. It is only read.
    pub tree: PathBuf,
    pub hostname: String,
    /// tunless as a service; without it the node has none.
    pub service: Option<Service>,
    /// The control group that systemd runs in.
    pub group: PathBuf,
}

/// tunless as a service that does not run yet.
pub(super) struct Service {
    /// The `tunless` binary.
    pub tunless: PathBuf,
    /// The text of the configuration.
    pub config: String,
}

/// Moves the calling thread into new namespaces, and its next child into a new PID
/// namespace. Mounts made from here on are seen in them alone.
pub(super) fn unshare() -> Result<()> {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID;
    sched::unshare(namespaces).context("cannot make namespaces for systemd")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .context("cannot separate mounts from the machine's")
}

/// Makes `root` the root of the calling thread's mount namespace, which every process that
/// enters it later gets, and drops the machine's mounts from it.
pub(super) fn enter(root: &Path) -> Result<()> {
    // Stacks the old root on the new one, where it is unmounted (pivot_root(2), "NOTES").
    env::set_current_dir(root)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(pivot_root(".", ".")?))
        .and_then(|()| Ok(umount2(".", MntFlags::MNT_DETACH)?))
        .with_context(|| format!("cannot make {} the root", root.display()))
}

impl Image {
    /// Mounts everything but procfs below `dir`; returns the root.
    pub fn mount(&self, dir: &Path) -> Result<PathBuf> {
        file_system("tmpfs", dir, "mode=0755")?;
        let [tree, upper, work, root] = ["tree", "upper", "work", "root"].map(|it| dir.join(it));
        for directory in [&tree, &upper, &work, &root] {
            fs::create_dir(directory)?;
        }
        // By way of a path of our own: an overlay's options take no `:` or `,`.
        bind(&self.tree, &tree)?;
        let [lower, above, beside] = [&tree, &upper, &work].map(|it| it.display());
        let layers = format!("lowerdir={lower},upperdir={above},workdir={beside}");
        file_system("overlay", &root, &layers)?;

        file_system("sysfs", &root.join("sys"), "")?;
        file_system("bpf", &root.join("sys/fs/bpf"), "mode=0700")?;
        bind(&self.group, &root.join("sys/fs/cgroup"))?;
        file_system("tmpfs", &root.join("run"), "mode=0755")?;
        file_system("tmpfs", &root.join("tmp"), "mode=1777")?;
        devices(&root.join("dev"))?;
        self.settle(&root).with_context(|| format!("cannot prepare {}", root.display()))?;
        if let Some(service) = &self.service {
            service
                .install(&root)
                .with_context(|| format!("cannot install tunless in {}", root.display()))?;
        }
        Ok(root)
    }

    /// What makes it this host.
    fn settle(&self, root: &Path) -> Result<()> {
        fs::write(root.join("etc/hostname"), format!("{}\n", self.hostname))?;
        for unit in MASKED {
            symlink("/dev/null", root.join("etc/systemd/system").join(unit))?;
        }
        Ok(())
    }
}

impl Service {
    /// What a package and an operator put there.
    fn install(&self, root: &Path) -> Result<()> {
        let path = |inside: &str| root.join(inside.trim_start_matches('/'));
        fs::write(path(UNIT_PATH), UNIT)?;
        fs::create_dir(path("/etc/tunless"))?;
        config_file::write(&path(CONFIG), &self.config)?;
        // Bound, since a copy of 100 MB takes its time.
        let binary = path(BINARY);
        File::create(&binary)?;
        bind(&self.tunless, &binary)
    }
}

fn devices(dev: &Path) -> Result<()> {
    file_system("tmpfs", dev, "mode=0755")?;
    for name in DEVICES {
        let node = dev.join(name);
        File::create(&node)?;
        bind(&Path::new("/dev").join(name), &node)?;
    }
    fs::create_dir(dev.join("shm"))?;
    fs::create_dir(dev.join("pts"))?;
    file_system("devpts", &dev.join("pts"), "newinstance,ptmxmode=0666")?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    symlink("/proc/self/fd", dev.join("fd"))?;
    Ok(())
}

fn file_system(kind: &str, on: &Path, options: &str) -> Result<()> {
    mount(Some(kind), on, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} on {}", on.display()))
}

fn bind(from: &Path, on: &Path) -> Result<()> {
    mount(Some(from), on, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", from.display(), on.display()))
}
