//! Named network namespaces.
//!
//! A [`Netns`] is only a name: cloning it is free and dropping it removes
//! nothing. What a lab made, the lab removes (see `identity`), so tests can
//! hand namespaces around without thinking of lifetimes.
//!
//! Commands run by `nsenter --net=`, never by `ip netns exec`: the latter
//! also makes a mount namespace with a fresh `/sys`, which hides the bpffs.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    panic,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cmd::{self, Output};

/// Where iproute2 keeps its named namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
    /// See [`Netns::with_sysfs`].
    has_sysfs: bool,
}

impl Netns {
    /// Makes a new namespace with `lo` up and IPv6 off.
    pub fn create(name: &str) -> Result<Self> {
        let mut made = Self::create_many(&[name])?;
        let netns = made.pop().context("no namespace was made")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Makes many namespaces by one process, IPv6 off, `lo` left down.
    pub fn create_many(names: &[impl AsRef<str>]) -> Result<Vec<Self>> {
        let batch: String =
            names.iter().map(|name| format!("netns add {}\n", name.as_ref())).collect();
        cmd::check(Command::new("ip").args(["-batch", "-"]), batch.as_bytes())?;
        let all: Vec<Self> = names.iter().map(|name| Self::named(name.as_ref())).collect();
        for netns in &all {
            netns.disable_ipv6()?;
        }
        Ok(all)
    }

    /// A handle on a namespace that exists already.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), has_sysfs: false }
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Whether the namespace is still there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The same namespace, whose commands see it in `/sys`, too: there it takes a mount of its own.
    #[must_use]
    pub fn with_sysfs(&self) -> Self {
        Self { has_sysfs: true, ..self.clone() }
    }

    /// A command that, once started, runs inside.
    ///
    /// `nsenter` executes the program in its own place, so the process id of
    /// the child is the program's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        if self.has_sysfs {
            // The bpffs below the old one comes along. All of it ends with the command.
            let script = "{ test -d /mnt || busybox mkdir /mnt; } && \
                          mount --bind /sys/fs/bpf /mnt && mount -t sysfs sysfs /sys && \
                          mount --bind /mnt /sys/fs/bpf && exec \"$@\"";
            // Not `sh`: a busybox may take its own `ip` for the program.
            command.args(["unshare", "--mount", "bash", "-c", script, "bash"]);
        }
        command.arg(program);
        command
    }

    /// Runs a program inside; returns standard output, or an error that says
    /// what was run and what it printed.
    pub fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        self.exec_with_input(program, args, "")
    }

    /// Like [`Netns::exec`], with text on standard input.
    pub fn exec_with_input(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        cmd::check(self.command(program).args(args), input.as_bytes())
    }

    /// Runs a program inside whose failure is an answer, not an error.
    pub fn try_exec(&self, program: &str, args: &[&str], deadline: Duration) -> Result<Output> {
        cmd::run(self.command(program).args(args), b"", deadline)
    }

    /// `ip ARGS` inside, the arguments given as one line.
    pub fn ip(&self, args: &str) -> Result<String> {
        self.exec("ip", &args.split_whitespace().collect::<Vec<_>>())
    }

    /// Many `ip` commands inside, one per line, by one process.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.exec_with_input("ip", &["-batch", "-"], lines).map(drop)
    }

    /// Runs a closure in a thread that has entered the namespace.
    ///
    /// Sockets made there stay in the namespace when they leave the closure.
    /// A panic inside goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Moves the calling thread, for good, into the namespace.
    pub fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", path.display()))
    }

    /// Sets sysctls below `/proc/sys/net`, e.g. `("ipv4/ip_forward", "1")`.
    pub fn set_sysctls(&self, settings: &[(String, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Sets one sysctl below `/proc/sys/net`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.set_sysctls(&[(key.to_owned(), value)])
    }

    /// Reads one sysctl below `/proc/sys/net`.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        self.run(|| {
            let path = Path::new("/proc/sys/net").join(key);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.trim().to_owned())
        })
    }

    /// Whether the process `pid` is in this namespace.
    #[must_use]
    pub fn has_process(&self, pid: u32) -> bool {
        processes_in(std::slice::from_ref(self)).contains(&pid.cast_signed())
    }

    /// Ends what still runs inside, each process by its own id, then removes
    /// the namespace. It is no error when it is gone already.
    pub fn remove(&self) -> Result<()> {
        Self::remove_many(std::slice::from_ref(self))
    }

    /// [`Netns::remove`] for many, by one process.
    pub fn remove_many(all: &[Self]) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let processes = processes_in(all);
            if processes.is_empty() || Instant::now() > end {
                break;
            }
            for pid in processes {
                // Gone in the meantime is as good as killed.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            // A killed process needs a moment to go.
            thread::sleep(Duration::from_millis(2));
        }
        let batch: String = all
            .iter()
            .filter(|netns| netns.exists())
            .map(|netns| format!("netns del {}\n", netns.name))
            .collect();
        let mut command = Command::new("ip");
        // -force: go on after a name that another sweep removed first.
        let result = cmd::check(command.args(["-force", "-batch", "-"]), batch.as_bytes());
        if all.iter().any(Self::exists) { result.map(drop) } else { Ok(()) }
    }

    /// Router solicitations and multicast reports would appear in captures and
    /// counters at random moments.
    fn disable_ipv6(&self) -> Result<()> {
        self.run(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                match fs::write(&path, "1") {
                    // A kernel without IPv6 needs no switch.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result.with_context(|| format!("cannot write {path}"))?,
                }
            }
            Ok(())
        })
    }
}

/// Processes whose main thread is in one of the namespaces, ours excluded.
fn processes_in(all: &[Netns]) -> Vec<i32> {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let wanted: HashSet<_> = all.iter().filter_map(|netns| inode(&netns.path())).collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != std::process::id().cast_signed())
        .filter(|pid| {
            inode(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|it| wanted.contains(&it))
        })
        .collect()
}
