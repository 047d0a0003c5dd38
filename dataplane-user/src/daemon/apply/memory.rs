//! Where the [`Memory`] is kept: a pinned map, which outlives the daemon and its version, and
//! which `tunless detach` removes.

use anyhow::{Context as _, Result};

use crate::{
    bpf::{Pins, frozen},
    daemon::decide::Memory,
};

/// The memory as it was last written.
#[derive(Default)]
pub struct MemoryStore {
    written: Option<Memory>,
}

/// Reads the memory of the instance with these pins; an empty one if there is none.
///
/// # Errors
/// If there is one that cannot be read.
pub fn read(pins: &Pins) -> Result<Memory> {
    match frozen::read_memory(&pins.memory())? {
        None => Ok(Memory::default()),
        Some(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no memory of tunless", pins.memory().display())),
    }
}

impl MemoryStore {
    /// Writes the memory, if it differs from what is written.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write(&mut self, pins: &Pins, memory: &Memory) -> Result<()> {
        if self.written.as_ref() == Some(memory) && pins.memory().exists() {
            return Ok(());
        }
        let mut text = serde_json::to_vec(memory)?;
        if text.len() >= frozen::MEMORY as usize {
            // The file is the only thing that can be long; without its text a refused file at a
            // start has nothing to fall back on.
            text = serde_json::to_vec(&Memory { config: None, ..memory.clone() })?;
        }
        frozen::write_memory(&pins.memory(), &text)?;
        self.written = Some(memory.clone());
        Ok(())
    }
}
