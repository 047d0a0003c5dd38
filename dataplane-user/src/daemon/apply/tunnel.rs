//! The tunnel device: ours to make and repair, or tunl0, which is not. It is there before
//! anything else is applied, because programs are loaded for its interface index.

use anyhow::Result;

use crate::{
    bpf::Pins,
    daemon::{decide::Decision, observe::Observer},
    desired::{Facts, TunnelMode},
};

/// Makes our device what it should be, and looks again if that changed anything.
///
/// # Errors
/// If a device of that name is not ours, or the kernel refuses.
pub async fn ensure(observer: &mut Observer, facts: &Facts, pins: &Pins) -> Result<()> {
    let (kernel, host) = (observer.kernel(), observer.host());
    if facts.mode == TunnelMode::Replace
        && kernel.ensure_tunnel(host, facts.tunnel, pins.root()).await?
    {
        observer.look().await?;
    }
    Ok(())
}

/// Removes what the device should not have, or should not be.
///
/// # Errors
/// If the kernel refuses.
pub async fn tidy_up(observer: &Observer, decision: &Decision, pins: &Pins) -> Result<()> {
    let Decision { facts, desired, .. } = decision;
    let (kernel, host) = (observer.kernel(), observer.host());
    match facts.mode {
        _ if desired.shadow.is_some() => Ok(()),
        TunnelMode::Replace => {
            let tunnel = desired.settings.tunnel_ifindex;
            kernel.trim_addresses(host, tunnel, facts.tunnel.address).await
        }
        // It may be there from a time without tunl0.
        TunnelMode::Accelerate => kernel.delete_tunnel(host, pins.root()).await.map(drop),
    }
}
