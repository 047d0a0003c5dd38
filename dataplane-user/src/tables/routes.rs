//! `ROUTES`: prefix → node.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::maps::lpm_trie::Key;
use dataplane_common::{Ipv4Be, Route};
use ipnet::Ipv4Net;

use super::{Keys, Table, found};
use crate::{
    address::supernets,
    bpf::{
        Maps,
        maps::{gone_is_fine, insist},
    },
};

/// The `ROUTES` map.
pub struct Routes<'a>(pub &'a mut Maps, pub Keys<'a, Ipv4Net>);

fn key(prefix: Ipv4Net) -> Key<Ipv4Be> {
    Key::new(u32::from(prefix.prefix_len()), prefix.addr().into())
}

impl Table for Routes<'_> {
    type Key = Ipv4Net;
    type Value = Route;
    const NAME: &'static str = "route";

    /// Also a new route, where it takes addresses out of a wider one.
    fn outdates_leases(
        actual: &BTreeMap<Ipv4Net, Route>,
        prefix: &Ipv4Net,
        new: Option<&Route>,
    ) -> bool {
        let old = actual.get(prefix);
        if let (Some(old), Some(new)) = (old, new)
            && (old.node, old.flags) == (new.node, new.flags)
        {
            return false;
        }
        supernets(*prefix).any(|covering| actual.contains_key(&covering))
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Net, Route>> {
        match self.1 {
            Keys::All => self.0.all_routes(),
            Keys::Only(prefixes) => found(prefixes, |prefix| self.0.routes.get(&key(prefix), 0)),
        }
    }

    async fn upsert(&mut self, prefix: &Ipv4Net, route: &Route) -> Result<()> {
        Ok(insist(|| self.0.routes.insert(&key(*prefix), *route, 0))?)
    }

    async fn delete(&mut self, prefix: &Ipv4Net) -> Result<()> {
        Ok(gone_is_fine(self.0.routes.remove(&key(*prefix)))?)
    }
}
