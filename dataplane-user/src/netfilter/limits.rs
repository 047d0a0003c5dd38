//! Limits that Felix puts on single pods, read from its chains.
//!
//! Calico's annotations `qos.projectcalico.org/ingressPacketRate`, `egressPacketRate`,
//! `ingressMaxConnections`, `egressMaxConnections` and `dscp` become rules on the pod's own node
//! (`felix/rules/endpoints.go`, `dscp.go`). A leased flow passes by them, so such a pod gets no
//! leases. The chains are on this node whatever the datastore, and need no right there; the limit of
//! a pod is in the chains of its own node alone, which no lease of another node passes by.
//!
//! | mode | of an endpoint | DSCP |
//! |---|---|---|
//! | iptables | table `filter`, `cali-tw-IF` (to the pod), `cali-fw-IF` (from it) | `mangle`, `cali-egress-dscp` |
//! | nftables | table `calico`, `filter-cali-tw-IF`, `filter-cali-fw-IF` | `mangle-cali-egress-dscp` |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use crate::kernel::{Attributes, Flowtable, Rule};

/// What a rule wants of each packet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Packets a second.
    PacketRate,
    /// Connections at a time.
    Connections,
    /// It writes the DSCP.
    Dscp,
    /// A match of iptables or an expression of nftables that must see every packet.
    Other(String),
}

/// A limit, and on what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Limit {
    /// What it limits.
    pub kind: Kind,
    /// `ingress`: packets to the pod; `egress`: those from it.
    pub direction: &'static str,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, direction } = self;
        match kind {
            Kind::PacketRate => write!(f, "{direction} packet rate"),
            Kind::Connections => write!(f, "{direction} connections"),
            Kind::Dscp => write!(f, "{direction} DSCP"),
            Kind::Other(name) => write!(f, "{direction} `{name}`"),
        }
    }
}

/// The limits of this node's pods.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// By the pod's interface.
    pub by_interface: BTreeMap<String, BTreeSet<Limit>>,
    /// Sources whose packets get another DSCP.
    pub remarked: BTreeSet<Ipv4Net>,
    /// A flowtable with one of their interfaces: established packets pass by the rules that grant leases.
    pub flowtable: Option<Flowtable>,
    /// The interfaces whose chains were read.
    pub asked: BTreeSet<String>,
    /// What could not be read, and why.
    pub unreadable: BTreeSet<String>,
}

impl Limits {
    /// Adds the limits among these rules, in the chain of one direction of an interface.
    pub fn add<'a>(
        &mut self,
        interface: &str,
        direction: &'static str,
        rules: impl IntoIterator<Item = &'a Rule>,
    ) {
        for kind in rules.into_iter().filter_map(|rule| kind(features(rule))) {
            self.insert(interface, Limit { kind, direction });
        }
    }

    /// Adds the sources that a chain for DSCP names.
    pub fn add_remarked<'a>(&mut self, chain: &str, rules: impl IntoIterator<Item = &'a Rule>) {
        for rule in rules {
            match (kind(features(rule)), source(rule)) {
                (Some(_), Some(net)) => drop(self.remarked.insert(net)),
                (Some(_), None) => {
                    let what = format!("a rule of the chain {chain} names no single source");
                    self.unreadable.insert(what);
                }
                (None, _) => {}
            }
        }
    }

    /// Adds what `iptables-legacy-save` prints of a table.
    pub fn add_saved(&mut self, saved: &str) {
        for line in saved.lines() {
            let mut words = line.split(' ');
            let (Some("-A"), Some(chain)) = (words.next(), words.next()) else { continue };
            let rest: Vec<&str> = words.collect();
            let after = |flags: &[&str]| -> Vec<&str> {
                let pairs = rest.windows(2).filter(|pair| flags.contains(&pair[0]));
                pairs.map(|pair| pair[1]).collect()
            };
            let Some(kind) = kind(after(&["-m", "-j", "-g"])) else { continue };
            let endpoint = ENDPOINT
                .iter()
                .find_map(|(prefix, direction)| Some((chain.strip_prefix(prefix)?, *direction)));
            match endpoint {
                Some((interface, direction)) => self.insert(interface, Limit { kind, direction }),
                None if chain == DSCP => {
                    let net = after(&["-s"]).first().and_then(|net| net.parse().ok());
                    match net.filter(|_| !rest.contains(&"!")) {
                        Some(net) => drop(self.remarked.insert(net)),
                        None => drop(self.unreadable.insert(format!("`{line}` names no source"))),
                    }
                }
                None => {}
            }
        }
    }

    fn insert(&mut self, interface: &str, limit: Limit) {
        self.by_interface.entry(interface.to_owned()).or_default().insert(limit);
    }

    /// Returns the limits of the pod with this address behind this interface.
    pub fn of(&self, interface: &str, address: Ipv4Addr) -> impl Iterator<Item = Limit> {
        let limits = self.by_interface.get(interface).into_iter().flatten().cloned();
        let is_remarked = self.remarked.iter().any(|net| net.contains(&address));
        limits.chain(is_remarked.then_some(Limit { kind: Kind::Dscp, direction: "egress" }))
    }
}

/// The chains of an endpoint without its interface's name, and their direction.
pub const ENDPOINT: [(&str, &str); 2] = [("cali-tw-", "ingress"), ("cali-fw-", "egress")];
/// The chain that writes DSCPs.
pub const DSCP: &str = "cali-egress-dscp";

/// What the steps of a rule are called: expressions of nftables, matches and targets of iptables.
fn features(rule: &Rule) -> Vec<&str> {
    /// `NFTA_MATCH_NAME`, `NFTA_TARGET_NAME`.
    const NAME: u16 = 1;
    /// `NFTA_PAYLOAD_SREG`: it writes.
    const SOURCE_REGISTER: u16 = 5;
    rule.iter()
        .filter_map(|step| match step.name.as_str() {
            "match" | "target" => step.data.text(NAME),
            "payload" => step.data.get(SOURCE_REGISTER).map(|_| "DSCP"),
            name => Some(name),
        })
        .collect()
}

/// What a rule with these matches, expressions and targets wants of each packet; `None`: it decides
/// by the connection, or only logs.
fn kind<'a>(features: impl IntoIterator<Item = &'a str>) -> Option<Kind> {
    let features: Vec<&str> = features.into_iter().collect();
    if features.iter().any(|name| matches!(*name, "log" | "LOG" | "NFLOG")) {
        return None;
    }
    features.iter().find_map(|name| match *name {
        "limit" | "hashlimit" => Some(Kind::PacketRate),
        "connlimit" => Some(Kind::Connections),
        "DSCP" | "TOS" => Some(Kind::Dscp),
        "quota" | "quota2" | "statistic" | "numgen" | "connbytes" | "rateest" | "recent"
        | "string" | "u32" | "length" | "ecn" | "tos" | "dscp" | "time" => {
            Some(Kind::Other((*name).to_owned()))
        }
        _ => None,
    })
}

/// The source prefix that a rule asks for: `payload` loads the address, or the whole bytes of a
/// prefix, `bitwise` takes the rest away, `cmp` compares.
fn source(rule: &Rule) -> Option<Ipv4Net> {
    /// `NFTA_PAYLOAD_BASE`, `_OFFSET`, `_LEN`.
    const PLACE: [u16; 3] = [2, 3, 4];
    /// `NFT_PAYLOAD_NETWORK_HEADER`, and where an IPv4 header has its source.
    const SOURCE: [u32; 2] = [1, 12];
    /// `NFTA_BITWISE_MASK`.
    const MASK: u16 = 4;
    /// `NFTA_CMP_OP` (0: equal), `NFTA_CMP_DATA`.
    const COMPARE: [u16; 2] = [2, 3];
    /// `NFTA_DATA_VALUE`.
    const VALUE: u16 = 1;

    let is_source =
        |data: &Attributes| [data.number(PLACE[0]), data.number(PLACE[1])] == SOURCE.map(Some);
    let at = rule.iter().position(|step| step.name == "payload" && is_source(&step.data))?;
    let mut length = rule[at].data.number(PLACE[2])?.checked_mul(8)?;
    for step in rule.get(at + 1..)? {
        match step.name.as_str() {
            "bitwise" => {
                let mask = step.data.inside(MASK);
                length = mask.get(VALUE)?.iter().map(|byte| byte.count_ones()).sum();
            }
            "cmp" if step.data.number(COMPARE[0]) == Some(0) => {
                let data = step.data.inside(COMPARE[1]);
                let mut octets = [0; 4];
                let given = data.get(VALUE)?;
                octets.get_mut(..given.len())?.copy_from_slice(given);
                return Ipv4Net::new(octets.into(), u8::try_from(length).ok()?).ok();
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of Felix's modes are read in `tests/netns/qos.rs`, from rules in a kernel.
    #[test]
    fn what_wants_every_packet_is_told_from_what_decides_by_connection() {
        let other = |name: &str| Some(Kind::Other(name.to_owned()));
        for (features, expected) in [
            (&["limit", "MARK"][..], Some(Kind::PacketRate)),
            (&["limit", "immediate"], Some(Kind::PacketRate)),
            (&["comment", "hashlimit", "DROP"], Some(Kind::PacketRate)),
            (&["tcp", "connlimit", "REJECT"], Some(Kind::Connections)),
            (&["meta", "cmp", "connlimit", "reject"], Some(Kind::Connections)),
            (&["payload", "cmp", "DSCP"], Some(Kind::Dscp)),
            (&["statistic", "DROP"], other("statistic")),
            (&["quota", "counter"], other("quota")),
            (&["limit", "NFLOG"], None),
            (&["limit", "counter", "log"], None),
            (&["conntrack", "ACCEPT"], None),
            (&["mark", "DROP"], None),
            (&[], None),
        ] {
            assert_eq!(kind(features.iter().copied()), expected, "{features:?}");
        }
    }

    #[test]
    fn a_pod_is_found_by_its_interface_or_its_address() {
        let mut limits = Limits::default();
        limits.add_saved(
            "-A cali-fw-cali1 -m limit --limit 5/sec -j MARK --set-xmark 0x2/0x2\n\
             -A cali-egress-dscp -s 10.0.0.7/32 -j DSCP --set-dscp 0x14\n\
             -A cali-egress-dscp ! -s 10.0.0.8/32 -j DSCP --set-dscp 0x14\n\
             -A OTHER -m limit --limit 5/sec -j ACCEPT\n",
        );
        let of = |interface: &str, address: &str| {
            let limits = limits.of(interface, address.parse().unwrap());
            limits.map(|limit| limit.to_string()).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(of("cali1", "10.0.0.7"), "egress packet rate, egress DSCP");
        assert_eq!(of("cali2", "10.0.0.7"), "egress DSCP");
        assert_eq!(of("cali2", "10.0.0.9"), "");
        assert_eq!(limits.unreadable.len(), 1, "{limits:?}");
    }
}
