//! The daemon's configuration file, and the three ways people change one.
//!
//! Editors write in place or rename a new file over the old one; Kubernetes
//! swaps a symlink to a directory: `config.yaml -> ..data/config.yaml`,
//! `..data -> ..1`. A watcher has to notice all three.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const NAME: &str = "config.yaml";

#[derive(Debug)]
pub(crate) struct ConfigFile {
    dir: PathBuf,
    bpffs: PathBuf,
    /// The number of the directory that `..data` points to, if it does.
    mounted: Option<u32>,
}

impl ConfigFile {
    /// A plain file of mode 0600 in a directory of its own.
    pub fn plain(dir: &Path, bpffs: &Path, yaml: &str) -> Result<Self> {
        let file = Self::new(dir, bpffs, None)?;
        file.rewrite(yaml)?;
        Ok(file)
    }

    /// As Kubernetes mounts a `ConfigMap`.
    pub fn mounted(dir: &Path, bpffs: &Path, yaml: &str) -> Result<Self> {
        let mut file = Self::new(dir, bpffs, Some(0))?;
        let link = file.path();
        symlink(Path::new("..data").join(NAME), &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
        file.swap(yaml)?;
        Ok(file)
    }

    fn new(dir: &Path, bpffs: &Path, mounted: Option<u32>) -> Result<Self> {
        // A daemon started again begins with a fresh directory.
        crate::identity::remove_dir(dir)?;
        fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), bpffs: bpffs.to_owned(), mounted })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Writes in place: the same inode, for a moment empty.
    pub fn rewrite(&self, yaml: &str) -> Result<()> {
        write(&self.path(), &self.complete(yaml))
    }

    /// Writes a new file and renames it over the old one.
    pub fn replace(&self, yaml: &str) -> Result<()> {
        let path = self.path();
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(self.complete(yaml).as_bytes())?;
        file.persist(&path).with_context(|| format!("cannot replace {}", path.display()))?;
        Ok(())
    }

    /// Makes a new directory and points `..data` to it at one stroke.
    pub fn swap(&mut self, yaml: &str) -> Result<()> {
        let old = self.mounted.context("the configuration is a plain file")?;
        let name = format!("..{}", old + 1);
        fs::create_dir(self.dir.join(&name))?;
        write(&self.dir.join(&name).join(NAME), &self.complete(yaml))?;
        symlink(&name, self.dir.join("..tmp"))?;
        fs::rename(self.dir.join("..tmp"), self.dir.join("..data"))
            .context("cannot swap ..data")?;
        if old > 0 {
            fs::remove_dir_all(self.dir.join(format!("..{old}")))?;
        }
        self.mounted = Some(old + 1);
        Ok(())
    }

    /// Adds this daemon's own bpffs directory unless the test names one.
    fn complete(&self, yaml: &str) -> String {
        if yaml.lines().any(|line| line.starts_with("bpffs:")) {
            return yaml.to_owned();
        }
        format!("{}\nbpffs: {}\n", yaml.trim_end(), self.bpffs.display())
    }
}

/// Writes a file in place that is its owner's alone.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn in_place_keeps_the_inode_and_rename_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = ConfigFile::plain(&dir.path().join("c"), Path::new("/b"), "mode: x").unwrap();
        let metadata = || fs::metadata(file.path()).unwrap();
        let first = metadata();
        assert_eq!(first.mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "mode: x\nbpffs: /b\n");
        file.rewrite("bpffs: /own\n").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "bpffs: /own\n");
        assert_eq!(metadata().ino(), first.ino());
        file.replace("mode: y").unwrap();
        assert_ne!(metadata().ino(), first.ino());
        assert_eq!(metadata().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_mounted_file_is_swapped_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bpffs) = (dir.path().join("c"), Path::new("/b"));
        let mut file = ConfigFile::mounted(&path, bpffs, "mode: x").unwrap();
        for mode in ["x", "y", "z"] {
            file.swap(&format!("mode: {mode}")).unwrap();
            let text = fs::read_to_string(file.path()).unwrap();
            assert!(text.starts_with(&format!("mode: {mode}\n")));
        }
    }
}
