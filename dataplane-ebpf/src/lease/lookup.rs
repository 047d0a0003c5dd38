//! Is there a lease for this flow, and what does it say?

use dataplane_common::{Flow, Hop, IfIndex, Ipv4Be, Lease, Mtu, Translation};

use crate::maps;

/// A good lease.
pub struct Hit {
    /// The other node.
    pub node: Ipv4Be,
    /// The local pod's interface.
    pub endpoint: IfIndex,
    /// Where packets go.
    pub hop: Hop,
    /// As in [`Lease::mtu`].
    pub mtu: Mtu,
    /// As in [`Lease::translation`].
    pub translation: Translation,
    entry: &'static mut Lease,
}

impl Hit {
    /// Counts an inner packet of `bytes` that goes by it.
    #[inline(always)]
    pub fn count(self, bytes: u32) {
        self.entry.packets += 1;
        self.entry.bytes += u64::from(bytes);
    }
}

/// Why there is no good one.
pub enum Miss {
    /// None was granted.
    Missing,
    /// Its time is over.
    Expired,
    /// It was granted before the last change of routes, nodes or pods.
    Outdated,
}

/// The lease of `flow`, if it is good at `now` ([`crate::helpers::now`]).
#[inline(always)]
pub fn lookup(flow: &Flow, now: u64) -> Result<Hit, Miss> {
    let entry = maps::lease(flow).ok_or(Miss::Missing)?;
    let (node, endpoint) = (entry.node, entry.endpoint);
    let (hop, mtu) = (maps::hop(&entry.hop), entry.mtu);
    let translation = entry.translation;
    let epoch = entry.epoch;
    let expires = maps::read_last(&entry.expires);
    if !maps::is_still_of(entry, flow) {
        return Err(Miss::Missing);
    }
    if epoch != maps::epoch() {
        return Err(Miss::Outdated);
    }
    if !Lease::is_signed(expires, flow) {
        return Err(Miss::Missing);
    }
    if !Lease::is_good_at(expires, now) {
        return Err(Miss::Expired);
    }
    Ok(Hit { node, endpoint, hop, mtu, translation, entry })
}
