//! How soon everything may be asked for.
//!
//! A list costs as much as the cluster is large, and an API server that starts again makes every
//! node of it ask. So the pause before a list is random, and grows with what was listed last: the
//! API servers send about as much a second in a cluster of 5,000 nodes as in one of 100.

use std::time::Duration;

use tokio::time::Instant;

/// Before the first list.
const FIRST: Duration = Duration::from_millis(500);
/// Before another one, for each object of the last.
const PER_OBJECT: Duration = Duration::from_millis(60);
/// In this time there are at most two lists: the first, and one after a history that was lost.
const APART: Duration = Duration::from_secs(600);
/// The lists of one resource so far.
#[derive(Default, Debug)]
pub struct Lists {
    /// When the last two ended.
    last: [Option<Instant>; 2],
    /// How many objects the last one had.
    objects: usize,
}

impl Lists {
    /// Returns how long to wait before the next list.
    pub fn pause(&self, now: Instant) -> Duration {
        let longest = match self.last {
            [None, None] => FIRST,
            _ => PER_OBJECT.saturating_mul(u32::try_from(self.objects).unwrap_or(u32::MAX)),
        };
        self.at_least(now) + longest.mul_f64(fastrand::f64())
    }

    /// Returns how long to wait at least: for a list whose moment is random anyway.
    pub fn at_least(&self, now: Instant) -> Duration {
        self.last[0].map_or(Duration::ZERO, |before| {
            APART.saturating_sub(now.saturating_duration_since(before))
        })
    }

    /// Notes that everything was listed.
    pub fn listed(&mut self, objects: usize, now: Instant) {
        self.last = [self.last[1], Some(now)];
        self.objects = objects;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_list_waits_until_ten_minutes_after_the_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lists = Lists::default();
        assert!(lists.pause(start) <= FIRST);
        lists.listed(100, at(0));
        // One that the API forced upon us.
        assert!(lists.pause(at(10)) <= PER_OBJECT * 100);
        lists.listed(100, at(20));
        for _ in 0..100 {
            let pause = lists.pause(at(30));
            assert!(pause >= Duration::from_secs(570), "{pause:?}");
            assert!(pause <= Duration::from_secs(570) + PER_OBJECT * 100, "{pause:?}");
        }
        assert!(lists.pause(at(700)) <= PER_OBJECT * 100);
    }

    #[test]
    fn the_fleet_does_not_ask_at_the_same_moment() {
        let start = Instant::now();
        let mut lists = Lists::default();
        lists.listed(5_000, start);
        let mut pauses: Vec<Duration> = (0..200).map(|_| lists.pause(start)).collect();
        pauses.sort_unstable();
        let spread = pauses[199] - pauses[0];
        assert!(spread > Duration::from_secs(150), "{spread:?}");
    }
}
