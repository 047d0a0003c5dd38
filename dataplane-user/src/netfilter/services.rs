//! May flows that conntrack translates for a Service be leased on this host?

use std::{collections::BTreeSet, fmt, fs};

use anyhow::Result;

use super::{
    conntrack::{self, ESTABLISHED, Timers},
    lease_fitness::{LeaseFitness, Standing},
    service_rules::{Chains, ServiceRules},
};

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
    /// Rules put packets into such queues.
    QueueRules(Chains),
    /// Rules of others compare or set this bit of the packet mark, which is ours for Services.
    Mark(u32, Chains),
    /// Rules, or objects of nftables, give connections timers of their own.
    TimerRules(Chains),
    /// The timers of open and of closing connections overlap.
    Timers(Timers),
    /// nft refuses the rules for Services, and why.
    Table(String),
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
            Self::QueueRules(chains) => write!(
                f,
                "NFQUEUE in the chain {}: packets may wait there until their connection is another \
                 one",
                places(chains)
            ),
            Self::Mark(bit, chains) => write!(
                f,
                "rules use the bit {bit:#x} of the packet mark, by which netfilter would mark such \
                 flows, in the chain {}",
                places(chains)
            ),
            Self::TimerRules(chains) => write!(
                f,
                "connections have timers of their own by `ct timeout` or `-j CT --timeout` ({}), so \
                 neither does a timer tell that one closes, nor do sysctls tell for how long one is \
                 remembered",
                places(chains)
            ),
            Self::Timers(Timers { established, closing }) => write!(
                f,
                "{ESTABLISHED} ({established} s) is not above the timers of closing connections \
                 ({closing} s), so rules cannot tell them apart"
            ),
            Self::Table(why) => write!(f, "nft cannot mark such flows here: {why}"),
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
            Self::QueueRules(_) | Self::TimerRules(_) => {
                "set leases.services: false, or remove the rule".to_owned()
            }
            Self::Mark(..) => {
                "set leases.service_mark to a bit that no other software uses; or set \
                               leases.services: false"
                    .to_owned()
            }
            Self::Timers(_) => format!(
                "raise net.netfilter.{ESTABLISHED} (the kernel's default is 432000); or set \
                 leases.services: false"
            ),
            Self::Table(_) | Self::Unreadable(_) => "set leases.services: false".to_owned(),
        }
    }
}

/// What is known of a host for leases of Services.
pub type ServiceFitness = LeaseFitness<Obstacle>;

impl Standing for Obstacle {
    fn refused(why: String) -> Self {
        Self::Table(why)
    }

    fn is_refused(&self) -> bool {
        matches!(self, Self::Table(_))
    }

    fn is_mark(&self) -> bool {
        matches!(self, Self::Mark(..))
    }
}

/// Lists chains, each with its table.
pub(super) fn places(chains: &Chains) -> String {
    let places: Vec<_> =
        chains.iter().map(|(chain, table)| format!("{chain} (table {table})")).collect();
    places.join(", ")
}

impl ServiceFitness {
    /// Adds what stands against them in the rules of the host. Rules that cannot be read may do so. `bit`:
    /// ours of the packet mark.
    #[must_use]
    pub fn with_rules(mut self, bit: u32, rules: Result<&ServiceRules, &anyhow::Error>) -> Self {
        match rules {
            Ok(ServiceRules { queueing, marking, timing }) => {
                let found = [
                    (queueing, Obstacle::QueueRules(queueing.clone())),
                    (marking, Obstacle::Mark(bit, marking.clone())),
                    (timing, Obstacle::TimerRules(timing.clone())),
                ];
                let found = found.into_iter().filter(|(chains, _)| !chains.is_empty());
                self.against.extend(found.map(|(_, obstacle)| obstacle));
            }
            Err(error) => {
                let why = format!("whether rules put packets into NFQUEUE is unknown: {error:#}");
                self.against.insert(Obstacle::Unreadable(why));
            }
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
    fn rules_that_stand_against_them_are_named() {
        let chain = || Chains::from([("FORWARD".to_owned(), "filter".to_owned())]);
        for (rules, text, is_mark_taken) in [
            (
                ServiceRules { queueing: chain(), ..ServiceRules::default() },
                "NFQUEUE in the chain FORWARD (table filter)",
                false,
            ),
            (
                ServiceRules { marking: chain(), ..ServiceRules::default() },
                "the bit 0x800 of the packet mark",
                true,
            ),
            (
                ServiceRules { timing: chain(), ..ServiceRules::default() },
                "`-j CT --timeout` (FORWARD (table filter))",
                false,
            ),
        ] {
            let fitness = ServiceFitness::default().with_rules(0x800, Ok(&rules));
            assert_eq!(fitness.against.len(), 1, "{fitness:?}");
            let obstacle = fitness.against.first().unwrap();
            assert!(obstacle.to_string().contains(text), "{obstacle}");
            assert!(obstacle.remedy().contains("leases.services: false"), "{obstacle}");
            assert_eq!(fitness.is_mark_taken(), is_mark_taken);
        }
        let none = ServiceFitness::default().with_rules(0x800, Ok(&ServiceRules::default()));
        assert_eq!(none, ServiceFitness::default());
        let unreadable = anyhow::anyhow!("no dump");
        let unknown = ServiceFitness::default().with_rules(0x800, Err(&unreadable));
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
