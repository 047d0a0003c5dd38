//! Counting: per CPU, so a plain addition is enough.

use dataplane_common::{NodeIndex, Reason};

use crate::{maps, packet::ETHERNET};

/// Counts one frame of `length` bytes (Ethernet header included) under `reason`.
#[inline(always)]
pub fn reason(reason: Reason, length: u32) {
    if let Some(counter) = maps::counter(reason) {
        counter.packets += 1;
        counter.bytes += u64::from(length - ETHERNET as u32);
    }
}

/// Counts an inner packet of `bytes` sent to the node that is counted there.
#[inline(always)]
pub fn encap(node: NodeIndex, bytes: u32) {
    if let Some(counter) = maps::node_counter(node) {
        counter.encap.packets += 1;
        counter.encap.bytes += u64::from(bytes);
    }
}

/// Counts an inner packet of `bytes` that came from that node at `now` ([`crate::helpers::now`]).
#[inline(always)]
pub fn decap(node: NodeIndex, bytes: u32, now: u64) {
    if let Some(counter) = maps::node_counter(node) {
        counter.decap.packets += 1;
        counter.decap.bytes += u64::from(bytes);
        counter.last_seen = now;
    }
}
