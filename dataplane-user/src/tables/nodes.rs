//! `NODES`: node IP → the way there, and where the node is counted.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use dataplane_common::{Ipv4Be, Mac, Node, NodeIndex};

use super::{Keys, Outdated, Table, found, set_or_remove};
use crate::bpf::{
    Maps,
    maps::{gone_is_fine, insist},
};

/// The `NODES` map.
pub struct Nodes<'a>(pub &'a mut Maps, pub Keys<'a, Ipv4Addr>);

impl Table for Nodes<'_> {
    type Key = Ipv4Addr;
    type Value = Node;
    const NAME: &'static str = "node";

    fn describe(&self, address: &Ipv4Addr, new: Option<&Node>) -> String {
        set_or_remove(new, &format!("the node {address}"))
    }

    fn outdated(
        &self,
        actual: &BTreeMap<Ipv4Addr, Node>,
        address: &Ipv4Addr,
        new: Option<&Node>,
    ) -> Vec<Outdated> {
        let last_mac = self.0.next_hops.get(address).copied();
        let is_outdated = actual.get(address).is_some_and(|old| outdates(old, last_mac, new));
        is_outdated.then_some(Outdated::Node(*address)).into_iter().collect()
    }

    /// Not those that are counted where another node is: they are made once more.
    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Addr, Node>> {
        let Self(maps, keys) = self;
        let nodes: BTreeMap<Ipv4Addr, (Node, NodeIndex)> = match *keys {
            Keys::All => {
                let entries = maps.nodes.iter();
                entries.map(|entry| entry.map(|(k, v)| (k.into(), v))).collect::<Result<_, _>>()?
            }
            Keys::Only(nodes) => found(nodes, |node| maps.nodes.get(node.into()))?,
        };
        let nodes: BTreeMap<Ipv4Addr, Node> = nodes
            .into_iter()
            .filter(|(address, (_, index))| maps.node_counters.claim(*address, *index))
            .map(|(address, (node, _))| (address, node))
            .collect();
        let known = nodes.iter().filter(|(_, node)| node.hop.destination.is_known());
        maps.next_hops.extend(known.map(|(address, node)| (*address, node.hop.destination)));
        Ok(nodes)
    }

    async fn upsert(&mut self, address: &Ipv4Addr, node: &Node) -> Result<()> {
        let index = self.0.node_counters.index_of(*address)?;
        Ok(insist(|| self.0.nodes.insert(Ipv4Be::from(*address), (*node, index), 0))?)
    }

    async fn delete(&mut self, address: &Ipv4Addr) -> Result<()> {
        self.0.next_hops.remove(address);
        gone_is_fine(self.0.nodes.remove(Ipv4Be::from(*address)))?;
        self.0.node_counters.release(*address);
        Ok(())
    }
}

/// Whether leases may hold what is no longer so: another link, another path MTU, or another next hop.
///
/// A MAC that becomes unknown, and known again, is none of it: a lease holds its own copy, and on a
/// large network the kernel forgets neighbours that it does not see in use, and resolves them again.
/// `last_mac`: the next hop's, as it was last known.
fn outdates(old: &Node, last_mac: Option<Mac>, new: Option<&Node>) -> bool {
    // Without a link nothing was leased.
    if old.hop.ifindex.is_none() {
        return false;
    }
    let Some(new) = new else { return true };
    let is_elsewhere =
        (new.hop.ifindex, new.hop.source, new.mtu) != (old.hop.ifindex, old.hop.source, old.mtu);
    let mac = new.hop.destination;
    is_elsewhere || mac.is_known() && last_mac.is_some_and(|last| last != mac)
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Hop, IfIndex, Mtu};

    use super::*;

    fn mac(last: u8) -> Mac {
        Mac::from([2, 0, 0, 0, 0, last])
    }

    fn node(destination: Mac) -> Node {
        Node { hop: Hop { ifindex: IfIndex(7), destination, source: mac(9) }, mtu: Mtu(1500) }
    }

    #[test]
    fn neighbours_that_come_and_go_end_no_lease() {
        let (known, unknown) = (node(mac(1)), node(Mac::default()));
        assert!(!outdates(&known, Some(mac(1)), Some(&unknown)), "the kernel forgot it");
        assert!(!outdates(&unknown, Some(mac(1)), Some(&known)), "and resolved it again");
        assert!(!outdates(&unknown, None, Some(&known)), "for the first time");
    }

    #[test]
    fn another_next_hop_link_or_mtu_ends_them() {
        let old = node(mac(1));
        let last = Some(mac(1));
        let unknown = node(Mac::default());
        assert!(outdates(&old, last, Some(&node(mac(2)))));
        assert!(outdates(&unknown, last, Some(&node(mac(2)))), "however long it was unknown");
        assert!(outdates(&old, last, None), "removed");
        for other in [
            Node { mtu: Mtu(1400), ..old },
            Node { hop: Hop { ifindex: IfIndex(8), ..old.hop }, ..old },
            Node { hop: Hop { source: mac(8), ..old.hop }, ..old },
            Node::default(),
        ] {
            assert!(outdates(&old, last, Some(&other)), "{other:?}");
            assert!(!outdates(&Node::default(), None, Some(&other)), "nothing was leased");
        }
    }
}
