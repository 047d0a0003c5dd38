//! The map `MASKS`: which lengths the prefixes in `ROUTES` have.

use std::collections::BTreeSet;

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use dataplane_common::{Ipv4Be, Prefix, layout::MAX_MASKS};

use super::sys;

/// The list of lengths. Programs read it from its beginning, the longest first, while it changes.
///
/// No length that stays is ever hidden from a program, however long that program is stopped between
/// two elements: the last copy of a length never moves towards the beginning. So a removal closes no
/// gap. It leaves a second copy of another length, which costs a packet that no longer prefix covers
/// one look-up more, and which the next length that comes may take the place of.
pub struct Masks(Array<MapData, Ipv4Be>);

/// How many elements there may be; the last of the map stays [`END`].
const CAPACITY: usize = MAX_MASKS - 1;

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
        let new = Prefix::mask(new);
        let mut list = self.list()?;
        let mut steps = insertion(&list, new);
        if steps.iter().any(|step| step.index >= CAPACITY) {
            // Nearly every length is there, and copies take the rest of the room.
            for step in compaction(&list) {
                sys::wait_for_programs();
                self.write(&[step])?;
            }
            sys::wait_for_programs();
            list = self.list()?;
            steps = insertion(&list, new);
        }
        self.write(&steps)
    }

    /// Has them looked for no more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self, old: u8) -> Result<()> {
        let steps = removal(&self.list()?, Prefix::mask(old));
        self.write(&steps)
    }

    fn write(&mut self, steps: &[Step]) -> Result<()> {
        for Step { index, mask } in steps {
            self.0.set(u32::try_from(*index)?, mask, 0)?;
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
}

/// One element that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    index: usize,
    mask: Ipv4Be,
}

/// Returns the steps that put a mask into its place. What is behind it moves towards the end, as far
/// as the first copy that is one too many; each is copied before it is overwritten.
fn insertion(list: &[Ipv4Be], new: Ipv4Be) -> Vec<Step> {
    if new == END || list.contains(&new) {
        return Vec::new();
    }
    let at = list.partition_point(|mask| length(*mask) > length(new));
    let is_copy = |index: &usize| list.get(index + 1) == Some(&list[*index]);
    let free = (at..list.len()).find(is_copy).unwrap_or(list.len());
    let moved = (at..free).rev().map(|from| Step { index: from + 1, mask: list[from] });
    moved.chain([Step { index: at, mask: new }]).collect()
}

/// Returns the steps that take a mask out: its successor's takes its place, and stays where it is.
fn removal(list: &[Ipv4Be], old: Ipv4Be) -> Vec<Step> {
    let (first, end) = (
        list.partition_point(|mask| length(*mask) > length(old)),
        list.partition_point(|mask| length(*mask) >= length(old)),
    );
    let mask = list.get(end).copied().unwrap_or(END);
    // From the end: where it is the last one, the list must not end before another copy of it.
    (first..end).rev().map(|index| Step { index, mask }).collect()
}

/// Returns the steps that close every gap. What is behind it moves towards the beginning, so no
/// program may be between two elements while one is written.
fn compaction(list: &[Ipv4Be]) -> Vec<Step> {
    let mut whole = list.to_vec();
    whole.dedup();
    whole.resize(list.len(), END);
    let steps = whole.iter().enumerate().map(|(index, mask)| Step { index, mask: *mask });
    steps.filter(|step| list[step.index] != step.mask).collect()
}

fn length(mask: Ipv4Be) -> u8 {
    Prefix { network: END, mask }.length()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The map, and every state it was in.
    struct History(Vec<[Ipv4Be; MAX_MASKS]>);

    impl History {
        fn list(&self) -> Vec<Ipv4Be> {
            self.0.last().unwrap().iter().copied().take_while(|mask| *mask != END).collect()
        }

        fn write(&mut self, steps: Vec<Step>) {
            for Step { index, mask } in steps {
                let mut next = *self.0.last().unwrap();
                next[index] = mask;
                self.0.push(next);
            }
        }

        /// Whether a program can miss `mask`: it reads element after element, and between two of
        /// them the map may go on to any later state.
        fn hides(&self, mask: Ipv4Be) -> bool {
            // The earliest state in which it may have read the elements before.
            let mut earliest = 0;
            for index in 0..MAX_MASKS {
                let Some(missed) = (earliest..self.0.len()).find(|at| self.0[*at][index] != mask)
                else {
                    return false;
                };
                let ends = |state: &[Ipv4Be; MAX_MASKS]| state[index] == END;
                if self.0[earliest..].iter().any(ends) {
                    return true;
                }
                earliest = missed;
            }
            true
        }
    }

    proptest! {
        /// Programs that are stopped for as long as they like, over any number of changes.
        #[test]
        fn no_length_that_stays_is_ever_hidden(
            stays in prop::collection::btree_set(1_u8..=32, 1..4),
            changes in prop::collection::vec((any::<bool>(), 1_u8..=32), 0..40),
        ) {
            let mut history = History(vec![[END; MAX_MASKS]]);
            for length in &stays {
                let steps = insertion(&history.list(), Prefix::mask(*length));
                history.write(steps);
            }
            history.0.drain(..history.0.len() - 1);
            let mut listed = stays.clone();
            for (comes, length) in changes {
                if stays.contains(&length) {
                    continue;
                }
                let mask = Prefix::mask(length);
                let list = history.list();
                let steps = if comes { insertion(&list, mask) } else { removal(&list, mask) };
                if steps.iter().any(|step| step.index >= CAPACITY) {
                    // Here the daemon waits for programs.
                    break;
                }
                history.write(steps);
                if comes { listed.insert(length) } else { listed.remove(&length) };
                let list = history.list();
                prop_assert!(list.is_sorted_by_key(|mask| std::cmp::Reverse(super::length(*mask))));
                let found: BTreeSet<u8> = list.iter().map(|mask| super::length(*mask)).collect();
                prop_assert_eq!(&found, &listed);
            }
            for length in stays {
                prop_assert!(!history.hides(Prefix::mask(length)), "/{} is hidden", length);
            }
        }

        /// Between two waits a program sees one state or the next, and either holds every length.
        #[test]
        fn a_compacted_list_holds_each_length_once(lengths in prop::collection::vec(1_u8..=32, 0..32)) {
            let mut lengths = lengths;
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            let list: Vec<Ipv4Be> = lengths.iter().map(|length| Prefix::mask(*length)).collect();
            let mut map = list.clone();
            let all: BTreeSet<u8> = lengths.iter().copied().collect();
            for Step { index, mask } in compaction(&list) {
                map[index] = mask;
                let seen = map.iter().take_while(|mask| **mask != END);
                let seen: BTreeSet<u8> = seen.map(|mask| super::length(*mask)).collect();
                prop_assert_eq!(&seen, &all);
            }
            map.retain(|mask| *mask != END);
            prop_assert_eq!(map.len(), all.len());
        }
    }

    #[test]
    fn a_gap_is_filled_by_what_comes_next() {
        let masks = |lengths: &[u8]| -> Vec<Ipv4Be> {
            lengths.iter().map(|length| Prefix::mask(*length)).collect()
        };
        let step = |index, length| Step { index, mask: Prefix::mask(length) };
        assert_eq!(removal(&masks(&[26, 25, 24]), Prefix::mask(25)), [step(1, 24)]);
        assert_eq!(insertion(&masks(&[26, 24, 24]), Prefix::mask(25)), [step(1, 25)]);
        assert_eq!(insertion(&masks(&[26, 24, 24]), Prefix::mask(32)), [step(1, 26), step(0, 32)]);
        assert_eq!(removal(&masks(&[26, 24, 24]), Prefix::mask(24)), [step(2, 0), step(1, 0)]);
        assert_eq!(removal(&masks(&[26]), Prefix::mask(24)), []);
    }
}
