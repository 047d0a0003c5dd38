//! The maps `NODES` and `ENDPOINTS`, whose values repeat their key.

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use dataplane_common::{Endpoint, EndpointEntry, Ipv4Be, Node, NodeEntry, NodeIndex};

/// A value as the map has it: with the address it is for.
pub trait Entry: Pod {
    /// The value alone.
    type Value;

    /// Puts both together.
    fn new(address: Ipv4Be, value: Self::Value) -> Self;

    /// Returns the value.
    fn value(self) -> Self::Value;
}

impl Entry for NodeEntry {
    /// The way there, and where the node is counted.
    type Value = (Node, NodeIndex);

    fn new(address: Ipv4Be, (node, index): Self::Value) -> Self {
        Self { address, node, index }
    }

    fn value(self) -> Self::Value {
        (self.node, self.index)
    }
}

impl Entry for EndpointEntry {
    type Value = Endpoint;

    fn new(address: Ipv4Be, endpoint: Endpoint) -> Self {
        Self { address, endpoint }
    }

    fn value(self) -> Endpoint {
        self.endpoint
    }
}

/// Address → value. A hash map gives the memory of a replaced entry to another one while a program
/// may still be reading it, so programs compare the address that the entry is for.
pub struct ByAddress<E: Entry>(pub HashMap<MapData, Ipv4Be, E>);

impl<E: Entry> ByAddress<E> {
    /// Takes the map that is called so.
    ///
    /// # Errors
    /// If it is another.
    pub fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self(map.try_into()?))
    }

    /// Returns the value of an address.
    ///
    /// # Errors
    /// `KeyNotFound` if it has none; anything else if the kernel refuses.
    pub fn get(&self, address: Ipv4Be) -> Result<E::Value, MapError> {
        self.0.get(&address, 0).map(E::value)
    }

    /// Sets the value of an address; `flags` are those of `bpf(2)`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn insert(&mut self, address: Ipv4Be, value: E::Value, flags: u64) -> Result<(), MapError> {
        self.0.insert(address, E::new(address, value), flags)
    }

    /// Removes an address.
    ///
    /// # Errors
    /// `KeyNotFound` if it is not there; anything else if the kernel refuses.
    pub fn remove(&mut self, address: Ipv4Be) -> Result<(), MapError> {
        self.0.remove(&address)
    }

    /// Goes over all of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Ipv4Be, E::Value), MapError>> {
        self.0.iter().map(|entry| entry.map(|(address, entry)| (address, entry.value())))
    }

    /// Counts them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.keys().count()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
