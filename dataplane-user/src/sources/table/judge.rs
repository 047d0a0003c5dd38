//! Which of a prefix's claims makes the route, and whether any may.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{ChosenRoute, Claim, Claimant, Encap, RouteTable, SourceKind};
use crate::address::{is_host, is_single};

/// What comes of a prefix.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The route; `since` is not filled in.
    pub route: Option<ChosenRoute>,
    /// Why it is not what was claimed.
    pub alarm: Option<String>,
}

/// Judges one prefix by the claims to it.
pub fn judge(table: &RouteTable, cidr: Ipv4Net) -> Verdict {
    let incumbent = table.chosen.get(&cidr);
    let Some(claimants) = table.claims.get(&cidr) else {
        // Nobody speaks for it (yet).
        return Verdict { route: table.held.get(&cidr).copied(), alarm: None };
    };
    let Some(best) = claimants.keys().map(|(kind, _)| table.rules.rank(*kind)).min() else {
        return Verdict::default();
    };
    let top: Vec<_> =
        claimants.iter().filter(|((kind, _), _)| table.rules.rank(*kind) == best).collect();
    let owners: BTreeSet<Ipv4Addr> = top.iter().map(|(_, claim)| claim.node).collect();
    let disputed = owners.len() > 1;
    // The old one stays; without an old one that is still claimed, the claim that
    // proves the prefix to be ours, else the lowest address: the same everywhere.
    let old = incumbent.map(|route| route.node);
    let preferred = old.into_iter().chain(table.surroundings.node);
    let preferred = preferred.filter(|node| owners.contains(node));
    let mut refused = None;
    for owner in preferred.chain(owners.iter().copied()) {
        let Some((claimant, claim)) = top.iter().find(|(_, claim)| claim.node == owner) else {
            continue;
        };
        let conflict = || disputed.then(|| conflict(cidr, &top, owner));
        if table.surroundings.node == Some(owner) {
            return Verdict { route: None, alarm: refused.or_else(conflict) };
        }
        if let Some(why) = refusal(table, cidr, claimant, owner, old == Some(owner)) {
            // Another claim may be as good, and allowed.
            refused.get_or_insert(why);
            continue;
        }
        let route = ChosenRoute {
            node: owner,
            is_direct: is_direct(table, cidr, claim),
            source: claimant.0,
            since: 0,
        };
        return Verdict { route: Some(route), alarm: refused.or_else(conflict) };
    }
    Verdict { route: None, alarm: refused }
}

fn is_direct(table: &RouteTable, cidr: Ipv4Net, claim: &Claim) -> bool {
    match claim.encap.unwrap_or_else(|| table.rules.encap(cidr)) {
        Encap::Ipip => false,
        Encap::Direct => true,
        Encap::CrossSubnet => {
            table.surroundings.subnet.is_some_and(|subnet| subnet.contains(&claim.node))
        }
    }
}

fn conflict(cidr: Ipv4Net, top: &[(&Claimant, &Claim)], owner: Ipv4Addr) -> String {
    let claims: Vec<String> = top
        .iter()
        .map(|((kind, origin), claim)| format!("{} ({kind} {origin})", claim.node))
        .collect();
    format!(
        "{cidr} is claimed by {}; it stays with {owner} until one of them lets go",
        claims.join(" and ")
    )
}

/// Why this claim must not make a route. `is_old`: it has made one already.
fn refusal(
    table: &RouteTable,
    cidr: Ipv4Net,
    (kind, origin): &Claimant,
    owner: Ipv4Addr,
    is_old: bool,
) -> Option<String> {
    let refused =
        |why: String| Some(format!("{cidr} via {owner} ({kind} {origin}): {why}; refused"));
    let here = &table.surroundings;
    if !is_host(owner) {
        return refused(format!("{owner} is no host's address"));
    }
    if let Some(why) = table.surrounded(cidr) {
        return refused(why);
    }
    if cidr.contains(&owner) {
        return refused(
            "the node lies inside it, and packets to it would be wrapped for ever".into(),
        );
    }
    if let Some(why) = table.no_node(owner) {
        return refused(why);
    }
    // Routing tables do not know who borrowed what; the file was checked when read.
    let exact = is_single(cidr);
    let knows_borrowers = table.rules.knows_borrowers(*kind);
    if is_old || *kind == SourceKind::File || !(exact || knows_borrowers) {
        return None;
    }
    let own = here.pods.range(cidr.network()..=cidr.broadcast()).chain(&here.tunnel);
    let mut stolen =
        own.filter(|address| cidr.contains(*address) && !is_lent_to_us(table, **address));
    let stolen = stolen.next()?;
    let what = if here.tunnel == Some(*stolen) { "tunnel address" } else { "pod" };
    refused(format!("our own {what} {stolen} is in it, and nobody says that it is borrowed"))
}

/// Whether somebody says that this very address is used on this node.
fn is_lent_to_us(table: &RouteTable, address: Ipv4Addr) -> bool {
    let claims = table.claims.get(&Ipv4Net::from(address));
    claims.is_some_and(|claims| {
        claims.values().any(|claim| Some(claim.node) == table.surroundings.node)
    })
}
