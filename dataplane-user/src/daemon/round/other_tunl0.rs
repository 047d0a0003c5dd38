//! Another tunl0 than the one that programs hand packets to.
//!
//! With the module ipip, tunl0 goes and comes back under another number. Until
//! programs are loaded for that, those on the underlay would hand every packet that
//! is not leased to a device that is no more, while the kernel could already unwrap
//! it: so they are taken off before anything else is done. Not earlier: as long as
//! there is no tunl0 that is up, the fast path is all that still works.

use std::collections::BTreeMap;

use anyhow::Result;
use dataplane_common::Program;

use super::Reconciler;
use crate::{
    bpf::{AttachedLink, Attachment},
    kernel::Host,
    tables::{Attachments, Table as _},
};

impl Reconciler {
    /// Lets the kernel unwrap, if tunl0 is up and is another than before.
    pub(super) async fn make_way_for_other_tunl0(&mut self, host: &Host) -> Result<()> {
        let (Some(last), Some(programs)) = (&self.last, &mut self.programs) else { return Ok(()) };
        let used = last.desired.settings.tunnel_ifindex;
        let is_gone = !host.links.contains_key(&used);
        let Some((ifindex, _)) = host.tunl0().filter(|_| is_gone) else { return Ok(()) };
        tracing::info!("tunl0 is another one (number {ifindex}, was {used}): the kernel unwraps");
        let names: BTreeMap<u32, String> =
            host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
        let mut attachments = Attachments::new(&self.kernel, &self.pins, programs, &names, None);
        let present: BTreeMap<Attachment, AttachedLink> = attachments.actual().await?;
        let unwraps = |at: &&Attachment| matches!(at.program, Program::DecapTc | Program::DecapXdp);
        for at in present.keys().filter(unwraps) {
            attachments.delete(at).await?;
        }
        Ok(())
    }
}
