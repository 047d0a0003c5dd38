//! The secret by which our programs know what one hands to another.

use std::{fs::File, io::Read as _};

use anyhow::{Context as _, Result};

use super::Reconciler;
use crate::bpf::Maps;

impl Reconciler {
    /// The secret among our programs: the one in use, else a new one. While
    /// programs are swapped one after the other, all must know it.
    pub(super) fn secret(&mut self) -> Result<u32> {
        if self.secret == 0 {
            let used = Maps::open(&self.pins).and_then(|maps| maps.state()).ok();
            self.secret = match used.map(|state| state.secret) {
                Some(secret) if secret != 0 => secret,
                _ => random()?,
            };
        }
        Ok(self.secret)
    }
}

/// Any number but zero, which stands for none.
fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(u32::from_ne_bytes(bytes).max(1))
}
