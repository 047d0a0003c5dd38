//! May UDP flows that get no answer be leased on this host?
//!
//! Every packet of such a flow is NEW to conntrack and passes all chains, so rules that count or report NEW
//! packets see each of them. By leases they would see one packet a lease. So where such rules are found,
//! these flows get no leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::Result;

use super::{
    lease_fitness::{LeaseFitness, Standing},
    limits,
    service_rules::Chains,
    services::places,
};
use crate::{
    kernel::{Expression, Rule},
    output::count,
};

/// Names of what counts or reports packets, by the chain, and table, that has it.
pub type Watching = BTreeMap<(String, String), BTreeSet<String>>;

/// What stands against leases of flows without an answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Obstacle {
    /// Rules count or report NEW packets.
    Watching(Watching),
    /// Rules of others compare or set this bit of the packet mark, which is one of ours for such flows.
    Mark(u32, Chains),
    /// nft refuses the rules for such flows, and why.
    Table(String),
    /// What has to be known cannot be, and why.
    Unreadable(String),
}

/// What is known of a host for leases of flows without an answer.
pub type UnansweredFitness = LeaseFitness<Obstacle>;

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

impl UnansweredFitness {
    /// Adds what rules were found to do. Rules that cannot be read may do anything.
    #[must_use]
    pub fn with_rules(mut self, found: Result<&Watching, &anyhow::Error>) -> Self {
        match found {
            Ok(found) if found.is_empty() => {}
            Ok(found) => drop(self.against.insert(Obstacle::Watching(found.clone()))),
            Err(error) => {
                let why =
                    format!("whether rules count or report NEW packets is unknown: {error:#}");
                self.against.insert(Obstacle::Unreadable(why));
            }
        }
        self
    }

    /// Adds the chains whose rules use this bit of the packet mark, if any do.
    #[must_use]
    pub fn with_marking(mut self, bit: u32, chains: &Chains) -> Self {
        if !chains.is_empty() {
            self.against.insert(Obstacle::Mark(bit, chains.clone()));
        }
        self
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Felix has a chain for each policy.
        const LISTED: usize = 3;
        match self {
            Self::Watching(chains) => {
                let listed = chains.iter().take(LISTED).map(|((chain, table), names)| {
                    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                    format!("{} in the chain {chain} (table {table})", names.join(", "))
                });
                let mut listed: Vec<String> = listed.collect();
                if let Some(more) = chains.len().checked_sub(LISTED).filter(|more| *more > 0) {
                    listed.push(count(more, "more chain"));
                }
                write!(f, "{} may count or report NEW packets", listed.join(", "))
            }
            Self::Mark(bit, chains) => write!(
                f,
                "rules use the bit {bit:#x} of the packet mark, which is one of those by which netfilter \
                 would mark such flows, in the chain {}",
                places(chains)
            ),
            Self::Table(why) => write!(f, "nft cannot mark such flows here: {why}"),
            Self::Unreadable(why) => f.write_str(why),
        }
    }
}

impl Obstacle {
    /// Returns what to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Watching(_) => {
                "remove these rules, flow logs of Calico included; or set leases.unanswered_udp: false"
            }
            Self::Mark(..) => {
                "set leases.service_mark to a bit that no other software uses; or set \
                 leases.unanswered_udp: false"
            }
            Self::Table(_) | Self::Unreadable(_) => "set leases.unanswered_udp: false",
        }
    }
}

/// Returns what in a rule of this chain counts or reports the packets that reach it.
#[must_use]
pub fn watching<'a>(chain: &str, rule: &'a Rule) -> Option<&'a str> {
    first(chain, rule.iter().filter_map(name).collect())
}

/// Returns the chains of what `iptables-legacy-save` prints whose rules count or report packets, and what
/// does so there.
pub fn saved_watching(saved: &str) -> impl Iterator<Item = (&str, &str)> {
    saved.lines().filter_map(|line| {
        let mut words = line.strip_prefix("-A ")?.split(' ').peekable();
        let chain = words.next()?;
        let mut names = Vec::new();
        while let Some(word) = words.next() {
            if matches!(word, "-m" | "-j" | "-g") {
                names.extend(words.peek().copied().filter(|name| watches(name)));
            }
        }
        let is_of_host = matches!(chain, "INPUT" | "OUTPUT");
        first(chain, names).filter(|_| !is_of_host).map(|name| (chain, name))
    })
}

/// The limits that Felix puts on a single pod do not count: such a pod has no leases at all ([`limits`]).
fn first<'a>(chain: &str, names: Vec<&'a str>) -> Option<&'a str> {
    let chain = chain.strip_prefix("filter-").unwrap_or(chain);
    let is_of_a_pod = limits::ENDPOINT.iter().any(|(prefix, _)| chain.starts_with(prefix));
    let is_limit = |name: &&str| matches!(*name, "limit" | "hashlimit" | "connlimit");
    if is_of_a_pod && names.iter().all(is_limit) {
        return None;
    }
    names.into_iter().next()
}

/// Returns the name of a step if it counts or reports packets.
fn name(step: &Expression) -> Option<&str> {
    /// `NFTA_MATCH_NAME`, `NFTA_TARGET_NAME`.
    const NAME: u16 = 1;
    /// `NFTA_OBJREF_IMM_TYPE`: which kind of object; missing where a map names the object.
    const OBJECT: u16 = 1;
    /// `NFT_OBJECT_QUOTA`, `NFT_OBJECT_LIMIT`, `NFT_OBJECT_CONNLIMIT`.
    const COUNTING: [u32; 3] = [2, 4, 5];
    /// `NFTA_CT_KEY`.
    const KEY: u16 = 2;
    /// `NFT_CT_PKTS`, `NFT_CT_BYTES`, `NFT_CT_AVGPKT`.
    const COUNTED: std::ops::RangeInclusive<u32> = 14..=16;
    match step.name.as_str() {
        "match" | "target" => step.data.text(NAME).filter(|name| watches(name)),
        "objref" => {
            let counts = step.data.number(OBJECT).is_none_or(|kind| COUNTING.contains(&kind));
            counts.then_some("objref")
        }
        "ct" => step.data.number(KEY).filter(|key| COUNTED.contains(key)).map(|_| "ct packets"),
        name => watches(name).then_some(name),
    }
}

/// Expressions of nftables, matches and targets of iptables. A counter is none: every rule of iptables has
/// one.
fn watches(name: &str) -> bool {
    matches!(
        name,
        "limit"
            | "quota"
            | "log"
            | "dynset"
            | "connlimit"
            | "numgen"
            | "queue"
            | "dup"
            | "hashlimit"
            | "quota2"
            | "statistic"
            | "recent"
            | "connbytes"
            | "rateest"
            | "LOG"
            | "NFLOG"
            | "ULOG"
            | "AUDIT"
            | "NFQUEUE"
            | "SET"
            | "RATEEST"
            | "TEE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Attributes;

    fn step(name: &str, attributes: &[(u16, &[u8])]) -> Expression {
        let attributes = attributes.iter().map(|(number, value)| (*number, value.to_vec()));
        Expression { name: name.into(), data: Attributes(attributes.collect()) }
    }

    #[test]
    fn rules_that_count_or_report_packets_are_found() {
        let number = |number: u8| [0, 0, 0, number];
        for (step, expected) in [
            (step("limit", &[]), Some("limit")),
            (step("dynset", &[]), Some("dynset")),
            (step("log", &[]), Some("log")),
            (step("match", &[(1, b"hashlimit\0")]), Some("hashlimit")),
            (step("target", &[(1, b"NFLOG\0")]), Some("NFLOG")),
            (step("objref", &[(1, &number(4))]), Some("objref")),
            (step("objref", &[(4, b"limits\0")]), Some("objref")),
            (step("ct", &[(2, &number(14))]), Some("ct packets")),
            (step("objref", &[(1, &number(1))]), None),
            (step("ct", &[(2, &number(0))]), None),
            (step("match", &[(1, b"conntrack\0")]), None),
            (step("target", &[(1, b"MARK\0")]), None),
            (step("counter", &[]), None),
            (step("lookup", &[]), None),
        ] {
            assert_eq!(watching("FORWARD", &vec![step.clone()]), expected, "{step:?}");
        }
    }

    /// Such a pod has no leases; what is logged there would be missing all the same.
    #[test]
    fn limits_of_single_pods_do_not_count() {
        let (limit, log) = (step("limit", &[]), step("target", &[(1, b"NFLOG\0")]));
        for chain in ["cali-tw-cali1", "cali-fw-cali1", "filter-cali-fw-cali1"] {
            assert_eq!(watching(chain, &vec![limit.clone()]), None, "{chain}");
            assert_eq!(
                watching(chain, &vec![limit.clone(), log.clone()]),
                Some("limit"),
                "{chain}"
            );
            assert_eq!(watching(chain, &vec![log.clone()]), Some("NFLOG"), "{chain}");
        }
        assert_eq!(watching("cali-th-eth0", &vec![limit]), Some("limit"));
    }

    #[test]
    fn rules_of_iptables_legacy_are_found() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n\
                     -A INPUT -m limit --limit 5/sec -j LOG\n\
                     -A FORWARD -m conntrack --ctstate NEW -m limit --limit 5/sec -j LOG\n\
                     -A FORWARD -m comment --comment limit -j ACCEPT\n\
                     -A cali-pi-1 -j NFLOG --nflog-group 1\n\
                     -A cali-tw-cali1 -m limit --limit 5/sec -j MARK --set-xmark 0x1/0x1\nCOMMIT\n";
        let found: Vec<_> = saved_watching(saved).collect();
        assert_eq!(found, [("FORWARD", "limit"), ("cali-pi-1", "NFLOG")]);
    }

    #[test]
    fn what_stands_against_them_is_named() {
        let none = UnansweredFitness::default();
        assert_eq!(none.clone().with_rules(Ok(&Watching::new())).with_table(Ok(())), none);
        let chains = |count: usize| -> Watching {
            let chain = |at| ((format!("chain{at}"), "filter".to_owned()), ["log".into()].into());
            (0..count).map(chain).collect()
        };
        for (count, said) in [
            (1, "`log` in the chain chain0 (table filter) may count"),
            (3, "`log` in the chain chain2 (table filter) may count"),
            (5, "chain2 (table filter), 2 more chains may count"),
        ] {
            let found = none.clone().with_rules(Ok(&chains(count))).against;
            let text = found.first().unwrap().to_string();
            assert!(text.contains(said), "{text}");
        }
        let unknown = none.clone().with_rules(Err(&anyhow::anyhow!("no dump"))).against;
        let refused = none.with_table(Err(anyhow::anyhow!("no such key"))).against;
        for (found, said) in [(unknown, "is unknown: no dump"), (refused, "here: no such key")] {
            let obstacle = found.first().unwrap();
            assert!(obstacle.to_string().contains(said), "{obstacle}");
            assert!(obstacle.remedy().contains("leases.unanswered_udp: false"));
        }
    }
}
