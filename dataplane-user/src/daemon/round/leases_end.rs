//! Ending all leases, but not all the time.
//!
//! Leases hold what routes, nodes and pods were like when they were granted. A
//! change of one ends them all, and each flow asks netfilter again. Where changes
//! come by the hundred that would be the end of the fast path, so after the first
//! the others wait for a second: far less than a lease that nobody ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::{bpf::Maps, tables::Round};

/// At most so often.
const PAUSE: Duration = Duration::from_secs(1);

/// When leases were ended, and when they will be.
#[derive(Default)]
pub struct LeasesEnd {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl LeasesEnd {
    /// Ends them now or soon, if a round has changed what they hold.
    pub fn ask(&mut self, maps: &mut Maps, round: &mut Round) {
        if !std::mem::take(&mut round.outdates_leases) {
            return;
        }
        match self.last.map(|last| last + PAUSE).filter(|free| *free > Instant::now()) {
            Some(free) => self.due = Some(free),
            None => round.attempt(self.end(maps)),
        }
    }

    /// When to call [`Self::end`], if at all.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Ends them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn end(&mut self, maps: &mut Maps) -> anyhow::Result<()> {
        self.due = None;
        self.last = Some(Instant::now());
        maps.end_leases()
    }
}
