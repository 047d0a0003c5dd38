//! All entries of a large hash map, some thousand with each system call.
//!
//! To go from key to key takes two calls for each entry, and starts anew where an entry was removed
//! meanwhile: in a map of leases, which changes all the time, that takes long and need not end.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Pod;

use super::sys;

/// How many entries are read at once, at first.
const BATCH: usize = 4_096;

/// Calls `each` with the entries of the map that is pinned here. `K` and `V` must have its sizes:
/// [`Maps::check_pins`](super::Maps::check_pins) compares them. What comes or goes meanwhile may be missed.
///
/// # Errors
/// If the pin is missing, or the kernel refuses.
pub fn for_each<K: Pod + Default, V: Pod + Default>(
    pin: &Path,
    mut each: impl FnMut(&K, &V),
) -> Result<()> {
    let context = || format!("reading {}", pin.display());
    let map = sys::open(pin).with_context(context)?;
    let (mut keys, mut values) = (vec![K::default(); BATCH], vec![V::default(); BATCH]);
    let mut from = None;
    loop {
        let (count, next) = match sys::lookup_batch(&map, from, &mut keys, &mut values) {
            Ok(read) => read,
            // More entries in one bucket: keys that someone chose so that they collide.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                keys.resize(keys.len() * 2, K::default());
                values.resize(values.len() * 2, V::default());
                continue;
            }
            Err(error) => return Err(error).with_context(context),
        };
        keys.iter().zip(&values).take(count).for_each(|(key, value)| each(key, value));
        match next {
            Some(_) => from = next,
            None => return Ok(()),
        }
    }
}
