//! The maps, opened by their pins. The daemon and the CLI use the same way in.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use dataplane_common::{
    Counter, EndpointEntry, Epochs as EpochsLayout, Flow, Ipv4Be, Lease, LinkState, Mac,
    NodeCounter, NodeEntry, Prefix, PrefixRoute, Program, Reason, Route, Verdict,
    layout::{MAX_ENDPOINTS, MAX_MASKS, MAX_NODES, MAX_ROUTES},
    link::LINK_SLOTS,
};
use ipnet::Ipv4Net;

use super::{
    Pins, by_address::ByAddress, epochs::Epochs, frozen::TRY, handovers::Links, masks::Masks,
    node_counters::NodeCounters, routes::Routes,
};

/// Every map of ours.
pub struct Maps {
    /// Prefix → node.
    pub routes: Routes,
    /// Which lengths prefixes have.
    pub masks: Masks,
    /// Node IP → the way there, and the node's index.
    pub nodes: ByAddress<NodeEntry>,
    /// Pod IP → its interface.
    pub endpoints: ByAddress<EndpointEntry>,
    /// Reason → packets, bytes.
    pub counters: PerCpuArray<MapData, Counter>,
    /// A node's index → packets, bytes.
    pub node_counters: NodeCounters,
    /// Flow → lease.
    pub leases: HashMap<MapData, Flow, Lease>,
    /// The MAC of each node's next hop as it was last known: leases given since then may hold it.
    pub next_hops: BTreeMap<Ipv4Addr, Mac>,
    /// Link → whether what XDP hands over there arrives.
    pub links: Links,
    /// What good leases bear the sum of.
    pub epochs: Epochs,
    kept_at: Array<MapData, u64>,
}

/// How a map has to look for our programs and our handles to read it rightly.
struct Layout {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// Capacity; `None`: as configured.
    entries: Option<usize>,
}

/// The one map whose size is configured.
pub const LEASES: &str = "LEASES";
/// What ends leases. Its name and its beginning are frozen: see [`super::frozen`].
pub const EPOCH: &str = "EPOCH";
/// What packets looked like on their way into the stack. Not pinned: programs of one load share it, and
/// what is on its way while they are replaced is noted again by the next packet.
pub const SEEN: &str = "SEEN";

/// UDP flows that get no answer, on their way to a lease. Not pinned: after a restart they wait once more.
pub const UNANSWERED: &str = "UNANSWERED";

const LAYOUTS: [Layout; 11] = {
    const fn map(
        name: &'static str,
        kind: MapType,
        key: usize,
        value: usize,
        entries: usize,
    ) -> Layout {
        Layout { name, kind, key, value, entries: Some(entries) }
    }
    let address = size_of::<Ipv4Be>();
    let index = size_of::<u32>();
    [
        map("ROUTES", MapType::Hash, size_of::<Prefix>(), size_of::<PrefixRoute>(), MAX_ROUTES),
        map("MASKS", MapType::Array, index, address, MAX_MASKS),
        map("NODES", MapType::Hash, address, size_of::<NodeEntry>(), MAX_NODES),
        map("ENDPOINTS", MapType::Hash, address, size_of::<EndpointEntry>(), MAX_ENDPOINTS),
        map("COUNTERS", MapType::PerCpuArray, index, size_of::<Counter>(), Reason::COUNT),
        map("NODE_COUNTERS", MapType::PerCpuArray, index, size_of::<NodeCounter>(), MAX_NODES),
        Layout {
            name: LEASES,
            kind: MapType::LruHash,
            key: size_of::<Flow>(),
            value: size_of::<Lease>(),
            entries: None,
        },
        map(EPOCH, MapType::Array, index, size_of::<EpochsLayout>(), 1),
        map("KEPT_AT", MapType::Array, index, size_of::<u64>(), 1),
        map(TRY, MapType::Array, index, size_of::<u64>(), 1),
        map("LINKS", MapType::Array, index, size_of::<LinkState>(), LINK_SLOTS),
    ]
};

impl Maps {
    /// Names of all pinned maps.
    pub fn names() -> impl Iterator<Item = &'static str> {
        LAYOUTS.iter().map(|layout| layout.name)
    }

    /// Compares every pin that exists with the layout we were built for.
    ///
    /// aya reuses whatever is pinned; a larger value than ours would have the
    /// kernel write past our buffers.
    ///
    /// # Errors
    /// If one differs.
    pub fn check_pins(pins: &Pins) -> Result<()> {
        for layout in &LAYOUTS {
            let path = pins.map(layout.name);
            let context = || path.display().to_string();
            if !path.try_exists().with_context(context)? {
                continue;
            }
            let info = MapInfo::from_pin(&path).with_context(context)?;
            let same = info.map_type()? == layout.kind
                && info.key_size() as usize == layout.key
                && info.value_size() as usize == layout.value
                && layout.entries.is_none_or(|entries| info.max_entries() as usize == entries);
            if !same {
                bail!(
                    "the map pinned at {} is not as this version lays it out; \
                     `tunless detach` removes it",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// Opens all maps.
    ///
    /// # Errors
    /// If a pin is missing or differs from what we were built for.
    pub fn open(pins: &Pins) -> Result<Self> {
        Self::check_pins(pins)?;
        let open = |name: &str| {
            let path = pins.map(name);
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
        };
        Ok(Self {
            routes: Routes::new(Map::HashMap(open("ROUTES")?))?,
            masks: Masks::new(Map::Array(open("MASKS")?))?,
            nodes: ByAddress::new(Map::HashMap(open("NODES")?))?,
            endpoints: ByAddress::new(Map::HashMap(open("ENDPOINTS")?))?,
            counters: Map::PerCpuArray(open("COUNTERS")?).try_into()?,
            node_counters: NodeCounters::new(Map::PerCpuArray(open("NODE_COUNTERS")?))?,
            leases: Map::LruHashMap(open(LEASES)?).try_into()?,
            next_hops: BTreeMap::new(),
            links: Links::new(Map::Array(open("LINKS")?))?,
            epochs: Epochs::open(&pins.map(EPOCH))?,
            kept_at: Map::Array(open("KEPT_AT")?).try_into()?,
        })
    }

    /// All routes, in the order of their prefixes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn all_routes(&self) -> Result<BTreeMap<Ipv4Net, Route>> {
        self.routes.iter().collect()
    }

    /// The longest prefix that covers `address` and its route, found as programs find it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route_to(&self, address: Ipv4Addr) -> Result<Option<(Ipv4Net, Route)>> {
        for length in self.masks.lengths()?.into_iter().rev().chain([0]) {
            let prefix = Ipv4Net::new(address, length)?.trunc();
            match self.routes.get(prefix) {
                Ok(route) => return Ok(Some((prefix, route))),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A reason's counter, all CPUs together.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counter(&self, reason: Reason) -> Result<Counter> {
        let mut sum = Counter::default();
        for cpu in self.counters.get(&(reason as u32), 0)?.iter() {
            add(&mut sum, cpu);
        }
        Ok(sum)
    }

    /// Returns how many packets the programs have decapsulated, by CPU.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn decapsulated_by_cpu(&self) -> Result<Vec<u64>> {
        let mut sums = Vec::new();
        let is_decapsulated = |reason: &&Reason| {
            reason.program() == Program::DecapTc && reason.verdict() == Verdict::Forwarded
        };
        for reason in Reason::ALL.iter().filter(is_decapsulated) {
            let counters = self.counters.get(&(*reason as u32), 0)?;
            sums.resize(counters.len().max(sums.len()), 0u64);
            for (sum, cpu) in sums.iter_mut().zip(counters.iter()) {
                *sum += cpu.packets;
            }
        }
        Ok(sums)
    }

    /// Sets all reason counters and all node counters to zero. When a node was last
    /// seen is no counter, and stays.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn flush_counters(&mut self) -> Result<()> {
        let cpus =
            aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        for index in 0..Reason::COUNT as u32 {
            let zero = aya::maps::PerCpuValues::try_from(vec![Counter::default(); cpus])?;
            self.counters.set(index, zero, 0)?;
        }
        for entry in self.nodes.iter() {
            let (_, (_, index)) = entry?;
            self.node_counters.flush(index)?;
        }
        Ok(())
    }

    /// What went to and came from `node`, all CPUs together; `None` if nobody counts for it.
    #[must_use]
    pub fn node_counter(&self, node: Ipv4Be) -> Option<NodeCounter> {
        let (_, index) = self.nodes.get(node).ok()?;
        self.node_counters.sum(index).ok()
    }

    /// The leases that are good at `now` ([`crate::clock::monotonic`]).
    ///
    /// # Errors
    /// If the kernel refuses. One that ends meanwhile is merely not there.
    pub fn good_leases(&self, now: Duration) -> Result<Vec<(Flow, Lease)>> {
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let is_good = |lease: &Lease| {
            lease.epoch == self.epochs.sum(lease.slots)
                && Lease::is_good_at(lease.expires, nanoseconds)
        };
        let mut leases = Vec::new();
        for flow in self.leases.keys() {
            let flow = flow?;
            match self.leases.get(&flow, 0) {
                Ok(lease) if is_good(&lease) => leases.push((flow, lease)),
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(leases)
    }

    /// The maps are what is known `now` ([`crate::clock::monotonic`]): programs may rely on them
    /// for [`KEPT_FOR`](dataplane_common::layout::KEPT_FOR).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep(&mut self, now: Duration) -> Result<()> {
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.kept_at.set(0, nanoseconds, 0).context("telling programs that the maps are kept")
    }
}

/// Unpins a `LEASES` of another size. Programs at work keep theirs until they
/// are replaced; their flows are leased anew.
///
/// # Errors
/// If it cannot be looked at or removed.
pub fn forget_other_size(pins: &Pins, leases: u32) -> Result<()> {
    let path = pins.map(LEASES);
    let context = || path.display().to_string();
    if !path.try_exists().with_context(context)? {
        return Ok(());
    }
    if MapInfo::from_pin(&path).with_context(context)?.max_entries() == leases {
        return Ok(());
    }
    std::fs::remove_file(&path).with_context(context)
}

/// Adds what another CPU has counted.
pub(super) fn add(sum: &mut Counter, more: &Counter) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

/// Writes to a map, again if the kernel is briefly out of memory.
///
/// Maps whose entries take memory as they come refuse them with ENOMEM on healthy hosts
/// (kernel 6.18), and an update that is not repeated is a pod that cannot be reached.
///
/// # Errors
/// The last refusal.
pub fn insist(mut write: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    let mut pause = Duration::from_millis(1);
    loop {
        match write() {
            Err(error) if is_out_of_memory(&error) && pause < Duration::from_millis(100) => {
                std::thread::sleep(pause);
                pause *= 4;
            }
            outcome => return outcome,
        }
    }
}

/// The outcome of a removal: what was not there need not be removed.
///
/// # Errors
/// Any other refusal.
pub fn gone_is_fine(outcome: Result<(), MapError>) -> Result<(), MapError> {
    match outcome {
        Err(MapError::KeyNotFound) => Ok(()),
        outcome => outcome,
    }
}

fn is_out_of_memory(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::ENOMEM))
}
