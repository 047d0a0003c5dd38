//! qemu: installed, or unpacked under `target/vm/emulator`.
//!
//! Its package does not go together with qemu packages of another release, which a
//! machine may have for reasons of its own. They stay: where apt would remove
//! something, the emulator and what it needs are unpacked, and run from there.
//!
//! ```text
//! target/vm/emulator/usr/bin/qemu-system-x86_64
//! target/vm/emulator/usr/lib/x86_64-linux-gnu/        its libraries
//! target/vm/emulator/usr/lib/x86_64-linux-gnu/qemu/   its modules, TCG among them
//! target/vm/emulator/usr/share/{qemu,seabios}/        its firmware
//! ```

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::directory;
use crate::{
    apt::Apt,
    setup::{self, Installation},
    workspace,
};

const PROGRAM: &str = "qemu-system-x86_64";

/// Where Debian has libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Where Debian has firmware of a PC: qemu's own, the BIOS, the network cards'.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// What runs the virtual machines.
#[derive(Clone, Debug)]
pub enum Emulator {
    /// The one on the PATH.
    Installed,
    /// The one whose packages are unpacked here.
    Unpacked(PathBuf),
}

/// The emulator, installed or unpacked if it is not there yet.
pub fn get() -> Result<Emulator> {
    if setup::has_emulator()? {
        return Ok(Emulator::Installed);
    }
    let place = directory().join("emulator");
    let unpacked = Emulator::Unpacked(place.clone());
    // Running it finds a library of the machine that has gone since.
    if unpacked.runs() {
        return Ok(unpacked);
    }
    let Installation::WouldRemove(theirs) = setup::emulator()? else {
        return Ok(Emulator::Installed);
    };
    let package = setup::EMULATOR;
    println!(
        "set-up: apt would remove {} to install {package}; nothing is removed: {package} and what \
         it needs go into {}, uninstalled, and run from there",
        theirs.join(", "),
        workspace::shown(&place)
    );
    unpack(&place).with_context(|| format!("{} cannot be unpacked", setup::EMULATOR))?;
    Ok(unpacked)
}

/// Unpacks into a directory beside it, so that what is there is complete.
fn unpack(place: &Path) -> Result<()> {
    let parent = place.parent().context("no directory for the emulator")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)
        .with_context(|| format!("no directory can be made in {}", parent.display()))?;

    let apt = Apt::of_machine(&work.path().join("apt"))?;
    let root = work.path().join("root");
    apt.unpack(&apt.would_install(setup::EMULATOR)?, &root)?;
    ensure!(
        Emulator::Unpacked(root.clone()).runs(),
        "unpacked, {PROGRAM} does not start: install {} by hand",
        setup::EMULATOR
    );
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::rename(&root, place).with_context(|| format!("cannot make {}", place.display()))
}

impl Emulator {
    /// The words that a command line with it begins with.
    pub fn words(&self) -> Vec<OsString> {
        let Self::Unpacked(root) = self else {
            return vec![PROGRAM.into()];
        };
        let mut libraries = OsString::from("LD_LIBRARY_PATH=");
        for (index, directory) in LIBRARIES.iter().enumerate() {
            libraries.push(if index == 0 { "" } else { ":" });
            libraries.push(root.join(directory));
        }
        let mut modules = OsString::from("QEMU_MODULE_DIR=");
        modules.push(root.join(LIBRARIES[0]).join("qemu"));
        // By `env`: nothing but the emulator is to find these libraries.
        let program = root.join("usr/bin").join(PROGRAM).into_os_string();
        let mut words = vec!["env".into(), libraries, modules, program];
        for directory in FIRMWARE {
            words.extend(["-L".into(), root.join(directory).into_os_string()]);
        }
        words
    }

    /// Whether it starts.
    fn runs(&self) -> bool {
        let words = self.words();
        words.split_first().is_some_and(|(program, arguments)| {
            let mut command = Command::new(program);
            command.args(arguments).arg("--version");
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_emulator_is_called_by_its_name() {
        assert_eq!(Emulator::Installed.words(), ["qemu-system-x86_64"]);
    }

    #[test]
    fn an_unpacked_emulator_has_all_that_it_needs_from_its_directory() {
        let words = Emulator::Unpacked("/there".into()).words();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            words.join(" "),
            "env LD_LIBRARY_PATH=/there/usr/lib/x86_64-linux-gnu:/there/lib/x86_64-linux-gnu \
             QEMU_MODULE_DIR=/there/usr/lib/x86_64-linux-gnu/qemu \
             /there/usr/bin/qemu-system-x86_64 -L /there/usr/share/qemu \
             -L /there/usr/share/seabios -L /there/usr/lib/ipxe/qemu"
        );
    }

    #[test]
    fn an_emulator_that_is_not_there_does_not_run() {
        assert!(!Emulator::Unpacked("/nowhere".into()).runs());
    }
}
