//! Conntrack's sysctls as leases need them, and as they were before.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use anyhow::{Context as _, Result};

use super::Table;
use crate::{bpf::Pins, netfilter::conntrack, run_dir};

/// The sysctls we change. What they were is kept in a file, so that another
/// process can restore it.
///
/// They stay changed until `detach`: conntrack has not followed connections that
/// were leased, and taken strictly their next packets would be invalid.
pub struct Sysctls {
    before: PathBuf,
}

impl Sysctls {
    /// Those of the instance with these pins.
    #[must_use]
    pub fn new(pins: &Pins) -> Self {
        Self { before: run_dir::file(pins, "sysctls") }
    }

    /// Restores all that we changed. Returns how many.
    ///
    /// # Errors
    /// If one cannot be restored.
    pub fn restore(&self) -> Result<usize> {
        let before = self.remembered()?;
        for (name, value) in &before {
            conntrack::write(name, *value)?;
        }
        self.remember(&BTreeMap::new())?;
        Ok(before.len())
    }

    fn remembered(&self) -> Result<BTreeMap<String, u32>> {
        let context = || self.before.display().to_string();
        match fs::read_to_string(&self.before) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            text => serde_json::from_str(&text.with_context(context)?).with_context(context),
        }
    }

    fn remember(&self, before: &BTreeMap<String, u32>) -> Result<()> {
        let context = || self.before.display().to_string();
        if before.is_empty() {
            return match fs::remove_file(&self.before) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).with_context(context)
                }
                _ => Ok(()),
            };
        }
        // In place of the old one at once: killed half-way, we must not forget.
        let new = self.before.with_extension("sysctls.new");
        fs::write(&new, serde_json::to_string(before)?)
            .and_then(|()| fs::rename(&new, &self.before))
            .with_context(context)
    }
}

impl Table for Sysctls {
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
            .map(|name| Ok(((*name).to_owned(), conntrack::read(name)?)))
            .collect()
    }

    async fn upsert(&mut self, name: &String, value: &u32) -> Result<()> {
        let mut before = self.remembered()?;
        let now = conntrack::read(name)?;
        if before.contains_key(name) {
            tracing::warn!("{name} was set to {now}; leased flows need {value}, so that it is");
        } else {
            tracing::info!(
                "{name} was {now} and is {value} from now on, for every connection of this host; \
                 `tunless detach` restores it"
            );
            before.insert(name.clone(), now);
            self.remember(&before)?;
        }
        conntrack::write(name, *value)
    }

    /// Never asked for: see [`Sysctls`].
    async fn delete(&mut self, _: &String) -> Result<()> {
        Ok(())
    }
}
