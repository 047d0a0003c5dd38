//! Who can change the file: it decides where packets go, so only root may.
//!
//! The checks are of the file, of every directory on its path and of every symlink that
//! the path leads through (a `ConfigMap` has two): a user who can change one of them can
//! put another file in the place of this one. Refused is
//!
//! - another owner than root, or than the user who runs the command;
//! - a permission to write for all, or for a group other than root's. In a directory
//!   with the sticky bit, like /tmp, users can touch only what is theirs. A read-only
//!   mount, as Kubernetes makes of a `ConfigMap`, takes no writes at all.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf, absolute},
};

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::{getegid, geteuid},
};

/// As many as the kernel follows (`MAXSYMLINKS`, include/linux/namei.h).
const MOST_SYMLINKS: usize = 40;

const STICKY: u32 = 0o1000;
const BY_GROUP: u32 = 0o020;
const BY_OTHERS: u32 = 0o002;

/// What a path leads through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Directory,
    Symlink,
    File,
}

/// Who owns something, and who may write it.
#[derive(Clone, Copy, Debug)]
struct Access {
    kind: Kind,
    user: u32,
    group: u32,
    /// The permission bits, `S_ISVTX` among them.
    mode: u32,
    /// On a mount that takes no writes.
    is_read_only: bool,
}

/// Whom we trust: root, and who runs the command.
#[derive(Clone, Copy, Debug)]
struct Trusted {
    user: u32,
    group: u32,
}

/// What lets another user change the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Distrust {
    path: PathBuf,
    what: String,
    /// The command that takes it away.
    remedy: String,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, what, remedy } = self;
        let path = path.display();
        write!(
            f,
            "{path}: {what}, and the configuration decides where packets go; run `{remedy} {path}`"
        )
    }
}

/// Returns all that lets another user than root, or than the one who runs this, change
/// the file at `path`.
///
/// # Errors
/// If the path leads nowhere, or the kernel does not let us look.
pub fn distrust(path: &Path) -> io::Result<Vec<Distrust>> {
    let trusted = Trusted { user: geteuid().as_raw(), group: getegid().as_raw() };
    let mut found = Vec::new();
    for step in trail(path)? {
        let access = Access::of(&step)?;
        found.extend(access.objection(trusted).map(|(what, remedy)| Distrust {
            path: step,
            what,
            remedy: remedy.to_owned(),
        }));
    }
    Ok(found)
}

/// Every directory and symlink that leads to `path`, from `/` on, and what is there.
fn trail(path: &Path) -> io::Result<Vec<PathBuf>> {
    let path = absolute(path)?;
    let mut steps = Vec::new();
    let mut at = PathBuf::from("/");
    let mut symlinks = 0;
    // What is still to go, the next one last.
    let mut rest = backwards(&path);
    while let Some(name) = rest.pop() {
        // From where a symlink has led, as the kernel does; we have been there already.
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = fs::symlink_metadata(&next)?;
        if !steps.contains(&next) {
            steps.push(next.clone());
        }
        if !found.is_symlink() {
            at = next;
            continue;
        }
        symlinks += 1;
        if symlinks > MOST_SYMLINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        rest.extend(backwards(&fs::read_link(&next)?));
    }
    Ok(steps)
}

/// The names in a path, the first one last; `/` and `..` among them.
fn backwards(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter(|component| *component != Component::CurDir);
    names.map(|component| component.as_os_str().to_owned()).collect()
}

impl Access {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let is_read_only = statvfs(path).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
        Ok(Self {
            kind: kind(&metadata),
            user: metadata.uid(),
            group: metadata.gid(),
            mode: metadata.mode() & 0o7777,
            is_read_only,
        })
    }

    /// What is wrong with it, and the command that repairs it, without the path.
    fn objection(self, trusted: Trusted) -> Option<(String, &'static str)> {
        let Self { kind, user, group, mode, is_read_only } = self;
        if user != 0 && user != trusted.user {
            let chown = if kind == Kind::Symlink { "chown -h root" } else { "chown root" };
            return Some((format!("user {user} owns this {kind} (mode {mode:04o})"), chown));
        }
        let is_sticky = kind == Kind::Directory && mode & STICKY != 0;
        // The permissions of a symlink count for nothing.
        if kind == Kind::Symlink || is_sticky || is_read_only {
            return None;
        }
        if mode & BY_OTHERS != 0 {
            return Some((format!("anybody may write this {kind} (mode {mode:04o})"), "chmod o-w"));
        }
        (mode & BY_GROUP != 0 && group != 0 && group != trusted.group).then(|| {
            (format!("group {group} may write this {kind} (mode {mode:04o})"), "chmod g-w")
        })
    }
}

fn kind(metadata: &Metadata) -> Kind {
    if metadata.is_symlink() {
        Kind::Symlink
    } else if metadata.is_dir() {
        Kind::Directory
    } else {
        Kind::File
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::File => "file",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ROOT: Trusted = Trusted { user: 0, group: 0 };

    fn access(kind: Kind, user: u32, group: u32, mode: u32) -> Access {
        Access { kind, user, group, mode, is_read_only: false }
    }

    #[test]
    fn only_root_may_own_and_write() {
        use Kind::{Directory, File, Symlink};
        for (access, remedy) in [
            (access(File, 0, 0, 0o644), None),
            (access(File, 0, 50, 0o640), None),
            (access(File, 0, 0, 0o664), None),
            (access(File, 0, 50, 0o664), Some("chmod g-w")),
            (access(File, 0, 0, 0o602), Some("chmod o-w")),
            (access(File, 1000, 0, 0o600), Some("chown root")),
            (access(File, 0, 0, 0o1666), Some("chmod o-w")),
            (access(Directory, 0, 0, 0o755), None),
            (access(Directory, 0, 50, 0o2775), Some("chmod g-w")),
            (access(Directory, 0, 0, 0o777), Some("chmod o-w")),
            (access(Directory, 0, 0, 0o1777), None),
            (access(Directory, 0, 50, 0o1775), None),
            (access(Directory, 1000, 0, 0o1777), Some("chown root")),
            (access(Symlink, 0, 0, 0o777), None),
            (access(Symlink, 1000, 0, 0o777), Some("chown -h root")),
        ] {
            assert_eq!(access.objection(ROOT).map(|(_, remedy)| remedy), remedy, "{access:?}");
        }
    }

    #[test]
    fn who_runs_the_command_is_trusted_with_the_own_group() {
        let me = Trusted { user: 1000, group: 1000 };
        assert_eq!(access(Kind::File, 1000, 1000, 0o664).objection(me), None);
        assert!(access(Kind::File, 1001, 1000, 0o600).objection(me).is_some());
        assert!(access(Kind::File, 1000, 1001, 0o664).objection(me).is_some());
    }

    /// A `ConfigMap` is a directory of mode 0777, mounted read-only.
    #[test]
    fn a_read_only_mount_takes_no_writes() {
        let open = access(Kind::Directory, 0, 0, 0o777);
        assert!(open.objection(ROOT).is_some());
        assert_eq!(Access { is_read_only: true, ..open }.objection(ROOT), None);
    }

    #[test]
    fn the_message_has_path_owner_mode_and_command() {
        let (what, remedy) = access(Kind::Directory, 1000, 0, 0o750).objection(ROOT).unwrap();
        let distrust = Distrust { path: "/srv/x".into(), what, remedy: remedy.to_owned() };
        assert_eq!(
            distrust.to_string(),
            "/srv/x: user 1000 owns this directory (mode 0750), and the configuration decides where \
             packets go; run `chown root /srv/x`"
        );
    }

    #[test]
    fn every_symlink_and_directory_is_on_the_trail() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("mount/..1")).unwrap();
        fs::write(base.join("mount/..1/config.yaml"), "").unwrap();
        symlink("..1", base.join("mount/..data")).unwrap();
        symlink("..data/config.yaml", base.join("mount/config.yaml")).unwrap();
        symlink("../mount/../mount", base.join("mount/again")).unwrap();
        let steps = trail(&base.join("mount/again/./config.yaml")).unwrap();
        for step in [
            "",
            "mount",
            "mount/again",
            "mount/config.yaml",
            "mount/..data",
            "mount/..1",
            "mount/..1/config.yaml",
        ] {
            let step = if step.is_empty() { base.clone() } else { base.join(step) };
            assert!(steps.contains(&step), "{} is not on {steps:?}", step.display());
        }
        assert_eq!(steps[0], Path::new("/"));

        symlink("loop", base.join("loop")).unwrap();
        assert!(trail(&base.join("loop")).is_err());
        assert!(trail(&base.join("nowhere")).is_err());
    }

    #[test]
    fn what_the_directory_lets_others_do_counts() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().canonicalize().unwrap().join("open");
        let path = directory.join("config.yaml");
        fs::create_dir(&directory).unwrap();
        fs::write(&path, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        set(&directory, 0o755);
        set(&path, 0o644);
        assert_eq!(distrust(&path).unwrap(), []);
        set(&directory, 0o777);
        set(&path, 0o646);
        let found = distrust(&path).unwrap();
        let paths: Vec<_> = found.iter().map(|found| found.path.as_path()).collect();
        assert_eq!(paths, [directory.as_path(), path.as_path()], "all at once");
    }
}
