//! Any history of claims.

use proptest::prelude::*;

use super::*;

/// A few prefixes, sources, objects and nodes, so that they meet.
fn changes() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let cidr = prop::sample::select(vec!["10.20.42.0/26", "10.20.42.7/32", "10.20.43.0/26"]);
    let origin = prop::sample::select(vec!["a", "b"]);
    let node = prop::option::of(prop::sample::select(vec![US, A, B, NEAR]));
    let one = (0..SourceKind::ALL.len(), cidr, origin, node)
        .prop_map(|(kind, cidr, origin, node)| (kind, change(cidr, origin, node)));
    prop::collection::vec(one, 0..40)
}

proptest! {
    /// Whatever was said before, only what is claimed now is routed, by the most
    /// trusted source that claims it; and the count of nodes is that of the routes.
    #[test]
    fn routes_are_claims_of_the_most_trusted(steps in changes()) {
        let mut table = table();
        let mut said: BTreeMap<(Ipv4Net, usize, Origin), Claim> = BTreeMap::new();
        for (kind, change) in steps {
            let key = (change.cidr, kind, change.origin.clone());
            match change.claim {
                Some(claim) => drop(said.insert(key, claim)),
                None => drop(said.remove(&key)),
            }
            table.apply(SourceKind::ALL[kind], [change]);
            table.settle(1);
        }
        for cidr in ["10.20.42.0/26", "10.20.42.7/32", "10.20.43.0/26"].map(net) {
            let best = said.keys().filter(|(c, ..)| *c == cidr).map(|(_, kind, _)| *kind).min();
            let owners: BTreeSet<Ipv4Addr> = said
                .iter()
                .filter(|((c, kind, _), _)| *c == cidr && Some(*kind) == best)
                .map(|(_, claim)| claim.node)
                .collect();
            match table.routes().get(&cidr) {
                Some(route) => prop_assert!(owners.contains(&route.node) && route.node != US),
                None => prop_assert!(owners.is_empty() || owners.contains(&US)),
            }
            prop_assert_eq!(table.alarms().contains_key(&cidr), owners.len() > 1);
        }
        let mut nodes: Vec<_> = table.routes().values().map(|route| route.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        prop_assert_eq!(table.nodes().collect::<Vec<_>>(), nodes);
    }
}

/// What each source claims in the end: one node for each prefix, so that nothing is disputed.
fn undisputed() -> impl Strategy<Value = Vec<(SourceKind, u8, bool)>> {
    let kinds = [SourceKind::File, SourceKind::Etcd, SourceKind::Bird];
    proptest::collection::vec(
        (proptest::sample::select(kinds.to_vec()), 0_u8..20, any::<bool>()),
        0..30,
    )
}

fn snapshot(claims: &[(SourceKind, u8, bool)], kind: SourceKind) -> Vec<Change> {
    let own = claims.iter().filter(|(owner, ..)| *owner == kind);
    // The node follows from the prefix, whichever source claims it.
    let claim = |third: u8| {
        let node = if third.is_multiple_of(2) { A } else { B };
        change(&format!("10.20.{third}.0/26"), "o", Some(node))
    };
    own.map(|(_, third, _)| claim(*third)).collect()
}

proptest! {
    /// Without disputes routes depend neither on the order in which sources report, nor on
    /// restarts in between, and deciding again changes nothing.
    #[test]
    fn order_and_restarts_do_not_matter_without_disputes(
        claims in undisputed(),
        order in Just(vec![SourceKind::File, SourceKind::Etcd, SourceKind::Bird]).prop_shuffle(),
        restarts in proptest::collection::vec(any::<bool>(), 3),
    ) {
        let fresh = |active| {
            let mut table = RouteTable::new(active);
            table.set_rules(Rules::new(&[], BTreeMap::new()));
            table.set_surroundings(surroundings());
            table
        };
        let chosen = |table: &RouteTable| -> BTreeMap<Ipv4Net, (Ipv4Addr, SourceKind)> {
            table.routes().iter().map(|(net, route)| (*net, (route.node, route.source))).collect()
        };
        let mut expected = fresh(BTreeMap::new());
        for kind in [SourceKind::File, SourceKind::Etcd, SourceKind::Bird] {
            expected.replace(kind, snapshot(&claims, kind));
        }
        expected.release();
        expected.settle(1);

        let mut table = fresh(BTreeMap::new());
        let mut reported: Vec<SourceKind> = Vec::new();
        for (kind, restart) in order.iter().zip(&restarts) {
            table.replace(*kind, snapshot(&claims, *kind));
            reported.push(*kind);
            table.settle(1);
            prop_assert!(table.settle(2).is_empty(), "deciding again changes nothing");
            if *restart {
                // All sources report anew; what is active stays until they have.
                let before = chosen(&table);
                table = fresh(table.routes().clone());
                table.settle(3);
                prop_assert_eq!(chosen(&table), before);
                for kind in &reported {
                    table.replace(*kind, snapshot(&claims, *kind));
                }
                table.settle(4);
            }
        }
        table.release();
        table.settle(5);
        prop_assert_eq!(chosen(&table), chosen(&expected));
    }
}

/// Prefixes, and nodes inside some of them.
fn tangled() -> impl Strategy<Value = Vec<Vec<(SourceKind, Change)>>> {
    let cidr = prop::sample::select(vec![
        "9.9.9.0/24",
        "10.20.42.0/26",
        "10.20.43.0/26",
        "10.20.43.8/29",
        "10.20.105.192/26",
        "10.20.105.215/32",
        "172.16.35.0/24",
    ]);
    let nodes = [US, A, B, NEAR, Ipv4Addr::new(10, 20, 42, 3), Ipv4Addr::new(9, 9, 9, 9)];
    let node = prop::option::of(prop::sample::select(nodes.to_vec()));
    let kind = prop::sample::select(vec![SourceKind::Etcd, SourceKind::Bird]);
    let origin = prop::sample::select(vec!["a", "b"]);
    let one = (kind, cidr, origin, node);
    let one = one.prop_map(|(kind, cidr, origin, node)| (kind, change(cidr, origin, node)));
    prop::collection::vec(prop::collection::vec(one, 1..5), 0..12)
}

proptest! {
    /// What is remembered of each prefix is what a fresh decision about it comes to, after any
    /// history.
    #[test]
    fn what_is_settled_is_what_a_fresh_decision_comes_to(
        batches in tangled(),
        pods: Vec<bool>,
    ) {
        let mut table = table();
        for (index, batch) in batches.into_iter().enumerate() {
            for (kind, change) in batch {
                table.apply(kind, [change]);
            }
            if pods.get(index) == Some(&true) {
                let pods = if index.is_multiple_of(2) { BTreeSet::new() } else { [POD].into() };
                table.set_surroundings(Surroundings { pods, ..surroundings() });
            }
            table.settle(1);
            let prefixes: BTreeSet<Ipv4Net> =
                table.claims.keys().chain(table.chosen.keys()).copied().collect();
            for cidr in prefixes {
                let Verdict { route, alarm } = judge::judge(&table, cidr);
                let route = route.map(|route| ChosenRoute { since: 1, ..route });
                prop_assert_eq!(route.as_ref(), table.routes().get(&cidr));
                prop_assert_eq!(alarm.is_some(), table.alarms().contains_key(&cidr));
            }
        }
    }
}
