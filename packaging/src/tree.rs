//! The tree: everything as it is installed, below a directory.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::{
    contents::{self, BINARY, CHANGELOG, COMPLETIONS, PAGES},
    tool,
};

/// The mode of what is executed.
pub const PROGRAM: u32 = 0o755;
/// The mode of all other files.
pub const DATA: u32 = 0o644;

/// What all packages of a program have in common. It goes when it is dropped.
#[derive(Debug)]
pub struct Tree {
    directory: TempDir,
    date: Timestamp,
}

impl Tree {
    /// Puts everything in place around a `tunless` binary. Its symbols are stripped, and its own
    /// commands make pages and completions.
    ///
    /// # Errors
    /// If something cannot be read or written, or a program that does a part of it fails.
    pub fn stage(binary: &Path) -> Result<Self> {
        let tree = Self::without_program()?;
        tree.add_program(binary)?;
        Ok(tree)
    }

    /// With any program in the place of tunless, and so without pages and completions.
    #[cfg(test)]
    pub(crate) fn of(program: &Path) -> Result<Self> {
        let tree = Self::without_program()?;
        put(&tree.root(), Path::new(BINARY), &fs::read(program)?, PROGRAM)?;
        Ok(tree)
    }

    /// All that the project has as files.
    fn without_program() -> Result<Self> {
        let project = project();
        let directory = tempfile::tempdir().context("no directory can be made for the package")?;
        let tree = Self { directory, date: date(&project)? };
        let root = tree.root();
        fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        // A temporary directory is closed to others; what is installed is not.
        set_mode(&root, PROGRAM)?;
        for (from, to) in contents::files(&project)? {
            let content =
                fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            put(&root, &to, &content, DATA)?;
        }
        let (from, to) = CHANGELOG;
        let changelog = fs::read(project.join(from)).with_context(|| format!("no {from}"))?;
        put(&root, Path::new(to), &gzip(&changelog)?, DATA)?;
        Ok(tree)
    }

    /// Where it is: its top level is to become `/`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// All files, below the root.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        contents::below(&self.root(), Path::new(""), &mut files)?;
        Ok(files.into_iter().map(|(_, place)| place).collect())
    }

    /// When what is packaged was made: the same source gives the same package.
    pub(crate) fn date(&self) -> Timestamp {
        self.date
    }

    fn add_program(&self, binary: &Path) -> Result<()> {
        let root = self.root();
        let binary = binary.canonicalize().with_context(|| {
            format!("no program {}: `cargo build --release -p dataplane-user`", binary.display())
        })?;
        let place = root.join(BINARY);
        make_parents(&root, Path::new(BINARY))?;
        tool::run(
            Command::new("strip")
                .args(["--strip-unneeded", "--remove-section=.comment", "-o"])
                .arg(&place)
                .arg(&binary),
        )
        .with_context(|| format!("cannot strip {}", binary.display()))?;
        set_mode(&place, PROGRAM)?;

        let pages = self.directory.path().join("pages");
        fs::create_dir(&pages).with_context(|| format!("cannot make {}", pages.display()))?;
        tool::run(Command::new(&place).arg("man").arg(&pages))?;
        let entries = fs::read_dir(&pages).context("no pages")?.collect::<Result<Vec<_>, _>>()?;
        ensure!(!entries.is_empty(), "`tunless man` wrote no page");
        for page in entries {
            let mut name = page.file_name();
            name.push(".gz");
            let text = fs::read(page.path())?;
            put(&root, &Path::new(PAGES).join(name), &gzip(&text)?, DATA)?;
        }
        for (shell, to) in COMPLETIONS {
            let script = tool::run(Command::new(&place).args(["completions", shell]))?;
            put(&root, Path::new(to), &script, DATA)?;
        }
        Ok(())
    }
}

/// The project's top level.
pub fn project() -> PathBuf {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_.parent().unwrap_or(crate_).to_owned()
}

/// Writes a file below a root, with its directories.
pub fn put(root: &Path, to: &Path, content: &[u8], mode: u32) -> Result<()> {
    make_parents(root, to)?;
    let path = root.join(to);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    set_mode(&path, mode)
}

/// As gzip(1) with `-9n`: no name and no time in it.
pub fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut encoder, content)?;
    Ok(encoder.finish()?)
}

/// The mask of the user who builds has no part in it.
fn make_parents(root: &Path, to: &Path) -> Result<()> {
    let parents: Vec<&Path> =
        to.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty()).collect();
    for parent in parents.into_iter().rev() {
        let path = root.join(parent);
        if !path.is_dir() {
            fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
            set_mode(&path, PROGRAM)?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else when the last commit was made, else now.
fn date(project: &Path) -> Result<Timestamp> {
    if let Ok(given) = env::var("SOURCE_DATE_EPOCH") {
        return seconds(&given).with_context(|| format!("SOURCE_DATE_EPOCH is `{given}`"));
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(project);
    // Of an unpacked archive there is no history.
    Ok(tool::text(&mut git).ok().and_then(|it| seconds(&it).ok()).unwrap_or_else(Timestamp::now))
}

fn seconds(text: &str) -> Result<Timestamp> {
    let seconds: u32 = text.trim().parse().context("not seconds since 1970")?;
    Ok(Timestamp::from_second(seconds.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_files_are_open_to_all() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), Path::new("usr/share/a/b"), b"text", DATA).unwrap();
        let mode = |path: &str| {
            fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o7777
        };
        assert_eq!(["usr", "usr/share", "usr/share/a"].map(mode), [PROGRAM; 3]);
        assert_eq!(mode("usr/share/a/b"), DATA);
    }

    #[test]
    fn what_is_compressed_is_the_same_each_time() {
        let once = gzip(b"text").unwrap();
        assert_eq!(once, gzip(b"text").unwrap());
        // RFC 1952: no flags (no name), no time.
        assert_eq!(once[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_date_is_seconds() {
        assert_eq!(seconds("1796040006\n").unwrap().as_second(), 1_796_040_006);
        for bad in ["", "-1", "soon", "99999999999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Tree::stage(Path::new("/nowhere/tunless")).unwrap_err();
        assert!(format!("{error:#}").contains("no program /nowhere/tunless"), "{error:#}");
    }
}
