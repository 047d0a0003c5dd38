//! The map `ROUTES`: prefix → node.

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData, MapError};
use dataplane_common::{Prefix, PrefixRoute, Route};
use ipnet::Ipv4Net;

/// What programs find by it, they find only if `MASKS` has the prefix's length.
pub struct Routes(pub HashMap<MapData, Prefix, PrefixRoute>);

impl Routes {
    /// Of the map that is called so.
    ///
    /// # Errors
    /// If it is another.
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self(map.try_into()?))
    }

    /// A prefix's route.
    ///
    /// # Errors
    /// `KeyNotFound` if it has none; anything else if the kernel refuses.
    pub fn get(&self, prefix: Ipv4Net) -> Result<Route, MapError> {
        self.0.get(&key(prefix), 0).map(|entry| entry.route)
    }

    /// Sets a prefix's route; `flags` are those of `bpf(2)`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn insert(&mut self, prefix: Ipv4Net, route: Route, flags: u64) -> Result<(), MapError> {
        let prefix = key(prefix);
        self.0.insert(prefix, PrefixRoute { prefix, route }, flags)
    }

    /// Removes a prefix's route.
    ///
    /// # Errors
    /// `KeyNotFound` if it has none; anything else if the kernel refuses.
    pub fn remove(&mut self, prefix: Ipv4Net) -> Result<(), MapError> {
        self.0.remove(&key(prefix))
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Ipv4Net, Route)>> {
        self.0.iter().map(|entry| {
            let (prefix, PrefixRoute { route, .. }) = entry?;
            Ok((Ipv4Net::new(prefix.network.into(), prefix.length())?, route))
        })
    }
}

fn key(prefix: Ipv4Net) -> Prefix {
    Prefix::new(prefix.addr().into(), prefix.prefix_len())
}
