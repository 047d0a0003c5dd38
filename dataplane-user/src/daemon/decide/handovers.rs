//! Which interfaces' drivers have no room for XDP metadata.
//!
//! No driver tells. `decap_xdp` asks with every packet, before it touches it, and
//! counts the answer. A driver that never has room only has each packet looked at
//! twice, so `decap: auto` leaves such interfaces to TC.

use std::collections::BTreeSet;

/// What `decap_xdp` has counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Packets under `xdp_unable`.
    pub unable: u64,
    /// Packets under `xdp_unwrapped`.
    pub unwrapped: u64,
}

/// What the counters have told so far.
///
/// They outlive the daemon: a new one knows before it attaches anything, as
/// attaching may reset a NIC. `counters flush` has it tried again.
#[derive(Default)]
pub struct Handovers {
    seen: Counted,
    without: BTreeSet<u32>,
}

impl Handovers {
    /// Looks at the counters anew; returns interfaces of `attached` that it knows
    /// from now on to be without metadata.
    ///
    /// The counters are everybody's. Where some packets were unwrapped and others
    /// not, nobody can tell by whom, and all is left as it is.
    pub fn look(&mut self, now: Counted, attached: &BTreeSet<u32>) -> BTreeSet<u32> {
        let then = std::mem::replace(&mut self.seen, now);
        let is_moved = |now: u64, then: u64| now > if now < then { 0 } else { then };
        if is_moved(now.unwrapped, then.unwrapped) || !is_moved(now.unable, then.unable) {
            return BTreeSet::new();
        }
        let new = attached - &self.without;
        self.without.extend(&new);
        new
    }

    /// Interfaces without.
    pub fn without(&self) -> &BTreeSet<u32> {
        &self.without
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NICS: [u32; 2] = [2, 3];
    const NONE: [u32; 0] = [];

    fn look(handovers: &mut Handovers, unable: u64, unwrapped: u64) -> Vec<u32> {
        let new = handovers.look(Counted { unable, unwrapped }, &NICS.into());
        new.into_iter().collect()
    }

    #[test]
    fn a_driver_that_is_able_is_left_alone() {
        let mut handovers = Handovers::default();
        for (unable, unwrapped) in [(0, 0), (0, 7), (0, 7), (3, 9), (3, 9), (3, 12)] {
            assert_eq!(look(&mut handovers, unable, unwrapped), NONE);
        }
    }

    #[test]
    fn one_that_is_not_is_known_once() {
        let mut handovers = Handovers::default();
        assert_eq!(look(&mut handovers, 0, 5), NONE);
        assert_eq!(look(&mut handovers, 1, 5), NICS);
        assert_eq!(look(&mut handovers, 2, 5), NONE);
        assert_eq!(*handovers.without(), NICS.into());
    }

    #[test]
    fn what_an_earlier_daemon_counted_is_known_at_once() {
        assert_eq!(look(&mut Handovers::default(), 9, 0), NICS);
    }

    #[test]
    fn flushed_counters_begin_anew() {
        let mut handovers = Handovers::default();
        assert_eq!(look(&mut handovers, 8, 8), NONE);
        assert_eq!(look(&mut handovers, 0, 0), NONE);
        assert_eq!(look(&mut handovers, 3, 0), NICS);
    }
}
