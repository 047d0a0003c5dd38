//! What nodes are called, for people: by their underlay address, from each source that knows it.
//!
//! The datastore has the names of its Nodes, the file those that its routes give, and BIRD those of its
//! sessions. A name decides nothing.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use super::{SourceKind, error::one_line};

/// Names by underlay address.
pub type NodeNames = BTreeMap<Ipv4Addr, String>;

/// What each source calls the nodes.
#[derive(Debug, Default)]
pub struct Names {
    by_source: BTreeMap<SourceKind, NodeNames>,
    all: Arc<NodeNames>,
}

impl Names {
    /// Takes in all names that a source knows, in the place of those that it knew before.
    pub fn set(&mut self, kind: SourceKind, names: NodeNames) {
        let names = names.into_iter().map(|(node, name)| (node, one_line(&name))).collect();
        let before = self.by_source.insert(kind, names);
        if before.as_ref() != self.by_source.get(&kind) {
            self.merge();
        }
    }

    /// The source is not asked any more.
    pub fn forget(&mut self, kind: SourceKind) {
        if self.by_source.remove(&kind).is_some() {
            self.merge();
        }
    }

    /// Returns the name of each node: of several sources the one that comes first in
    /// [`SourceKind::ALL`] is right. It is the same allocation as long as nothing differs.
    #[must_use]
    pub const fn all(&self) -> &Arc<NodeNames> {
        &self.all
    }

    fn merge(&mut self) {
        let mut all = NodeNames::new();
        for kind in SourceKind::ALL.iter().rev() {
            all.extend(self.by_source.get(kind).cloned().unwrap_or_default());
        }
        if *self.all != all {
            self.all = Arc::new(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    const TWO: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);

    fn called(names: &[(Ipv4Addr, &str)]) -> NodeNames {
        names.iter().map(|(address, name)| (*address, (*name).to_owned())).collect()
    }

    #[test]
    fn the_datastore_knows_better_than_bird_and_the_file_best() {
        let mut names = Names::default();
        names.set(SourceKind::Bird, called(&[(ONE, "Mesh_172_16_35_4"), (TWO, "mesh2")]));
        names.set(SourceKind::Etcd, called(&[(ONE, "node1")]));
        assert_eq!(**names.all(), called(&[(ONE, "node1"), (TWO, "mesh2")]));
        names.set(SourceKind::File, called(&[(TWO, "edge")]));
        assert_eq!(**names.all(), called(&[(ONE, "node1"), (TWO, "edge")]));
        names.forget(SourceKind::Etcd);
        assert_eq!(**names.all(), called(&[(ONE, "Mesh_172_16_35_4"), (TWO, "edge")]));
    }

    #[test]
    fn what_is_reported_again_is_the_same() {
        let mut names = Names::default();
        names.set(SourceKind::Etcd, called(&[(ONE, "node1")]));
        let before = Arc::clone(names.all());
        names.set(SourceKind::Etcd, called(&[(ONE, "node1")]));
        names.set(SourceKind::Bird, called(&[(ONE, "mesh1")]));
        names.forget(SourceKind::Kernel);
        assert!(Arc::ptr_eq(&before, names.all()));
        names.set(SourceKind::Etcd, NodeNames::new());
        assert_eq!(**names.all(), called(&[(ONE, "mesh1")]));
    }
}
