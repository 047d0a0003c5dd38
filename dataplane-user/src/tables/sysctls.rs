//! Conntrack's sysctls as leases need them, and as they were before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::Result;

use super::Table;
use crate::{bpf::Pins, netfilter::conntrack, run_dir};

/// The sysctls we change. What they were is in the daemon's memory, so that another process
/// can restore it.
///
/// They stay changed until `detach`: conntrack has not followed connections that
/// were leased. Taken strictly, their next packets would be invalid, and a silent one would be
/// forgotten within minutes.
pub struct Sysctls<'a> {
    new: &'a BTreeSet<String>,
}

impl<'a> Sysctls<'a> {
    /// `new`: those that are about to be changed for the first time.
    #[must_use]
    pub fn new(new: &'a BTreeSet<String>) -> Self {
        Self { new }
    }
}

/// Adds the values of the sysctls that leases need otherwise to `before`. Returns those that
/// were not in it. They are to be persisted before they are changed.
pub fn remember_sysctls(before: &mut BTreeMap<String, u32>) -> BTreeSet<String> {
    let mut new = BTreeSet::new();
    for (name, wanted) in conntrack::relaxed() {
        // One that is missing is a problem of its own.
        let Ok(now) = conntrack::read(&name) else { continue };
        if now != wanted && !before.contains_key(&name) {
            tracing::info!(
                "{name} was {now} and is {wanted} from now on, for every connection of this \
                 host; `tunless detach` restores it"
            );
            before.insert(name.clone(), now);
            new.insert(name);
        }
    }
    new
}

/// Restores all that was changed. Returns how many there were.
///
/// # Errors
/// If one cannot be restored.
pub fn restore_sysctls(before: &BTreeMap<String, u32>) -> Result<usize> {
    for (name, value) in before {
        conntrack::write(name, *value)?;
    }
    Ok(before.len())
}

/// Records the values before for 0.1, too, which knows only that file, and restores whatever it
/// names: also what 0.1 never changed itself.
///
/// # Errors
/// If it cannot be written.
pub fn record_sysctls_for_0_1(pins: &Pins, before: &BTreeMap<String, u32>) -> Result<()> {
    if before.is_empty() {
        return Ok(());
    }
    run_dir::replace(&file_of_0_1(pins), &serde_json::to_vec(before)?)
}

/// The values before, as 0.1 kept them: in a file in the run directory.
#[must_use]
pub fn sysctls_of_0_1(pins: &Pins) -> BTreeMap<String, u32> {
    let text = fs::read_to_string(file_of_0_1(pins)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Moves that file with its pins.
pub fn move_sysctls_of_0_1(from: &Pins, to: &Pins) {
    // There is none unless 0.1 changed them.
    let _ = fs::rename(file_of_0_1(from), file_of_0_1(to));
}

/// Removes that file.
///
/// # Errors
/// If that is refused.
pub fn forget_sysctls_of_0_1(pins: &Pins) -> Result<()> {
    run_dir::remove(&file_of_0_1(pins))
}

fn file_of_0_1(pins: &Pins) -> PathBuf {
    run_dir::file(pins, "sysctls")
}

impl Table for Sysctls<'_> {
    type Key = String;
    type Value = u32;
    const NAME: &'static str = "sysctl";

    fn describe(&self, name: &String, new: Option<&u32>) -> String {
        match new {
            Some(value) => format!("setting {name} to {value}"),
            None => format!("leaving {name}"),
        }
    }

    async fn actual(&mut self) -> Result<BTreeMap<String, u32>> {
        conntrack::RELAXED
            .iter()
            .map(|it| Ok((it.name.to_owned(), conntrack::read(it.name)?)))
            .collect()
    }

    async fn upsert(&mut self, name: &String, value: &u32) -> Result<()> {
        let now = conntrack::read(name)?;
        let is_ours = |it: &&conntrack::Relaxed| it.name == name.as_str();
        if !self.new.contains(name)
            && let Some(it) = conntrack::RELAXED.iter().find(is_ours)
        {
            tracing::warn!("{}", it.changed_by_others(now, *value));
        }
        conntrack::write(name, *value)
    }

    /// Never asked for: see [`Sysctls`].
    async fn delete(&mut self, _: &String) -> Result<()> {
        Ok(())
    }
}
