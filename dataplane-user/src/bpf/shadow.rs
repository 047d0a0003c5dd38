//! The maps of `mode: shadow`. They are not pinned: the daemon reads them, and what it has read is in its
//! report ([`crate::shadow`]).

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray},
};
use dataplane_common::{
    Counter, Flow, Reason,
    layout::MAX_NODES,
    shadow::{Difference, Finding, MAX_SAMPLES},
};

use super::maps::add;

/// The maps that have room for one entry unless there is a shadow.
const HOPS: &str = "HOPS";
const SAMPLES: &str = "SAMPLES";

/// Gives the maps the size that they need.
pub fn size(loader: &mut EbpfLoader<'_>) {
    loader.map_max_entries(HOPS, MAX_NODES as u32);
    loader.map_max_entries(SAMPLES, MAX_SAMPLES as u32);
}

/// What the programs write.
pub struct ShadowMaps {
    findings: PerCpuArray<MapData, Counter>,
    would: PerCpuArray<MapData, Counter>,
    differences: Array<MapData, Difference>,
    samples: HashMap<MapData, Flow, Counter>,
}

impl ShadowMaps {
    /// Takes them out of the loaded object.
    ///
    /// # Errors
    /// If one is missing.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        Ok(Self {
            findings: take("FINDINGS")?.try_into()?,
            would: take("WOULD")?.try_into()?,
            differences: take("DIFFERENCES")?.try_into()?,
            samples: take(SAMPLES)?.try_into()?,
        })
    }

    /// Returns what was found, since the programs were loaded.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn findings(&self) -> Result<BTreeMap<&'static str, Counter>> {
        let all = Finding::ALL.iter();
        sums(&self.findings, all.map(|finding| (*finding as u32, finding.as_str())))
    }

    /// Returns the reasons that the programs which serve would have named, likewise.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn would(&self) -> Result<BTreeMap<&'static str, Counter>> {
        let all = Reason::ALL.iter();
        sums(&self.would, all.map(|reason| (*reason as u32, reason.as_str())))
    }

    /// Returns the last packet with a finding; `None`: there was none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn last(&self, finding: Finding) -> Result<Option<(Duration, Difference)>> {
        let last = self.differences.get(&(finding as u32), 0)?;
        Ok((last.at != 0).then(|| (Duration::from_nanos(last.at), last)))
    }

    /// Takes out the flows of sampled packets, with how many there were of each.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take_samples(&mut self) -> Result<Vec<(Flow, Counter)>> {
        let mut found = Vec::new();
        for entry in &self.samples {
            match entry {
                Ok(entry) => found.push(entry),
                // The map dropped it meanwhile for a newer one.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (flow, _) in &found {
            match self.samples.remove(flow) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

/// What is not zero, by name.
fn sums(
    counters: &PerCpuArray<MapData, Counter>,
    wanted: impl Iterator<Item = (u32, &'static str)>,
) -> Result<BTreeMap<&'static str, Counter>> {
    let mut found = BTreeMap::new();
    for (index, name) in wanted {
        let mut sum = Counter::default();
        for cpu in counters.get(&index, 0)?.iter() {
            add(&mut sum, cpu);
        }
        if sum.packets != 0 {
            found.insert(name, sum);
        }
    }
    Ok(found)
}
