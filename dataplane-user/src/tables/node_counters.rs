//! `NODE_COUNTERS`: we make the entries, the programs count in them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Result, anyhow};
use aya::{maps::PerCpuValues, util::nr_cpus};
use dataplane_common::{Ipv4Be, NodeCounter};

use super::{Keys, Table, found, set_or_remove};
use crate::bpf::{Maps, maps::gone_is_fine};

/// The `NODE_COUNTERS` map. Figures are not ours to compare: an entry is there or not.
pub struct NodeCounters<'a>(pub &'a mut Maps, pub Keys<'a, Ipv4Addr>);

impl Table for NodeCounters<'_> {
    type Key = Ipv4Addr;
    type Value = ();
    const NAME: &'static str = "node counter";

    fn describe(&self, address: &Ipv4Addr, new: Option<&()>) -> String {
        set_or_remove(new, &format!("the counters of node {address}"))
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Addr, ()>> {
        match self.1 {
            Keys::All => {
                let keys = self.0.node_counters.keys();
                keys.map(|key| key.map(|key| (key.into(), ())).map_err(Into::into)).collect()
            }
            Keys::Only(nodes) => {
                found(nodes, |node| self.0.node_counters.get(&Ipv4Be::from(node), 0).map(drop))
            }
        }
    }

    async fn upsert(&mut self, address: &Ipv4Addr, (): &()) -> Result<()> {
        let cpus = nr_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))?;
        let zero = PerCpuValues::try_from(vec![NodeCounter::default(); cpus])?;
        Ok(self.0.node_counters.insert(Ipv4Be::from(*address), zero, 0)?)
    }

    async fn delete(&mut self, address: &Ipv4Addr) -> Result<()> {
        Ok(gone_is_fine(self.0.node_counters.remove(&Ipv4Be::from(*address)))?)
    }
}
