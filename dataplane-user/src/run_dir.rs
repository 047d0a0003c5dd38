//! What an instance keeps in `/run`, which a reboot empties as it does the
//! kernel's state.
//!
//! Only root may enter: a lock needs no write permission, so any user who could
//! open the daemon's could keep it from starting.

use std::{
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

use crate::bpf::Pins;

/// The directory.
pub const DIRECTORY: &str = "/run/tunless";

/// The directory's mode.
const ENTER: u32 = 0o700;
/// The mode of every file in it.
pub const READ_WRITE: u32 = 0o600;

/// Returns the file `<pins>.<extension>`: one name per directory of pins, however
/// its path is written.
#[must_use]
pub fn file(pins: &Pins, extension: &str) -> PathBuf {
    let root = fs::canonicalize(pins.root()).unwrap_or_else(|_| pins.root().to_owned());
    let name = root.display().to_string();
    let name = name.trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
    PathBuf::from(DIRECTORY).join(format!("{name}.{extension}"))
}

/// Makes the directory, and closes it and the files in it to everyone but root, as
/// they may have been made by an older version or by systemd's `RuntimeDirectory=`.
///
/// # Errors
/// If there is something else in its place, or the kernel refuses.
pub fn prepare() -> Result<()> {
    prepare_at(Path::new(DIRECTORY))
}

fn prepare_at(directory: &Path) -> Result<()> {
    make(directory)?;
    let context = || format!("reading {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => tighten(&path, &found, READ_WRITE)?,
            // Of another instance, and gone since we read the directory; or not a file.
            _ => {}
        }
    }
    Ok(())
}

fn make(directory: &Path) -> Result<()> {
    let context = || format!("making {}", directory.display());
    match DirBuilder::new().mode(ENTER).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let found = fs::symlink_metadata(directory).with_context(context)?;
    ensure!(
        found.is_dir(),
        "{} is not a directory; remove it, tunless makes it anew",
        directory.display()
    );
    let owner = found.uid();
    ensure!(
        owner == 0 || owner == geteuid().as_raw(),
        "{0} belongs to user {owner}, who could lock the daemon out; run `chown root:root {0}`",
        directory.display()
    );
    // First the directory: behind it, no other user can swap a file any more.
    tighten(directory, &found, ENTER)
}

/// Takes away the permissions that `mode` does not have.
fn tighten(path: &Path, found: &Metadata, mode: u32) -> Result<()> {
    if found.permissions().mode() & 0o7777 & !mode == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.with_context(|| format!("closing {} to other users", path.display())),
    }
}

/// Replaces a file of the directory as a whole: a reader sees the old or the new text.
/// Makes the directory if it vanished.
///
/// # Errors
/// If the kernel refuses.
pub fn replace(path: &Path, text: &[u8]) -> Result<()> {
    make(path.parent().unwrap_or(Path::new(DIRECTORY)))?;
    let context = || format!("writing {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(READ_WRITE);
    options
        .open(&new)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&new, path))
        .with_context(context)
}

/// Removes a file of the directory, if it is there.
///
/// # Errors
/// If the kernel refuses.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.with_context(|| format!("removing {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn the_directory_is_made_for_root_alone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        prepare_at(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        prepare_at(&directory).expect("once more");
    }

    #[test]
    fn what_an_older_version_left_open_is_closed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        let (open, closed) = (directory.join("x.lock"), directory.join("x.closed"));
        let other = directory.join("others");
        fs::create_dir_all(&other).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        for (path, mode) in [(&open, 0o644), (&closed, 0o400)] {
            fs::write(path, "1").unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        prepare_at(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&open), 0o600);
        assert_eq!(mode(&closed), 0o400, "nothing is given that was not there");
        assert_eq!(fs::read(&open).unwrap(), b"1");
        assert!(other.is_dir());
    }

    #[test]
    fn something_else_in_its_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        for path in [file, link] {
            let error = prepare_at(&path).unwrap_err().to_string();
            assert!(error.contains("is not a directory"), "{error}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_closed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("vanished");
        let path = directory.join("x.sysctls");
        remove(&path).expect("nothing to remove");
        for text in [b"first".as_slice(), b"2"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text);
            assert_eq!(mode(&path), 0o600);
        }
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing is left");
        assert_eq!(mode(&directory), 0o700);
    }
}
