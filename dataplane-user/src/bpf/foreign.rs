//! Programs of others: what may be read of them, and what is remembered of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::{listing::Listing, sys, verdict};

/// What is known of a program.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    /// It is proven to pass every packet on to the next program; see [`verdict`].
    pub passes_on: bool,
}

/// What could be read of the programs that were asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Read {
    shown: BTreeMap<u32, Shown>,
    /// Why nothing could be read.
    refused: Option<String>,
}

impl Read {
    /// Returns what is known of the program with this number.
    ///
    /// # Errors
    /// If it cannot be read: why.
    pub fn get(&self, id: u32) -> Result<&Shown, &str> {
        let why = self.refused.as_deref().unwrap_or("it was unloaded meanwhile");
        self.shown.get(&id).ok_or(why)
    }

    /// Whether one of these was unloaded since its number was read.
    #[must_use]
    pub fn misses_any(&self, ids: &BTreeSet<u32>) -> bool {
        self.refused.is_none() && !ids.iter().all(|id| self.shown.contains_key(id))
    }
}

/// Reads programs of others.
///
/// The iterator is loaded when there is something to read and stays as long as there is: the kernel's type
/// information, which loading it takes, is large, and whether a program was replaced since (`freplace`)
/// has to be looked at in each pass. What a program's instructions come to is read once.
#[derive(Default)]
pub struct Reader {
    listing: Option<Listing>,
    known: BTreeMap<u32, Shown>,
    /// What was asked for when nothing could be read, and why that was.
    refused: Option<(BTreeSet<u32>, String)>,
}

impl Reader {
    /// Reads the programs with these numbers. What is known of others is forgotten.
    pub fn read(&mut self, ids: &BTreeSet<u32>) -> Read {
        if ids.is_empty() {
            *self = Self::default();
            return Read::default();
        }
        // It costs as much to be refused again.
        if let Some((asked, why)) = &self.refused
            && asked.is_superset(ids)
        {
            return Read { refused: Some(why.clone()), ..Read::default() };
        }
        match self.look(ids) {
            Ok(shown) => Read { shown, refused: None },
            Err(error) => {
                let why = format!("{error:#}");
                *self = Self { refused: Some((ids.clone(), why.clone())), ..Self::default() };
                Read { refused: Some(why), ..Read::default() }
            }
        }
    }

    fn look(&mut self, ids: &BTreeSet<u32>) -> Result<BTreeMap<u32, Shown>> {
        self.refused = None;
        let listing = match &mut self.listing {
            Some(listing) => listing,
            none => {
                let loaded = Listing::load();
                // The kernel's type information took tens of megabytes.
                sys::give_memory_back();
                none.insert(loaded?)
            }
        };
        let all = listing.all()?;
        self.known.retain(|id, _| ids.contains(id) && all.contains_key(id));
        for id in ids.difference(&self.known.keys().copied().collect()) {
            let Some(listed) = all.get(id) else { continue };
            let instructions = match listed.count as usize {
                // It cannot be proven.
                count if count > verdict::MOST => Vec::new(),
                _ => match listing.instructions(*id)? {
                    Some(instructions) => instructions,
                    None => continue,
                },
            };
            let passes_on = verdict::always_passes_on(&instructions);
            self.known.insert(*id, Shown { name: listed.name.clone(), passes_on });
        }
        // Which program is replaced is not looked for: nothing is proven then.
        let are_replaced = all.values().any(|listed| listed.replaces_classifiers);
        let judged = self.known.iter().map(|(id, shown)| {
            (*id, Shown { passes_on: shown.passes_on && !are_replaced, ..shown.clone() })
        });
        Ok(judged.collect())
    }
}
