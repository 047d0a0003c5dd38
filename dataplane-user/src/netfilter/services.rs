//! May flows that conntrack translates for a Service be leased on this host?

use std::{collections::BTreeSet, fmt, fs};

use anyhow::Result;

use super::conntrack::{self, ESTABLISHED, Timers};
use crate::kernel::Rule;

/// Helpers are assigned by port alone; kernels from 6.0 on have no such sysctl.
const HELPER: &str = "nf_conntrack_helper";
/// The queues to user space that a program listens to, a line for each
/// (`net/netfilter/nfnetlink_queue.c`, `seq_show`). Missing without the module.
const QUEUES: &str = "/proc/net/netfilter/nfnetlink_queue";

/// What stands against leases of Services on a host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Obstacle {
    /// Conntrack's helpers rewrite payloads of connections they choose by port.
    Helper,
    /// A program takes packets from these queues, and keeps them for as long as it likes.
    Queues(BTreeSet<String>),
    /// Rules put packets into such queues: their chains, and tables.
    QueueRules(BTreeSet<(String, String)>),
    /// The timers of open and of closing connections overlap.
    Timers(Timers),
    /// What has to be known cannot be, and why.
    Unreadable(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Helper => {
                write!(f, "{HELPER} is 1, so conntrack may rewrite payloads of any connection")
            }
            Self::Queues(queues) => {
                let queues: Vec<_> = queues.iter().map(String::as_str).collect();
                write!(
                    f,
                    "a program takes packets from NFQUEUE {}, where they may wait until their \
                     connection is another one",
                    queues.join(", ")
                )
            }
            Self::QueueRules(chains) => {
                let chains: Vec<_> = chains
                    .iter()
                    .map(|(chain, table)| format!("{chain} (table {table})"))
                    .collect();
                write!(
                    f,
                    "NFQUEUE in the chain {}: packets may wait there until their connection is \
                     another one",
                    chains.join(", ")
                )
            }
            Self::Timers(Timers { established, closing }) => write!(
                f,
                "{ESTABLISHED} ({established} s) is not above the timers of closing connections \
                 ({closing} s), so rules cannot tell them apart"
            ),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

impl Obstacle {
    /// Returns what to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Helper => format!(
                "set net.netfilter.{HELPER} to 0 and assign helpers by rules; or set \
                 leases.services: false"
            ),
            Self::Queues(_) => "set leases.services: false, or end that program".to_owned(),
            Self::QueueRules(_) => "set leases.services: false, or remove the rule".to_owned(),
            Self::Timers(_) => format!(
                "raise net.netfilter.{ESTABLISHED} (the kernel's default is 432000); or set \
                 leases.services: false"
            ),
            Self::Unreadable(_) => "set leases.services: false".to_owned(),
        }
    }
}

/// What is known of a host for leases of Services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceFitness {
    /// What stands against them.
    pub against: BTreeSet<Obstacle>,
}

/// Returns whether a rule puts packets into a queue: an expression of nftables, or a target of iptables.
#[must_use]
pub fn queues(rule: &Rule) -> bool {
    /// `NFTA_TARGET_NAME`.
    const NAME: u16 = 1;
    rule.iter().any(|step| match step.name.as_str() {
        "queue" => true,
        "target" => step.data.text(NAME) == Some("NFQUEUE"),
        _ => false,
    })
}

/// Returns the chains of what `iptables-legacy-save` prints whose rules put packets into a queue.
pub fn saved_queues(saved: &str) -> impl Iterator<Item = &str> {
    saved.lines().filter_map(|line| {
        let rest = line.strip_prefix("-A ")?;
        rest.contains(" -j NFQUEUE").then(|| rest.split(' ').next()).flatten()
    })
}

impl ServiceFitness {
    /// Adds chains, and their tables, whose rules put packets into queues. Rules that cannot be read may
    /// do so.
    #[must_use]
    pub fn with_queue_rules(mut self, chains: Result<BTreeSet<(String, String)>>) -> Self {
        match chains {
            Ok(chains) if chains.is_empty() => {}
            Ok(chains) => drop(self.against.insert(Obstacle::QueueRules(chains))),
            Err(error) => {
                let why = format!("whether rules put packets into NFQUEUE is unknown: {error:#}");
                self.against.insert(Obstacle::Unreadable(why));
            }
        }
        self
    }

    /// Adds that nft refuses the rules for Services, if it does.
    #[must_use]
    pub fn with_table(mut self, checked: Result<()>) -> Self {
        if let Err(error) = checked {
            let why = format!("nft cannot mark such flows here: {error:#}");
            self.against.insert(Obstacle::Unreadable(why));
        }
        self
    }

    /// Looks at this host, but for its rules.
    #[must_use]
    pub fn look() -> Self {
        Self::judge(conntrack::read, &fs::read_to_string(QUEUES).unwrap_or_default())
    }

    /// By sysctls, and by the list of queues as the kernel prints it.
    fn judge(read: impl Fn(&str) -> Result<u32>, queues: &str) -> Self {
        let mut against = BTreeSet::new();
        match Timers::by(&read) {
            Ok(timers) if timers.tell_closing().is_some() => {}
            Ok(timers) => drop(against.insert(Obstacle::Timers(timers))),
            Err(error) => drop(against.insert(Obstacle::Unreadable(format!("{error:#}")))),
        }
        if read(HELPER).is_ok_and(|helper| helper != 0) {
            against.insert(Obstacle::Helper);
        }
        let queues: BTreeSet<String> = queues
            .lines()
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        if !queues.is_empty() {
            against.insert(Obstacle::Queues(queues));
        }
        Self { against }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;
    use crate::kernel::{Attributes, Expression};

    fn kernel(changes: &[(&str, u32)]) -> impl Fn(&str) -> Result<u32> {
        let defaults = conntrack::CLOSING
            .into_iter()
            .zip([120, 60, 30, 120, 10])
            .chain([(ESTABLISHED, 432_000)]);
        let sysctls: std::collections::BTreeMap<String, u32> = defaults
            .chain(changes.iter().copied())
            .map(|(name, value)| (name.into(), value))
            .collect();
        move |name| sysctls.get(name).copied().with_context(|| format!("no {name}"))
    }

    #[test]
    fn a_host_with_defaults_is_fit() {
        let fitness = ServiceFitness::judge(kernel(&[]), "");
        assert_eq!(fitness, ServiceFitness::default());
        assert_eq!(ServiceFitness::judge(kernel(&[(HELPER, 0)]), "\n"), fitness);
    }

    #[test]
    fn rules_that_queue_are_found() {
        let step = |name: &str, target: &[u8]| Expression {
            name: name.into(),
            data: Attributes([(1, target.to_vec())].into()),
        };
        assert!(queues(&vec![step("cmp", b""), step("queue", b"")]));
        assert!(queues(&vec![step("target", b"NFQUEUE\0")]));
        assert!(!queues(&vec![step("target", b"MARK\0"), step("counter", b"")]));
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -j NFQUEUE --queue-num 3\n\
                     -A FORWARD -j ACCEPT\n-A other -m mark --mark 1 -j NFQUEUE\nCOMMIT\n";
        assert_eq!(saved_queues(saved).collect::<Vec<_>>(), ["FORWARD", "other"]);
        let chains = BTreeSet::from([("FORWARD".to_owned(), "filter".to_owned())]);
        let fitness = ServiceFitness::default().with_queue_rules(Ok(chains));
        let said = fitness.against.first().unwrap().to_string();
        assert!(said.contains("NFQUEUE in the chain FORWARD (table filter)"), "{said}");
        let none = ServiceFitness::default().with_queue_rules(Ok(BTreeSet::new()));
        assert_eq!(none, ServiceFitness::default());
        let unknown = ServiceFitness::default().with_queue_rules(Err(anyhow::anyhow!("no dump")));
        let said = unknown.against.first().unwrap().to_string();
        assert!(said.contains("is unknown: no dump"), "{said}");
        let refused = ServiceFitness::default().with_table(Err(anyhow::anyhow!("no such key")));
        assert!(refused.against.first().unwrap().to_string().contains("no such key"));
    }

    #[test]
    fn each_obstacle_is_named_with_what_to_do() {
        let queues = "    3   1234     0 2 65531     0     0        0  1\n   17 5\n";
        let cases = [
            (kernel(&[(HELPER, 1)]), "", "nf_conntrack_helper is 1"),
            (kernel(&[]), queues, "NFQUEUE 17, 3"),
            (kernel(&[(ESTABLISHED, 120)]), "", "(120 s) is not above"),
            (kernel(&[(conntrack::CLOSING[3], 500_000)]), "", "(500000 s)"),
        ];
        for (read, queues, text) in cases {
            let found = ServiceFitness::judge(read, queues).against;
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            for obstacle in found {
                assert!(obstacle.to_string().contains(text), "{obstacle}");
                assert!(obstacle.remedy().contains("leases.services: false"), "{obstacle}");
            }
        }
        let none = |_: &str| anyhow::bail!("no conntrack");
        let found = ServiceFitness::judge(none, "").against;
        assert_eq!(found, BTreeSet::from([Obstacle::Unreadable("no conntrack".into())]));
    }
}
