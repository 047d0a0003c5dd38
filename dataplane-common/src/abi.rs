//! One number for everything that two versions must agree on to share maps.
//!
//! Pins live under `v<ABI>`: a daemon whose maps look different makes new ones
//! beside the old and swaps the programs, instead of reading the old wrongly.

use crate::{
    Arrival, Counter, Endpoint, EndpointEntry, EpochSlots, Epochs, Flow, Handover, Hop, Lease,
    LinkState, Node, NodeCounter, NodeEntry, Prefix, PrefixRoute, Reason, Route, Settings,
    Translation, Unanswered, UnansweredSet,
    layout::{MAX_ENDPOINTS, MAX_MASKS, MAX_NODES, MAX_ROUTES},
    link::LINK_SLOTS,
    shadow::Difference,
};

/// The hash of all shared layouts, map sizes and the reasons' order (FNV-1a, 32 bit).
pub const ABI: u32 = {
    let mut hash = Fnv::new();
    let layouts = [
        Prefix::LAYOUT,
        PrefixRoute::LAYOUT,
        Route::LAYOUT,
        Hop::LAYOUT,
        Node::LAYOUT,
        Endpoint::LAYOUT,
        NodeEntry::LAYOUT,
        EndpointEntry::LAYOUT,
        Counter::LAYOUT,
        NodeCounter::LAYOUT,
        Handover::LAYOUT,
        Settings::LAYOUT,
        Flow::LAYOUT,
        Lease::LAYOUT,
        Translation::LAYOUT,
        EpochSlots::LAYOUT,
        Epochs::LAYOUT,
        Arrival::LAYOUT,
        Unanswered::LAYOUT,
        UnansweredSet::LAYOUT,
        LinkState::LAYOUT,
        Difference::LAYOUT,
        &[MAX_ROUTES, MAX_MASKS, MAX_NODES, MAX_ENDPOINTS, LINK_SLOTS],
    ];
    let mut i = 0;
    while i < layouts.len() {
        let mut j = 0;
        while j < layouts[i].len() {
            hash = hash.add(&layouts[i][j].to_le_bytes());
            j += 1;
        }
        i += 1;
    }
    let mut i = 0;
    while i < Reason::COUNT {
        hash = hash.add(Reason::ALL[i].as_str().as_bytes());
        i += 1;
    }
    hash.0
};

/// <http://www.isthe.com/chongo/tech/comp/fnv/>, the 32-bit variant 1a.
struct Fnv(u32);

impl Fnv {
    const fn new() -> Self {
        Self(0x811c_9dc5)
    }

    const fn add(self, bytes: &[u8]) -> Self {
        let mut hash = self.0;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
            i += 1;
        }
        Self(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(Fnv::new().add(b"").0, 0x811c_9dc5);
        assert_eq!(Fnv::new().add(b"foobar").0, 0xbf9c_f968);
    }
}
