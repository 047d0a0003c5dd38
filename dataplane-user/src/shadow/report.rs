//! What was found so far: a JSON file in the run directory, which outlives the daemon and goes with a reboot.

use std::{collections::BTreeMap, fs, io, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{
    Counter, Reason, Verdict,
    ipv4::Ipv4Header,
    shadow::{Class, Difference, Finding},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fate::Fate;
use crate::{bpf::Pins, run_dir};

/// The form of the file.
pub const SCHEMA: u32 = 1;

/// What `mode: shadow` has found out.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Report {
    /// The form of this report.
    pub schema: u32,
    /// Since when, Unix seconds.
    pub since: u64,
    /// Up to when, Unix seconds.
    pub until: u64,
    /// For how long programs have watched, seconds.
    pub watched: u64,
    /// Finding → packets, bytes (docs/shadow.md).
    pub findings: BTreeMap<String, Figures>,
    /// The reasons that programs which serve would have named → packets, bytes (docs/counters.md).
    pub would: BTreeMap<String, Figures>,
    /// The last packet with each finding that is a difference or a drop.
    pub last: BTreeMap<String, Packet>,
    /// Of sampled packets: what would have become of them → how many.
    pub fates: BTreeMap<Fate, u64>,
    /// Why conntrack could not be asked about flows; `null`: it could.
    pub conntrack: Option<String>,
}

/// Packets and bytes of IP packets as the programs saw them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Figures {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Counter> for Figures {
    fn from(counter: Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    /// What came since `before`; all of it if less is counted now, because the count began anew.
    fn since(self, before: Self) -> Self {
        match (self.packets.checked_sub(before.packets), self.bytes.checked_sub(before.bytes)) {
            (Some(packets), Some(bytes)) => Self { packets, bytes },
            _ => self,
        }
    }
}

/// Headers of one packet.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Packet {
    /// When, Unix seconds.
    pub at: u64,
    /// The interface's name, or index where it is gone.
    pub interface: String,
    /// The outer header as it was.
    pub outer: Outer,
    /// As tunless would have written it; `null` for what was received.
    pub ours: Option<Outer>,
    /// The inner source.
    pub from: Ipv4Addr,
    /// The inner destination.
    pub to: Ipv4Addr,
    /// The inner TTL.
    pub inner_ttl: u8,
}

/// An outer header.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Outer {
    /// The node it is from.
    pub from: Ipv4Addr,
    /// The node it is to.
    pub to: Ipv4Addr,
    /// Time to live, hops.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Total length, bytes.
    pub length: u32,
    /// Whether routers may not fragment it (DF).
    pub dont_fragment: bool,
}

impl Outer {
    fn new(words: [u32; 5]) -> Self {
        let header = header(words);
        Self {
            from: header.source().into(),
            to: header.destination().into(),
            ttl: header.ttl(),
            tos: header.tos(),
            length: header.total_length(),
            dont_fragment: header.is_dont_fragment(),
        }
    }
}

fn header([a, b, c, d, last]: [u32; 5]) -> Ipv4Header {
    let pair = |low, high| u64::from(low) | u64::from(high) << 32;
    Ipv4Header::from_words(pair(a, b), pair(c, d), last)
}

impl Packet {
    /// Reads what the programs kept. `at`: Unix seconds.
    #[must_use]
    pub fn new(at: u64, interface: String, kept: &Difference) -> Self {
        let inner = header(kept.inner);
        Self {
            at,
            interface,
            outer: Outer::new(kept.theirs),
            ours: (kept.ours != kept.theirs).then(|| Outer::new(kept.ours)),
            from: inner.source().into(),
            to: inner.destination().into(),
            inner_ttl: inner.ttl(),
        }
    }
}

/// What programs had counted at one look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Findings.
    pub findings: BTreeMap<&'static str, Figures>,
    /// Reasons.
    pub would: BTreeMap<&'static str, Figures>,
}

impl Report {
    /// Begins at `now`, Unix seconds.
    #[must_use]
    pub fn begin(now: u64) -> Self {
        Self { schema: SCHEMA, since: now, until: now, ..Self::default() }
    }

    /// Adds what was counted since the last look.
    pub fn add(&mut self, before: &Counted, now: &Counted) {
        for (table, before, now) in [
            (&mut self.findings, &before.findings, &now.findings),
            (&mut self.would, &before.would, &now.would),
        ] {
            for (name, figures) in now {
                let old = before.get(name).copied().unwrap_or_default();
                let new = figures.since(old);
                if new != Figures::default() {
                    table.entry((*name).to_owned()).or_default().add(new);
                }
            }
        }
    }

    /// Returns how often something was found.
    #[must_use]
    pub fn found(&self, finding: Finding) -> Figures {
        self.findings.get(finding.as_str()).copied().unwrap_or_default()
    }

    /// Returns the sum of all findings of a class.
    #[must_use]
    pub fn sum(&self, class: Class) -> Figures {
        let of_class = Finding::ALL.iter().filter(|finding| finding.class() == class);
        of_class.fold(Figures::default(), |mut sum, finding| {
            sum.add(self.found(*finding));
            sum
        })
    }

    /// Returns the reasons with this verdict that would have been named, and how often.
    pub fn reasons(&self, verdict: Verdict) -> impl Iterator<Item = (Reason, Figures)> {
        let named = self
            .would
            .iter()
            .filter_map(|(name, figures)| Some((Reason::from_name(name)?, *figures)));
        named.filter(move |(reason, _)| reason.verdict() == verdict)
    }

    /// Returns the sum of packets whose headers were compared or judged.
    #[must_use]
    pub fn compared(&self) -> u64 {
        [Class::Same, Class::Left, Class::Dropped, Class::Different]
            .map(|class| self.sum(class).packets)
            .iter()
            .sum()
    }

    /// Returns the share of packets that would have skipped the stack, 0 to 1; `None`: none were sampled,
    /// or conntrack could not be asked.
    #[must_use]
    pub fn fast_share(&self) -> Option<f64> {
        let all: u64 = self.fates.values().sum();
        if self.conntrack.is_some() || all == 0 {
            return None;
        }
        let fast = self.fates.iter().filter(|(fate, _)| fate.is_fast());
        Some(fast.map(|(_, packets)| *packets).sum::<u64>() as f64 / all as f64)
    }

    /// Reads the report of an instance; `None`: there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is of another version.
    pub fn read(pins: &Pins) -> Result<Option<Self>> {
        let path = path(pins);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let other = || format!("{} was written by another version of tunless", path.display());
        let report: Self = serde_json::from_slice(&text).with_context(other)?;
        ensure!(report.schema == SCHEMA, "{}: its form is {}", other(), report.schema);
        Ok(Some(report))
    }

    /// Puts it where the command line finds it.
    ///
    /// # Errors
    /// If the run directory cannot be written.
    pub fn write(&self, pins: &Pins) -> Result<()> {
        run_dir::replace(&path(pins), &serde_json::to_vec(self)?)
    }

    /// Removes it.
    ///
    /// # Errors
    /// If that is refused.
    pub fn remove(pins: &Pins) -> Result<()> {
        run_dir::remove(&path(pins))
    }
}

fn path(pins: &Pins) -> PathBuf {
    run_dir::file(pins, "shadow.json")
}

#[cfg(test)]
impl Report {
    /// One in which every field has a value.
    pub(crate) fn example() -> Self {
        let outer = |ttl| Outer {
            from: [172, 16, 0, 1].into(),
            to: [172, 16, 0, 2].into(),
            ttl,
            tos: 0,
            length: 120,
            dont_fragment: true,
        };
        let last = Packet {
            at: 90,
            interface: "eth0".into(),
            outer: outer(32),
            ours: Some(outer(63)),
            from: [10, 1, 0, 2].into(),
            to: [10, 2, 0, 2].into(),
            inner_ttl: 63,
        };
        let figures = |packets| Figures { packets, bytes: packets * 100 };
        Self {
            watched: 10,
            findings: [("out_same".into(), figures(900)), ("out_ttl".into(), figures(1))].into(),
            would: [(Reason::HostEncapsulated.as_str().into(), figures(901))].into(),
            last: [("out_ttl".into(), last)].into(),
            fates: [(Fate::Leased, 9), (Fate::NoFlow, 1)].into(),
            conntrack: None,
            ..Self::begin(100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(packets: u64) -> Counted {
        let figures = Figures { packets, bytes: packets * 100 };
        Counted { findings: BTreeMap::from([("out_same", figures)]), ..Counted::default() }
    }

    /// Programs that are loaded anew begin at 0.
    #[test]
    fn looks_add_up() {
        let mut report = Report::begin(7);
        for (before, now) in [(0, 5), (5, 5), (5, 9), (9, 2)] {
            report.add(&counted(before), &counted(now));
        }
        let found = report.found(Finding::OutSame);
        assert_eq!(found, Figures { packets: 11, bytes: 1100 });
        assert_eq!((report.compared(), report.sum(Class::Different).packets), (11, 0));
    }

    #[test]
    fn the_share_is_of_all_sampled_packets() {
        let mut report = Report::begin(7);
        assert_eq!(report.fast_share(), None);
        report.fates =
            BTreeMap::from([(Fate::Leased, 6), (Fate::ServiceLeased, 2), (Fate::NoFlow, 2)]);
        assert_eq!(report.fast_share(), Some(0.8));
        report.conntrack = Some("no such module".into());
        assert_eq!(report.fast_share(), None);
    }

    #[test]
    fn headers_are_read_as_they_lay_in_the_packet() {
        let outer = Ipv4Header::outer(
            0b11,
            63,
            100,
            Ipv4Addr::new(172, 16, 0, 1).into(),
            Ipv4Addr::new(172, 16, 0, 2).into(),
        );
        let (first, second, last) = outer.words();
        let words =
            [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32, last];
        let kept = Difference { at: 1, theirs: words, ours: words, inner: words, ifindex: 2 };
        let packet = Packet::new(9, "eth0".into(), &kept);
        assert_eq!(packet.ours, None);
        assert_eq!((packet.outer.ttl, packet.outer.length, packet.inner_ttl), (63, 120, 63));
        assert_eq!(packet.to, Ipv4Addr::new(172, 16, 0, 2));
        assert!(packet.outer.dont_fragment);
    }
}
