//! The tunnel device: ours to make and mend, or tunl0, which is not.

use anyhow::{Context as _, Result};

use super::Reconciler;
use crate::{
    desired::{Desired, Facts, TunnelMode},
    kernel::{Host, Link, TUNNEL},
};

/// Said while the device that carries the pods' routes is not there.
const NO_TUNL0: &str = "there is no tunl0 that is up, so nothing is changed until it is back; \
                        `mode: replace` does without";

impl Reconciler {
    /// Makes ours what it should be. The host as it is then.
    pub(super) async fn make_tunnel(&self, host: Host, facts: &Facts) -> Result<Host> {
        match facts.mode {
            TunnelMode::Replace => {
                let is_changed =
                    self.kernel.ensure_tunnel(&host, facts.tunnel, self.pins.root()).await?;
                if is_changed { self.kernel.look().await } else { Ok(host) }
            }
            TunnelMode::Accelerate => Ok(host),
        }
    }

    /// Takes away what the device should not have, or should not be.
    pub(super) async fn tidy_up(&self, desired: &Desired, facts: &Facts) -> Result<()> {
        match facts.mode {
            TunnelMode::Replace => {
                let (tunnel, address) = (desired.settings.tunnel_ifindex, facts.tunnel.address);
                self.kernel.trim_addresses(&self.host, tunnel, address).await
            }
            // It may be there from a time without tunl0.
            TunnelMode::Accelerate => {
                self.kernel.delete_tunnel(&self.host, self.pins.root()).await.map(drop)
            }
        }
    }
}

/// The device to use.
pub(super) fn tunnel(mode: TunnelMode, host: &Host) -> Result<(u32, &Link)> {
    match mode {
        TunnelMode::Replace => host.link(TUNNEL).with_context(|| format!("{TUNNEL} vanished")),
        // What there is stays as it is: without tunl0 nothing would take its place.
        TunnelMode::Accelerate => host.tunl0().context(NO_TUNL0),
    }
}
