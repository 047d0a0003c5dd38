//! Where XDP can unwrap, and where it cannot.

use anyhow::Result;
use dataplane_common::Reason;

use super::Reconciler;
use crate::{
    bpf::Maps, config::DecapHook, daemon::handovers::Counted, desired::Facts, kernel::Host,
};

impl Reconciler {
    /// Where XDP can hand nothing over, TC unwraps, unless the file insists.
    pub(super) fn look_at_handovers(&mut self, host: &Host, facts: &Facts) -> Result<()> {
        if self.file.config.underlay.decap != DecapHook::Auto {
            return Ok(());
        }
        // Without maps nothing has been counted.
        let opened;
        let maps = match &self.maps {
            Some(maps) => Some(maps),
            None => {
                opened = Maps::open(&self.pins).ok();
                opened.as_ref()
            }
        };
        if let Some(maps) = maps {
            let counted = Counted {
                unable: maps.counter(Reason::XdpUnable)?.packets,
                unwrapped: maps.counter(Reason::XdpUnwrapped)?.packets,
            };
            for ifindex in self.handovers.look(counted, &facts.underlay) {
                let name = host.links.get(&ifindex).map_or("?", |link| &link.name);
                tracing::info!("{name}'s driver has no XDP metadata, so TC unwraps there");
            }
        }
        self.no_xdp.extend(self.handovers.without());
        Ok(())
    }
}
