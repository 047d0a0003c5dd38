//! Places of UDP flows that get no answer, as rows write them and as programs leave them.

use std::{fmt::Write as _, ops::RangeInclusive};

use dataplane_common::{Flow, Unanswered};

use crate::signed::now;

/// A place, with its times relative to now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its flow.
    pub flow: Flow,
    /// Packets that were counted.
    pub packets: u32,
    /// How long ago the first was, ns.
    pub since: u64,
    /// For how long it is held yet, ns; negative: for how long it has not been.
    pub left: i64,
}

impl Place {
    /// As it lies in the map.
    #[must_use]
    pub fn written(&self) -> Unanswered {
        let Self { flow, packets, since, left } = *self;
        let now = now();
        Unanswered {
            flow,
            since: now - since,
            until: now.checked_add_signed(left).expect("this host is up for longer"),
            packets,
            reserved: 0,
        }
    }
}

/// Returns what is wrong with the places that a run left, given those before it and what rows say. Those
/// no row names stay as they are, to the byte.
pub fn judge(
    rows: &[(usize, Place)],
    before: &[Unanswered],
    after: &[Unanswered],
    run: &RangeInclusive<u64>,
) -> String {
    let mut wrong = String::new();
    for (index, (before, after)) in before.iter().zip(after).enumerate() {
        let Some((_, row)) = rows.iter().find(|(of, _)| *of == index) else {
            if before != after {
                let _ = writeln!(wrong, "place {index}: {after:?}, expected {before:?}");
            }
            continue;
        };
        let is_kept = before.flow == row.flow && row.since != 0;
        let since = if is_kept { before.since..=before.since } else { run.clone() };
        let at = |time: &u64| time.checked_add_signed(row.left).expect("a time");
        let until = at(run.start())..=at(run.end());
        let is_right = (after.flow, after.packets, after.reserved) == (row.flow, row.packets, 0);
        if !is_right || !since.contains(&after.since) || !until.contains(&after.until) {
            let _ = writeln!(
                wrong,
                "place {index}: {after:?}, expected {row:?}: since {since:?}, until {until:?}"
            );
        }
    }
    wrong
}
