//! What the daemon needs of the host when it runs in a container.
//!
//! The image sets [`VARIABLE`]. What has to outlive the container is on mounts of the host; without
//! them everything would seem to work until the container is replaced. So they are asked for by name
//! before anything is made.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, bail};

use crate::run_dir;

/// Set by the image, to anything but nothing.
pub const VARIABLE: &str = "TUNLESS_CONTAINER";
/// What the cluster calls this node, by Kubernetes' downward API.
const NODE_NAME: &str = "NODE_NAME";
/// The host's BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// The network's sysctls. Runtimes make a container's own `/proc/sys` read-only, and refuse mounts
/// below `/proc`.
const SYSCTLS: &str = "/host/proc/sys/net";

/// What is mounted, and what it is for.
pub const MOUNTS: [(&str, &str); 3] = [
    (BPFFS, "programs and maps outlive the container there"),
    (run_dir::DIRECTORY, "the lock and what `tunless detach` restores outlive the container there"),
    (SYSCTLS, "the host's /proc/sys/net, which leases and the tunnel device need to be set"),
];

static IS_ONE: LazyLock<bool> = LazyLock::new(|| given(VARIABLE).is_some());

/// Returns whether this process runs in a container of the image.
#[must_use]
pub fn is_one() -> bool {
    *IS_ONE
}

/// Returns what the cluster calls this node, if it is known from outside.
#[must_use]
pub fn node_name() -> Option<String> {
    if is_one() { given(NODE_NAME) } else { None }
}

/// Returns the file of a sysctl that is to be written: `name` is below `net`, as in
/// `ipv4/conf/eth0/forwarding`.
#[must_use]
pub fn sysctl(name: &str) -> PathBuf {
    Path::new(if is_one() { SYSCTLS } else { "/proc/sys/net" }).join(name)
}

/// Fails in a container that lacks a mount of the host.
///
/// # Errors
/// With all that is missing.
pub fn require_mounts() -> Result<()> {
    if !is_one() {
        return Ok(());
    }
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read_to_string(TABLE).with_context(|| format!("reading {TABLE}"))?;
    let missing = missing(&table);
    if !missing.is_empty() {
        bail!(
            "the container lacks what it needs of the host: {}; packaging/kubernetes/tunless.yaml has \
             these mounts",
            missing.join("; ")
        );
    }
    Ok(())
}

fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// What a table of mounts (proc(5), `/proc/pid/mountinfo`) does not have.
fn missing(table: &str) -> Vec<String> {
    let mounts: Vec<(&str, &str)> = table.lines().filter_map(mount).collect();
    let mut missing = Vec::new();
    for (place, purpose) in MOUNTS {
        // Of several at one place the last one lies on top.
        match mounts.iter().rev().find(|(at, _)| *at == place) {
            None => missing.push(format!("nothing is mounted at {place} ({purpose})")),
            Some((_, kind)) if place == BPFFS && *kind != "bpf" => missing.push(format!(
                "{place} is of the type {kind}, not bpf ({purpose}): run `mount -t bpf bpf {place}` on \
                 the host, then start the container again"
            )),
            Some(_) => {}
        }
    }
    missing
}

/// The mount point and the type of a line.
fn mount(line: &str) -> Option<(&str, &str)> {
    let (about, file_system) = line.split_once(" - ")?;
    Some((about.split(' ').nth(4)?, file_system.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
22 1 0:21 / / ro,relatime - overlay overlay rw,lowerdir=/a
23 22 0:22 / /sys ro,nosuid - sysfs sysfs ro
24 23 0:30 / /sys/fs/bpf rw,relatime master:9 - bpf bpf rw,mode=700
25 22 0:25 /tunless /run/tunless rw,nosuid shared:5 master:2 - tmpfs tmpfs rw
26 22 0:4 /sys/net /host/proc/sys/net rw - proc proc rw
";

    fn without(place: &str) -> String {
        let lines = WHOLE.lines().filter(|line| !line.contains(&format!(" {place} ")));
        lines.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn every_mount_that_is_missing_is_named() {
        assert_eq!(missing(WHOLE), Vec::<String>::new());
        for (place, purpose) in MOUNTS {
            let found = missing(&without(place));
            assert_eq!(found, [format!("nothing is mounted at {place} ({purpose})")]);
        }
        assert_eq!(missing("").len(), MOUNTS.len());
        assert_eq!(missing("garbage\n1 2 3 - x\n").len(), MOUNTS.len());
    }

    #[test]
    fn a_directory_of_sysfs_is_no_bpffs() {
        let host_without = WHOLE.replace(" - bpf bpf ", " - sysfs sysfs ");
        let [found] = &missing(&host_without)[..] else { panic!("one is missing") };
        assert!(found.contains("/sys/fs/bpf is of the type sysfs"), "{found}");
        assert!(found.contains("`mount -t bpf bpf /sys/fs/bpf` on the host"), "{found}");
        // One on top of it counts, and so does one that hides it.
        let above = format!("{host_without}27 24 0:30 / /sys/fs/bpf rw - bpf bpf rw\n");
        assert_eq!(missing(&above), Vec::<String>::new());
        let hidden = format!("{WHOLE}27 24 0:31 / /sys/fs/bpf rw - tmpfs tmpfs rw\n");
        assert_eq!(missing(&hidden).len(), 1);
    }

    #[test]
    fn outside_of_a_container_the_hosts_own_files_are_used() {
        assert!(!is_one(), "the tests run outside of one");
        assert_eq!(sysctl("ipv4/ip_forward"), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(node_name(), None);
        require_mounts().unwrap();
    }
}
