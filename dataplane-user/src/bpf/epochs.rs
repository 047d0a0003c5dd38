//! The map `EPOCH`: what good leases bear the sum of (see [`dataplane_common::epochs`]).

use std::{
    collections::BTreeSet,
    mem::offset_of,
    path::Path,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use anyhow::{Context as _, Result};
use dataplane_common::{EpochSlots, Epochs as Layout};

use super::sys::{self, SharedWords};

/// How many words there are.
const WORDS: usize = size_of::<Layout>() / size_of::<u32>();

/// Epochs to raise.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Raised {
    /// That of all leases.
    pub all: bool,
    /// Slots of remote addresses.
    pub remote: BTreeSet<u16>,
    /// Slots of local pods.
    pub local: BTreeSet<u16>,
}

/// The epochs, in the memory that the programs read. They are added to in place: a daemon and
/// `leases flush` that write at once do not undo each other.
pub struct Epochs(SharedWords);

impl Epochs {
    /// Opens the map by its pin, whose layout was compared.
    ///
    /// # Errors
    /// If it is missing, or the kernel shares no memory of it.
    pub fn open(pin: &Path) -> Result<Self> {
        let open = || SharedWords::of(&sys::open(pin)?, WORDS);
        open().map(Self).with_context(|| format!("opening {}", pin.display()))
    }

    /// Returns the sum that a good lease with these slots bears.
    #[must_use]
    pub fn sum(&self, slots: EpochSlots) -> u32 {
        let read = |word: &AtomicU32| word.load(Ordering::SeqCst);
        [self.all(), self.remote(slots.remote), self.local(slots.local)]
            .into_iter()
            .fold(0, |sum, word| sum.wrapping_add(read(word)))
    }

    /// Ends all leases at once.
    pub fn raise_all(&self) {
        raise(self.all());
    }

    /// Ends the leases of these slots at once, and says nothing of [`Raised::all`].
    pub fn raise(&self, Raised { all: _, remote, local }: &Raised) {
        remote.iter().for_each(|slot| raise(self.remote(*slot)));
        local.iter().for_each(|slot| raise(self.local(*slot)));
    }

    fn all(&self) -> &AtomicU32 {
        self.word(offset_of!(Layout, all), 0)
    }

    fn remote(&self, slot: u16) -> &AtomicU32 {
        self.word(offset_of!(Layout, remote), slot)
    }

    fn local(&self, slot: u16) -> &AtomicU32 {
        self.word(offset_of!(Layout, local), slot)
    }

    /// A lease in the map may be anything: what its slots name wraps, as in the programs.
    fn word(&self, offset: usize, slot: u16) -> &AtomicU32 {
        let slot = usize::from(slot) % dataplane_common::epochs::SLOTS;
        &self.0.words()[offset / size_of::<u32>() + slot]
    }
}

/// Behind every change of the maps before it.
fn raise(epoch: &AtomicU32) {
    fence(Ordering::SeqCst);
    epoch.fetch_add(1, Ordering::SeqCst);
}
