//! `ENDPOINTS`: pod IP → its interface.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::Result;
use dataplane_common::{Endpoint, Ipv4Be, Mac};

use super::Table;
use crate::{
    bpf::{
        Maps,
        maps::{gone_is_fine, insist},
    },
    clock,
};

/// The `ENDPOINTS` map.
pub struct Endpoints<'a>(pub &'a mut Maps);

/// What an endpoint should be; the generation is the table's own business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalPod {
    /// Its interface on the host.
    pub ifindex: u32,
    /// Its MAC; zero until resolved.
    pub pod: Mac,
    /// The host interface's MAC.
    pub host: Mac,
}

impl From<Endpoint> for LocalPod {
    fn from(endpoint: Endpoint) -> Self {
        Self { ifindex: endpoint.ifindex, pod: endpoint.pod, host: endpoint.host }
    }
}

impl Table for Endpoints<'_> {
    type Key = Ipv4Addr;
    type Value = LocalPod;
    const NAME: &'static str = "endpoint";

    /// Not for another MAC: a pod that changes its own all the time must not end
    /// the leases of others, and loses only its own packets, for a lease at most.
    fn outdates_leases(
        actual: &BTreeMap<Ipv4Addr, LocalPod>,
        address: &Ipv4Addr,
        new: Option<&LocalPod>,
    ) -> bool {
        actual.get(address).is_some_and(|old| new.is_none_or(|new| new.ifindex != old.ifindex))
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Addr, LocalPod>> {
        let entries = self.0.endpoints.iter();
        entries.map(|e| e.map(|(k, v)| (k.into(), v.into())).map_err(Into::into)).collect()
    }

    async fn upsert(&mut self, address: &Ipv4Addr, pod: &LocalPod) -> Result<()> {
        // The same interface keeps its generation (a MAC was resolved); another
        // one gets a number no earlier owner of the address had.
        let generation = match self.0.endpoints.get(&Ipv4Be::from(*address), 0) {
            Ok(known) if known.ifindex == pod.ifindex => known.generation,
            _ => generation(clock::monotonic()),
        };
        let endpoint = Endpoint { ifindex: pod.ifindex, generation, pod: pod.pod, host: pod.host };
        Ok(insist(|| self.0.endpoints.insert(Ipv4Be::from(*address), endpoint, 0))?)
    }

    async fn delete(&mut self, address: &Ipv4Addr) -> Result<()> {
        Ok(gone_is_fine(self.0.endpoints.remove(&Ipv4Be::from(*address)))?)
    }
}

/// Milliseconds since boot: larger with every new owner, also across restarts.
fn generation(now: Duration) -> u32 {
    (now.as_millis() & u128::from(u32::MAX)) as u32
}
