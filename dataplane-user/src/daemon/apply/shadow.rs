//! `mode: shadow`: programs that only look come and go; nothing else is written.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use dataplane_common::IfIndex;

use super::Applier;
use crate::{
    bpf::{Pins, links, programs::Family},
    config::{ConfigFile, Mode},
    desired::Desired,
    kernel::{Host, Kernel},
    shadow::Watch,
    tables::{Attachments, Table as _},
};

/// Which programs a decision takes.
#[must_use]
pub fn family(desired: &Desired) -> Family {
    match desired.shadow {
        Some(_) => Family::Shadow,
        None => Family::Serving,
    }
}

/// Refuses `mode: shadow` where programs of ours carry packets: to look on, they would have to go first.
///
/// # Errors
/// If they do, or what is pinned cannot be read.
pub fn refuse_beside_serving(file: &ConfigFile, pins: &Pins) -> Result<()> {
    if file.config.mode == Mode::Shadow
        && links::pinned(pins)?.iter().any(|(at, _)| !at.program.is_shadow())
    {
        bail!(
            "{}: mode: `shadow` looks on while tunl0 carries the packets, but here tunless carries them: \
             stop the daemon and run `tunless detach` first",
            file.path.display()
        );
    }
    Ok(())
}

impl Applier {
    /// Adds what the programs have counted since the last look to the report of `mode: shadow`, if that is
    /// what they are.
    ///
    /// # Errors
    /// If the kernel refuses, or the run directory cannot be written.
    pub async fn watch_shadow(&mut self, host: &Host, desired: &Desired) -> Result<()> {
        let Some(exclusions) = &desired.shadow else { return Ok(()) };
        if self.programs.family() != Family::Shadow {
            return Ok(());
        }
        if self.shadow.is_none() {
            self.shadow = Some(Watch::new(self.programs.take_shadow()?, &self.pins));
        }
        match &mut self.shadow {
            Some(watch) => watch.look(&self.pins, host, exclusions).await,
            None => Ok(()),
        }
    }

    /// Takes programs that only look off their hooks; none of the packets there is theirs. Before others are
    /// attached, because a clsact filter has its place by a number.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn end_shadow(&mut self, kernel: &Kernel, host: &Host) -> Result<()> {
        let pinned = links::pinned(&self.pins)?;
        if !pinned.iter().any(|(at, _)| at.program.is_shadow()) {
            return Ok(());
        }
        let names: BTreeMap<IfIndex, String> =
            host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
        let mut attachments =
            Attachments::new(kernel, &self.pins, &mut self.programs, &names, None);
        let present = attachments.actual().await?;
        for at in present.keys().filter(|at| at.program.is_shadow()) {
            attachments.delete(at).await?;
        }
        self.attached = BTreeSet::new();
        Ok(())
    }
}
