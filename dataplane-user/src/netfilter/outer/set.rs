//! The elements of a set or map of nftables (`NFTA_SET_ELEM_*` in `linux/netfilter/nf_tables.h`).

use super::{packet::equal, rule::Verdict};
use crate::kernel::Attributes;

/// `NFTA_SET_ELEM_KEY`, `_DATA`, `_FLAGS`, `_KEY_END`.
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const KEY_END: u16 = 10;
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`, `NFT_SET_ELEM_CATCHALL`.
const INTERVAL_END: u32 = 1;
const CATCHALL: u32 = 2;
/// Each part of a key begins at a multiple of so many bytes.
pub const SLOT: usize = 4;

/// An element: a range of keys, mostly of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element {
    /// The first key.
    from: Vec<u8>,
    /// The last key.
    to: Vec<u8>,
    /// In a verdict map.
    pub verdict: Option<Verdict>,
}

/// All elements of a set.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Elements {
    /// By their first key.
    elements: Vec<Element>,
    /// The verdict of all other keys, in a map.
    pub otherwise: Option<Verdict>,
    /// All keys are in it.
    is_all: bool,
}

impl Elements {
    /// Reads a dump.
    #[must_use]
    pub fn read<'a>(dumped: impl IntoIterator<Item = &'a Attributes>) -> Self {
        let mut found = Self::default();
        let mut ends: Vec<Vec<u8>> = Vec::new();
        let mut is_interval = false;
        for element in dumped {
            let flags = element.number(FLAGS).unwrap_or_default();
            let verdict = Verdict::read(&element.inside(DATA));
            if flags & CATCHALL != 0 {
                found.is_all = true;
                found.otherwise = verdict;
                continue;
            }
            let Some(key) = element.inside(KEY).get(VALUE).map(<[u8]>::to_vec) else { continue };
            if flags & INTERVAL_END != 0 {
                is_interval = true;
                ends.push(key);
                continue;
            }
            let to = element.inside(KEY_END).get(VALUE).map(<[u8]>::to_vec);
            found.elements.push(Element {
                to: to.unwrap_or_else(|| key.clone()),
                from: key,
                verdict,
            });
        }
        found.elements.sort_by(|one, other| one.from.cmp(&other.from));
        if is_interval {
            ends.sort();
            found.close(&ends);
        }
        found
    }

    /// Ends each interval before the next end, of those that are not part of it any more; the last
    /// one may have none.
    fn close(&mut self, ends: &[Vec<u8>]) {
        for element in &mut self.elements {
            let end = ends.iter().find(|end| **end > element.from);
            element.to = match end {
                Some(end) => before(end),
                None => vec![u8::MAX; element.from.len()],
            };
        }
    }

    /// Whether a key is in the set, as far as the key is known.
    #[must_use]
    pub fn contains(&self, key: &[Option<u8>]) -> Option<bool> {
        if self.is_all {
            return Some(true);
        }
        let whole: Option<Vec<u8>> = key.iter().take(SLOT).copied().collect();
        let is_short = self.elements.iter().all(|element| element.from.len() <= SLOT);
        if let (Some(whole), true) = (whole, is_short) {
            // They do not overlap.
            let next = self.elements.partition_point(|it| it.from <= padded(&whole, it.from.len()));
            let last = next.checked_sub(1).and_then(|at| self.elements.get(at));
            return Some(last.is_some_and(|it| it.has(key) == Some(true)));
        }
        let mut is_in = Some(false);
        for element in &self.elements {
            match element.has(key) {
                Some(true) => return Some(true),
                None => is_in = None,
                Some(false) => {}
            }
        }
        is_in
    }

    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = &Element> {
        self.elements.iter()
    }

    /// Returns the verdicts of a map.
    pub fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.elements.iter().filter_map(|it| it.verdict.as_ref()).chain(&self.otherwise)
    }
}

impl Element {
    /// Whether a key is this element's, as far as the key is known: each part of it has to be.
    #[must_use]
    pub fn has(&self, key: &[Option<u8>]) -> Option<bool> {
        let mut is_it = Some(true);
        for ((from, to), key) in
            self.from.chunks(SLOT).zip(self.to.chunks(SLOT)).zip(key.chunks(SLOT))
        {
            let part = if from == to {
                equal(key, from)
            } else {
                let known: Option<Vec<u8>> = key.iter().take(from.len()).copied().collect();
                known.map(|key| from <= key.as_slice() && key.as_slice() <= to)
            };
            match part {
                Some(true) => {}
                Some(false) => return Some(false),
                None => is_it = None,
            }
        }
        if key.len() < self.from.len() && is_it == Some(true) { None } else { is_it }
    }

    /// The beginning of the key, where it is a name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let end = self.from.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // A pattern is a range of names: up to the last that begins so.
        let is_exact = self.from == self.to;
        self.from.get(..if is_exact { self.from.len() } else { end }).unwrap_or_default()
    }
}

fn padded(key: &[u8], length: usize) -> Vec<u8> {
    key.iter().copied().chain(std::iter::repeat(0)).take(length).collect()
}

/// The number before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    key
}
