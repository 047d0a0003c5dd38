//! Packets whose source was not the sender's, by the counters.

use dataplane_common::{Program, Reason, Verdict as Outcome};

use super::super::{Check, Row, Verdict};
use crate::bpf::Maps;

/// Reasons that are about the source of a packet.
const REASONS: [Reason; 9] = [
    Reason::PodForgedSource,
    Reason::DecapUnknownNode,
    Reason::DecapMartianSource,
    Reason::DecapOwnSource,
    Reason::DecapForgedSource,
    Reason::DecapSourceUnknown,
    Reason::DecapMartianToStack,
    Reason::DecapOwnToStack,
    Reason::DecapForgedToStack,
];

/// The row about all of them.
pub fn row(maps: &Maps) -> Row {
    let counted: anyhow::Result<Vec<(Reason, u64)>> =
        REASONS.iter().map(|reason| Ok((*reason, maps.counter(*reason)?.packets))).collect();
    match counted {
        Ok(counted) => judge(&counted),
        Err(error) => super::unread(Check::Spoofs, &error),
    }
}

fn judge(counted: &[(Reason, u64)]) -> Row {
    let some: Vec<(Reason, u64)> =
        counted.iter().copied().filter(|(_, packets)| *packets > 0).collect();
    if some.is_empty() {
        return Row::pass(Check::Spoofs, "no packet with a source that is not its sender's");
    }
    let list: Vec<String> = some
        .iter()
        .map(|(reason, packets)| format!("{reason} {packets} ({})", reason.verdict().as_str()))
        .collect();
    let is_from_pods = some.iter().any(|(reason, _)| reason.program() == Program::EncapPod);
    let is_dropped = some.iter().any(|(reason, _)| reason.verdict() == Outcome::Dropped);
    let from = match (is_from_pods, some.iter().any(|(it, _)| it.program() != Program::EncapPod)) {
        (true, true) => "pods of this node and other nodes",
        (true, false) => "pods of this node",
        _ => "other nodes",
    };
    let consequence =
        if is_dropped { "; where they are real, routes here are out of date" } else { "" };
    let what = format!(
        "{from} sent packets from sources that are not theirs: {}{consequence}",
        list.join(", ")
    );
    Row::new(Check::Spoofs, Verdict::Warn, "", what).remedy(
        "set `log_spoofs: true`: the log then names node and source of what comes from the wire; \
         `tunless routes get SOURCE` shows whose it is",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_counted_is_named() {
        let none = REASONS.map(|reason| (reason, 0));
        assert_eq!(judge(&none).verdict, Verdict::Pass);
        let row = judge(&[(Reason::DecapOwnSource, 3), (Reason::DecapForgedSource, 0)]);
        assert_eq!(row.verdict, Verdict::Warn);
        assert!(row.what.starts_with("other nodes sent"), "{}", row.what);
        assert!(row.what.contains("decap_own_source 3 (dropped)"), "{}", row.what);
        assert!(!row.what.contains("decap_forged_source"), "{}", row.what);
        let row = judge(&[(Reason::PodForgedSource, 1)]);
        assert!(row.what.starts_with("pods of this node sent"), "{}", row.what);
    }
}
