//! `NODE_COUNTERS`: what went to and came from each node. Programs count by index, and the daemon gives out
//! the indices: each entry of `NODES` has one of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Result, anyhow};
use aya::{
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use dataplane_common::{NodeCounter, NodeIndex, layout::MAX_NODES};

use super::maps::add;

/// The map, and whose its entries are.
pub struct NodeCounters {
    figures: PerCpuArray<MapData, NodeCounter>,
    indices: Indices,
}

impl NodeCounters {
    /// Takes the map that is called so.
    ///
    /// # Errors
    /// If it is another.
    pub fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self { figures: map.try_into()?, indices: Indices::default() })
    }

    /// Returns what is counted at `index`, all CPUs together.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sum(&self, index: NodeIndex) -> Result<NodeCounter> {
        let mut sum = NodeCounter::default();
        for cpu in self.figures.get(&index.0, 0)?.iter() {
            add(&mut sum.encap, &cpu.encap);
            add(&mut sum.decap, &cpu.decap);
            sum.last_seen = sum.last_seen.max(cpu.last_seen);
            sum.forged += cpu.forged;
        }
        Ok(sum)
    }

    /// Sets what is counted at `index` to zero. When the node was last seen is no counter, and stays.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn flush(&mut self, index: NodeIndex) -> Result<()> {
        let zero =
            |cpu: &NodeCounter| NodeCounter { last_seen: cpu.last_seen, ..NodeCounter::default() };
        let zeros: Vec<_> = self.figures.get(&index.0, 0)?.iter().map(zero).collect();
        Ok(self.figures.set(index.0, PerCpuValues::try_from(zeros)?, 0)?)
    }

    /// Notes that `NODES` has `node` with this index. Returns whether it is the node's own: another
    /// node's, or one that the map has not, would count what is not the node's.
    pub fn claim(&mut self, node: Ipv4Addr, index: NodeIndex) -> bool {
        self.indices.claim(node, index)
    }

    /// Returns the index of a node. One that had none is given one, where nothing is counted yet.
    ///
    /// # Errors
    /// If all are taken, or the kernel refuses.
    pub fn index_of(&mut self, node: Ipv4Addr) -> Result<NodeIndex> {
        if let Some(index) = self.indices.by_node.get(&node) {
            return Ok(*index);
        }
        let full = || anyhow!("all {MAX_NODES} entries of NODE_COUNTERS are taken");
        let index = self.indices.free().ok_or_else(full)?;
        let cpus = nr_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))?;
        let zeros = PerCpuValues::try_from(vec![NodeCounter::default(); cpus])?;
        self.figures.set(index.0, zeros, 0)?;
        self.indices.claim(node, index);
        Ok(index)
    }

    /// Takes the index of a node back that is not in `NODES` any more.
    pub fn release(&mut self, node: Ipv4Addr) {
        self.indices.release(node);
    }
}

/// Which indices are taken, and by whom.
#[derive(Default)]
struct Indices {
    by_node: BTreeMap<Ipv4Addr, NodeIndex>,
    taken: BTreeSet<NodeIndex>,
    /// Where the search for a free one begins. It moves on, so that an index is given to another node as
    /// late as can be.
    next: u32,
}

impl Indices {
    const COUNT: u32 = MAX_NODES as u32;

    fn claim(&mut self, node: Ipv4Addr, index: NodeIndex) -> bool {
        if let Some(own) = self.by_node.get(&node) {
            return *own == index;
        }
        if index.0 >= Self::COUNT || !self.taken.insert(index) {
            return false;
        }
        self.by_node.insert(node, index);
        self.next = (index.0 + 1) % Self::COUNT;
        true
    }

    fn free(&self) -> Option<NodeIndex> {
        let mut candidates = (self.next..Self::COUNT).chain(0..self.next).map(NodeIndex);
        candidates.find(|index| !self.taken.contains(index))
    }

    fn release(&mut self, node: Ipv4Addr) {
        if let Some(index) = self.by_node.remove(&node) {
            self.taken.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + number)
    }

    proptest! {
        /// Whatever comes and goes, no two nodes share an index, and none changes its own.
        #[test]
        fn each_node_has_its_own(
            steps in prop::collection::vec((0..20_u32, any::<bool>()), 0..200)
        ) {
            let mut indices = Indices::default();
            let mut model = BTreeMap::new();
            for (number, comes) in steps {
                let node = node(number);
                if !comes {
                    indices.release(node);
                    model.remove(&node);
                } else if !model.contains_key(&node) {
                    let index = indices.free().expect("few are taken");
                    prop_assert!(indices.claim(node, index));
                    prop_assert!(model.values().all(|other| *other != index));
                    model.insert(node, index);
                }
                prop_assert_eq!(&indices.by_node, &model);
                prop_assert_eq!(indices.taken.len(), model.len());
            }
        }
    }

    #[test]
    fn an_index_is_given_again_as_late_as_can_be() {
        let mut indices = Indices::default();
        for number in 0..Indices::COUNT {
            assert_eq!(indices.free(), Some(NodeIndex(number)));
            assert!(indices.claim(node(0), NodeIndex(number)));
            indices.release(node(0));
        }
        assert_eq!(indices.free(), Some(NodeIndex(0)));
    }

    #[test]
    fn what_the_map_says_is_believed_where_it_can_be_true() {
        let mut indices = Indices::default();
        assert!(indices.claim(node(1), NodeIndex(7)));
        assert!(indices.claim(node(1), NodeIndex(7)), "again");
        assert!(!indices.claim(node(1), NodeIndex(8)), "it had another");
        assert!(!indices.claim(node(2), NodeIndex(7)), "another node's");
        assert!(!indices.claim(node(2), NodeIndex(Indices::COUNT)), "the map has no such entry");
        assert_eq!(indices.free(), Some(NodeIndex(8)));
    }

    #[test]
    fn all_may_be_taken() {
        let mut indices = Indices::default();
        for number in 0..Indices::COUNT {
            assert!(indices.claim(node(number), NodeIndex(number)));
        }
        assert_eq!(indices.free(), None);
        indices.release(node(9));
        assert_eq!(indices.free(), Some(NodeIndex(9)));
    }
}
