//! PID 1: file systems, modules, one child, power off.
//!
//! Whatever fails is reported to the host, and the machine is switched off:
//! nobody is there to mend it.

use std::{
    env, fs,
    os::unix::fs::symlink,
    process::{Child, Command},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        utsname::uname,
        wait::wait,
    },
    unistd::sync,
};

use crate::{
    MODULES, TUNLESS,
    report::{Event, Reporter},
};

/// Kind, place, options.
const FILE_SYSTEMS: [(&str, &str, &str); 8] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "mode=0620"),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("bpf", "/sys/fs/bpf", "mode=0700"),
    ("tracefs", "/sys/kernel/tracing", ""),
];

/// What every Linux has, and devtmpfs leaves to user space.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// What the job and all it starts find in their environment.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "linux"),
    ("TUNLESS_BIN", TUNLESS),
    ("RUST_BACKTRACE", "1"),
];

/// Runs the machine from its first process to its end.
pub fn run() {
    if let Err(error) = live() {
        let why = format!("{error:#}");
        eprintln!("init: {why}");
        // Without the port the host sees a guest that said nothing, and its console.
        let _ = Reporter::open().and_then(|mut report| report.send(&Event::Fatal { why }));
    }
    sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("init: cannot switch the machine off: {error}");
}

fn live() -> Result<()> {
    for (kind, place, options) in FILE_SYSTEMS {
        mount_one(kind, place, options)?;
    }
    for (target, link) in DEVICE_LINKS {
        symlink(target, link).with_context(|| format!("cannot make {link}"))?;
    }
    let release = uname().context("cannot ask for the kernel's release")?;
    let release = release.release().to_string_lossy().into_owned();
    load_modules()?;
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .envs(ENVIRONMENT)
        .status()
        .context("cannot start `ip`")?;
    Reporter::open()?.send(&Event::Hello { release })?;

    let this = env::current_exe().context("cannot find this program")?;
    let child = Command::new(this).envs(ENVIRONMENT).spawn().context("cannot start the job")?;
    reap_until_end(&child)
}

fn mount_one(kind: &str, place: &str, options: &str) -> Result<()> {
    fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
    mount(Some(kind), place, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} on {place}"))
}

/// The host has put them in order: what a module needs comes before it.
fn load_modules() -> Result<()> {
    let list = fs::read_to_string(MODULES).with_context(|| format!("cannot read {MODULES}"))?;
    for path in list.lines() {
        let file = fs::File::open(path).with_context(|| format!("cannot open {path}"))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // Something else had the kernel load it.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot load {path}")),
        }
    }
    Ok(())
}

/// PID 1 inherits every orphan: all are reaped, one is waited for.
fn reap_until_end(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id()).context("a process id beyond i32")?;
    loop {
        match wait() {
            Ok(status) if status.pid().is_some_and(|ended| ended.as_raw() == pid) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the job"),
        }
    }
}
