mod random;

use super::*;

const US: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
const A: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
const B: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);
/// In our own subnet.
const NEAR: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 11);
const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 215);

fn net(text: &str) -> Ipv4Net {
    text.parse().expect("a prefix")
}

fn surroundings() -> Surroundings {
    Surroundings {
        node: Some(US),
        subnet: Some(net("172.16.36.0/24")),
        connected: BTreeSet::from([net("172.16.36.0/24")]),
        servers: BTreeSet::new(),
        tunnel: None,
        pods: BTreeSet::from([POD]),
    }
}

fn table() -> RouteTable {
    let mut table = RouteTable::default();
    table.set_rules(Rules::new(&[], BTreeMap::new()));
    table.set_surroundings(surroundings());
    table
}

fn change(cidr: &str, origin: &str, node: Option<Ipv4Addr>) -> Change {
    let claim = node.map(|node| Claim { node, encap: None });
    Change { cidr: net(cidr), origin: origin.into(), claim }
}

fn say(table: &mut RouteTable, kind: SourceKind, cidr: &str, origin: &str, node: Option<Ipv4Addr>) {
    table.apply(kind, [change(cidr, origin, node)]);
    table.settle(1);
}

fn node(table: &RouteTable, cidr: &str) -> Option<Ipv4Addr> {
    table.routes().get(&net(cidr)).map(|route| route.node)
}

fn alarm(table: &RouteTable, cidr: &str) -> String {
    table.alarms().get(&net(cidr)).cloned().unwrap_or_default()
}

#[test]
fn the_more_trusted_source_wins_and_the_next_one_follows() {
    let mut table = table();
    say(&mut table, SourceKind::Kernel, "10.20.42.0/26", "k", Some(A));
    assert_eq!(node(&table, "10.20.42.0/26"), Some(A));
    say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "e", Some(B));
    assert_eq!(node(&table, "10.20.42.0/26"), Some(B));
    assert!(table.alarms().is_empty(), "precedence is no conflict");
    assert_eq!(table.routes()[&net("10.20.42.0/26")].source, SourceKind::Etcd);
    say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "e", None);
    assert_eq!(node(&table, "10.20.42.0/26"), Some(A));
    table.set_rules(Rules::new(&[SourceKind::Kernel], BTreeMap::new()));
    say(&mut table, SourceKind::File, "10.20.42.0/26", "f", Some(B));
    assert_eq!(node(&table, "10.20.42.0/26"), Some(A), "as configured");
    assert_eq!((table.count(SourceKind::File), table.count(SourceKind::Etcd)), (1, 0));
}

#[test]
fn of_two_owners_the_old_one_stays_and_an_alarm_says_why() {
    for (first, second) in [(A, B), (B, A)] {
        let mut table = table();
        say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "one", Some(first));
        say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "two", Some(second));
        assert_eq!(node(&table, "10.20.42.0/26"), Some(first));
        let alarm = alarm(&table, "10.20.42.0/26");
        assert!(alarm.contains("one") && alarm.contains("two"), "{alarm}");
        say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "one", None);
        assert_eq!(node(&table, "10.20.42.0/26"), Some(second));
        assert!(table.alarms().is_empty());
    }
}

/// Where a datastore's borrowed addresses are not followed, a block with a pod of ours in it is the
/// other node's all the same: our pod may have borrowed its address.
#[test]
fn without_borrowed_addresses_a_block_is_not_refused_for_a_pod_in_it() {
    for (kind, is_refused) in [(SourceKind::Kubernetes, false), (SourceKind::Etcd, true)] {
        let mut table = table();
        let rules = Rules::new(&[], BTreeMap::new()).without_borrowed([SourceKind::Kubernetes]);
        table.set_rules(rules);
        say(&mut table, kind, "10.20.105.192/26", "block", Some(A));
        let route = node(&table, "10.20.105.192/26");
        assert_eq!(route, (!is_refused).then_some(A), "{kind}");
        // The very address is never another node's.
        say(&mut table, kind, "10.20.105.215/32", "lent", Some(A));
        assert_eq!(node(&table, "10.20.105.215/32"), None);
    }
}

#[test]
fn what_moves_within_one_object_is_no_conflict() {
    let mut table = table();
    say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "one", Some(A));
    table.apply(SourceKind::Etcd, [change("10.20.42.0/26", "one", Some(B))]);
    assert_eq!(table.settle(7), BTreeSet::from([net("10.20.42.0/26")]));
    assert_eq!(node(&table, "10.20.42.0/26"), Some(B));
    assert_eq!(table.routes()[&net("10.20.42.0/26")].since, 7);
    assert!(table.alarms().is_empty());
    table.apply(SourceKind::Etcd, [change("10.20.42.0/26", "one", Some(B))]);
    assert!(table.settle(9).is_empty(), "nothing new");
    assert!(!table.knows(A) && table.knows(B));
}

#[test]
fn what_was_in_force_stays_until_everybody_has_spoken() {
    let old = ChosenRoute { node: A, is_direct: false, source: SourceKind::Etcd, since: 3 };
    let held = BTreeMap::from([(net("10.20.42.0/26"), old), (net("10.20.43.0/26"), old)]);
    let mut table = RouteTable::new(held);
    table.set_rules(Rules::new(&[], BTreeMap::new()));
    table.set_surroundings(surroundings());
    table.replace(SourceKind::File, Vec::new());
    assert!(table.settle(5).is_empty());
    // The file moves one, and etcd has not said anything yet.
    say(&mut table, SourceKind::File, "10.20.43.0/26", "f", Some(B));
    assert_eq!(node(&table, "10.20.43.0/26"), Some(B));
    assert_eq!(table.routes()[&net("10.20.42.0/26")], old);
    table.replace(SourceKind::Etcd, vec![change("10.20.44.0/26", "e", Some(A))]);
    table.release();
    assert_eq!(table.settle(6), BTreeSet::from([net("10.20.42.0/26"), net("10.20.44.0/26")]));
    assert_eq!(node(&table, "10.20.42.0/26"), None);
}

/// A source that is silent keeps only its own routes, and those of a source that is not
/// configured any more go once the others have reported.
#[test]
fn each_source_withdraws_its_own_active_routes() {
    let [of_bird, of_etcd, of_file, of_kernel] =
        ["10.20.1.0/26", "10.20.2.0/26", "10.20.3.0/26", "10.20.4.0/26"];
    let active = |source| ChosenRoute { node: A, is_direct: false, source, since: 3 };
    let mut table = RouteTable::new(BTreeMap::from([
        (net(of_bird), active(SourceKind::Bird)),
        (net(of_etcd), active(SourceKind::Etcd)),
        (net(of_file), active(SourceKind::File)),
        (net(of_kernel), active(SourceKind::Kernel)),
    ]));
    table.set_rules(Rules::new(&[], BTreeMap::new()));
    table.set_surroundings(surroundings());
    table.replace(SourceKind::File, Vec::new());
    assert!(table.settle(5).is_empty(), "nothing goes because something is silent");
    table.replace(SourceKind::Bird, Vec::new());
    assert_eq!(table.settle(5), BTreeSet::from([net(of_bird)]));
    // etcd still has its own, now in its own words: the route is the same, and as old.
    table.replace(SourceKind::Etcd, vec![change(of_etcd, "block", Some(A))]);
    assert!(table.settle(6).is_empty());
    assert_eq!(table.routes()[&net(of_etcd)].since, 3);
    table.release();
    table.keep_only(|kind| kind != SourceKind::Kernel);
    assert_eq!(table.settle(7), BTreeSet::from([net(of_file), net(of_kernel)]));
    assert_eq!(node(&table, of_etcd), Some(A));
}

#[test]
fn a_source_to_come_holds_what_is_there() {
    let mut table = table();
    say(&mut table, SourceKind::File, "10.20.42.0/26", "f", Some(A));
    table.hold();
    table.replace(SourceKind::File, Vec::new());
    assert!(table.settle(5).is_empty());
    table.release();
    assert_eq!(table.settle(5).len(), 1);
    assert!(table.routes().is_empty());
}

/// A file may be saved twice before a silent source has reported: what the first one moved to
/// it stays, and so does what the second one moves to another.
#[test]
fn what_is_held_stays_when_another_source_is_to_come() {
    let [early, late] = ["10.20.42.0/26", "10.20.43.0/26"];
    let mut table = table();
    say(&mut table, SourceKind::File, early, "f", Some(A));
    table.hold();
    table.replace(SourceKind::File, vec![change(late, "f", Some(B))]);
    table.settle(5);
    table.hold();
    table.replace(SourceKind::File, Vec::new());
    assert!(table.settle(6).is_empty());
    assert_eq!([node(&table, early), node(&table, late)], [Some(A), Some(B)]);
}

/// A prefix was refused for a node inside it; the node's last route goes in the same step.
#[test]
fn what_was_refused_is_had_once_its_reason_goes_in_the_same_step() {
    let mut table = table();
    say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "inside", Some(Ipv4Addr::new(9, 9, 9, 9)));
    say(&mut table, SourceKind::Etcd, "9.9.9.0/24", "wide", Some(A));
    assert!(alarm(&table, "9.9.9.0/24").contains("node 9.9.9.9"));
    // The wide prefix is judged first, and refused once more.
    table.replace(SourceKind::Etcd, vec![change("9.9.9.0/24", "wide", Some(A))]);
    table.settle(2);
    assert_eq!(node(&table, "9.9.9.0/24"), Some(A));
    assert!(table.alarms().is_empty());
}

#[test]
fn pools_and_subnets_say_how_packets_travel() {
    let mut table = table();
    let pools = BTreeMap::from([
        (net("10.20.0.0/16"), Encap::CrossSubnet),
        (net("10.20.128.0/17"), Encap::Direct),
    ]);
    table.set_rules(Rules::new(&[], pools));
    let direct = |table: &RouteTable, cidr: &str| table.routes()[&net(cidr)].is_direct;
    say(&mut table, SourceKind::Bird, "10.20.42.0/26", "1", Some(A));
    say(&mut table, SourceKind::Bird, "10.20.43.0/26", "2", Some(NEAR));
    say(&mut table, SourceKind::Bird, "10.20.130.0/26", "3", Some(A));
    say(&mut table, SourceKind::Bird, "10.30.0.0/26", "4", Some(NEAR));
    assert!(!direct(&table, "10.20.42.0/26"), "another subnet");
    assert!(direct(&table, "10.20.43.0/26"), "our subnet");
    assert!(direct(&table, "10.20.130.0/26"), "the longest pool");
    assert!(!direct(&table, "10.30.0.0/26"), "no pool");
    // What the source itself says counts.
    let claim = Some(Claim { node: A, encap: Some(Encap::Direct) });
    table.apply(
        SourceKind::Bird,
        [Change { cidr: net("10.20.42.0/26"), origin: "1".into(), claim }],
    );
    table.settle(1);
    assert!(direct(&table, "10.20.42.0/26"));
    // Our own subnet is another one now: all are judged again.
    table.set_surroundings(Surroundings { subnet: Some(net("172.16.36.10/32")), ..surroundings() });
    assert_eq!(table.settle(2), BTreeSet::from([net("10.20.43.0/26")]));
    assert!(!direct(&table, "10.20.43.0/26"));
}

#[test]
fn nobody_takes_our_own_addresses() {
    let mut table = table();
    // A block of ours is no route, whoever else has longer ones in it.
    say(&mut table, SourceKind::Etcd, "10.20.105.192/26", "own", Some(US));
    assert!(table.routes().is_empty() && table.alarms().is_empty());
    // A datastore that gives our pods' block away.
    say(&mut table, SourceKind::Etcd, "10.20.105.192/26", "own", Some(A));
    assert_eq!(node(&table, "10.20.105.192/26"), None);
    assert!(alarm(&table, "10.20.105.192/26").contains("our own pod 10.20.105.215"));
    // It says that the pod has only borrowed its address.
    say(&mut table, SourceKind::Etcd, "10.20.105.215/32", "own", Some(US));
    assert_eq!(node(&table, "10.20.105.192/26"), Some(A));
    assert!(table.alarms().is_empty());
    // What stands, stands, even if the pod is no longer said to be ours.
    say(&mut table, SourceKind::Etcd, "10.20.105.215/32", "own", None);
    assert_eq!(node(&table, "10.20.105.192/26"), Some(A));
    // BIRD does not know borrowers, but a pod's very address is no other's.
    say(&mut table, SourceKind::Bird, "10.20.105.215/32", "b", Some(B));
    assert_eq!(node(&table, "10.20.105.215/32"), None);
    // Once the pod is gone its address may be had.
    table.set_surroundings(Surroundings { pods: BTreeSet::new(), ..surroundings() });
    table.settle(1);
    assert_eq!(node(&table, "10.20.105.215/32"), Some(B));
}

#[test]
fn node_addresses_are_no_pods() {
    let mut table = table();
    say(&mut table, SourceKind::Etcd, "172.16.36.0/26", "e", Some(A));
    assert!(alarm(&table, "172.16.36.0/26").contains("our own node address"));
    say(&mut table, SourceKind::Etcd, "172.16.35.0/26", "e", Some(A));
    assert!(alarm(&table, "172.16.35.0/26").contains("wrapped for ever"));
    say(&mut table, SourceKind::Etcd, "10.20.42.0/26", "e", Some(A));
    say(&mut table, SourceKind::Etcd, "172.16.35.4/32", "e", Some(B));
    assert!(alarm(&table, "172.16.35.4/32").contains("node 172.16.35.4"));
    // A block around a node that the datastore names goes, even if it was there before.
    say(&mut table, SourceKind::Etcd, "10.20.43.0/26", "e", Some(Ipv4Addr::new(10, 20, 42, 3)));
    assert!(alarm(&table, "10.20.42.0/26").contains("node 10.20.42.3 lies inside it"));
    assert_eq!(node(&table, "10.20.43.0/26"), Some(Ipv4Addr::new(10, 20, 42, 3)));
    say(&mut table, SourceKind::Etcd, "10.20.43.0/26", "e", None);
    assert_eq!(node(&table, "10.20.42.0/26"), Some(A));
    for nobody in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST] {
        say(&mut table, SourceKind::Etcd, "10.20.50.0/26", "e", Some(nobody));
        assert_eq!(node(&table, "10.20.50.0/26"), None);
    }
}

/// Claims, each of a source, to a prefix, for a node, and the routes they come to, in any order.
#[test]
fn who_is_a_node_does_not_depend_on_order() {
    let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    use SourceKind::{Bird, Etcd, File, Kernel};
    for (what, claims, routes) in [
        (
            "a block around two nodes, of a third one",
            &[
                (Etcd, "192.168.1.64/26", "172.16.34.7"),
                (Etcd, "10.20.1.0/26", "192.168.1.70"),
                (Etcd, "10.20.2.0/26", "192.168.1.80"),
            ][..],
            &["10.20.1.0/26 192.168.1.70", "10.20.2.0/26 192.168.1.80"][..],
        ),
        (
            "the same learnt from BIRD, in a network of ours",
            &[(Bird, "172.16.36.64/26", "172.16.36.7"), (Bird, "10.20.1.0/26", "172.16.36.70")],
            &["10.20.1.0/26 172.16.36.70"],
        ),
        (
            "a pod of another host announces routes",
            &[
                (Etcd, "10.20.42.0/26", "172.16.35.4"),
                (Kernel, "10.91.0.0/26", "10.20.42.9"),
                (Bird, "10.92.0.0/26", "10.20.42.9"),
            ],
            &["10.20.42.0/26 172.16.35.4"],
        ),
        (
            "a pod of this host announces one",
            &[(Kernel, "10.91.0.0/26", "10.20.105.215"), (Kernel, "10.93.0.0/26", "172.16.35.4")],
            &["10.93.0.0/26 172.16.35.4"],
        ),
        (
            "of two claims to a prefix one is allowed",
            &[
                (Etcd, "10.20.42.0/26", "172.16.35.4"),
                (Kernel, "10.91.0.0/26", "10.20.42.9"),
                (Kernel, "10.91.0.0/26", "172.16.34.7"),
            ],
            &["10.20.42.0/26 172.16.35.4", "10.91.0.0/26 172.16.34.7"],
        ),
        (
            "gateways in each other's prefix",
            &[(Bird, "10.91.0.0/26", "10.92.0.9"), (Bird, "10.92.0.0/26", "10.91.0.9")],
            &[],
        ),
        (
            "a gateway that the file names as a node, in the prefix of another",
            &[
                (Bird, "10.91.0.0/26", "10.92.0.9"),
                (Bird, "10.92.0.0/26", "172.16.35.4"),
                (File, "10.94.0.0/26", "10.92.0.9"),
            ],
            &["10.91.0.0/26 10.92.0.9", "10.94.0.0/26 10.92.0.9"],
        ),
        (
            "a block around a server that this host needs",
            &[(Etcd, "198.51.100.0/24", "172.16.35.4"), (Etcd, "10.20.1.0/26", "172.16.35.4")],
            &["10.20.1.0/26 172.16.35.4"],
        ),
    ] {
        for reversed in [false, true] {
            let mut table = table();
            let servers = BTreeSet::from([ip("198.51.100.9")]);
            table.set_surroundings(Surroundings { servers, ..surroundings() });
            let mut claims: Vec<_> = claims.iter().enumerate().collect();
            if reversed {
                claims.reverse();
            }
            for (n, (kind, cidr, node)) in &claims {
                say(&mut table, *kind, cidr, &n.to_string(), Some(ip(node)));
            }
            let found = |table: &RouteTable| -> Vec<String> {
                table.routes().iter().map(|(cidr, it)| format!("{cidr} {}", it.node)).collect()
            };
            assert_eq!(found(&table), routes, "{what}, reversed: {reversed}");
            // They go again, and nothing stays.
            for (n, (kind, cidr, _)) in &claims {
                say(&mut table, *kind, cidr, &n.to_string(), None);
            }
            assert_eq!(found(&table), Vec::<String>::new(), "{what}");
            assert!(table.alarms().is_empty() && table.claimed_nodes().next().is_none(), "{what}");
        }
    }
}
