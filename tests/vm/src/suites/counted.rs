//! Which way packets took, by what the programs counted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{Program, Reason, Verdict};
use tunless_lab::Daemon;

/// What ARP and the nodes' own conversations count at any moment.
const NOISE: [Reason; 3] = [Reason::DecapNotIpv4, Reason::DecapNotIpip, Reason::PodNotIpv4];

/// Packets and bytes by reason.
#[derive(Clone, Debug, Default)]
pub struct Counted(BTreeMap<Reason, Count>);

/// Packets of flows that may have leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leased {
    /// They took the fast path.
    pub by_lease: u64,
    /// Their flow had none, or its time was over.
    pub without: u64,
    /// A change of routes, nodes or pods had ended it.
    pub ended: u64,
}

impl Leased {
    /// All of them.
    pub const fn all(&self) -> u64 {
        self.by_lease + self.without + self.ended
    }

    /// Those of two nodes.
    #[must_use]
    pub const fn and(&self, other: &Self) -> Self {
        Self {
            by_lease: self.by_lease + other.by_lease,
            without: self.without + other.without,
            ended: self.ended + other.ended,
        }
    }
}

/// What was counted under one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    packets: u64,
    bytes: u64,
}

impl Counted {
    /// As `tunless counters list` shows them now.
    pub fn now(daemon: &Daemon) -> Result<Self> {
        let answer = daemon.cli_json(&["counters", "list"])?;
        let items = answer["items"].as_array().context("no counters are listed")?;
        let mut all = BTreeMap::new();
        for item in items {
            let name = item["reason"].as_str().context("a counter without a reason")?;
            let reason = Reason::from_name(name).with_context(|| format!("no reason {name}"))?;
            let number = |key: &str| item[key].as_u64().context("a counter without a number");
            all.insert(reason, Count { packets: number("packets")?, bytes: number("bytes")? });
        }
        Ok(Self(all))
    }

    /// What was counted since.
    pub fn since(&self, daemon: &Daemon) -> Result<Self> {
        Ok(Self::now(daemon)?.less(self))
    }

    /// What this has more than `before`.
    pub fn less(&self, before: &Self) -> Self {
        let more = |(reason, count): (&Reason, &Count)| {
            let Count { packets, bytes } = before.0.get(reason).copied().unwrap_or_default();
            let more = Count { packets: count.packets - packets, bytes: count.bytes - bytes };
            (more.packets > 0).then_some((*reason, more))
        };
        Self(self.0.iter().filter_map(more).collect())
    }

    /// Packets.
    pub fn packets(&self, reason: Reason) -> u64 {
        self.0.get(&reason).map_or(0, |count| count.packets)
    }

    /// Returns how many packets left for the wire by the fast path, and how many
    /// by the stack path.
    pub fn encapsulated(&self) -> (u64, u64) {
        let by = |program| {
            let sent = |(reason, _): &(&Reason, &Count)| {
                reason.program() == program && reason.verdict() == Verdict::Forwarded
            };
            self.0.iter().filter(sent).map(|(_, count)| count.packets).sum()
        };
        (by(Program::EncapPod), by(Program::EncapHost))
    }

    /// Returns how many packets took the fast path by a lease and how many crossed the stack for want of a
    /// good one, in both directions.
    pub fn leased(&self) -> Leased {
        const FAST: [Reason; 4] = [
            Reason::PodEncapsulated,
            Reason::PodServiceEncapsulated,
            Reason::DecapToPod,
            Reason::DecapServiceToPod,
        ];
        const WITHOUT: [Reason; 4] = [
            Reason::PodNoLease,
            Reason::PodLeaseExpired,
            Reason::DecapNoLeaseToStack,
            Reason::DecapLeaseExpiredToStack,
        ];
        const ENDED: [Reason; 2] = [Reason::PodLeaseOutdated, Reason::DecapLeaseOutdatedToStack];
        let sum = |of: &[Reason]| of.iter().map(|reason| self.packets(*reason)).sum();
        Leased { by_lease: sum(&FAST), without: sum(&WITHOUT), ended: sum(&ENDED) }
    }

    /// That each of these was counted.
    pub fn has(&self, reasons: &[Reason]) -> Result<()> {
        for &reason in reasons {
            ensure!(self.packets(reason) > 0, "nothing was counted as {reason}: {self:?}");
        }
        Ok(())
    }

    /// That none of these was counted.
    pub fn lacks(&self, reasons: &[Reason]) -> Result<()> {
        for &reason in reasons {
            ensure!(self.packets(reason) == 0, "something was counted as {reason}: {self:?}");
        }
        Ok(())
    }

    /// That these packets were counted and no others, but for what is always counted a little.
    pub fn is_exactly(&self, expected: &[(Reason, u64)]) -> Result<()> {
        let counted = self.0.iter().filter(|(reason, _)| !NOISE.contains(reason));
        let counted: BTreeMap<_, _> =
            counted.map(|(reason, count)| (*reason, count.packets)).collect();
        let expected: BTreeMap<_, _> = expected.iter().copied().collect();
        ensure!(counted == expected, "counted {counted:?}, not {expected:?}");
        Ok(())
    }

    /// That these bytes at least were counted under this reason.
    pub fn has_bytes(&self, reason: Reason, least: u64) -> Result<()> {
        let bytes = self.0.get(&reason).map_or(0, |count| count.bytes);
        ensure!(bytes >= least, "{bytes} bytes were counted as {reason}, not {least}: {self:?}");
        Ok(())
    }

    /// That nothing was left to tunl0.
    pub fn nothing_for_tunl0(&self) -> Result<()> {
        let left = self.0.keys().find(|reason| reason.is_left_to_tunl0());
        ensure!(left.is_none(), "something was left to tunl0: {self:?}");
        Ok(())
    }

    /// That no packet was dropped.
    pub fn nothing_dropped(&self) -> Result<()> {
        let dropped = self.0.keys().find(|reason| reason.verdict() == Verdict::Dropped);
        ensure!(dropped.is_none(), "something was dropped: {self:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_both_paths_are_told_apart() {
        let count = |packets| Count { packets, bytes: 0 };
        let counted = Counted(BTreeMap::from([
            (Reason::PodEncapsulated, count(7)),
            (Reason::PodNoLease, count(100)),
            (Reason::HostEncapsulated, count(2)),
            (Reason::HostConnectionControl, count(3)),
            (Reason::HostNoRoute, count(100)),
            (Reason::DecapToPod, count(100)),
        ]));
        assert_eq!(counted.encapsulated(), (7, 5));
        assert_eq!(counted.leased(), Leased { by_lease: 107, without: 100, ended: 0 });
    }
}
