//! How full the maps are. What a full map does not take is a route, node or pod without traffic.

use dataplane_common::layout::{MAX_ENDPOINTS, MAX_NODES, MAX_ROUTES};

use super::super::{Check, Row, Verdict};
use crate::bpf::Maps;

/// From this share on a map counts as nearly full, percent.
const NEARLY: usize = 80;

/// The row about all maps whose entries come and go, but leases: of these the kernel removes the
/// oldest.
pub fn row(maps: &Maps) -> Row {
    let routes = match maps.all_routes() {
        Ok(routes) => routes.len(),
        Err(error) => return super::unread(Check::Maps, &error),
    };
    judge(&[
        ("ROUTES", routes, MAX_ROUTES),
        ("NODES", maps.nodes.len(), MAX_NODES),
        ("ENDPOINTS", maps.endpoints.len(), MAX_ENDPOINTS),
    ])
}

fn judge(maps: &[(&str, usize, usize)]) -> Row {
    let all: Vec<String> =
        maps.iter().map(|(name, used, room)| format!("{name} {used} of {room}")).collect();
    let full = maps.iter().filter(|(_, used, room)| used * 100 > room * NEARLY);
    let full: Vec<&str> = full.map(|(name, ..)| *name).collect();
    if full.is_empty() {
        return Row::pass(Check::Maps, all.join(", "));
    }
    let what = format!("more than {NEARLY} % full: {} ({})", full.join(", "), all.join(", "));
    Row::new(Check::Maps, Verdict::Warn, full.join(" "), what)
        .remedy("what a full map does not take has no traffic: have fewer, larger blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_four_fifths_a_map_is_nearly_full() {
        let row = judge(&[("ROUTES", 80, 100), ("NODES", 0, 10)]);
        assert_eq!(
            (row.verdict, row.what.as_str()),
            (Verdict::Pass, "ROUTES 80 of 100, NODES 0 of 10")
        );
        let row = judge(&[("ROUTES", 81, 100), ("NODES", 0, 10)]);
        assert_eq!((row.verdict, row.subject.as_str()), (Verdict::Warn, "ROUTES"));
    }
}
