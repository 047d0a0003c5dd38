//! The map `MASKS`: which lengths the prefixes in `ROUTES` have.

use std::collections::BTreeSet;

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use dataplane_common::{Ipv4Be, Prefix, layout::MAX_MASKS};

/// Programs read the list from its beginning, the longest first, while it changes: at no
/// moment does it lack one that it has before and after. One may be there twice meanwhile.
pub struct Masks(Array<MapData, Ipv4Be>);

/// Ends the list, and is always looked for: the default route's.
const END: Ipv4Be = Prefix::mask(0);

impl Masks {
    /// Of the map that is called so.
    ///
    /// # Errors
    /// If it is another.
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self(map.try_into()?))
    }

    /// All lengths, that of the default route excepted.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn lengths(&self) -> Result<BTreeSet<u8>> {
        Ok(self.list()?.into_iter().map(length).collect())
    }

    /// Has prefixes of this length looked for.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn insert(&mut self, new: u8) -> Result<()> {
        let mut list = self.list()?;
        if new != 0 && !list.iter().any(|mask| length(*mask) == new) {
            let at = list.partition_point(|mask| length(*mask) > new);
            list.insert(at, Prefix::mask(new));
            // From the end, so that each is copied before it is overwritten.
            for index in (at..list.len()).rev() {
                self.set(index, list[index])?;
            }
        }
        Ok(())
    }

    /// Has them looked for no more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self, old: u8) -> Result<()> {
        let list = self.list()?;
        let rest: Vec<Ipv4Be> = list.iter().copied().filter(|mask| length(*mask) != old).collect();
        let ends = std::iter::repeat_n(END, list.len() - rest.len());
        for (index, mask) in rest.into_iter().chain(ends).enumerate() {
            if list[index] != mask {
                self.set(index, mask)?;
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Ipv4Be>> {
        let mut list = Vec::new();
        for index in 0..MAX_MASKS {
            match self.0.get(&u32::try_from(index)?, 0)? {
                END => break,
                mask => list.push(mask),
            }
        }
        Ok(list)
    }

    fn set(&mut self, index: usize, mask: Ipv4Be) -> Result<()> {
        Ok(self.0.set(u32::try_from(index)?, mask, 0)?)
    }
}

fn length(mask: Ipv4Be) -> u8 {
    Prefix { network: END, mask }.length()
}
