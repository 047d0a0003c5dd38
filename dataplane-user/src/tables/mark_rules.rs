//! The nft table that marks what may be leased: a table of one entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

use super::{Outdated, Table, set_or_remove};
use crate::netfilter::{self, Listing, MarkRules};

/// What we know to be in place: rules, and how nft lists them.
///
/// nft prints rules in its own words, so they are compared with what it printed
/// right after they were made. Of a table that an earlier process made, that process has left a
/// record ([`MarkRules::record`]); a table that is not as recorded is made anew.
pub enum KnownRules {
    /// This process has not looked yet; what an earlier one recorded.
    Unknown(Option<String>),
    /// There is no table.
    Absent,
    /// These rules, and how nft lists them.
    Present(MarkRules, Listing),
}

impl KnownRules {
    /// Whether it is time to look: something else is wanted, or may have happened.
    #[must_use]
    pub fn is_due(&self, wanted: Option<&MarkRules>, may_have_changed: bool) -> bool {
        match (self, wanted) {
            (Self::Absent, None) => false,
            (Self::Present(rules, _), Some(wanted)) if rules == wanted => may_have_changed,
            _ => true,
        }
    }

    /// Returns what the next process is to find.
    #[must_use]
    pub fn record(&self) -> Option<String> {
        match self {
            Self::Unknown(recorded) => recorded.clone(),
            Self::Absent => None,
            Self::Present(rules, listing) => Some(rules.record(listing)),
        }
    }
}

/// The nft table `ip tunless`.
pub struct Marks<'a> {
    known: &'a mut KnownRules,
    wanted: Option<&'a MarkRules>,
    is_pod: &'a dyn Fn(Ipv4Addr) -> bool,
    /// What another program did to it, if so.
    loss: Option<&'static str>,
}

impl<'a> Marks<'a> {
    /// With what is `known` of the table, and what it shall be. `is_pod`: whether an address is that of
    /// a local pod.
    #[must_use]
    pub fn new(
        known: &'a mut KnownRules,
        wanted: Option<&'a MarkRules>,
        is_pod: &'a dyn Fn(Ipv4Addr) -> bool,
    ) -> Self {
        Self { known, wanted, is_pod, loss: None }
    }
}

/// Returns whose leases end because these addresses are excluded now. A Service's address is not in the
/// lease of its flows in any way that could be found, so only for local pods it is these alone.
fn newly_excluded(
    old: &BTreeSet<Ipv4Net>,
    new: &BTreeSet<Ipv4Net>,
    is_pod: impl Fn(Ipv4Addr) -> bool,
) -> Vec<Outdated> {
    /// Pods of one host are no more.
    const SEVERAL: u8 = 24;
    let is_new = |net: &&Ipv4Net| !old.iter().any(|old| old.contains(*net));
    let mut pods = Vec::new();
    for net in new.iter().filter(is_new) {
        let all = u32::from(net.network())..=u32::from(net.broadcast());
        if net.prefix_len() < SEVERAL || !all.clone().all(|address| is_pod(address.into())) {
            return vec![Outdated::All];
        }
        pods.extend(all.map(|address| Outdated::Pod(address.into())));
    }
    pods
}

impl Table for Marks<'_> {
    type Key = ();
    type Value = MarkRules;
    const NAME: &'static str = "nft";

    fn describe(&self, (): &(), new: Option<&MarkRules>) -> String {
        set_or_remove(new, "the nft table `ip tunless`")
    }

    /// What is excluded now may have leases, which would not be granted any more.
    fn outdated(
        &self,
        actual: &BTreeMap<(), MarkRules>,
        (): &(),
        new: Option<&MarkRules>,
    ) -> Vec<Outdated> {
        let Some((old, new)) = actual.get(&()).zip(new) else { return Vec::new() };
        newly_excluded(&old.unleased, &new.unleased, self.is_pod)
    }

    async fn actual(&mut self) -> Result<BTreeMap<(), MarkRules>> {
        let listing = match netfilter::list() {
            // Without nft there is no table to remove.
            Err(error) if self.wanted.is_none() => {
                tracing::debug!("{error:#}");
                None
            }
            listing => listing?,
        };
        let as_wanted = matches!((&*self.known, self.wanted),
            (KnownRules::Present(rules, _), Some(wanted)) if rules == wanted);
        self.loss = match (&listing, &*self.known) {
            (None, KnownRules::Present(..)) if as_wanted => Some("was removed by another program"),
            (Some(now), KnownRules::Present(_, then)) if as_wanted && now != then => {
                Some("was changed by another program")
            }
            _ => None,
        };
        let Some(listing) = listing else {
            *self.known = KnownRules::Absent;
            return Ok(BTreeMap::new());
        };
        let rules = match (&*self.known, self.wanted) {
            (KnownRules::Present(rules, known), _) if *known == listing => rules.clone(),
            (KnownRules::Unknown(Some(recorded)), Some(wanted))
                if *recorded == wanted.record(&listing) =>
            {
                *self.known = KnownRules::Present(wanted.clone(), listing);
                wanted.clone()
            }
            // Somebody else's words, or an earlier configuration's.
            _ => MarkRules::default(),
        };
        Ok(BTreeMap::from([((), rules)]))
    }

    async fn upsert(&mut self, (): &(), rules: &MarkRules) -> Result<()> {
        rules.apply()?;
        let listing = netfilter::list()?
            .context("the nft table `ip tunless` was removed by another program at once")?;
        match self.loss {
            Some(loss) => tracing::warn!("the nft table `ip tunless` {loss}; it was made again"),
            None => {
                tracing::info!("made the nft table `ip tunless`, which marks what may be leased");
            }
        }
        *self.known = KnownRules::Present(rules.clone(), listing);
        Ok(())
    }

    async fn delete(&mut self, (): &()) -> Result<()> {
        netfilter::remove()?;
        *self.known = KnownRules::Absent;
        Ok(())
    }
}

#[cfg(test)]
mod excluded {
    use super::*;

    fn nets(text: &[&str]) -> BTreeSet<Ipv4Net> {
        text.iter().map(|net| net.parse().expect("a prefix")).collect()
    }

    #[test]
    fn pods_lose_their_own_leases_and_other_addresses_all() {
        let ip = |last| Ipv4Addr::new(10, 20, 105, last);
        let pods = [ip(216), ip(217), ip(220)];
        let (first, both) = ("10.20.105.216/32", "10.20.105.216/31");
        let pod = |last| Outdated::Pod(ip(last));
        let table: [(&[&str], &[&str], &[Outdated]); 9] = [
            (&[], &[], &[]),
            (&[], &[first], &[pod(216)]),
            (&[first], &[first], &[]),
            (&[first], &[], &[]),
            (&[first], &[both], &[pod(216), pod(217)]),
            (&[both], &[first], &[]),
            (&[first], &[first, "10.20.105.220/32"], &[pod(220)]),
            (&[], &["10.96.0.7/32"], &[Outdated::All]),
            (&[first], &[first, "10.0.0.0/8"], &[Outdated::All]),
        ];
        for (old, new, expected) in table {
            let found = newly_excluded(&nets(old), &nets(new), |it| pods.contains(&it));
            assert_eq!(found, expected, "{old:?} {new:?}");
        }
    }
}
