//! The map `LINKS`: what the programs have found out about XDP metadata, by interface.

use std::collections::BTreeMap;

use aya::maps::{Array, Map, MapData, MapError};
use dataplane_common::{IfIndex, LinkState, link::LINK_SLOTS};

/// Link → its state. The programs find an entry by its slot, so two links may want the same one: the
/// first has it.
pub struct Links(Array<MapData, LinkState>);

impl Links {
    /// Takes the map that is called so.
    ///
    /// # Errors
    /// If it is another.
    pub fn new(map: Map) -> Result<Self, MapError> {
        Ok(Self(map.try_into()?))
    }

    /// Returns all entries.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn all(&self) -> Result<BTreeMap<IfIndex, LinkState>, MapError> {
        let slots = (0..LINK_SLOTS as u32).map(|slot| self.0.get(&slot, 0));
        let used = slots.filter(|slot| slot.as_ref().map_or(true, |link| !link.ifindex.is_none()));
        used.map(|slot| slot.map(|link| (link.ifindex, link))).collect()
    }

    /// Returns the entry of a link, if it has one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn get(&self, ifindex: IfIndex) -> Result<Option<LinkState>, MapError> {
        let link = self.0.get(&LinkState::slot(ifindex), 0)?;
        Ok((link.ifindex == ifindex).then_some(link))
    }

    /// Sets the entry of a link, unless another one has its slot.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set(&mut self, link: LinkState) -> Result<(), MapError> {
        let slot = LinkState::slot(link.ifindex);
        let there = self.0.get(&slot, 0)?.ifindex;
        if there.is_none() || there == link.ifindex { self.0.set(slot, link, 0) } else { Ok(()) }
    }

    /// Removes the entry of a link: XDP leaves its packets to TC.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self, ifindex: IfIndex) -> Result<(), MapError> {
        match self.get(ifindex)? {
            Some(_) => self.0.set(LinkState::slot(ifindex), LinkState::default(), 0),
            None => Ok(()),
        }
    }
}
