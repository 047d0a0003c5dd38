//! Debian packages: what is missing is installed, and nothing is removed.

use std::{collections::BTreeSet, env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use super::packages::Package;
use crate::progress::{self, Ended};

/// What stands for the packages that hold no program.
const BY_HAND: &str = " (for Rust `rustup toolchain install nightly --component rust-src` will \
                       do; for LLVM name its directory in LLVM_PREFIX)";

/// What came of an installation that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Installation {
    /// Everything was there.
    Present,
    /// Now everything is there.
    Done,
    /// Nothing was changed, as apt would remove these packages for it.
    WouldRemove(Vec<String>),
}

/// Installs those of `wanted` that are missing; true if there were any.
pub fn install(wanted: &[Package]) -> Result<bool> {
    match try_install(wanted)? {
        Installation::Present => Ok(false),
        Installation::Done => Ok(true),
        Installation::WouldRemove(theirs) => bail!(conflict(wanted, &theirs)),
    }
}

/// Installs those of `wanted` that are missing, unless something has to go for it.
pub fn try_install(wanted: &[Package]) -> Result<Installation> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(Installation::Present);
    }
    println!("set-up: Debian packages to install:");
    for package in &missing {
        println!("  {:14} {}", package.name, package.why);
    }

    // Its result is not the answer: one unreachable source that we do not need
    // fails it. The installation tells.
    let update = update()?;
    let names = missing.iter().map(|package| package.name);
    let install = progress::run(
        "apt-get install",
        apt_get()
            // Debian's Rust conflicts with some other Rust packages, its emulator with
            // that of another release: theirs stay.
            .args(["-q", "-y", "--no-install-recommends", "--no-remove", "install"])
            .args(names),
    )?;
    if !install.success {
        if install.output.contains(REMOVE_REFUSED) {
            return Ok(Installation::WouldRemove(removed(&install.output)));
        }
        let network = !update.success || update.output.contains("Failed to fetch");
        let said = errors(&install.output);
        bail!("{}{said}", explain(&install.output, network));
    }
    for service in missing.iter().filter_map(|package| package.service) {
        disable(service)?;
    }
    Ok(Installation::Done)
}

/// Fetches the lists of packages.
pub fn update() -> Result<Ended> {
    progress::run("apt-get update", apt_get().args(["-q", "update"]))
}

/// apt's error when `--no-remove` has kept it from an installation.
const REMOVE_REFUSED: &str = "remove is disabled";

/// The packages that apt says it would remove.
fn removed(output: &str) -> Vec<String> {
    output
        .lines()
        .skip_while(|line| *line != "The following packages will be REMOVED:")
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

/// Why nothing was installed, and what to do.
fn conflict(wanted: &[Package], theirs: &[String]) -> String {
    let names: Vec<_> = wanted.iter().map(|package| package.name).collect();
    let by_hand = if wanted.iter().all(|package| package.program.is_some()) { "" } else { BY_HAND };
    format!(
        "apt would remove {} to install what is missing of {}: that is yours to decide; remove it \
         by hand if nothing needs it{by_hand}, then run this again",
        theirs.join(", "),
        names.join(", ")
    )
}

/// Debian starts a service with its package, and at every boot. Only of those that
/// were not here before: who had one, keeps it.
fn disable(service: &str) -> Result<()> {
    if !on_path("systemctl") {
        return Ok(());
    }
    let mut command = Command::new("systemctl");
    command.args(["--quiet", "disable"]);
    // Elsewhere nothing was started, and the links for the next boot are all there is.
    if Path::new("/run/systemd/system").exists() {
        command.arg("--now");
    }
    let disabled = progress::run(&format!("disable the service {service}"), command.arg(service))?;
    ensure!(
        disabled.success,
        "the service {service}, which came with its package, cannot be disabled: do so by hand \
         (`systemctl disable --now {service}`)"
    );
    Ok(())
}

/// The first lines in which apt names an error; more would repeat them.
fn errors(output: &str) -> String {
    let errors = output.lines().filter(|line| line.starts_with("E: "));
    errors.take(3).map(|line| format!("\n  | {line}")).collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").args([
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Acquire::Retries=3",
    ]);
    command
}

/// Those of `wanted` that are not here.
pub fn missing(wanted: &[Package]) -> Result<Vec<Package>> {
    if !(on_path("dpkg-query") && on_path("apt-get")) {
        let missing: Vec<_> =
            wanted.iter().filter(|package| !package.program.is_some_and(on_path)).collect();
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        let tools_only = missing.iter().all(|package| package.program.is_some());
        ensure!(
            missing.is_empty(),
            "no apt-get here: install by hand what Debian calls {}{}, then run this again",
            names.join(", "),
            if tools_only { "" } else { BY_HAND }
        );
        return Ok(Vec::new());
    }
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${binary:Package} ${db:Status-Status}\\n"])
        .output()
        .context("`dpkg-query` does not start")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let installed = installed(&listing);
    Ok(wanted.iter().filter(|package| !installed.contains(package.name)).copied().collect())
}

/// The installed packages, without the architecture some names carry.
fn installed(listing: &str) -> BTreeSet<&str> {
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| *status == "installed")
        .filter_map(|(name, _)| name.split(':').next())
        .collect()
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// What to do about a failed installation.
fn explain(output: &str, mirror_failed: bool) -> &'static str {
    if output.contains("Could not get lock") {
        return "another package manager holds apt's lock: wait for it, then run this again";
    }
    if mirror_failed || output.contains("Failed to fetch") || output.contains("Could not resolve") {
        return "the Debian package mirror cannot be reached: check the network and apt's sources, \
                then run this again";
    }
    if output.contains("Unable to locate package") || output.contains("no installation candidate") {
        return "apt does not know a package: add Debian's security updates to apt's sources (its \
                current Rust and LLVM come from there), then run this again";
    }
    "apt-get failed: mend what it says, then run this again"
}

#[cfg(test)]
mod tests {
    use super::{super::packages, *};

    #[test]
    fn installed_packages_are_read_without_their_architecture() {
        let listing = "gcc installed\nlibc6-dev:amd64 installed\ntcpdump config-files\n";
        assert_eq!(installed(listing), BTreeSet::from(["gcc", "libc6-dev"]));
    }

    #[test]
    fn each_failure_says_what_to_do() {
        for (output, update_failed, says) in [
            ("E: Could not get lock /var/lib/dpkg/lock", false, "apt's lock"),
            ("E: Failed to fetch http://mirror/x.deb", false, "check the network"),
            ("E: Unable to locate package llvm-22-dev", true, "check the network"),
            ("E: Unable to locate package llvm-22-dev", false, "security updates"),
            ("E: something new", false, "mend what it says"),
        ] {
            let explained = explain(output, update_failed);
            assert!(explained.contains(says), "{output}: {explained}");
        }
    }

    #[test]
    fn a_conflict_names_what_would_be_removed() {
        let output = "The following additional packages will be installed:\n  seabios\n\
                      The following packages will be REMOVED:\n  qemu-utils qemu-block-extra\n  \
                      other\n\
                      The following NEW packages will be installed:\n  qemu-system-x86\n\
                      E: Packages need to be removed but remove is disabled.\n";
        let theirs = removed(output);
        assert_eq!(theirs, ["qemu-utils", "qemu-block-extra", "other"]);
        let tools = conflict(&[packages::EMULATOR], &theirs);
        assert!(tools.contains("remove qemu-utils, qemu-block-extra, other to"), "{tools}");
        assert!(tools.contains("qemu-system-x86") && !tools.contains("rustup"), "{tools}");
        let rust = conflict(packages::TOOLCHAIN, &theirs);
        assert!(rust.contains("rustup toolchain install"), "{rust}");
    }
}
