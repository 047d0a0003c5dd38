//! `NODES`: node IP → the way there.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use dataplane_common::{Ipv4Be, Node};

use super::{Keys, Table, found, set_or_remove};
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

    fn outdates_leases(
        actual: &BTreeMap<Ipv4Addr, Node>,
        address: &Ipv4Addr,
        _: Option<&Node>,
    ) -> bool {
        actual.contains_key(address)
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Addr, Node>> {
        match self.1 {
            Keys::All => self
                .0
                .nodes
                .iter()
                .map(|entry| entry.map(|(k, v)| (k.into(), v)).map_err(Into::into))
                .collect(),
            Keys::Only(nodes) => found(nodes, |node| self.0.nodes.get(node.into())),
        }
    }

    async fn upsert(&mut self, address: &Ipv4Addr, node: &Node) -> Result<()> {
        Ok(insist(|| self.0.nodes.insert(Ipv4Be::from(*address), *node, 0))?)
    }

    async fn delete(&mut self, address: &Ipv4Addr) -> Result<()> {
        Ok(gone_is_fine(self.0.nodes.remove(Ipv4Be::from(*address)))?)
    }
}
