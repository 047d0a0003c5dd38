//! `MASKS`: which lengths prefixes have.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Table, set_or_remove};
use crate::bpf::Maps;

/// The `MASKS` map.
pub struct Masks<'a>(pub &'a mut Maps);

impl Table for Masks<'_> {
    /// A prefix's length, bits.
    type Key = u8;
    type Value = ();
    const NAME: &'static str = "prefix length";

    fn describe(&self, length: &u8, new: Option<&()>) -> String {
        set_or_remove(new, &format!("the prefix length /{length}"))
    }

    async fn actual(&mut self) -> Result<BTreeMap<u8, ()>> {
        Ok(self.0.masks.lengths()?.into_iter().map(|length| (length, ())).collect())
    }

    async fn upsert(&mut self, length: &u8, (): &()) -> Result<()> {
        self.0.masks.insert(*length)
    }

    async fn delete(&mut self, length: &u8) -> Result<()> {
        self.0.masks.remove(*length)
    }
}
