//! The nft table that marks what may be leased: a table of one entry.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{Table, set_or_remove};
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
    /// What another program did to it, if so.
    loss: Option<&'static str>,
}

impl<'a> Marks<'a> {
    /// With what is `known` of the table, and what it shall be.
    #[must_use]
    pub fn new(known: &'a mut KnownRules, wanted: Option<&'a MarkRules>) -> Self {
        Self { known, wanted, loss: None }
    }
}

impl Table for Marks<'_> {
    type Key = ();
    type Value = MarkRules;
    const NAME: &'static str = "nft";

    fn describe(&self, (): &(), new: Option<&MarkRules>) -> String {
        set_or_remove(new, "the nft table `ip tunless`")
    }

    /// A pod that is excluded now may have leases, which would not be granted any more.
    fn outdates_leases(
        &self,
        actual: &BTreeMap<(), MarkRules>,
        (): &(),
        new: Option<&MarkRules>,
    ) -> bool {
        let Some((old, new)) = actual.get(&()).zip(new) else { return false };
        !new.unleased.is_subset(&old.unleased)
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
