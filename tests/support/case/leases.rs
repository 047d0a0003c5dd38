//! What must become of leases.

use std::{collections::BTreeMap, fmt::Write as _, ops::RangeInclusive};

use dataplane_common::{Flow, Lease};

use crate::world;

/// What must become of a lease. Those no row names stay as they are, to the byte.
#[derive(Clone, Copy, Debug)]
pub enum Becomes {
    /// It counts one more packet of so many bytes.
    Used(u64),
    /// It is this one, which ends [`world::LEASE`] from now.
    Granted(Lease),
    /// It is gone.
    Revoked,
    /// It is there, revoked just now.
    Dead,
}

/// Returns what is wrong with the leases that a run left, given those before it.
pub fn judge(
    rows: &[(Flow, Becomes)],
    before: Vec<(Flow, Lease)>,
    after: Vec<(Flow, Lease)>,
    now: RangeInclusive<u64>,
) -> String {
    let mut wrong = String::new();
    let mut expected = by_flow(before);
    let after = by_flow(after);
    for (flow, becomes) in rows {
        let key = format!("{flow:?}");
        match becomes {
            Becomes::Used(bytes) => {
                let lease = &mut expected.get_mut(&key).expect("a row uses a lease it has").1;
                lease.packets += 1;
                lease.bytes += bytes;
            }
            Becomes::Granted(lease) => {
                let mut lease = *lease;
                // When it ends is known to a tick or two.
                if let Some((_, granted)) = after.get(&key) {
                    let from = (now.start() + world::LEASE) & !world::SIGNATURE;
                    let ends = from..=now.end() + world::LEASE;
                    if ends.contains(&granted.expires) {
                        lease.expires = granted.expires;
                    }
                }
                expected.insert(key, (*flow, lease));
            }
            Becomes::Dead => {
                let lease = &mut expected.get_mut(&key).expect("a row ends a lease it has").1;
                let revoked = after.get(&key).map_or(0, |(_, lease)| lease.expires);
                let times = now.start() & !world::SIGNATURE..=*now.end();
                if revoked >> 63 == 1 && times.contains(&(revoked & !(1 << 63))) {
                    lease.expires = revoked;
                }
            }
            Becomes::Revoked => {
                expected.remove(&key).expect("a row revokes a lease it has");
            }
        }
    }
    if after != expected {
        let _ = writeln!(
            wrong,
            "leases {:#?}\nexpected {:#?}",
            after.values().collect::<Vec<_>>(),
            expected.values().collect::<Vec<_>>()
        );
    }
    wrong
}

fn by_flow(leases: Vec<(Flow, Lease)>) -> BTreeMap<String, (Flow, Lease)> {
    leases.into_iter().map(|(flow, lease)| (format!("{flow:?}"), (flow, lease))).collect()
}
