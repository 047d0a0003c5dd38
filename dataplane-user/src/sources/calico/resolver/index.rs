//! Blocks, and who names them: so that a change finds those it is about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::Ipv4Net;

use crate::sources::{Origin, calico::Block};

/// All blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    all: BTreeMap<Origin, Arc<Block>>,
    by_cidr: BTreeMap<Ipv4Net, BTreeSet<Origin>>,
    /// Those that a node carries or borrows from.
    by_node: HashMap<String, BTreeSet<Origin>>,
}

impl Blocks {
    /// Puts a block in the place of the one before, which is returned.
    pub fn set(&mut self, origin: &Origin, block: Option<Arc<Block>>) -> Option<Arc<Block>> {
        let old = self.all.remove(origin);
        if let Some(old) = &old {
            take_out(&mut self.by_cidr, &old.cidr, origin);
            for name in old.names() {
                if let Some(those) = self.by_node.get_mut(name) {
                    those.remove(origin);
                    if those.is_empty() {
                        self.by_node.remove(name);
                    }
                }
            }
        }
        if let Some(block) = block {
            self.by_cidr.entry(block.cidr).or_default().insert(origin.clone());
            for name in block.names() {
                if let Some(those) = self.by_node.get_mut(name) {
                    those.insert(origin.clone());
                } else {
                    self.by_node.insert(name.to_owned(), BTreeSet::from([origin.clone()]));
                }
            }
            self.all.insert(origin.clone(), block);
        }
        old
    }

    /// The block of this origin.
    pub fn get(&self, origin: &Origin) -> Option<&Block> {
        self.all.get(origin).map(AsRef::as_ref)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Origin> {
        self.all.keys().cloned().collect()
    }

    /// Those that name a node.
    pub fn naming(&self, name: &str) -> Vec<Origin> {
        self.by_node.get(name).into_iter().flatten().cloned().collect()
    }

    /// The nodes that any block names.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.by_node.keys().map(String::as_str)
    }

    /// Whether any block names the node.
    pub fn is_named(&self, name: &str) -> bool {
        self.by_node.contains_key(name)
    }

    /// Those whose addresses are all inside a pool.
    pub fn inside(&self, pool: Ipv4Net) -> Vec<Origin> {
        let last = Ipv4Net::from(pool.broadcast());
        let near = self.by_cidr.range(pool.trunc()..=last);
        let inside = near.filter(|(cidr, _)| pool.contains(*cidr));
        inside.flat_map(|(_, origins)| origins.iter().cloned()).collect()
    }

    /// The hosts of the blocks with exactly these addresses: one, or something is wrong.
    pub fn hosts(&self, cidr: Ipv4Net) -> impl Iterator<Item = &str> {
        let origins = self.by_cidr.get(&cidr).into_iter().flatten();
        origins.filter_map(|origin| self.all.get(origin)?.host.as_deref())
    }
}

fn take_out(map: &mut BTreeMap<Ipv4Net, BTreeSet<Origin>>, key: &Ipv4Net, origin: &Origin) {
    if let Some(those) = map.get_mut(key) {
        those.remove(origin);
        if those.is_empty() {
            map.remove(key);
        }
    }
}
