//! A package manager of our own for one Debian suite: its own sources, lists
//! and cache below one directory, so that the machine's apt stays as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::progress;

/// Debian's own keys, of the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt for one suite.
pub struct Apt {
    directory: PathBuf,
    suite: &'static str,
}

impl Apt {
    /// Sets it up in an empty directory, and fetches the list of packages.
    pub fn new(directory: &Path, mirror: &str, suite: &'static str) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "no {KEYRING}, which Debian's packages are checked by: install \
             debian-archive-keyring, then run this again"
        );
        for empty in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(empty);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let source = format!(
            "deb [arch=amd64 targets=Packages signed-by={KEYRING}] {mirror} {suite} main\n"
        );
        write(&directory.join("sources.list"), &source)?;
        write(&directory.join("state/status"), "")?;
        let apt = Self { directory: directory.to_owned(), suite };
        apt.run(&format!("apt-get update for {suite}"), &["update"])?;
        Ok(apt)
    }

    /// The names of the packages that `package` depends on.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let output = self
            .command("apt-cache")
            .args(["show", "--no-all-versions", package])
            .output()
            .context("`apt-cache` does not start")?;
        ensure!(
            output.status.success(),
            "Debian {} has no package {package}: {}",
            self.suite,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(depends(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Unpacks packages into `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        self.run(&format!("download {}", packages.join(", ")), &arguments)?;
        for archive in self.archives()? {
            let unpacked =
                progress::run("dpkg -x", Command::new("dpkg").arg("-x").arg(&archive).arg(root))?;
            if !unpacked.success {
                bail!("{} cannot be unpacked: {}", archive.display(), unpacked.tail());
            }
        }
        Ok(())
    }

    fn archives(&self) -> Result<Vec<PathBuf>> {
        let mut archives = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                archives.push(path);
            }
        }
        Ok(archives)
    }

    fn run(&self, what: &str, arguments: &[&str]) -> Result<()> {
        let ended = progress::run(what, self.command("apt-get").args(arguments))?;
        if !ended.success {
            bail!(
                "{what} failed: check the network and this machine's apt sources, then run this \
                 again\n  | {}",
                ended.tail()
            );
        }
        Ok(())
    }

    /// Downloads land in the directory it runs in.
    fn command(&self, program: &str) -> Command {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let mut command = Command::new(program);
        command.current_dir(&self.directory).env("LC_ALL", "C");
        // Proxies and the like are still the machine's.
        for option in [
            format!("Dir::State={}", path("state")),
            format!("Dir::State::status={}", path("state/status")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Its user could not write into our directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// `Depends: a (= 1), b | c` → a, b, c.
fn depends(record: &str) -> Vec<String> {
    record
        .lines()
        .filter_map(|line| line.strip_prefix("Depends: "))
        .flat_map(|list| list.split([',', '|']))
        .filter_map(|one| one.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_without_their_versions() {
        let record = "Package: linux-image-x\n\
                      Pre-Depends: linux-base\n\
                      Depends: linux-binary-7 (= 7.2-1), kmod, initramfs-tools (>= 0.1) | dracut\n\
                      Description: Depends: on nothing\n";
        assert_eq!(depends(record), ["linux-binary-7", "kmod", "initramfs-tools", "dracut"]);
        assert!(depends("").is_empty());
    }
}
