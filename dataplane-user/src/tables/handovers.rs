//! `LINKS`: on which links XDP decapsulates, as far as hand-overs arrive there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use dataplane_common::{IfIndex, LinkState};

use super::{Table, set_or_remove};
use crate::bpf::Maps;

/// The `LINKS` map. What an entry says is the programs' own affair, until their attachment is another:
/// then all that is known of the link has to be found out again.
pub struct Handovers<'a> {
    /// The maps.
    pub maps: &'a mut Maps,
    /// Links that count as having no entry.
    pub renewed: &'a BTreeSet<IfIndex>,
}

impl Table for Handovers<'_> {
    type Key = IfIndex;
    type Value = ();
    const NAME: &'static str = "hand-over";

    fn describe(&self, ifindex: &IfIndex, new: Option<&()>) -> String {
        set_or_remove(new, &format!("the hand-overs of the interface with index {ifindex}"))
    }

    async fn actual(&mut self) -> Result<BTreeMap<IfIndex, ()>> {
        let links = self.maps.links.all()?.into_keys();
        Ok(links.filter(|ifindex| !self.renewed.contains(ifindex)).map(|it| (it, ())).collect())
    }

    async fn upsert(&mut self, ifindex: &IfIndex, (): &()) -> Result<()> {
        Ok(self.maps.links.set(LinkState::new(*ifindex))?)
    }

    async fn delete(&mut self, ifindex: &IfIndex) -> Result<()> {
        Ok(self.maps.links.remove(*ifindex)?)
    }
}
