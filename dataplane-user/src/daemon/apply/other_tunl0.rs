//! Another tunl0 than the one that programs hand packets to.
//!
//! With the module ipip, tunl0 goes and comes back under another number. Until
//! programs are loaded for that, those on the underlay would hand every packet that
//! is not leased to a device that is no more, while the kernel could already decapsulate
//! it: so they are detached before anything else is done. Not earlier: as long as
//! there is no tunl0 that is up, the fast path is all that still works.

use std::collections::BTreeMap;

use anyhow::Result;
use dataplane_common::{IfIndex, Program};

use super::Applier;
use crate::{
    bpf::{AttachedLink, Attachment},
    kernel::{Host, Kernel},
    tables::{Attachments, Table as _},
};

impl Applier {
    /// Lets the kernel decapsulate, if tunl0 is up and is another than before.
    ///
    /// # Errors
    /// If a program cannot be detached.
    pub async fn make_way_for_other_tunl0(&mut self, kernel: &Kernel, host: &Host) -> Result<()> {
        let used = self.programs.settings().tunnel_ifindex;
        let is_gone = !host.links.contains_key(&used);
        let Some((ifindex, _)) = host.tunl0().filter(|_| is_gone) else { return Ok(()) };
        tracing::info!(
            "tunl0 was recreated (ifindex {used} → {ifindex}); until programs are attached to it \
             the kernel decapsulates"
        );
        let names: BTreeMap<IfIndex, String> =
            host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
        let mut attachments =
            Attachments::new(kernel, &self.pins, &mut self.programs, &names, None);
        let present: BTreeMap<Attachment, AttachedLink> = attachments.actual().await?;
        let unwraps = |at: &&Attachment| matches!(at.program, Program::DecapTc | Program::DecapXdp);
        for at in present.keys().filter(unwraps) {
            attachments.delete(at).await?;
        }
        Ok(())
    }
}
