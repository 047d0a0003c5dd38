//! `ENDPOINTS`: pod IP → its interface.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use dataplane_common::{Endpoint, Ipv4Be};

use super::{Keys, Outdated, Table, found, set_or_remove};
use crate::bpf::{
    Maps,
    maps::{gone_is_fine, insist},
};

/// The `ENDPOINTS` map.
pub struct Endpoints<'a>(pub &'a mut Maps, pub Keys<'a, Ipv4Addr>);

impl Table for Endpoints<'_> {
    type Key = Ipv4Addr;
    type Value = Endpoint;
    const NAME: &'static str = "endpoint";

    fn describe(&self, address: &Ipv4Addr, new: Option<&Endpoint>) -> String {
        set_or_remove(new, &format!("the local pod {address}"))
    }

    /// Nothing for another MAC: a pod that changes its own all the time loses only its own packets, for a
    /// lease at most.
    fn outdated(
        &self,
        actual: &BTreeMap<Ipv4Addr, Endpoint>,
        address: &Ipv4Addr,
        new: Option<&Endpoint>,
    ) -> Vec<Outdated> {
        let is_another = |old: &Endpoint| new.is_none_or(|new| new.hop.ifindex != old.hop.ifindex);
        let is_outdated = actual.get(address).is_some_and(is_another);
        is_outdated.then_some(Outdated::Pod(*address)).into_iter().collect()
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Addr, Endpoint>> {
        let Self(maps, keys) = self;
        match *keys {
            Keys::All => {
                let entries = maps.endpoints.iter();
                entries.map(|e| e.map(|(k, v)| (k.into(), v)).map_err(Into::into)).collect()
            }
            Keys::Only(pods) => found(pods, |pod| maps.endpoints.get(pod.into())),
        }
    }

    async fn upsert(&mut self, address: &Ipv4Addr, pod: &Endpoint) -> Result<()> {
        Ok(insist(|| self.0.endpoints.insert(Ipv4Be::from(*address), *pod, 0))?)
    }

    async fn delete(&mut self, address: &Ipv4Addr) -> Result<()> {
        Ok(gone_is_fine(self.0.endpoints.remove(Ipv4Be::from(*address)))?)
    }
}
