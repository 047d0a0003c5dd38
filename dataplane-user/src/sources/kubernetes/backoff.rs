//! How long to wait before the next attempt.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Twice as long after each failure.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// Waits; the nodes of a cluster do not all come back at once.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.0 = FIRST;
    }

    /// Between half of the present length and all of it.
    fn next(&mut self) -> Duration {
        let length = self.0;
        self.0 = LONGEST.min(length * 2);
        // Random by its keys.
        let part = RandomState::new().build_hasher().finish() % 512;
        let part = u32::try_from(part).unwrap_or(0);
        length / 2 + length / 1024 * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_until_it_works() {
        let mut backoff = Backoff::default();
        let mut length = FIRST;
        for _ in 0..20 {
            let pause = backoff.next();
            assert!(pause >= length / 2 && pause <= length, "{pause:?} of {length:?}");
            length = LONGEST.min(length * 2);
        }
        assert_eq!(length, LONGEST);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }

    #[test]
    fn no_two_nodes_wait_alike() {
        let pauses: std::collections::HashSet<_> =
            (0..50).map(|_| Backoff::default().next()).collect();
        assert!(pauses.len() > 5, "{pauses:?}");
    }
}
