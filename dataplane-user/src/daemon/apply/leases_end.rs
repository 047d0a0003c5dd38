//! Ending the leases that a change concerns.
//!
//! Leases hold what routes, nodes and pods were like when they were granted. A change of one ends those
//! that may hold it, at once, and their flows ask netfilter again. A change that may concern every lease
//! ends all; where such changes come by the hundred that would be the end of the fast path, so after a
//! few the others wait for up to a second: far less than a lease lasts by itself.

use std::{collections::BTreeMap, time::Duration};

use dataplane_common::Route;
use ipnet::Ipv4Net;
use tokio::time::Instant;

use crate::{
    bpf::Maps,
    tables::{Round, raised},
};

/// So often all may be ended in a row.
const BURST: u32 = 8;
/// And once more each time this has passed.
const PAUSE: Duration = Duration::from_secs(1);

/// When all leases were ended, and when they will be.
#[derive(Default)]
pub struct LeasesEnd {
    /// By now all that were spent have been given back.
    full_at: Option<Instant>,
    due: Option<Instant>,
}

impl LeasesEnd {
    /// Ends those that hold what a round has changed in the maps; if these are all, now or soon. `routes`:
    /// all that should be.
    pub fn ask(&mut self, maps: &Maps, round: &mut Round, routes: &BTreeMap<Ipv4Net, Route>) {
        let raised = raised(&std::mem::take(&mut round.outdated), routes);
        maps.epochs.raise(&raised);
        if raised.all && self.is_free(Instant::now()) {
            self.end_all(maps);
        }
    }

    /// Returns whether all may be ended now; else they are due later.
    fn is_free(&mut self, now: Instant) -> bool {
        let free = self.full_at.and_then(|full| full.checked_sub(PAUSE * (BURST - 1)));
        self.due = free.filter(|free| *free > now);
        self.due.is_none()
    }

    /// When to call [`Self::end_all`], if at all.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Ends all.
    pub fn end_all(&mut self, maps: &Maps) {
        maps.epochs.raise_all();
        self.ended(Instant::now());
    }

    fn ended(&mut self, now: Instant) {
        self.due = None;
        self.full_at = Some(self.full_at.map_or(now, |full| full.max(now)) + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_end_eight_times_in_a_row_and_then_once_a_second() {
        let (mut ends, start) = (LeasesEnd::default(), Instant::now());
        for number in 0..8 {
            assert!(ends.is_free(start), "{number}");
            ends.ended(start);
        }
        for second in 1..=3 {
            let before = start + PAUSE * second - Duration::from_millis(1);
            assert!(!ends.is_free(before));
            assert_eq!(ends.due(), Some(start + PAUSE * second), "it is made up for");
            assert!(ends.is_free(start + PAUSE * second));
            ends.ended(start + PAUSE * second);
            assert_eq!(ends.due(), None);
        }
    }
}
