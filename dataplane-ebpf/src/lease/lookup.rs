//! Is there a lease for this flow, and what does it say?

use core::mem::MaybeUninit;

use dataplane_common::{Flow, Hop, IfIndex, Ipv4Be, Lease, Mtu, NodeIndex, Translation};

use super::Epoch;
use crate::maps;

/// A good lease.
pub struct Hit {
    /// The other node.
    pub node: Ipv4Be,
    /// Where that node is counted.
    pub index: NodeIndex,
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
    pub fn count(&mut self, bytes: u32) {
        self.entry.packets += 1;
        self.entry.bytes += u64::from(bytes);
    }
}

/// Room for a good lease.
pub type Slot = MaybeUninit<Hit>;

/// Why there is no good one.
#[derive(Clone, Copy)]
pub enum Miss {
    /// None was granted.
    Missing,
    /// Its time is over.
    Expired,
    /// It was granted before a change of routes, nodes or pods that concerns it.
    Outdated,
}

/// The lease of `flow`, if it is good at `now` ([`crate::helpers::now`]); it is written to `slot`.
#[inline(always)]
pub fn lookup<'a>(flow: &Flow, now: u64, slot: &'a mut Slot) -> Result<&'a mut Hit, Miss> {
    find(flow, now, slot)?;
    // SAFETY: where it ends well, `find` has written it.
    Ok(unsafe { slot.assume_init_mut() })
}

/// As [`lookup`], by a function of its own: where a packet without a lease has much before it, the parts of a
/// lease, carried in registers, would be set to something on each of the many ways that have none.
#[inline(always)]
pub fn lookup_apart<'a>(flow: &Flow, now: u64, slot: &'a mut Slot) -> Result<&'a mut Hit, Miss> {
    find_apart(flow, now, slot)?;
    // SAFETY: as in `lookup`.
    Ok(unsafe { slot.assume_init_mut() })
}

#[inline(never)]
fn find_apart(flow: &Flow, now: u64, slot: &mut Slot) -> Result<(), Miss> {
    find(flow, now, slot)
}

/// Writes the lease into `slot`.
#[inline(always)]
fn find(flow: &Flow, now: u64, slot: &mut Slot) -> Result<(), Miss> {
    let entry = maps::lease(flow).ok_or(Miss::Missing)?;
    let epochs = maps::epochs().ok_or(Miss::Missing)?;
    let is_current = Epoch::of(entry).is_current(epochs);
    let (node, index, endpoint) = (entry.node, entry.index, entry.endpoint);
    let (hop, mtu) = (maps::hop(&entry.hop), entry.mtu);
    let translation = entry.translation;
    let expires = maps::read_last(&entry.expires);
    if !maps::is_still_of(entry, flow) {
        return Err(Miss::Missing);
    }
    if !is_current {
        return Err(Miss::Outdated);
    }
    if !Lease::is_signed(expires, flow) {
        return Err(Miss::Missing);
    }
    if !Lease::is_good_at(expires, now) {
        return Err(Miss::Expired);
    }
    slot.write(Hit { node, index, endpoint, hop, mtu, translation, entry });
    Ok(())
}
