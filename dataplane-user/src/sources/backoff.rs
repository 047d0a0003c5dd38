//! How long to wait before the next attempt.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;

/// Twice as long after each failure, and up to as much again at random: the nodes of
/// a cluster shall not all come back at the same moment.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// From `first` on, up to `longest`; that is before chance adds to them.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times();
        Self { builder, pauses: builder.build(), longest }
    }

    /// Waits.
    pub async fn pause(&mut self) {
        sleep(self.next()).await;
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.pauses = self.builder.build();
    }

    fn next(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_grow_up_to_a_limit_until_it_works() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut length = FIRST;
        for _ in 0..40 {
            let pause = backoff.next();
            assert!((length..=2 * length).contains(&pause), "{pause:?}, not from {length:?}");
            length = LONGEST.min(length * 2);
        }
        assert_eq!(length, LONGEST);
        backoff.reset();
        assert!(backoff.next() <= 2 * FIRST);
    }

    #[test]
    fn no_two_nodes_wait_alike() {
        let pauses: HashSet<_> = (0..50).map(|_| Backoff::new(FIRST, LONGEST).next()).collect();
        assert!(pauses.len() > 5, "{pauses:?}");
    }
}
