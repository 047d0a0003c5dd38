//! Nodes that packets were sent to and that were never heard, as the counters show it. Counters of
//! packets begin anew with `counters flush`; when a node was last heard is kept.

use std::net::Ipv4Addr;

use super::super::{Check, Row, Verdict};
use crate::{
    bpf::Maps,
    clock,
    daemon::underlay_errors::{HeardError, LatestErrors},
    output,
};

/// Of fewer packets the answers may be on their way.
const ENOUGH: u64 = 5;
/// So many nodes have a row of their own.
const LISTED: usize = 20;

/// What was counted for a node.
#[derive(Clone, Debug)]
struct Counted {
    node: Ipv4Addr,
    /// Packets.
    sent: u64,
    /// Seconds since a packet last came from it; `None`: never.
    heard: Option<u64>,
    /// The latest error of the underlay about packets to it.
    error: Option<HeardError>,
}

/// A row for each silent node, or one about all. `errors`: what the daemon has heard.
pub fn rows(maps: &Maps, errors: Option<&LatestErrors>) -> Vec<Row> {
    let now = clock::monotonic().as_nanos() as u64;
    let nodes: Result<Vec<_>, _> = maps.nodes.iter().collect();
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return vec![super::unread(Check::Peers, &error.into())],
    };
    let counted =
        nodes.iter().filter(|(_, (node, _))| !node.is_protected()).filter_map(|(at, _)| {
            let counter = maps.node_counter(*at)?;
            let ago = now.saturating_sub(counter.last_seen) / 1_000_000_000;
            let heard = (counter.last_seen != 0).then_some(ago);
            let node = (*at).into();
            let error = errors.and_then(|errors| errors.get(&node).cloned());
            Some(Counted { node, sent: counter.encap.packets, heard, error })
        });
    judge(&counted.collect::<Vec<_>>())
}

fn judge(nodes: &[Counted]) -> Vec<Row> {
    let silent = |it: &&Counted| it.heard.is_none() && it.sent >= ENOUGH;
    let rows: Vec<Row> = nodes.iter().filter(silent).take(LISTED).map(row).collect();
    if !rows.is_empty() {
        return rows;
    }
    let (heard, count) =
        (nodes.iter().filter_map(|it| it.heard), output::count(nodes.len(), "node"));
    let what = match (heard.clone().count(), heard.min()) {
        (0, _) => format!("{count}, and too few packets so far to know"),
        (some, Some(last)) => {
            format!("{some} of {count} heard, the last {} ago", output::age(last))
        }
        (_, None) => count,
    };
    vec![Row::pass(Check::Peers, what)]
}

fn row(silent: &Counted) -> Row {
    let Counted { node, sent, error, .. } = silent;
    let error = error.as_ref().map_or_else(String::new, |HeardError { from, what, .. }| {
        format!("; {from} reports for its packets: {what}")
    });
    let what = format!(
        "sent {} to {node} and never heard it: it may not hear us, we may not hear it, or the route \
         names the wrong node{error}",
        output::count(usize::try_from(*sent).unwrap_or(usize::MAX), "packet")
    );
    Row::new(Check::Peers, Verdict::Fail, node.to_string(), what)
        .remedy(format!("run `tunless doctor --peer {node}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_sent_to_and_never_heard_fails() {
        let node = |last, sent, heard| {
            let node = Ipv4Addr::new(172, 16, 35, last);
            Counted { node, sent, heard, error: None }
        };
        let rows = judge(&[node(4, 10, None), node(5, 10, Some(3)), node(6, 4, None)]);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((rows[0].verdict, rows[0].subject.as_str()), (Verdict::Fail, "172.16.35.4"));
        assert!(rows[0].what.starts_with("sent 10 packets to 172.16.35.4 and never heard it"));
        let rows = judge(&[node(5, 10, Some(3)), node(6, 4, None)]);
        assert_eq!(
            (rows[0].verdict, rows[0].what.as_str()),
            (Verdict::Pass, "1 of 2 nodes heard, the last 3s ago")
        );
        assert_eq!(judge(&[])[0].verdict, Verdict::Pass);
        let from = Ipv4Addr::new(172, 16, 36, 1);
        let error = Some(HeardError { from, what: "host unreachable".into(), at: 0 });
        let row = &judge(&[Counted { error, ..node(4, 10, None) }])[0];
        assert!(row.what.ends_with("172.16.36.1 reports for its packets: host unreachable"));
    }
}
