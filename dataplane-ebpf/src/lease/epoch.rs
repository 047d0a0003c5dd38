//! Whether something has changed that a lease holds.

use dataplane_common::{EpochSlots, Epochs, Ipv4Be, Lease};

use crate::maps;

/// The epochs of two addresses, as they were at some moment (see [`dataplane_common::epochs`]).
#[derive(Clone, Copy)]
pub struct Epoch {
    /// Where they are.
    pub slots: EpochSlots,
    /// What they added up to.
    pub sum: u32,
}

impl Epoch {
    /// Reads them. What a lease will hold is looked up after that: a change in between makes the
    /// lease void, not wrong.
    #[inline(always)]
    pub fn read(remote: Ipv4Be, local: Ipv4Be) -> Self {
        let slots = EpochSlots::of(remote, local);
        Self { slots, sum: maps::epochs().map_or(0, |epochs| maps::epoch(epochs, slots)) }
    }

    /// Returns those that a lease bears.
    #[inline(always)]
    pub fn of(lease: &Lease) -> Self {
        Self { slots: lease.slots, sum: lease.epoch }
    }

    /// Returns whether they add up to the same now.
    #[inline(always)]
    pub fn is_current(&self, epochs: &Epochs) -> bool {
        self.sum == maps::epoch(epochs, self.slots)
    }
}
