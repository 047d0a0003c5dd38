//! Counting: per CPU, so a plain addition is enough.

use dataplane_common::{Counter, NodeIndex, Reason, shadow::Finding};

use crate::{maps, packet::ETHERNET};

/// Counts one frame of `length` bytes (Ethernet header included) under `reason`.
#[inline(always)]
pub fn reason(reason: Reason, length: u32) {
    frame(maps::counter(reason), length);
}

/// Counts one frame of `length` bytes under the reason that a program which serves would have named.
#[inline(always)]
pub fn would(reason: Reason, length: u32) {
    frame(maps::would(reason), length);
}

/// Counts one frame of `length` bytes under what `mode: shadow` found out about it.
#[inline(always)]
pub fn finding(finding: Finding, length: u32) {
    frame(maps::finding(finding), length);
}

#[inline(always)]
fn frame(counter: Option<&mut Counter>, length: u32) {
    if let Some(counter) = counter {
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

/// Counts a packet of that node with an inner source that is not its own. Others never come by here.
#[inline(always)]
pub fn forged(node: NodeIndex) {
    if let Some(counter) = maps::node_counter(node) {
        counter.forged += 1;
    }
}
