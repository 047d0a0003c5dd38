//! How often the report is written: routes may change a thousand times a second, and each
//! change is one of the report.

use std::time::Duration;

use tokio::time::Instant;

/// The time between two writes, but for what is urgent.
const INTERVAL: Duration = Duration::from_millis(250);

/// When the report was written, and when it is to be.
#[derive(Default, Debug)]
pub struct Pace {
    /// Before this, only what is urgent is written.
    next: Option<Instant>,
    /// A write was put off until then.
    due: Option<Instant>,
}

impl Pace {
    /// The report differs from what was written. Returns whether it is to be written now; if
    /// not, it is at [`Self::due`].
    pub fn may_write(&mut self, is_urgent: bool) -> bool {
        let now = Instant::now();
        match self.next.filter(|next| !is_urgent && now < *next) {
            Some(next) => {
                self.due = Some(next);
                false
            }
            None => {
                self.next = Some(now + INTERVAL);
                self.due = None;
                true
            }
        }
    }

    /// Nothing is left to be written.
    pub fn clear(&mut self) {
        self.due = None;
    }

    /// When the report is to be written, if it was put off.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand changes, a millisecond apart, and time after them. Returns how often the
    /// report was written, and which of them last.
    async fn burst(is_urgent: impl Fn(u32) -> bool) -> (u32, u32) {
        const CHANGES: u32 = 10_000;
        let mut pace = Pace::default();
        let (mut writes, mut written) = (0, 0);
        for tick in 1..=CHANGES + 1_000 {
            let change = tick.min(CHANGES);
            let is_due = pace.due().is_some_and(|due| due <= Instant::now());
            if (tick <= CHANGES || is_due) && pace.may_write(is_urgent(tick)) {
                (writes, written) = (writes + 1, change);
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(pace.due(), None);
        (writes, written)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_written_four_times_a_second_and_its_last_change_always() {
        assert_eq!(burst(|_| false).await, (41, 10_000));
        // What is urgent is written at once, and counts.
        let (writes, written) = burst(|change| change % 1_000 == 100).await;
        assert_eq!(written, 10_000);
        assert!((42..=51).contains(&writes), "{writes}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_urgent_is_written_at_once() {
        let mut pace = Pace::default();
        assert!(pace.may_write(false), "the first");
        assert!(!pace.may_write(false));
        assert!(pace.may_write(true));
        assert_eq!(pace.due(), None, "with it everything before");
        assert!(!pace.may_write(false));
        assert_eq!(pace.due(), Some(Instant::now() + INTERVAL));
        pace.clear();
        assert_eq!(pace.due(), None, "it is again as it was written");
    }
}
