//! Ending all leases, but not all the time.
//!
//! Leases hold what routes, nodes and pods were like when they were granted. A
//! change of one ends them all, and each flow asks netfilter again. Where changes
//! come by the hundred that would be the end of the fast path, so after a few the
//! others wait for up to a second: far less than a lease that nobody ends.

use std::time::Duration;

use tokio::time::Instant;

use crate::{bpf::Maps, tables::Round};

/// So many may be ended in a row.
const BURST: u32 = 8;
/// And one more each time this has passed.
const PAUSE: Duration = Duration::from_secs(1);

/// When leases were ended, and when they will be.
#[derive(Default)]
pub struct LeasesEnd {
    /// By now all that were spent have been given back.
    full_at: Option<Instant>,
    due: Option<Instant>,
}

impl LeasesEnd {
    /// Ends them now or soon, if a round has changed what they hold.
    pub fn ask(&mut self, maps: &mut Maps, round: &mut Round) {
        if !std::mem::take(&mut round.outdates_leases) {
            return;
        }
        let now = Instant::now();
        let free = self.full_at.and_then(|full| full.checked_sub(PAUSE * (BURST - 1)));
        match free.filter(|free| *free > now) {
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
        let now = Instant::now();
        self.due = None;
        self.full_at = Some(self.full_at.map_or(now, |full| full.max(now)) + PAUSE);
        maps.end_leases()
    }
}
