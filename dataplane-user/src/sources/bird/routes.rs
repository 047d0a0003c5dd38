//! What `show route table … all` says of pods.
//!
//! ```text
//! 1007-10.20.42.0/26        unicast [mesh1 21:04:49.411 from 172.16.35.4] * (100/?) [i]
//!      via 172.16.36.1 on eth0            the way to the node, not the node
//! 1008-    Type: BGP univ
//! 1012-    BGP.next_hop: 172.16.35.4          the node
//! 1007-                     unicast [mesh2 …] (100/?) [i]      another path to the same
//! 1007-10.20.105.192/26     blackhole [static1 21:04:45.458] * (200)     ours
//! ```
//!
//! `*` marks the path in use, `!` the same where the kernel refused it. BIRD 1.6
//! puts the way into the first line, BIRD 3 calls its attributes `bgp_next_hop`.
//! All of that is read; a path that is not understood is a problem, and what is
//! known of its prefix stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

use super::reply::Line;
use crate::{
    address::{Unreadable, parse_address, parse_prefix},
    sources::{Claim, Origin, error::one_line},
};

/// Most problems that are kept: a table of another kind makes one per line.
const PROBLEMS: usize = 100;
/// Code of a line that begins a path.
const PATH: u16 = 1007;
/// What BIRD does with packets it has no next hop for.
const DISCARDS: [&str; 3] = ["blackhole", "unreachable", "prohibit"];

/// What was found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Found {
    /// Who carries what.
    pub claims: BTreeMap<(Ipv4Net, Origin), Claim>,
    /// What was not understood, and why.
    pub problems: BTreeMap<Origin, String>,
    /// Prefixes of which not everything was understood.
    pub unclear: BTreeSet<Ipv4Net>,
    /// How many prefixes were understood, claimed or not.
    pub understood: usize,
}

impl Found {
    fn problem(&mut self, origin: &str, why: impl Into<String>) {
        if self.problems.len() < PROBLEMS {
            self.problems.insert(origin.into(), why.into());
        }
    }
}

/// Reads the answer line by line.
#[derive(Debug)]
pub struct Reader<'a> {
    node: Option<Ipv4Addr>,
    within: &'a [Ipv4Net],
    found: Found,
    prefix: Option<Ipv4Net>,
    paths: Vec<Path>,
    /// Those there were already, as there are few, and many prefixes.
    origins: BTreeSet<Origin>,
}

#[derive(Default, Debug)]
struct Path {
    protocol: String,
    is_selected: bool,
    is_discarding: bool,
    is_bgp: bool,
    /// As it stands there.
    next_hop: Option<String>,
    /// The higher the better; equal ones differ by chance.
    rank: (u32, u32),
}

impl Path {
    fn is_own(&self) -> bool {
        self.is_discarding && !self.is_bgp
    }
}

impl<'a> Reader<'a> {
    /// `node`: our own underlay address; `within`: the prefixes that count, all if
    /// there are none.
    #[must_use]
    pub fn new(node: Option<Ipv4Addr>, within: &'a [Ipv4Net]) -> Self {
        Self {
            node,
            within,
            found: Found::default(),
            prefix: None,
            paths: Vec::new(),
            origins: BTreeSet::new(),
        }
    }

    /// Takes in a line.
    pub fn take(&mut self, line: &Line<'_>) {
        let text = line.text;
        if line.is_last || text.trim().is_empty() {
            return;
        }
        if text.starts_with('\t') || line.code != PATH {
            self.attribute(text.trim());
        } else if text.starts_with(' ') {
            self.path(text.trim());
        } else if !(text.starts_with("Table ") && text.ends_with(':')) {
            self.end_prefix();
            let (prefix, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            match parse_prefix(prefix) {
                Ok(IpNet::V4(prefix)) => self.prefix = Some(prefix.trunc()),
                Err(zeros @ Unreadable::LeadingZeros(_)) => {
                    self.found.problem(&one_line(prefix), format!("{zeros}; skipped"));
                }
                _ => self.found.problem(&one_line(prefix), "no IPv4 prefix, skipped"),
            }
            self.path(rest.trim());
        }
    }

    /// Everything, at the end of the answer.
    #[must_use]
    pub fn finish(mut self) -> Found {
        self.end_prefix();
        self.found
    }

    /// `unicast [mesh1 21:04:49.411 from 172.16.35.4] * (100/?) [i]`
    fn path(&mut self, text: &str) {
        let Some(prefix) = self.prefix else { return };
        let Some(path) = path(text) else {
            let why = format!("a path of it is not understood, skipped: {}", one_line(text));
            self.found.problem(&prefix.to_string(), why);
            self.found.unclear.insert(prefix);
            // What follows belongs to it.
            self.paths.push(Path::default());
            return;
        };
        self.paths.push(path);
    }

    fn attribute(&mut self, text: &str) {
        let Some(path) = self.paths.last_mut() else { return };
        let Some((name, value)) = text.split_once(':') else { return };
        let value = value.trim();
        match name {
            "Type" | "source" => {
                path.is_bgp |= value.split_whitespace().next() == Some("BGP");
            }
            "BGP.next_hop" | "bgp_next_hop" => path.next_hop = Some(value.to_owned()),
            "BGP.local_pref" | "bgp_local_pref" => path.rank.1 = value.parse().unwrap_or(0),
            _ => {}
        }
    }

    fn end_prefix(&mut self) {
        let paths = std::mem::take(&mut self.paths);
        let Some(prefix) = self.prefix.take() else { return };
        let counts = self.within.is_empty() || self.within.iter().any(|it| it.contains(&prefix));
        if prefix.prefix_len() == 0 || !counts {
            self.found.understood += 1;
            return;
        }
        let Some(best) = paths.iter().find(|path| path.is_selected) else { return };
        self.found.understood += 1;
        if best.is_own() {
            if let Some(node) = self.node {
                self.claim(prefix, &format!("{}, blackhole", best.protocol), node);
            }
        } else if !best.is_bgp {
            // Interfaces, ways, what the kernel has: nothing of pods elsewhere.
            return;
        }
        // Another path of the same rank, or one to a prefix of ours: the table
        // has to know that they are two.
        let others = paths.iter().filter(|path| path.is_bgp);
        for path in others.filter(|path| best.is_own() || path.rank == best.rank) {
            self.claim_of(prefix, path);
        }
    }

    fn claim_of(&mut self, prefix: Ipv4Net, path: &Path) {
        let said = path.next_hop.as_deref().unwrap_or("");
        let wrong = match parse_address(said) {
            Ok(IpAddr::V4(node)) => {
                return self.claim(prefix, &format!("{}, next hop {node}", path.protocol), node);
            }
            Ok(IpAddr::V6(node)) => format!("its next hop {node} is no IPv4 address"),
            Err(zeros @ Unreadable::LeadingZeros(_)) => format!("its next hop `{said}` {zeros}"),
            Err(_) if said.is_empty() => "it has no BGP next hop".to_owned(),
            Err(_) => format!("its next hop is not understood: {}", one_line(said)),
        };
        let why = format!("{wrong} ({}), skipped", path.protocol);
        self.found.problem(&prefix.to_string(), why);
        self.found.unclear.insert(prefix);
    }

    fn claim(&mut self, prefix: Ipv4Net, origin: &str, node: Ipv4Addr) {
        let known = self.origins.get(origin).cloned();
        let origin = known.unwrap_or_else(|| {
            let origin = Origin::from(origin);
            self.origins.insert(origin.clone());
            origin
        });
        self.found.claims.insert((prefix, origin), Claim { node, encap: None });
    }
}

fn path(text: &str) -> Option<Path> {
    let (kind, rest) = text.split_once('[')?;
    let (learnt, rest) = rest.split_once(']')?;
    let rest = rest.trim_start();
    let (_, rest_of_rank) = rest.split_once('(')?;
    let digits = rest_of_rank.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(Path {
        protocol: learnt.split_whitespace().next()?.to_owned(),
        is_selected: rest.starts_with(['*', '!']),
        is_discarding: DISCARDS.contains(&kind.split_whitespace().next()?),
        rank: (digits.parse().ok()?, 0),
        ..Path::default()
    })
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
