//! Programs on interfaces.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::Table;
use crate::bpf::{AttachedLink, Attachment, Hook, Pins, Programs, links::list, programs::detach};

/// The pinned links.
pub struct Attachments<'a> {
    pins: &'a Pins,
    programs: &'a mut Programs,
    present: BTreeMap<Attachment, AttachedLink>,
    names: &'a BTreeMap<u32, String>,
    /// Interfaces whose driver refused XDP; `None`: a refusal is a failure.
    no_xdp: Option<&'a mut BTreeSet<u32>>,
}

impl<'a> Attachments<'a> {
    /// Links of `programs`, on interfaces called as in `names`. Where XDP is
    /// only a preference (`decap: auto`), `no_xdp` collects who refuses it.
    #[must_use]
    pub fn new(
        pins: &'a Pins,
        programs: &'a mut Programs,
        names: &'a BTreeMap<u32, String>,
        no_xdp: Option<&'a mut BTreeSet<u32>>,
    ) -> Self {
        Self { pins, programs, present: BTreeMap::new(), names, no_xdp }
    }

    /// What links should look like: live, with the program loaded now.
    ///
    /// # Errors
    /// If the kernel does not tell a program's number.
    pub fn desired(
        programs: &Programs,
        attachments: impl IntoIterator<Item = Attachment>,
    ) -> Result<BTreeMap<Attachment, AttachedLink>> {
        let mut ids = BTreeMap::new();
        for hook in Hook::ALL {
            ids.insert(hook, programs.id(hook)?);
        }
        let live = |at: &Attachment| AttachedLink { program_id: ids[&at.hook], is_live: true };
        Ok(attachments.into_iter().map(|at| (at, live(&at))).collect())
    }
}

impl Table for Attachments<'_> {
    type Key = Attachment;
    type Value = AttachedLink;
    const NAME: &'static str = "attachment";

    async fn actual(&mut self) -> Result<BTreeMap<Attachment, AttachedLink>> {
        self.present = list(self.pins)?.into_iter().collect();
        Ok(self.present.clone())
    }

    async fn upsert(&mut self, at: &Attachment, _: &AttachedLink) -> Result<()> {
        let name = self.names.get(&at.ifindex).map_or("?", String::as_str);
        let outcome = match self.present.get(at) {
            Some(link) if link.is_live => self.programs.take_over(self.pins, *at, name),
            Some(_) => {
                detach(self.pins, *at)?;
                self.programs.attach(self.pins, *at, name)
            }
            None => self.programs.attach(self.pins, *at, name),
        };
        match (outcome, at.hook, &mut self.no_xdp) {
            (Err(error), Hook::DecapXdp, Some(no_xdp)) => {
                tracing::info!("{name} takes no XDP program, so TC unwraps there: {error:#}");
                no_xdp.insert(at.ifindex);
                Ok(())
            }
            (outcome, _, _) => outcome,
        }
    }

    async fn delete(&mut self, at: &Attachment) -> Result<()> {
        detach(self.pins, *at)
    }
}
