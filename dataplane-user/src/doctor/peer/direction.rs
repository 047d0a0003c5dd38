//! Whether protocol 4 passes to the peer and back, by what was answered. Pure.

use std::net::Ipv4Addr;

use super::{
    super::{Check, Row, Verdict},
    packet::{Error, What},
};

/// What was asked of a peer, and what came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Findings {
    /// Our address.
    pub node: Ipv4Addr,
    /// The peer's.
    pub peer: Ipv4Addr,
    /// It answered an unencapsulated ping.
    pub plain: bool,
    /// It answered an encapsulated one, encapsulated.
    pub both: Both,
    /// Whether protocol 4 reaches the peer; `None`: it is not known.
    pub is_heard_there: Option<bool>,
    /// Seconds since an encapsulated packet of the peer was last decapsulated; `None`: never.
    pub heard_here: Option<u64>,
    /// Errors of routers, or of the peer, about any of these.
    pub errors: Vec<Error>,
}

/// What came of encapsulated requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Both {
    /// They were answered.
    Answered,
    /// The answers came as far as this host, where no program took their outer header off.
    Wrapped,
    /// They were not.
    Unanswered,
    /// They could not be sent: this node has no tunnel address.
    Untested,
}

/// So long ago a packet of the peer shows that it is heard now, seconds.
const LATELY: u64 = 30;

/// The rows about both directions.
pub fn rows(findings: &Findings) -> Vec<Row> {
    vec![plain(findings), tunnel(findings)]
}

fn plain(findings: &Findings) -> Row {
    let Findings { peer, plain, both, .. } = findings;
    let row = |verdict, what| Row::new(Check::PeerPlain, verdict, peer.to_string(), what);
    match (plain, both) {
        (true, _) => row(Verdict::Pass, "it answers an unencapsulated ping".to_owned()),
        (false, Both::Answered) => row(
            Verdict::Warn,
            format!(
                "it answers no unencapsulated ping{}, though protocol 4 passes",
                reported(findings)
            ),
        ),
        (false, _) => {
            let what = format!("it answers no unencapsulated ping{}", reported(findings));
            row(Verdict::Fail, what).remedy(format!(
                "the peer is down, or the underlay does not reach it: `ip route get {peer}`, then the \
                 routers on the way; if {peer} is not its address, the route to its pods is wrong"
            ))
        }
    }
}

fn tunnel(findings: &Findings) -> Row {
    let Findings { node, peer, plain, both, is_heard_there, .. } = findings;
    let row = |verdict, what: String| Row::new(Check::PeerTunnel, verdict, peer.to_string(), what);
    let refusing =
        findings.errors.iter().find(|error| error.from == *peer && error.what == What::NoProtocol);
    let there = format!(
        "run `tunless doctor --peer {node}` there: it may have no route to our pods; else let fabric and \
         firewalls pass IP protocol 4 from {peer} to {node}"
    );
    match both {
        Both::Answered => row(Verdict::Pass, "protocol 4 passes both ways".to_owned()),
        Both::Wrapped => row(
            Verdict::Fail,
            format!("answers of {peer} arrive at this host encapsulated, and no program decapsulates them"),
        )
        .remedy("look at the rows `programs` and `node`; `tunless counters list` has the reason"),
        Both::Untested => row(
            Verdict::Skip,
            "not tested: this node has no tunnel address that the peer could answer".to_owned(),
        ),
        Both::Unanswered if refusing.is_some() => row(
            Verdict::Fail,
            format!("{peer} hears us, and reports that nothing there takes protocol 4"),
        )
        .remedy("start tunless there, or bring up its tunl0"),
        Both::Unanswered if !plain => row(
            Verdict::Fail,
            format!("it answers no encapsulated ping{}", reported(findings)),
        )
        .remedy("first see to it that it answers an unencapsulated one"),
        Both::Unanswered => match is_heard_there {
            Some(true) => row(
                Verdict::Fail,
                format!(
                    "they hear us, we do not hear them: protocol 4 reaches {peer}, and nothing comes \
                     back by it{}",
                    heard(findings)
                ),
            )
            .remedy(there),
            Some(false) => row(
                Verdict::Fail,
                format!(
                    "protocol 4 does not reach {peer}, though unencapsulated packets do{}{}",
                    reported(findings),
                    heard(findings)
                ),
            )
            .remedy(format!(
                "let fabric and firewalls (security groups, the peer's own rules) pass IP protocol 4 \
                 from {node} to {peer}"
            )),
            None => row(
                Verdict::Fail,
                format!(
                    "protocol 4 gets no answer from {peer}{}{}: it does not reach the peer, or nothing \
                     comes back",
                    reported(findings),
                    heard(findings)
                ),
            )
            .remedy(there),
        },
    }
}

/// What is known of the way back.
fn heard(findings: &Findings) -> String {
    match findings.heard_here {
        Some(ago) if ago <= LATELY => {
            format!("; other encapsulated packets of it arrive here (the last {ago} s ago)")
        }
        Some(_) | None => String::new(),
    }
}

/// Who reported what, besides that a packet is too big.
fn reported(findings: &Findings) -> String {
    let telling = |error: &&Error| !matches!(error.what, What::TooBig(_) | What::Reassembly);
    findings.errors.iter().find(telling).map_or_else(String::new, |error| {
        format!(" ({} reports {})", error.from, error.what.text())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);

    fn findings(plain: bool, both: Both, is_heard_there: Option<bool>) -> Findings {
        Findings {
            node: NODE,
            peer: PEER,
            plain,
            both,
            is_heard_there,
            heard_here: None,
            errors: Vec::new(),
        }
    }

    fn error(from: Ipv4Addr, what: What) -> Error {
        Error { from, what, protocol: 4, destination: PEER, identification: 1 }
    }

    #[test]
    fn each_combination_names_the_direction() {
        use Verdict::{Fail, Pass, Skip, Warn};
        for (plain, both, there, verdicts, part) in [
            (true, Both::Answered, None, [Pass, Pass], "passes both ways"),
            (false, Both::Answered, None, [Warn, Pass], "passes both ways"),
            (true, Both::Unanswered, Some(true), [Pass, Fail], "they hear us, we do not hear them"),
            (true, Both::Unanswered, Some(false), [Pass, Fail], "does not reach 172.16.35.4"),
            (true, Both::Unanswered, None, [Pass, Fail], "gets no answer"),
            (false, Both::Unanswered, None, [Fail, Fail], "no encapsulated ping"),
            (true, Both::Wrapped, None, [Pass, Fail], "no program decapsulates"),
            (true, Both::Untested, None, [Pass, Skip], "no tunnel address"),
            (false, Both::Untested, None, [Fail, Skip], "no tunnel address"),
        ] {
            let rows = rows(&findings(plain, both, there));
            assert_eq!([rows[0].verdict, rows[1].verdict], verdicts, "{rows:?}");
            assert!(rows[1].what.contains(part), "{rows:?}");
        }
    }

    #[test]
    fn errors_are_part_of_the_answer() {
        let mut found = findings(false, Both::Unanswered, None);
        found.errors = vec![error(ROUTER, What::NoPath)];
        let text = &rows(&found)[0].what;
        assert!(text.ends_with("(172.16.36.1 reports that the host is unreachable)"), "{text}");
        let mut found = findings(true, Both::Unanswered, None);
        found.errors = vec![error(PEER, What::NoProtocol)];
        let row = &rows(&found)[1];
        assert!(row.what.contains("nothing there takes protocol 4"), "{row:?}");
        let mut found = findings(true, Both::Unanswered, Some(false));
        found.heard_here = Some(3);
        assert!(rows(&found)[1].what.ends_with("(the last 3 s ago)"));
    }
}
