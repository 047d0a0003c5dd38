//! How often a pod is told (RFC 1812 §4.3.2.8), in the kernel's own measure:
//! `net.ipv4.icmp_ratelimit` for each receiver, `icmp_msgs_per_sec` for all.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// One a second to each, six at once.
const EACH: Rate = Rate { every: Duration::from_secs(1), burst: 6 };
/// A thousand a second to all, fifty at once.
const ALL: Rate = Rate { every: Duration::from_millis(1), burst: 50 };
/// With more receivers than this, those with nothing against them are forgotten.
const REMEMBERED: usize = 1024;

/// A token bucket's size and speed.
struct Rate {
    every: Duration,
    burst: u32,
}

/// When a bucket will be full again; `None`, or past: it is.
type Full = Option<Instant>;

impl Rate {
    /// What the bucket is like after one more token; `None` if it has none.
    fn spend(&self, full: Full, now: Instant) -> Full {
        let after = full.map_or(now, |full| full.max(now)) + self.every;
        (after <= now + self.every * self.burst).then_some(after)
    }
}

/// What was told to whom.
#[derive(Default)]
pub struct Limit {
    all: Full,
    each: BTreeMap<Ipv4Addr, Instant>,
}

impl Limit {
    /// Whether one more may go to `receiver`; then it counts as gone.
    pub fn allows(&mut self, receiver: Ipv4Addr, now: Instant) -> bool {
        let each = EACH.spend(self.each.get(&receiver).copied(), now);
        let all = ALL.spend(self.all, now);
        let (Some(each), Some(all)) = (each, all) else { return false };
        if self.each.len() >= REMEMBERED {
            self.each.retain(|_, full| *full > now);
        }
        self.each.insert(receiver, each);
        self.all = Some(all);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a14_0000 + n)
    }

    /// How many of `count` are allowed at one moment.
    fn allowed(limit: &mut Limit, receiver: Ipv4Addr, now: Instant, count: usize) -> usize {
        (0..count).filter(|_| limit.allows(receiver, now)).count()
    }

    #[test]
    fn a_receiver_gets_a_burst_and_then_one_a_second() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(allowed(&mut limit, pod(1), at(0), 100), 6);
        assert_eq!(allowed(&mut limit, pod(1), at(999), 100), 0);
        assert_eq!(allowed(&mut limit, pod(1), at(1000), 100), 1);
        assert_eq!(allowed(&mut limit, pod(1), at(3500), 100), 2);
        assert_eq!(allowed(&mut limit, pod(1), at(4000), 100), 1, "half a token was left over");
        assert_eq!(allowed(&mut limit, pod(1), at(60_000), 100), 6, "and never more than six");
    }

    #[test]
    fn receivers_do_not_take_from_each_other() {
        let (mut limit, now) = (Limit::default(), Instant::now());
        assert_eq!(allowed(&mut limit, pod(1), now, 100), 6);
        assert_eq!(allowed(&mut limit, pod(2), now, 100), 6);
    }

    #[test]
    fn all_together_get_a_burst_and_then_a_thousand_a_second() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let each = |limit: &mut Limit, from: u32, count: u32, now| {
            (from..from + count).filter(|n| limit.allows(pod(*n), now)).count()
        };
        assert_eq!(each(&mut limit, 0, 1000, start), 50);
        // Who was refused for the sake of all has spent nothing.
        let later = start + Duration::from_millis(20);
        assert_eq!(each(&mut limit, 500, 1000, later), 20);
        assert_eq!(allowed(&mut limit, pod(999), start + Duration::from_secs(1), 100), 6);
        let soon = start + Duration::from_secs(1);
        assert_eq!(each(&mut limit, 2000, 1000, soon), 44);
    }

    #[test]
    fn it_remembers_only_who_has_something_against_him() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        for n in 0..10_000 {
            assert!(limit.allows(pod(n), start + Duration::from_millis(10 * u64::from(n))));
        }
        assert!(limit.each.len() <= REMEMBERED, "{}", limit.each.len());
    }
}
