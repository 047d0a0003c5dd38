//! Programs on interfaces.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dataplane_common::{IfIndex, Program};
use tokio::time::Instant;

use super::Table;
use crate::{
    bpf::{
        AttachedLink, Attachment, Hook as _, Pins, Programs,
        filters::{self, forget_qdisc},
        links,
    },
    kernel::Kernel,
};

/// The pinned links, or filters where the kernel has none.
pub struct Attachments<'a> {
    kernel: &'a Kernel,
    pins: &'a Pins,
    programs: &'a mut Programs,
    present: BTreeMap<Attachment, AttachedLink>,
    names: &'a BTreeMap<IfIndex, String>,
    /// Interfaces whose driver refused XDP; `None`: a refusal is in `without_xdp`.
    no_xdp: Option<&'a mut BTreeSet<IfIndex>>,
    watch: Option<Watch<'a>>,
    postponed: BTreeSet<Attachment>,
    /// Where XDP was refused though it is wanted, ready to print.
    without_xdp: Vec<String>,
    /// Links on which `decap_tc` was attached, and not only put in the place of another version.
    renewed: BTreeSet<IfIndex>,
}

/// What was attached before, and until when pods may be attached to.
struct Watch<'a> {
    attached: &'a BTreeSet<Attachment>,
    deadline: Instant,
}

impl<'a> Attachments<'a> {
    /// Links of `programs`, on interfaces called as in `names`. Where XDP is
    /// only a preference (`decap: auto`), `no_xdp` collects who refuses it.
    #[must_use]
    pub fn new(
        kernel: &'a Kernel,
        pins: &'a Pins,
        programs: &'a mut Programs,
        names: &'a BTreeMap<IfIndex, String>,
        no_xdp: Option<&'a mut BTreeSet<IfIndex>>,
    ) -> Self {
        Self {
            kernel,
            pins,
            programs,
            present: BTreeMap::new(),
            names,
            no_xdp,
            watch: None,
            postponed: BTreeSet::new(),
            without_xdp: Vec::new(),
            renewed: BTreeSet::new(),
        }
    }

    /// Logs which of what was `attached` before is not any more, and attaches to no more pods
    /// after the deadline.
    pub fn watch(&mut self, attached: &'a BTreeSet<Attachment>, deadline: Instant) {
        self.watch = Some(Watch { attached, deadline });
    }

    /// What is still to be attached: the time was up.
    pub fn take_postponed(&mut self) -> BTreeSet<Attachment> {
        std::mem::take(&mut self.postponed)
    }

    /// Returns what failed and what packets do not need: TC decapsulates where XDP does not.
    pub fn take_without_xdp(&mut self) -> Vec<String> {
        std::mem::take(&mut self.without_xdp)
    }

    /// Links on which `decap_tc` was missing and is there now.
    pub fn take_renewed(&mut self) -> BTreeSet<IfIndex> {
        std::mem::take(&mut self.renewed)
    }

    /// Another program detached it, or removed its pin.
    fn log_loss(&self, at: &Attachment) {
        let was_attached = self.watch.as_ref().is_some_and(|watch| watch.attached.contains(at));
        let what = match self.present.get(at) {
            None => "its pin was removed",
            Some(link) if !link.is_live => "it was detached by another program",
            Some(_) => return,
        };
        if was_attached && self.names.contains_key(&at.ifindex) {
            let (program, name) = (at.program.as_str(), self.name(at));
            tracing::warn!("{program} on {name} was lost ({what}); it is attached again");
        }
    }

    /// What links should look like: live, with the program loaded now;
    /// `as_filters`: filters instead, for TC.
    ///
    /// # Errors
    /// If the kernel does not tell a program's number.
    pub fn desired(
        programs: &Programs,
        attachments: impl IntoIterator<Item = Attachment>,
        as_filters: bool,
    ) -> Result<BTreeMap<Attachment, AttachedLink>> {
        let mut ids = BTreeMap::new();
        for program in programs.family().programs() {
            ids.insert(*program, programs.id(*program)?);
        }
        let live = |at: &Attachment| {
            Some(AttachedLink {
                program_id: *ids.get(&at.program)?,
                is_live: true,
                is_filter: as_filters && at.program.tc().is_some(),
            })
        };
        Ok(attachments.into_iter().filter_map(|at| Some((at, live(&at)?))).collect())
    }

    fn name(&self, at: &Attachment) -> &'a str {
        self.names.get(&at.ifindex).map_or("?", String::as_str)
    }

    /// The new one works before the old one goes; for a moment both do, and what
    /// the first took or granted, the second may at most let go.
    async fn put(&mut self, at: &Attachment, wanted: &AttachedLink) -> Result<()> {
        let name = self.name(at);
        match (self.present.get(at), wanted.is_filter) {
            (None, false) => {
                self.programs.attach(self.pins, *at, name)?;
                // Of a time whose pins were lost: it would undo what the link does.
                self.remove_filter(at).await
            }
            (Some(old), false) if old.is_filter => {
                links::end(self.pins, *at)?;
                self.programs.attach(self.pins, *at, name)?;
                self.remove_filter(at).await
            }
            (Some(old), false) if old.is_live => self.programs.take_over(self.pins, *at, name),
            (Some(_), false) => {
                links::end(self.pins, *at)?;
                self.programs.attach(self.pins, *at, name)
            }
            // Its pin takes the place of the link's, which ends with it.
            (_, true) => self.programs.attach_filter(self.pins, *at, name),
        }
    }

    async fn remove_filter(&self, at: &Attachment) -> Result<()> {
        match at.program.tc() {
            // With the interface its filters are gone.
            Some(direction) if self.names.contains_key(&at.ifindex) => {
                filters::detach(self.kernel, *at, direction, self.name(at)).await
            }
            _ => forget_qdisc(self.pins, at.ifindex),
        }
    }
}

impl Table for Attachments<'_> {
    type Key = Attachment;
    type Value = AttachedLink;
    const NAME: &'static str = "attachment";

    fn describe(&self, at: &Attachment, new: Option<&AttachedLink>) -> String {
        describe(at, self.names.get(&at.ifindex).map(String::as_str), new.is_some())
    }

    async fn actual(&mut self) -> Result<BTreeMap<Attachment, AttachedLink>> {
        let mut links = links::list(self.pins)?;
        filters::check(self.kernel, &mut links).await?;
        self.present = links.into_iter().collect();
        Ok(self.present.clone())
    }

    async fn upsert(&mut self, at: &Attachment, wanted: &AttachedLink) -> Result<()> {
        let is_pods = matches!(at.program, Program::EncapPod | Program::GrantDecap);
        let is_late = self.watch.as_ref().is_some_and(|watch| watch.deadline < Instant::now());
        if is_pods && is_late && !self.present.contains_key(at) {
            self.postponed.insert(*at);
            return Ok(());
        }
        self.log_loss(at);
        let outcome = self.put(at, wanted).await;
        let was_live = self.present.get(at).is_some_and(|link| link.is_live);
        if at.program == Program::DecapTc && !was_live && outcome.is_ok() {
            self.renewed.insert(at.ifindex);
        }
        match (outcome, at.program, &mut self.no_xdp) {
            (Err(error), Program::DecapXdp, Some(no_xdp)) => {
                let name = self.names.get(&at.ifindex).map_or("?", String::as_str);
                tracing::info!("{name} takes no XDP program, so TC unwraps there: {error:#}");
                no_xdp.insert(at.ifindex);
                Ok(())
            }
            (Err(error), Program::DecapXdp, None) => {
                let what = self.describe(at, Some(wanted));
                self.without_xdp.push(format!("{what}: {error:#}"));
                Ok(())
            }
            (outcome, _, _) => outcome,
        }
    }

    async fn delete(&mut self, at: &Attachment) -> Result<()> {
        if self.present.get(at).is_some_and(|link| link.is_filter) {
            self.remove_filter(at).await?;
        }
        links::end(self.pins, *at)
    }
}

/// `attaching decap_tc to eth0 (ifindex 2)`; an interface that is gone has no name.
fn describe(at: &Attachment, interface: Option<&str>, attach: bool) -> String {
    let verb = if attach { ("attaching", "to") } else { ("detaching", "from") };
    let Attachment { program, ifindex } = at;
    let interface = interface.unwrap_or("an interface that is gone");
    format!("{} {} {} {interface} (ifindex {ifindex})", verb.0, program.as_str(), verb.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_described_by_program_and_interface() {
        let at = Attachment { program: Program::DecapTc, ifindex: IfIndex(2) };
        assert_eq!(describe(&at, Some("eth0"), true), "attaching decap_tc to eth0 (ifindex 2)");
        assert_eq!(
            describe(&at, None, false),
            "detaching decap_tc from an interface that is gone (ifindex 2)"
        );
    }
}
