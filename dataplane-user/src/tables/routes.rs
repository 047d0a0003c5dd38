//! `ROUTES`: prefix → node.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use aya::maps::{MapError, lpm_trie::Key};
use dataplane_common::{Ipv4Be, Route};
use ipnet::Ipv4Net;

use super::Table;
use crate::bpf::{Maps, maps::insist};

/// The `ROUTES` map.
pub struct Routes<'a>(pub &'a mut Maps);

fn key(prefix: Ipv4Net) -> Key<Ipv4Be> {
    Key::new(u32::from(prefix.prefix_len()), prefix.addr().into())
}

impl Table for Routes<'_> {
    type Key = Ipv4Net;
    type Value = Route;
    const NAME: &'static str = "route";

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Net, Route>> {
        read(self.0)
    }

    async fn upsert(&mut self, prefix: &Ipv4Net, route: &Route) -> Result<()> {
        Ok(insist(|| self.0.routes.insert(&key(*prefix), *route, 0))?)
    }

    async fn delete(&mut self, prefix: &Ipv4Net) -> Result<()> {
        match self.0.routes.remove(&key(*prefix)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// All routes in the map.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn read(maps: &Maps) -> Result<BTreeMap<Ipv4Net, Route>> {
    let mut routes = BTreeMap::new();
    for entry in maps.routes.iter() {
        let (key, route) = entry?;
        let length = u8::try_from(key.prefix_len())?;
        routes.insert(Ipv4Net::new(Ipv4Addr::from(key.data()), length)?, route);
    }
    Ok(routes)
}
