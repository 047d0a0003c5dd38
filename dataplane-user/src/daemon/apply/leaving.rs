//! Decapsulation on links that nothing points to any more: it stays for a while.
//!
//! Addresses and routes go and come back (DHCP, a routing daemon that restarts), the fabric
//! follows a change later than we do, and to attach XDP, or detach it, resets most NICs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dataplane_common::{IfIndex, Program};
use tokio::time::Instant;

use crate::bpf::Attachment;

/// How long it stays.
const STAY: Duration = Duration::from_secs(60);

/// Since when programs are of no use.
#[derive(Default)]
pub struct Leaving(BTreeMap<Attachment, Instant>);

impl Leaving {
    /// Which of what is `attached` stays, though it is not `wanted`. `may_stay`: whether the link is
    /// there, could be underlay, and was not excluded by the file.
    pub fn staying(
        &mut self,
        now: Instant,
        attached: &BTreeSet<Attachment>,
        wanted: &BTreeSet<Attachment>,
        may_stay: impl Fn(IfIndex) -> bool,
    ) -> BTreeSet<Attachment> {
        let unwanted = attached.iter().filter(|at| !wanted.contains(at));
        let unwanted = unwanted.filter(|at| {
            // XDP that cannot hand over leaves a link where TC stays.
            let tc = Attachment { program: Program::DecapTc, ifindex: at.ifindex };
            let is_decap = matches!(at.program, Program::DecapTc | Program::DecapXdp);
            is_decap && !wanted.contains(&tc) && may_stay(at.ifindex)
        });
        let since = |at: &Attachment| (*at, self.0.get(at).copied().unwrap_or(now));
        self.0 = unwanted.map(since).collect();
        let waiting = self.0.iter().filter(|(_, since)| now.duration_since(**since) < STAY);
        waiting.map(|(at, _)| *at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TC: Attachment = Attachment { program: Program::DecapTc, ifindex: IfIndex(2) };
    const XDP: Attachment = Attachment { program: Program::DecapXdp, ifindex: IfIndex(2) };
    const POD: Attachment = Attachment { program: Program::EncapPod, ifindex: IfIndex(9) };

    #[test]
    fn decapsulation_stays_for_a_minute() {
        let (start, all) = (Instant::now(), BTreeSet::from([TC, XDP, POD]));
        let none = BTreeSet::new();
        let mut leaving = Leaving::default();
        let mut at = |seconds, wanted: &BTreeSet<Attachment>, may_stay| {
            let now = start + Duration::from_secs(seconds);
            leaving.staying(now, &all, wanted, |_| may_stay)
        };
        assert_eq!(at(0, &all, true), none);
        assert_eq!(at(10, &none, true), [TC, XDP].into());
        assert_eq!(at(69, &none, true), [TC, XDP].into());
        assert_eq!(at(70, &none, true), none);
        // It was wanted again in between, so the time begins anew.
        at(80, &all, true);
        assert_eq!(at(90, &none, true), [TC, XDP].into());
        // XDP alone goes at once: it cannot hand over, or the file wants TC.
        assert_eq!(at(91, &[TC].into(), true), none);
        // So does what the file excludes, or what is a pod's now.
        assert_eq!(at(92, &none, false), none);
    }
}
