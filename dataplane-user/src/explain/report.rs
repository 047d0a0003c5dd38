//! What is shown: steps, and one sentence.

use std::net::Ipv4Addr;

use dataplane_common::{Reason, Verdict};
use schemars::JsonSchema;
use serde::Serialize;

use super::rehearsal::RuleMet;
use crate::schema;

/// What became of the packet in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Encapsulated or decapsulated, and sent on its way.
    Forwarded,
    /// Left to what comes next.
    Passed,
    /// Gone.
    Dropped,
    /// It could not be found out.
    Unknown,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Forwarded => Self::Forwarded,
            Verdict::Passed => Self::Passed,
            Verdict::Dropped => Self::Dropped,
        }
    }
}

/// A step of the packet's way.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Step {
    /// The program, or `kernel`.
    #[schemars(extend("enum" = schema::programs_and_kernel()))]
    pub by: &'static str,
    /// The interface on which it meets the packet.
    pub interface: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What the program would count; `null`: nothing, or the kernel does it.
    #[schemars(extend("enum" = schema::or_null(schema::reasons())))]
    pub reason: Option<&'static str>,
    /// Why, in a sentence.
    pub text: String,
    /// The headers of what left the program, the outer one first; `null` if they are as before.
    pub leaves: Option<String>,
    /// What the program, or the kernel, went by.
    pub facts: Vec<String>,
    /// Rules of netfilter that the first packet of such a connection meets, in order; `null`: they were not
    /// tried.
    pub rules: Option<Vec<RuleMet>>,
}

impl Step {
    /// A step of the kernel.
    pub fn kernel(interface: &str, outcome: Outcome, text: String) -> Self {
        Self::plain("kernel", interface, outcome, text)
    }

    /// A step without a reason that is counted.
    pub fn plain(by: &'static str, interface: &str, outcome: Outcome, text: String) -> Self {
        let interface = interface.to_owned();
        let facts = Vec::new();
        Self { by, interface, outcome, reason: None, text, leaves: None, facts, rules: None }
    }

    /// A step of a program that counts this.
    pub fn counted(by: &'static str, interface: &str, reason: Reason) -> Self {
        let text = reason.caption().to_owned();
        let step = Self::plain(by, interface, reason.verdict().into(), text);
        Self { reason: Some(reason.as_str()), ..step }
    }

    /// The same with these facts.
    pub fn with(mut self, facts: impl IntoIterator<Item = String>) -> Self {
        self.facts.extend(facts);
        self
    }

    /// The same with the rules that it met.
    pub fn met(self, rules: Vec<RuleMet>) -> Self {
        Self { rules: Some(rules), ..self }
    }

    /// The same, and why its rules were not tried.
    pub fn not_asked(self, error: &anyhow::Error) -> Self {
        self.with([format!("rules of netfilter were not tried: {error:#}")])
    }

    /// The rules for people: table by table, the chains and the last rule.
    fn rules_in_words(&self) -> Vec<String> {
        let Some(rules) = &self.rules else { return Vec::new() };
        if rules.is_empty() {
            return vec!["rules of netfilter: none concerns it".to_owned()];
        }
        let tables = rules.chunk_by(|before, rule| before.table == rule.table);
        let in_words = |met: &[RuleMet]| {
            let mut chains: Vec<&str> = met.iter().map(|rule| rule.chain.as_str()).collect();
            chains.dedup();
            let last = met.last()?;
            let RuleMet { table, rule, verdict, .. } = last;
            Some(format!("rules of {table}: {}; the last: {rule} ({verdict})", chains.join(" → ")))
        };
        tables.filter_map(in_words).collect()
    }
}

/// One direction.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Way {
    /// What is sent: protocol, source, destination.
    pub packet: String,
    /// Whether it arrives, as far as it can be known.
    pub is_carried: bool,
    /// `fast`, `stack` or, if it does not arrive, `null`.
    #[schemars(extend("enum" = schema::or_null(vec!["fast", "stack"])))]
    pub path: Option<&'static str>,
    /// What happens to it, in order.
    pub steps: Vec<Step>,
}

impl Way {
    /// A way of these steps.
    pub fn of(packet: String, steps: Vec<Step>) -> Self {
        let is_carried = steps.iter().all(|step| step.outcome != Outcome::Dropped);
        let is_stack = steps.iter().any(|step| step.by == "kernel");
        let path = is_carried.then_some(if is_stack { "stack" } else { "fast" });
        Self { packet, is_carried, path, steps }
    }
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Report {
    /// Who sends.
    pub from: Ipv4Addr,
    /// Who is to receive.
    pub to: Ipv4Addr,
    /// Whether both ways carry their packet.
    pub is_carried: bool,
    /// The same in a sentence.
    pub verdict: String,
    /// The packet's way.
    pub there: Way,
    /// The answer's way; `null` where no node of the cluster sends it or gets it.
    pub back: Option<Way>,
    /// What this command did not look at.
    pub not_looked_at: Vec<&'static str>,
}

/// Where the rules could not be tried.
const RULES: &str = "rules of netfilter, which may drop or translate what goes by the kernel's stack: \
                     `nft list ruleset` and `iptables-save` show them, `nft monitor trace` what they do \
                     with a packet";
/// Of an answer on the stack.
const RULES_OF_ANSWERS: &str = "rules that the answer meets: most let it pass by the connection that it \
                                belongs to";
/// Of any packet on the stack.
const MARK: &str = "netfilter's mark for a lease: without it, a packet on the stack gets none here";

/// What the steps do not tell.
fn not_looked_at(there: &Way, back: Option<&Way>) -> Vec<&'static str> {
    let on_stack = |way: &Way| way.steps.iter().any(|step| step.by == "kernel");
    let untried =
        |way: &Way| way.steps.iter().any(|step| step.by == "kernel" && step.rules.is_none());
    let is_back_on_stack = back.is_some_and(on_stack);
    let found = [
        untried(there).then_some(RULES),
        is_back_on_stack.then_some(RULES_OF_ANSWERS),
        (on_stack(there) || is_back_on_stack).then_some(MARK),
    ];
    found.into_iter().flatten().collect()
}

impl Report {
    /// Puts both ways together.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, there: Way, back: Option<Way>) -> Self {
        let is_carried = there.is_carried && back.as_ref().is_none_or(|back| back.is_carried);
        let verdict = verdict(to, &there, back.as_ref());
        let not_looked_at = not_looked_at(&there, back.as_ref());
        Self { from, to, is_carried, verdict, there, back, not_looked_at }
    }

    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        let ways = [("there", Some(&self.there)), ("back", self.back.as_ref())];
        let mut number = 0;
        for (name, way) in ways {
            let Some(way) = way else { continue };
            lines.push(format!("{name}: {}", way.packet));
            for step in &way.steps {
                number += 1;
                let reason = step.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                let outcome = step.outcome.as_str();
                let Step { by, interface, text, .. } = step;
                lines.push(format!("{number:>2}. {by} on {interface}: {outcome}{reason}: {text}"));
                lines.extend(step.facts.iter().map(|fact| format!("      {fact}")));
                lines.extend(step.rules_in_words().iter().map(|rules| format!("      {rules}")));
                lines.extend(step.leaves.iter().map(|leaves| format!("      leaves: {leaves}")));
            }
        }
        if !self.not_looked_at.is_empty() {
            lines.push("not looked at:".to_owned());
        }
        lines.extend(self.not_looked_at.iter().map(|what| format!("    - {what}")));
        lines.push(self.verdict.clone());
        lines.join("\n")
    }
}

fn verdict(to: Ipv4Addr, there: &Way, back: Option<&Way>) -> String {
    let lost = |way: &Way| {
        let step = way.steps.iter().find(|step| step.outcome == Outcome::Dropped);
        step.map(|step| format!("{} on {}", step.by, step.interface)).unwrap_or_default()
    };
    let path = |way: &Way| match way.path {
        Some("fast") => "by the fast path",
        _ => "by the stack",
    };
    if !there.is_carried {
        return format!("does not reach {to}: dropped at {}", lost(there));
    }
    let is_open = there.steps.iter().any(|step| step.outcome == Outcome::Unknown);
    let reaches = if is_open { "may reach" } else { "reaches" };
    match back {
        None => format!("{reaches} {to}: {}", path(there)),
        Some(back) if back.is_carried => {
            format!("{reaches} {to}: {} there, {} back", path(there), path(back))
        }
        Some(back) => {
            format!("{reaches} {to} {}, but its answers are dropped at {}", path(there), lost(back))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Ipv4Addr = Ipv4Addr::new(10, 20, 2, 8);

    fn way(steps: Vec<Step>) -> Way {
        Way::of("tcp a → b".to_owned(), steps)
    }

    fn kernel(outcome: Outcome) -> Step {
        Step::kernel("cali1", outcome, "routes it".to_owned())
    }

    #[test]
    fn the_last_line_says_what_the_steps_come_to() {
        let fast = || way(vec![Step::counted("encap_pod", "cali1", Reason::PodEncapsulated)]);
        let lost = || way(vec![Step::counted("encap_host", "tunless0", Reason::HostNoRoute)]);
        let stack = || way(vec![kernel(Outcome::Passed)]);
        let open = || way(vec![kernel(Outcome::Unknown)]);
        for (there, back, expected) in [
            (fast(), Some(stack()), "reaches 10.20.2.8: by the fast path there, by the stack back"),
            (stack(), None, "reaches 10.20.2.8: by the stack"),
            (open(), None, "may reach 10.20.2.8: by the stack"),
            (lost(), Some(fast()), "does not reach 10.20.2.8: dropped at encap_host on tunless0"),
            (
                fast(),
                Some(lost()),
                "reaches 10.20.2.8 by the fast path, but its answers are dropped at encap_host on \
                 tunless0",
            ),
        ] {
            let report = Report::new(TO, TO, there, back);
            assert_eq!(report.verdict, expected);
            assert_eq!(report.is_carried, !expected.contains("dropped"));
        }
    }

    #[test]
    fn rules_are_summed_up_table_by_table() {
        let met = |table: &str, chain: &str, rule: &str, verdict: &str| {
            let [table, chain, rule, verdict] = [table, chain, rule, verdict].map(str::to_owned);
            RuleMet { table, chain, rule, verdict }
        };
        let step = kernel(Outcome::Passed).met(vec![
            met("ip nat", "PREROUTING", "-j KUBE-SERVICES", "jump KUBE-SERVICES"),
            met("ip filter", "FORWARD", "-j cali-FORWARD", "jump cali-FORWARD"),
            met("ip filter", "cali-FORWARD", "-j MARK --or-mark 1", "continue"),
            met("ip filter", "cali-FORWARD", "-j ACCEPT", "accept"),
        ]);
        let lines = step.rules_in_words();
        assert_eq!(
            lines,
            [
                "rules of ip nat: PREROUTING; the last: -j KUBE-SERVICES (jump KUBE-SERVICES)",
                "rules of ip filter: FORWARD → cali-FORWARD; the last: -j ACCEPT (accept)",
            ]
        );
        assert_eq!(kernel(Outcome::Passed).rules_in_words(), [""; 0]);
        let none = kernel(Outcome::Passed).met(Vec::new()).rules_in_words();
        assert_eq!(none, ["rules of netfilter: none concerns it"]);
    }

    #[test]
    fn what_was_not_looked_at_depends_on_the_way() {
        let fast = || way(vec![Step::counted("encap_pod", "cali1", Reason::PodEncapsulated)]);
        let stack = || way(vec![kernel(Outcome::Passed)]);
        let tried = || way(vec![kernel(Outcome::Passed).met(Vec::new())]);
        for (there, back, expected) in [
            (fast(), Some(fast()), vec![]),
            (tried(), None, vec![MARK]),
            (stack(), None, vec![RULES, MARK]),
            (tried(), Some(stack()), vec![RULES_OF_ANSWERS, MARK]),
            (fast(), Some(stack()), vec![RULES_OF_ANSWERS, MARK]),
        ] {
            assert_eq!(not_looked_at(&there, back.as_ref()), expected);
        }
    }

    #[test]
    fn steps_are_numbered_through_both_ways() {
        let there =
            Step::counted("encap_pod", "cali1", Reason::PodNoLease).with(["a fact".to_owned()]);
        let report =
            Report::new(TO, TO, way(vec![there]), Some(way(vec![kernel(Outcome::Passed)])));
        let text = report.describe();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "there: tcp a → b");
        assert!(lines[1].starts_with(" 1. encap_pod on cali1: passed (pod_no_lease): its flow"));
        assert_eq!(lines[2], "      a fact");
        assert_eq!(lines[3], "back: tcp a → b");
        assert_eq!(lines[4], " 2. kernel on cali1: passed: routes it");
        assert_eq!(text.lines().last(), Some(report.verdict.as_str()));
    }
}
