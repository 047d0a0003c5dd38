//! The largest encapsulated packet that passes to the peer and back.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    super::{Check, Row, Verdict},
    line::{Line, Shot},
    packet::{Error, Kind, SMALLEST, What},
};

/// So many sizes are tried at once.
const AT_ONCE: u16 = 32;
/// The first size of the search, bytes: IPv4 takes 576 everywhere (RFC 791), and an outer header.
const FIRST: u16 = 596;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The largest outer packet that was answered, bytes; `None`: not even the smallest.
    pub largest: Option<u16>,
    /// Who reported what the next link takes, bytes.
    pub reported: Option<(Ipv4Addr, u16)>,
}

/// Searches up to `link`, the MTU of the link out of this node. `wait`: for an answer.
pub async fn search(line: &mut Line, link: u16, wait: Duration) -> Found {
    let mut reported = None;
    let mut low = None;
    let mut high = link;
    let mut sizes = vec![link];
    while !sizes.is_empty() {
        let shots: Vec<Shot> =
            sizes.iter().map(|size| Shot { kind: Kind::Both, size: *size }).collect();
        let outcomes = line.ask(&shots, wait).await;
        reported = reported.or_else(|| outcomes.errors.iter().find_map(too_big));
        let answered = |place: usize| outcomes.each[place].round_trip.is_some();
        let passed =
            (0..sizes.len()).filter(|place| answered(*place)).map(|place| sizes[place]).max();
        low = low.max(passed);
        let failed = (0..sizes.len()).filter(|place| !answered(*place)).map(|place| sizes[place]);
        let least = failed.filter(|size| low.is_none_or(|low| *size > low)).min();
        if let Some(least) = least {
            high = least - 1;
        }
        sizes = between(low, high);
    }
    Found { largest: low, reported }
}

fn too_big(error: &Error) -> Option<(Ipv4Addr, u16)> {
    match error.what {
        What::TooBig(mtu) if mtu != 0 => Some((error.from, mtu)),
        _ => None,
    }
}

/// The sizes to try next: `low` passes, and nothing above `high` does. Empty: it is found.
fn between(low: Option<u16>, high: u16) -> Vec<u16> {
    let Some(low) = low else {
        // Nothing has passed yet: first the least that should.
        return if high > FIRST {
            vec![FIRST]
        } else if high > SMALLEST {
            vec![SMALLEST]
        } else {
            Vec::new()
        };
    };
    if low >= high {
        return Vec::new();
    }
    let (room, steps) = (high - low, AT_ONCE.min(high - low));
    (1..=steps)
        .map(|step| low + (u32::from(room) * u32::from(step) / u32::from(steps)) as u16)
        .collect()
}

/// The row. `link`: the MTU of the link out of this node; `needed`: the largest outer packet that is
/// sent to the peer now; both bytes. `setting`: where the MTU is lowered.
pub fn row(peer: Ipv4Addr, found: &Found, link: u16, needed: u16, setting: &str) -> Row {
    let row = |verdict, what| Row::new(Check::PeerMtu, verdict, peer.to_string(), what);
    let Some(largest) = found.largest else {
        return row(Verdict::Skip, "not tested: no packet is answered reliably".to_owned());
    };
    match found.reported {
        _ if largest >= link => {
            row(Verdict::Pass, format!("encapsulated packets of {largest} bytes pass, as many as the link takes"))
        }
        Some((router, mtu)) => row(
            Verdict::Warn,
            format!(
                "encapsulated packets above {largest} bytes are too big for a link on the way: {router} \
                 reports an MTU of {mtu}, and the daemon follows it"
            ),
        )
        .remedy(format!("{setting}, so that connections need not learn it")),
        None if largest >= needed => row(
            Verdict::Pass,
            format!("encapsulated packets of up to {largest} bytes pass, and none larger than {needed} is sent"),
        ),
        None => row(
            Verdict::Fail,
            format!(
                "encapsulated packets above {largest} bytes vanish, there or on the way back: a link on the \
                 way has the MTU {largest}, and its ICMP errors do not arrive; up to {needed} bytes are sent"
            ),
        )
        .remedy(format!(
            "let routers send ICMP type 3 code 4 and firewalls pass it; or {setting}, on both nodes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);

    /// As [`search`], with a path that takes so much.
    fn found(link: u16, path: u16) -> (Option<u16>, usize) {
        let (mut low, mut high, mut sizes, mut rounds) = (None, link, vec![link], 0);
        while !sizes.is_empty() {
            rounds += 1;
            low = low.max(sizes.iter().copied().filter(|size| *size <= path).max());
            let failed = sizes.iter().copied().filter(|size| *size > path);
            if let Some(least) = failed.min() {
                high = least - 1;
            }
            sizes = between(low, high);
        }
        (low, rounds)
    }

    #[test]
    fn the_search_ends_at_the_paths_mtu() {
        for link in [1500, 9000, 65_535] {
            for path in [84, 595, 596, 597, 1280, 1399, 1400, 1499, 1500, 8999] {
                let (largest, rounds) = found(link, path);
                assert_eq!(largest, Some(path.min(link)), "{link} {path}");
                assert!(rounds <= 7, "{rounds} rounds for {link} {path}");
            }
            assert_eq!(found(link, 20).0, None);
        }
    }

    #[test]
    fn only_what_is_lost_fails() {
        let router = Ipv4Addr::new(172, 16, 36, 1);
        for (largest, reported, needed, verdict) in [
            (Some(1500), None, 1500, Verdict::Pass),
            (Some(1400), None, 1500, Verdict::Fail),
            (Some(1400), Some((router, 1400)), 1500, Verdict::Warn),
            (Some(1400), None, 1400, Verdict::Pass),
            (None, None, 1500, Verdict::Skip),
        ] {
            let row = row(PEER, &Found { largest, reported }, 1500, needed, "set `mtu`");
            assert_eq!(row.verdict, verdict, "{row:?}");
        }
    }
}
