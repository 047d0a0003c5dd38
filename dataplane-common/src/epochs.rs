//! Which leases a change of routes, nodes or pods ends.
//!
//! What a lease holds was looked up for two addresses: that of the pod on the other node, and that of
//! the local pod. Each has a number in the map `EPOCH`, its *epoch*. A lease bears the sum of both, and
//! is good only while that is the sum. The daemon changes the maps first, and then raises the epochs of
//! the addresses that the change concerns; a program reads the epochs first, and then looks up what a
//! lease will hold. So a lease of what was there before the change bears a sum that is over.
//!
//! Remote addresses share an epoch by the /26, the length of Calico's blocks: what changes there are
//! routes. Local ones have their own: what changes there are single pods. Epochs are only ever added to,
//! so that a sum stays the same only if each of them does.

use crate::{Direction, Flow, Ipv4Be, Translation, layout::plain};

/// How many epochs there are of either kind.
pub const SLOTS: usize = 1024;
/// How many bits remote addresses with one epoch have in common.
pub const BLOCK_LENGTH: u8 = 26;

/// The value of the map `EPOCH`. Its first four bytes end every lease in every version of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Epochs {
    /// Part of every sum: raising it ends all leases.
    pub all: u32,
    /// Those of remote addresses.
    pub remote: [u32; SLOTS],
    /// Those of local pods.
    pub local: [u32; SLOTS],
}

plain! {
    /// Where in [`Epochs`] the epochs of a lease are.
    pub struct EpochSlots {
        /// In [`Epochs::remote`].
        pub remote: u16,
        /// In [`Epochs::local`].
        pub local: u16,
    }
}

impl EpochSlots {
    /// Returns those of a remote address and of a local pod.
    #[inline(always)]
    #[must_use]
    pub const fn of(remote: Ipv4Be, local: Ipv4Be) -> Self {
        Self { remote: Self::remote(remote), local: Self::local(local) }
    }

    /// Returns those of a lease under `flow` that translates so. What the programs look up is of the
    /// pod behind a Service, never of the Service: at encap it is what the destination becomes, at
    /// decap the source that the wire brings.
    #[must_use]
    pub const fn of_lease(flow: &Flow, translation: &Translation) -> Self {
        match flow.direction() {
            Direction::Encap if translation.is_none() => Self::of(flow.destination, flow.source),
            Direction::Encap => Self::of(translation.address, flow.source),
            Direction::Decap => Self::of(flow.source, flow.destination),
        }
    }

    /// Returns the slot of a remote address. Of blocks in one /16, no two share it.
    #[inline(always)]
    #[must_use]
    pub const fn remote(address: Ipv4Be) -> u16 {
        let address = u32::from_be(address.0);
        ((address >> (32 - BLOCK_LENGTH) ^ address >> 16) % SLOTS as u32) as u16
    }

    /// Returns the slot of a local pod. Of addresses in one /22, no two share it.
    #[inline(always)]
    #[must_use]
    pub const fn local(address: Ipv4Be) -> u16 {
        let address = u32::from_be(address.0);
        ((address ^ address >> 10) % SLOTS as u32) as u16
    }
}

impl Epochs {
    pub(crate) const LAYOUT: &'static [usize] = &[
        size_of::<Self>(),
        core::mem::offset_of!(Self, all),
        core::mem::offset_of!(Self, remote),
        core::mem::offset_of!(Self, local),
        SLOTS,
        BLOCK_LENGTH as usize,
    ];
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_of_one_block_share_a_slot(address: u32, other in 0..64_u32) {
            let other = Ipv4Addr::from(address & !63 | other);
            prop_assert_eq!(
                EpochSlots::remote(Ipv4Addr::from(address).into()),
                EpochSlots::remote(other.into())
            );
        }

        #[test]
        fn neighbours_do_not(address: u32) {
            let all = |first: u32, step: u32, slot: fn(Ipv4Be) -> u16| -> BTreeSet<u16> {
                (0..SLOTS as u32).map(|i| slot(Ipv4Addr::from(first + i * step).into())).collect()
            };
            prop_assert_eq!(all(address & !0xffff, 64, EpochSlots::remote).len(), SLOTS);
            prop_assert_eq!(all(address & !0x3ff, 1, EpochSlots::local).len(), SLOTS);
        }
    }

    #[test]
    fn slots_are_those_of_the_pods() {
        let ip = |last| Ipv4Be::from(Ipv4Addr::new(10, 20, last, 5));
        let (pod, backend, service) = (ip(1), ip(2), ip(3));
        let flow = |direction, source, destination| Flow {
            source,
            destination,
            source_port: 1,
            destination_port: 2,
            protocol: 6,
            direction: direction as u8,
            reserved: 0,
        };
        let expected = EpochSlots::of(backend, pod);
        let (to, back) = (Translation::to(backend, 9), Translation::to(service, 2));
        for (flow, translation) in [
            (flow(Direction::Encap, pod, backend), Translation::NONE),
            (flow(Direction::Encap, pod, service), to),
            (flow(Direction::Decap, backend, pod), Translation::NONE),
            (flow(Direction::Decap, backend, pod), back),
        ] {
            assert_eq!(EpochSlots::of_lease(&flow, &translation), expected, "{flow:?}");
        }
        assert_ne!(expected, EpochSlots::of(service, pod));
    }

    /// `leases flush` of any version adds to the first four bytes (`bpf/frozen.rs`).
    #[test]
    fn it_begins_with_what_ends_all() {
        assert_eq!(core::mem::offset_of!(Epochs, all), 0);
        assert_eq!(size_of::<Epochs>(), 4 * (1 + 2 * SLOTS));
    }
}
