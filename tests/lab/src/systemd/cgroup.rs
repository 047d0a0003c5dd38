//! The control group of a booted systemd.
//!
//! A group bears the lab's id in its name, as everything of a lab does, so that one of a
//! test that was killed is found and removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::identity::{LabId, PREFIX};

/// How long the kernel may take to let go of processes that ended.
const EMPTY: Duration = Duration::from_secs(5);

/// A group at the top of the machine's unified hierarchy.
#[derive(Debug)]
pub(super) struct ControlGroup(PathBuf);

impl ControlGroup {
    pub fn create(id: &LabId, label: &str) -> Result<Self> {
        let path = hierarchy()?.join(format!("{PREFIX}{}-{label}", id.as_str()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it, and the groups that systemd made in it.
    pub fn remove(&self) -> Result<()> {
        remove(&self.0)
    }
}

/// Names of the groups of all labs on this machine.
#[must_use]
pub fn control_groups() -> Vec<String> {
    // Without the hierarchy there is none.
    let entries = hierarchy().ok().and_then(|top| fs::read_dir(top).ok());
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

/// Names of the groups of one lab.
pub(crate) fn groups_of(id: &LabId) -> Vec<String> {
    let prefix = format!("{PREFIX}{}-", id.as_str());
    control_groups().into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// Removes the groups of one lab.
pub(crate) fn remove_groups(id: &LabId) -> Result<()> {
    groups_of(id).iter().try_for_each(|name| remove(&hierarchy()?.join(name)))
}

/// A group's directory has files that cannot be removed, and goes with them once no
/// process and no other group is in it.
fn remove(group: &Path) -> Result<()> {
    let end = Instant::now() + EMPTY;
    loop {
        match remove_tree(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot remove the group {}", group.display()));
            }
        }
    }
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Where the machine has the unified hierarchy: at `/sys/fs/cgroup`, or below it beside
/// hierarchies of version 1.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    find(&mounts).context("no cgroup2 file system is mounted here: systemd needs one")
}

/// The mount point of the first cgroup2 in a mountinfo (`proc_pid_mountinfo(5)`).
fn find(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found() {
        let hybrid = "25 1 0:22 / /sys rw,nosuid - sysfs sysfs rw\n\
                      30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      39 25 0:35 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find("30 25 0:26 / /x rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn a_group_goes_with_the_groups_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().join("group");
        fs::create_dir_all(group.join("system.slice/a.service")).unwrap();
        fs::create_dir(group.join("init.scope")).unwrap();
        remove(&group).unwrap();
        assert!(!group.exists());
        remove(&group).unwrap();
    }
}
