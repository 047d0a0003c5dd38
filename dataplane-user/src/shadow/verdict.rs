//! The report in words: what would change, what would be gained, what stands against switching on.

use std::fmt::Write as _;

use dataplane_common::{
    Verdict,
    shadow::{Class, Finding},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::report::{Figures, Outer, Packet, Report};
use crate::{
    daemon::report::{Level, Problem},
    output,
};

/// What a packet takes on tunl0's way through one node with the rules of 50 endpoints, instructions; what is
/// left of it by a lease and without one (docs/performance.md, `accelerate`, 64-byte UDP on 6.12: 14.1 thousand
/// packets a second by tunl0 and 48.5 thousand by leases are 27,600 instructions for both nodes, at two
/// nanoseconds an instruction).
const TUNL0: f64 = 13_800.0;
const BY_LEASE: f64 = 0.09;
const BY_STACK: f64 = 0.76;
/// Instructions that a core is taken to do in a second.
const CORE: f64 = 3e9;
/// Fewer packets than this prove little.
const FEW: u64 = 1_000;

/// What the report comes to.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
pub struct Opinion {
    /// Packets whose headers were compared or judged.
    pub compared: u64,
    /// Packets that differ, and nothing explains it.
    pub different: u64,
    /// Packets that tunless would drop and tunl0 takes: most often forged sources.
    pub dropped: u64,
    /// The share of packets that would have skipped the stack, 0 to 1; `null`: none were sampled, or conntrack
    /// could not be asked.
    pub fast_share: Option<f64>,
    /// About how many cores would be saved, by the cost ratios of docs/performance.md; `null` where the share is.
    pub cores: Option<f64>,
    /// Codes of the problems that stand against switching on.
    pub against: Vec<String>,
    /// Whether nothing that was found stands against switching on.
    pub may_switch_on: bool,
}

/// Judges a report. `problems`: those of the daemon.
#[must_use]
pub fn opinion(report: &Report, problems: &[Problem]) -> Opinion {
    let compared = report.compared();
    let different = report.sum(Class::Different).packets;
    let dropped = report.sum(Class::Dropped).packets;
    let fast_share = report.fast_share();
    let against: Vec<String> = against(problems).map(|it| it.code.as_str().to_owned()).collect();
    let rate = compared as f64 / report.watched.max(1) as f64;
    let cores = fast_share.filter(|_| report.watched != 0).map(|share| {
        let left = share * BY_LEASE + (1.0 - share) * BY_STACK;
        rate * TUNL0 * (1.0 - left) / CORE
    });
    Opinion {
        compared,
        different,
        dropped,
        fast_share,
        cores,
        may_switch_on: compared >= FEW && different + dropped == 0 && against.is_empty(),
        against,
    }
}

fn against(problems: &[Problem]) -> impl Iterator<Item = &Problem> {
    problems.iter().filter(|problem| problem.level != Level::Info)
}

impl Opinion {
    fn advice(&self) -> String {
        if self.compared < FEW {
            return format!("too little was seen to judge by ({FEW} packets at least)");
        }
        if self.different != 0 {
            return "something on the wire would change: look at the differences above first"
                .into();
        }
        if self.dropped != 0 {
            return "nothing on the wire would change but for the drops above: if they are true, \
                    `spoof: drop` is worth having; `spoof: stack` leaves them to the kernel"
                .into();
        }
        if !self.against.is_empty() {
            return "on the wire nothing would change; see to the problems above first".into();
        }
        "on the wire nothing would change: `tunless try --for 10m`, or `mode: accelerate`".into()
    }
}

/// The whole report for people.
#[must_use]
pub fn describe(report: &Report, opinion: &Opinion, problems: &[Problem], now: u64) -> String {
    let mut text = format!(
        "watched for {}, begun {} ago, last look {} ago\n",
        output::age(report.watched),
        output::age(now.saturating_sub(report.since)),
        output::age(now.saturating_sub(report.until)),
    );
    for (title, prefix) in [("sent by tunl0", "out_"), ("received", "in_")] {
        let _ = writeln!(text, "\n{title}");
        for finding in Finding::ALL.iter().filter(|it| it.as_str().starts_with(prefix)) {
            let found = report.found(*finding);
            let is_always_shown = matches!(finding, Finding::OutSame | Finding::InSame);
            if found.packets == 0 && !is_always_shown {
                continue;
            }
            let _ =
                writeln!(text, "  {:<20} {}", finding.as_str(), figures(found, finding.caption()));
            if let Some(last) = report.last.get(finding.as_str()) {
                let _ = writeln!(text, "  {:<20} {}", "", describe_packet(last, now));
            }
        }
    }
    for (title, verdict) in
        [("tunless would drop", Verdict::Dropped), ("would leave alone", Verdict::Passed)]
    {
        let mut reasons = report.reasons(verdict).peekable();
        if reasons.peek().is_some() {
            let _ = writeln!(text, "\n{title}");
        }
        for (reason, found) in reasons {
            let _ =
                writeln!(text, "  {:<28} {}", reason.as_str(), figures(found, reason.caption()));
        }
    }
    text.push_str("\nwould skip the kernel's stack: ");
    match (opinion.fast_share, &report.conntrack) {
        (Some(share), _) => {
            let all: u64 = report.fates.values().sum();
            let _ = writeln!(text, "{:.0} % of {all} sampled packets", share * 100.0);
            for (fate, packets) in &report.fates {
                let _ = writeln!(text, "  {packets:>10}  {}", fate.describe());
            }
        }
        (None, Some(why)) => drop(writeln!(text, "unknown: conntrack cannot be asked: {why}")),
        (None, None) => text.push_str("unknown: no packet was sampled\n"),
    }
    if let Some(cores) = opinion.cores {
        let _ = writeln!(
            text,
            "would save: some {cores:.2} cores on this node (by the ratios of docs/performance.md for 50 \
             endpoints, at 3 billion instructions a second)"
        );
    }
    let mut problems = against(problems).peekable();
    if problems.peek().is_some() {
        text.push_str("\nstands against switching on\n");
    }
    for problem in problems {
        let _ = writeln!(text, "  {}: {}", problem.code.as_str(), problem.what);
    }
    let _ = writeln!(text, "\n{}", opinion.advice());
    text
}

fn figures(found: Figures, caption: &str) -> String {
    format!("{:>10} packets {:>12} bytes  {caption}", found.packets, found.bytes)
}

fn describe_packet(last: &Packet, now: u64) -> String {
    let Packet { at, interface, outer, ours, from, to, inner_ttl } = last;
    let ago = output::age(now.saturating_sub(*at));
    let mut text = format!(
        "last {ago} ago on {interface}: {} > {}: {from} > {to} (TTL {}, inside {inner_ttl})",
        outer.from, outer.to, outer.ttl
    );
    if let Some(ours) = ours {
        let _ = write!(text, "; {}", differences(outer, ours).join(", "));
    }
    text
}

/// `TTL 32, tunless writes 63`.
fn differences(outer: &Outer, ours: &Outer) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, theirs: String, ours: String| {
        if theirs != ours {
            found.push(format!("{name} {theirs}, tunless writes {ours}"));
        }
    };
    compare("node", outer.to.to_string(), ours.to.to_string());
    compare("TTL", outer.ttl.to_string(), ours.ttl.to_string());
    compare("TOS", outer.tos.to_string(), ours.tos.to_string());
    compare("length", outer.length.to_string(), ours.length.to_string());
    compare("DF", outer.dont_fragment.to_string(), ours.dont_fragment.to_string());
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{daemon::report::Code, shadow::fate::Fate};

    fn report(findings: &[(&str, u64)]) -> Report {
        let figures = |packets: &u64| Figures { packets: *packets, bytes: packets * 100 };
        Report {
            watched: 10,
            findings: findings.iter().map(|(name, it)| ((*name).into(), figures(it))).collect(),
            fates: BTreeMap::from([(Fate::Leased, 9), (Fate::NoFlow, 1)]),
            ..Report::begin(100)
        }
    }

    #[test]
    fn one_difference_or_drop_or_problem_stands_against_it() {
        let good = report(&[("out_same", 900), ("in_same", 900)]);
        assert!(opinion(&good, &[]).may_switch_on);
        for bad in ["out_ttl", "in_dropped", "out_node"] {
            let bad = report(&[("out_same", 1800), (bad, 1)]);
            assert!(!opinion(&bad, &[]).may_switch_on);
        }
        let problem = Problem::new(Code::ConfigRefused, "", "refused");
        let found = opinion(&good, &[problem]);
        assert_eq!((found.may_switch_on, found.against), (false, vec!["config-refused".into()]));
        assert!(!opinion(&report(&[("out_same", 999)]), &[]).may_switch_on, "too few");
    }

    /// What is left to tunl0 stays as it is.
    #[test]
    fn what_is_left_to_tunl0_is_no_difference() {
        let found = opinion(&report(&[("out_same", 900), ("out_left", 900)]), &[]);
        assert_eq!((found.compared, found.different, found.may_switch_on), (1800, 0, true));
    }

    #[test]
    fn what_is_saved_grows_with_share_and_rate() {
        let found = opinion(&report(&[("out_same", 1_000_000)]), &[]);
        // 100,000 packets/s, of which 0.9 · 0.91 + 0.1 · 0.24 of the work goes.
        let expected = 100_000.0 * 13_800.0 * (0.9 * 0.91 + 0.1 * 0.24) / 3e9;
        assert!((found.cores.unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn a_difference_is_shown_field_by_field() {
        let example = Report::example();
        let last = &example.last["out_ttl"];
        assert_eq!(
            describe_packet(last, 100),
            "last 10s ago on eth0: 172.16.0.1 > 172.16.0.2: 10.1.0.2 > 10.2.0.2 (TTL 32, inside 63); \
             TTL 32, tunless writes 63"
        );
        let report = report(&[("out_ttl", 3)]);
        let text = describe(&report, &opinion(&report, &[]), &[], 100);
        assert!(text.contains("out_ttl"), "{text}");
        assert!(text.contains("90 % of 10 sampled packets"), "{text}");
    }
}
