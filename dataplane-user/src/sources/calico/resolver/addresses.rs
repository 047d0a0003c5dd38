//! Which nodes have an address: two with the same one cannot both be reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::sources::names::NodeNames;

/// Names of nodes by their address.
#[derive(Debug, Default)]
pub struct Addresses(BTreeMap<Ipv4Addr, BTreeSet<String>>);

impl Addresses {
    /// Notes that a node has `after` in the place of `before`. Returns the nodes that share one
    /// of the two.
    pub fn moved(
        &mut self,
        name: &str,
        before: Option<Ipv4Addr>,
        after: Option<Ipv4Addr>,
    ) -> BTreeSet<String> {
        let mut beside = BTreeSet::new();
        if let Some(names) = before.and_then(|before| self.0.get_mut(&before)) {
            names.remove(name);
            beside.extend(names.iter().cloned());
            if names.is_empty() {
                before.and_then(|before| self.0.remove(&before));
            }
        }
        if let Some(names) = after.map(|after| self.0.entry(after).or_default()) {
            beside.extend(names.iter().cloned());
            names.insert(name.to_owned());
        }
        beside
    }

    /// Returns what each address is called; of several nodes with one address the first counts, but the
    /// own one before all.
    pub fn names(&self, own: &str) -> NodeNames {
        let first = |names: &BTreeSet<String>| names.get(own).or_else(|| names.first()).cloned();
        self.0.iter().filter_map(|(address, names)| Some((*address, first(names)?))).collect()
    }

    /// Another node with this address, the own one first.
    pub fn other(&self, address: Ipv4Addr, name: &str, own: &str) -> Option<&str> {
        let names = self.0.get(&address)?;
        let mut others = names.iter().map(String::as_str).filter(|other| *other != name);
        match names.contains(own) && name != own {
            true => names.get(own).map(String::as_str),
            false => others.next(),
        }
    }
}
