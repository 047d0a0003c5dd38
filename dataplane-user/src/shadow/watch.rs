//! The daemon's part: what programs counted is added to the report from time to time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use anyhow::Result;
use dataplane_common::{
    Counter, Flow,
    shadow::{Class, Finding},
};
use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::{
    fate::{Fate, fate},
    report::{Counted, Figures, Packet, Report},
};
use crate::{
    bpf::{Pins, shadow::ShadowMaps},
    clock,
    daemon::report::unix_now,
    kernel::{Host, conntrack::Conntrack},
};

/// About so many flows conntrack is asked at one look, the busiest first; those that are left out count
/// as these do.
const MOST_ASKED: usize = 2_048;

/// Whose packets would never have had a lease.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exclusions {
    /// Local pods of which something has to see each packet.
    pub pods: BTreeSet<Ipv4Addr>,
    /// `leases.exclude`.
    pub prefixes: Vec<Ipv4Net>,
    /// Flows that conntrack translates for a Service may be leased on this host.
    pub services: bool,
}

impl Exclusions {
    fn covers(&self, flow: &Flow) -> bool {
        let (from, to) = flow.ends();
        [*from.ip(), *to.ip()].iter().any(|end| {
            self.pods.contains(end) || self.prefixes.iter().any(|prefix| prefix.contains(end))
        })
    }
}

/// Reads what the programs of one load count, and keeps the report.
pub struct Watch {
    maps: ShadowMaps,
    /// At the last look.
    counted: Counted,
    looked: Instant,
    report: Report,
}

impl Watch {
    /// Goes on with the report that an earlier run left, or begins one.
    #[must_use]
    pub fn new(maps: ShadowMaps, pins: &Pins) -> Self {
        let earlier = Report::read(pins).unwrap_or_else(|error| {
            tracing::warn!("a new report is begun: {error:#}");
            None
        });
        let report = earlier.unwrap_or_else(|| Report::begin(unix_now()));
        Self { maps, counted: Counted::default(), looked: Instant::now(), report }
    }

    /// Adds what came since the last look, and writes the report.
    ///
    /// # Errors
    /// If the kernel refuses, or the run directory cannot be written.
    pub async fn look(&mut self, pins: &Pins, host: &Host, exclusions: &Exclusions) -> Result<()> {
        // `tunless shadow reset` removes it. What came since the last look belongs to the new one.
        if Report::read(pins).is_ok_and(|report| report.is_none()) {
            self.report = Report::begin(self.report.until);
        }
        let figures = |found: BTreeMap<&'static str, Counter>| {
            found.into_iter().map(|(name, counter)| (name, counter.into())).collect()
        };
        let counted = Counted {
            findings: figures(self.maps.findings()?),
            would: figures(self.maps.would()?),
        };
        self.ask(&counted, exclusions).await?;
        self.report.add(&self.counted, &counted);
        self.keep_last(host)?;
        self.counted = counted;
        let passed = self.looked.elapsed().as_secs();
        self.report.watched += passed;
        // What is left of a second counts with the next look.
        self.looked += Duration::from_secs(passed);
        self.report.until = unix_now();
        self.report.write(pins)
    }

    /// Asks conntrack about the flows that were sampled since the last look.
    async fn ask(&mut self, counted: &Counted, exclusions: &Exclusions) -> Result<()> {
        let before = |finding: Finding| {
            let of = |it: &Counted| it.findings.get(finding.as_str()).copied().unwrap_or_default();
            let (old, now): (Figures, Figures) = (of(&self.counted), of(counted));
            now.packets.checked_sub(old.packets).unwrap_or(now.packets)
        };
        for (finding, fate) in [
            (Finding::SampleControl, Fate::ConnectionControl),
            (Finding::SampleNoFlow, Fate::NoFlow),
        ] {
            let packets = before(finding);
            if packets != 0 {
                *self.report.fates.entry(fate).or_default() += packets;
            }
        }
        let mut sampled = self.maps.take_samples()?;
        sampled.sort_by_key(|(_, counter)| std::cmp::Reverse(counter.packets));
        let all: u64 = sampled.iter().map(|(_, counter)| counter.packets).sum();
        sampled.truncate(MOST_ASKED);
        let asked: u64 = sampled.iter().map(|(_, counter)| counter.packets).sum();
        let mut fates = BTreeMap::<Fate, u64>::new();
        let Some(conntrack) = Conntrack::connect() else {
            self.report.conntrack = Some("the kernel has no nfnetlink".into());
            return Ok(());
        };
        for (flow, counter) in sampled {
            let tracked = match conntrack.find(&flow).await {
                Ok(tracked) => tracked,
                Err(error) => {
                    self.report.conntrack = Some(format!("{error:#}"));
                    return Ok(());
                }
            };
            let fate = fate(&flow, tracked, exclusions.covers(&flow), exclusions.services);
            *fates.entry(fate).or_default() += counter.packets;
        }
        self.report.conntrack = None;
        for (fate, packets) in fates {
            // Those that were not asked about are shared out as these.
            let share = u128::from(packets) * u128::from(all) / u128::from(asked.max(1));
            *self.report.fates.entry(fate).or_default() += share as u64;
        }
        Ok(())
    }

    fn keep_last(&mut self, host: &Host) -> Result<()> {
        for finding in Finding::ALL {
            if !matches!(finding.class(), Class::Different | Class::Dropped) {
                continue;
            }
            if let Some((at, kept)) = self.maps.last(*finding)? {
                let ago = clock::monotonic().saturating_sub(at).as_secs();
                let at = unix_now().saturating_sub(ago);
                if at < self.report.since {
                    // Of the time before `tunless shadow reset`.
                    continue;
                }
                let index = dataplane_common::IfIndex(kept.ifindex);
                let link = host.links.get(&index);
                let name = link.map_or_else(|| index.to_string(), |link| link.name.clone());
                let packet = Packet::new(at, name, &kept);
                self.report.last.insert(finding.as_str().to_owned(), packet);
            }
        }
        Ok(())
    }
}
