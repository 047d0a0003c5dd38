//! Nodes that packets were sent to and that were never heard, or not for long, as the counters show it.
//! Counters of packets begin anew with `counters flush`; when a node was last heard is kept.

use std::net::Ipv4Addr;

use super::super::{Check, Row, Verdict};
use crate::{
    bpf::Maps,
    clock,
    daemon::{heard::Heard, underlay_errors::HeardError},
    output,
};

/// Of fewer packets the answers may be on their way.
const ENOUGH: u64 = 5;
/// So long a node that is sent to is not silent for nothing, seconds. Even idle connections and probes
/// answer more often.
const LONG: u64 = 300;
/// So many nodes have a row of their own.
const LISTED: usize = 20;

/// What was counted for a node.
#[derive(Clone, Debug)]
struct Counted {
    node: Ipv4Addr,
    /// What it is called.
    name: Option<String>,
    /// Packets.
    sent: u64,
    /// Packets since it was last heard; `None`: that is not known.
    sent_since: Option<u64>,
    /// Seconds since a packet last came from it; `None`: never.
    heard: Option<u64>,
    /// The latest error of the underlay about packets to it.
    error: Option<HeardError>,
}

/// A row for each silent node, or one about all. `heard`: what the daemon has noticed.
pub fn rows(maps: &Maps, heard: &Heard) -> Vec<Row> {
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
            let node = (*at).into();
            Some(Counted {
                node,
                name: heard.names.get(&node).cloned(),
                sent: counter.encap.packets,
                sent_since: heard.sent_since(node, &counter),
                heard: (counter.last_seen != 0).then_some(ago),
                error: heard.errors.get(&node).cloned(),
            })
        });
    judge(&counted.collect::<Vec<_>>())
}

fn judge(nodes: &[Counted]) -> Vec<Row> {
    let rows: Vec<Row> = nodes.iter().filter_map(row).take(LISTED).collect();
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

/// The row about a node that does not answer.
fn row(counted: &Counted) -> Option<Row> {
    let Counted { node, name, sent, sent_since, heard, error } = counted;
    let called = name.as_ref().map_or_else(|| node.to_string(), |name| format!("{name} ({node})"));
    let packets =
        |count: u64| output::count(usize::try_from(count).unwrap_or(usize::MAX), "packet");
    let (verdict, what) = match (*heard, *sent_since) {
        (None, _) if *sent >= ENOUGH => (
            Verdict::Fail,
            format!(
                "sent {} to {called} and never heard it: it may not hear us, we may not hear it, or \
                 the route names the wrong node",
                packets(*sent)
            ),
        ),
        (Some(ago), Some(since)) if ago >= LONG && since >= ENOUGH => (
            Verdict::Warn,
            format!(
                "{called} was last heard {} ago, and was sent {} since: it is down, it does not hear \
                 us, or we do not hear it",
                output::age(ago),
                packets(since)
            ),
        ),
        _ => return None,
    };
    let error = error.as_ref().map_or_else(String::new, |HeardError { from, what, .. }| {
        format!("; {from} reports for its packets: {what}")
    });
    Some(
        Row::new(Check::Peers, verdict, node.to_string(), what + &error)
            .remedy(format!("run `tunless doctor --peer {node}`")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8, sent: u64, heard: Option<u64>) -> Counted {
        let node = Ipv4Addr::new(172, 16, 35, last);
        Counted { node, name: None, sent, sent_since: Some(0), heard, error: None }
    }

    #[test]
    fn a_node_that_is_sent_to_and_never_heard_fails() {
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
        let error = Some(HeardError { from, what: "host unreachable".into(), at: 0, count: 1 });
        let row = &judge(&[Counted { error, ..node(4, 10, None) }])[0];
        assert!(row.what.ends_with("172.16.36.1 reports for its packets: host unreachable"));
    }

    #[test]
    fn a_node_that_became_silent_is_a_warning() {
        let since = |sent_since, heard| Counted {
            sent_since,
            name: Some("node1".into()),
            ..node(4, 100, Some(heard))
        };
        let rows = judge(&[since(Some(9), LONG), node(5, 10, Some(3))]);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!((rows[0].verdict, rows[0].subject.as_str()), (Verdict::Warn, "172.16.35.4"));
        assert!(
            rows[0].what.starts_with(
                "node1 (172.16.35.4) was last heard 5m ago, and was sent 9 packets since:"
            ),
            "{}",
            rows[0].what
        );
        assert_eq!(rows[0].remedy.as_deref(), Some("run `tunless doctor --peer 172.16.35.4`"));
        // Not long enough, too little, nothing, or without a daemon that has looked.
        for quiet in [
            since(Some(9), LONG - 1),
            since(Some(ENOUGH - 1), LONG),
            since(Some(0), 9 * LONG),
            since(None, 9 * LONG),
        ] {
            assert_eq!(judge(&[quiet])[0].verdict, Verdict::Pass);
        }
    }
}
