//! What decapsulation gave the kernel for pods, beside what arrived at pods.
//!
//! Only of TCP and UDP it is known on both sides. Packets for the host itself, and those of Services
//! that go on to other nodes, never arrive at a pod, and packets from this host and between its pods
//! arrive beside those from the wire. So only where most of them are missing there is something to say.

use anyhow::Result;
use dataplane_common::Reason;

use super::super::{Check, Row, Verdict};
use crate::{bpf::Maps, config::Fastpath, daemon::report::Decided};

/// Decapsulated for the kernel: TCP and UDP.
const GIVEN: [Reason; 4] = [
    Reason::DecapControlToStack,
    Reason::DecapNoLeaseToStack,
    Reason::DecapLeaseExpiredToStack,
    Reason::DecapLeaseOutdatedToStack,
];
/// Into pods, out of the kernel: TCP and UDP.
const ARRIVED: [Reason; 8] = [
    Reason::GrantGiven,
    Reason::GrantServiceGiven,
    Reason::GrantUnansweredGiven,
    Reason::GrantLeased,
    Reason::GrantUnmarked,
    Reason::GrantUnanswered,
    Reason::GrantUnproven,
    Reason::GrantConnectionControl,
];
/// Of fewer packets nothing follows.
const ENOUGH: u64 = 5;

/// The row, where programs at the pods count what arrives.
pub fn row(maps: &Maps, decided: Option<&Decided>) -> Option<Row> {
    decided.filter(|decided| decided.fastpath == Fastpath::Verified)?;
    let sum = |reasons: &[Reason]| -> Result<u64> {
        reasons.iter().map(|reason| Ok(maps.counter(*reason)?.packets)).sum()
    };
    Some(match (sum(&GIVEN), sum(&ARRIVED)) {
        (Ok(given), Ok(arrived)) => judge(given, arrived),
        (Err(error), _) | (_, Err(error)) => super::unread(Check::Delivery, &error),
    })
}

fn judge(given: u64, arrived: u64) -> Row {
    let kept = given.saturating_sub(arrived);
    if given < ENOUGH || kept * 2 <= given {
        let what =
            format!("the kernel got {given} TCP and UDP packets, and {arrived} reached pods");
        return Row::pass(Check::Delivery, what);
    }
    let what = format!(
        "the kernel kept {kept} of {given} TCP and UDP packets that were decapsulated: they reached no \
         pod, so they are for this host itself, or policy, rp_filter or forwarding keeps them"
    );
    Row::new(Check::Delivery, Verdict::Warn, "", what).remedy(
        "look at the rows `rp-filter` and `forwarding`, then at NetworkPolicy: `tunless explain --from \
         REMOTE-POD --to POD:PORT` names the rule that drops a new connection. What came before a pod had \
         its program counts as kept: `tunless counters flush` begins anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_packets_have_to_be_missing() {
        for (given, arrived, verdict) in [
            (0, 0, Verdict::Pass),
            (4, 0, Verdict::Pass),
            (14, 0, Verdict::Warn),
            (14, 7, Verdict::Pass),
            (14, 6, Verdict::Warn),
            (10, 900, Verdict::Pass),
        ] {
            assert_eq!(judge(given, arrived).verdict, verdict, "{given} {arrived}");
        }
        assert!(judge(14, 0).what.starts_with("the kernel kept 14 of 14"));
    }
}
