//! How fast counters move.

use std::time::Duration;

use dataplane_common::Counter;
use schemars::JsonSchema;
use serde::Serialize;

/// So many each second, on average.
#[derive(Clone, Copy, PartialEq, Default, Debug, JsonSchema, Serialize)]
pub struct Rate {
    /// Packets.
    pub packets_per_second: f64,
    /// Bytes.
    pub bytes_per_second: f64,
}

impl Rate {
    /// What came between two looks, that much apart. Counters that were flushed in between begin at
    /// zero. In no time nothing comes.
    #[must_use]
    pub fn between(before: &Counter, now: &Counter, time: Duration) -> Self {
        let a_second = |before: u64, now: u64| match time.is_zero() {
            true => 0.0,
            false => now.checked_sub(before).unwrap_or(now) as f64 / time.as_secs_f64(),
        };
        Self {
            packets_per_second: a_second(before.packets, now.packets),
            bytes_per_second: a_second(before.bytes, now.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_in_between() {
        let counter = |packets, bytes| Counter { packets, bytes };
        let rate = |before, now| Rate::between(&before, &now, Duration::from_secs(2));
        for (before, now, packets_per_second, bytes_per_second) in [
            (counter(10, 1000), counter(30, 5000), 10.0, 2000.0),
            (counter(10, 1000), counter(10, 1000), 0.0, 0.0),
            // Flushed meanwhile.
            (counter(10, 1000), counter(4, 400), 2.0, 200.0),
        ] {
            assert_eq!(rate(before, now), Rate { packets_per_second, bytes_per_second });
        }
        let at_once = Rate::between(&counter(1, 1), &counter(2, 2), Duration::ZERO);
        assert_eq!(at_once, Rate::default());
    }
}
