//! Is there a lease for this flow, and what does it say?

use core::{
    ptr::read_volatile,
    sync::atomic::{Ordering, compiler_fence},
};

use dataplane_common::{Flow, Hop, Ipv4Be, Lease};

use crate::maps;

/// A lease that is good.
pub struct Leased {
    /// The other node.
    pub node: Ipv4Be,
    /// The local pod's interface.
    pub endpoint: u32,
    /// Where packets go.
    pub hop: Hop,
    /// As in [`Lease::mtu`].
    pub mtu: u32,
    entry: &'static mut Lease,
}

impl Leased {
    /// Counts an inner packet of `bytes` that goes by it.
    #[inline(always)]
    pub fn count(self, bytes: u32) {
        self.entry.packets += 1;
        self.entry.bytes += u64::from(bytes);
    }
}

/// Why there is none.
pub enum NoLease {
    /// Nobody granted one.
    Missing,
    /// Its time is over.
    Expired,
    /// It was granted before the last change of routes, nodes or pods.
    Outdated,
}

/// The lease of `flow`, if it is good at `now` ([`crate::kernel::now`]).
#[inline(always)]
pub fn find(flow: &Flow, now: u64) -> Result<Leased, NoLease> {
    let entry = maps::lease(flow).ok_or(NoLease::Missing)?;
    let (node, endpoint) = (entry.node, entry.endpoint);
    let (hop, mtu) = (entry.hop.by_fields(), entry.mtu);
    let (epoch, expires) = (entry.epoch, entry.expires);
    // Read last: whoever got the memory in between has overwritten this first.
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a reference is valid to read.
    let destination = unsafe { read_volatile(&raw const entry.destination) };
    if destination != flow.destination {
        return Err(NoLease::Missing);
    }
    if epoch != maps::epoch() {
        return Err(NoLease::Outdated);
    }
    if expires <= now {
        return Err(NoLease::Expired);
    }
    Ok(Leased { node, endpoint, hop, mtu, entry })
}
