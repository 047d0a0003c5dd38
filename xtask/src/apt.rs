//! Packages unpacked below one directory, and not installed.
//!
//! Either of one Debian suite, by an apt with its own sources, lists and cache, so
//! that the machine's stays as it is; or from the machine's own sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::progress;

/// Debian's own keys, of the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that installs nothing.
pub struct Apt {
    directory: PathBuf,
    /// Whose packages these are, for messages.
    source: String,
    options: Vec<String>,
}

impl Apt {
    /// That of one suite, set up in an empty directory; fetches the list of packages.
    pub fn of_suite(directory: &Path, mirror: &str, suite: &str) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "no {KEYRING}, which Debian's packages are checked by: install \
             debian-archive-keyring, then run this again"
        );
        for empty in ["state/lists/partial", "cache/archives/partial"] {
            make(&directory.join(empty))?;
        }
        let source = format!(
            "deb [arch=amd64 targets=Packages signed-by={KEYRING}] {mirror} {suite} main\n"
        );
        write(&directory.join("sources.list"), &source)?;
        write(&directory.join("state/status"), "")?;
        let path = |name: &str| directory.join(name).display().to_string();
        // Proxies and the like are still the machine's.
        let options = vec![
            format!("Dir::State={}", path("state")),
            format!("Dir::State::status={}", path("state/status")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
        ];
        let apt =
            Self { directory: directory.to_owned(), source: format!("Debian {suite}"), options };
        apt.run(&format!("apt-get update for {suite}"), &["update"])?;
        Ok(apt)
    }

    /// That of the machine, with the lists it has; downloads into `directory`.
    pub fn of_machine(directory: &Path) -> Result<Self> {
        make(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            source: "apt's sources here".to_owned(),
            options: Vec::new(),
        })
    }

    /// What installing `package` would install: each as `name=version`.
    pub fn would_install(&self, package: &str) -> Result<Vec<String>> {
        let output = self
            .command("apt-get")
            .args(["--simulate", "--no-install-recommends", "install", package])
            .output()
            .context("`apt-get` does not start")?;
        ensure!(
            output.status.success(),
            "{} cannot give {package}: {}",
            self.source,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(would_install(&String::from_utf8_lossy(&output.stdout)))
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
            "{} has no package {package}: {}",
            self.source,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(depends(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The version of `package` that would be installed.
    pub fn version(&self, package: &str) -> Result<String> {
        let output = self
            .command("apt-cache")
            .args(["show", "--no-all-versions", package])
            .output()
            .context("`apt-cache` does not start")?;
        let record = String::from_utf8_lossy(&output.stdout);
        let version = record.lines().find_map(|line| line.strip_prefix("Version: "));
        let version = version.with_context(|| format!("{} has no {package}", self.source))?;
        Ok(version.to_owned())
    }

    /// Unpacks packages into `root`: each a name, or `name=version`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        let what = match packages {
            [one] => one.clone(),
            _ => format!("{} packages", packages.len()),
        };
        self.run(&format!("download {what}"), &arguments)?;
        // Quick, and many: no line for each.
        for archive in self.archives()? {
            let output = Command::new("dpkg")
                .arg("-x")
                .arg(&archive)
                .arg(root)
                .output()
                .context("`dpkg` does not start")?;
            ensure!(
                output.status.success(),
                "{} cannot be unpacked: {}",
                archive.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
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
        let mut command = Command::new(program);
        command.current_dir(&self.directory).env("LC_ALL", "C");
        for option in [
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            // Its user could not write into our directory.
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        for option in &self.options {
            command.args(["-o", option]);
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

/// `Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])`, and with `[old version]`
/// before the bracket where one is installed → `seabios=1.16.2-1`.
fn would_install(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_once(" ("))
        .filter_map(|(name, rest)| {
            let (name, version) =
                (name.split_whitespace().next()?, rest.split_whitespace().next()?);
            Some(format!("{name}={version}"))
        })
        .collect()
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
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

    #[test]
    fn a_simulation_tells_names_and_versions() {
        let simulation = "Reading package lists...\n\
            The following packages will be REMOVED:\n  qemu-utils\n\
            Remv qemu-utils [1:10.0.2+ds-2~bpo12+1]\n\
            Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])\n\
            Inst libz [1:1.2-1] (1:1.3-1 Debian-Security:12/oldstable-security [amd64]) []\n\
            Conf seabios (1.16.2-1 Debian:12.15/oldstable [all])\n";
        assert_eq!(would_install(simulation), ["seabios=1.16.2-1", "libz=1:1.3-1"]);
        assert!(would_install("qemu-system-x86 is already the newest version.\n").is_empty());
    }
}
