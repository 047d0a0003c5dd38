//! Each rule of its own.

use std::collections::BTreeMap;

use super::*;

const ME: &str = "me";

pub(super) fn block(cidr: &str, host: Option<&str>, borrowed: &[(&str, &str)]) -> Block {
    Block {
        cidr: cidr.parse().unwrap(),
        host: host.map(str::to_owned),
        borrowed: borrowed.iter().map(|(ip, node)| (ip.parse().unwrap(), (*node).into())).collect(),
    }
}

pub(super) fn node(text: &str) -> CalicoNode {
    CalicoNode::from_cidr(text).unwrap()
}

fn nowhere() -> CalicoNode {
    CalicoNode::default()
}

pub(super) fn pool(cidr: &str, encap: Option<Encap>) -> Pool {
    Pool { cidr: cidr.parse().unwrap(), encap }
}

/// Of two nodes with one address the pods of one are cut off; ours is the case to see.
#[test]
fn nodes_that_share_an_address_are_named() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.42.0/26", Some("far"), &[]));
    scene.block("c", block("10.20.43.0/26", Some("near"), &[]));
    scene.block("m", block("10.20.44.0/26", Some(ME), &[]));
    assert_eq!(scene.problems(), Vec::<String>::new());
    scene.resolver.set_node("far", Some(node("172.16.36.10/24")));
    assert_eq!(scene.problems(), ["nodes/far has our address 172.16.36.10: no routes to its pods"]);
    // Ours moves away, and then comes to a third one's.
    scene.resolver.set_node(ME, Some(node("172.16.36.12/24")));
    assert_eq!(scene.problems(), Vec::<String>::new());
    scene.resolver.set_node("near", Some(node("172.16.36.10/24")));
    assert_eq!(
        scene.problems(),
        [
            "nodes/far has the address 172.16.36.10 of nodes/near: pods of one of them are not \
             reached",
            "nodes/near has the address 172.16.36.10 of nodes/far: pods of one of them are not \
             reached",
        ]
    );
    scene.resolver.set_node("near", None);
    assert_eq!(
        scene.problems(),
        ["nodes/near is a block's node but has no Node: no routes to its pods"]
    );
    // A node without any block harms nothing.
    scene.resolver.set_node("idle", Some(node("172.16.36.12/24")));
    assert_eq!(scene.problems().len(), 1);
}

/// A resolver whose changes are applied as the daemon would.
struct Scene {
    resolver: Resolver,
    told: BTreeMap<(Origin, Ipv4Net), Claim>,
}

impl Scene {
    /// Three nodes, two of them in our subnet, and a pool.
    fn new(encap: Option<Encap>) -> Self {
        let mut resolver = Resolver::new(ME);
        for (name, address) in
            [(ME, "172.16.36.10/24"), ("near", "172.16.36.11/24"), ("far", "172.16.35.4/24")]
        {
            resolver.set_node(name, Some(node(address)));
        }
        resolver.set_pool("pools/p".into(), Some(pool("10.20.0.0/16", encap)));
        Self { resolver, told: BTreeMap::new() }
    }

    fn block(&mut self, origin: &str, block: Block) {
        self.resolver.set_block(origin.into(), Some(block));
    }

    /// What the daemon knows after all changes: `prefix → node how`.
    fn claims(&mut self) -> Vec<String> {
        for Change { cidr, origin, claim } in self.resolver.take_changes() {
            match claim {
                Some(claim) => self.told.insert((origin, cidr), claim),
                None => self.told.remove(&(origin, cidr)),
            };
        }
        let all = self.resolver.snapshot();
        let all: BTreeMap<_, _> =
            all.into_iter().map(|it| ((it.origin, it.cidr), it.claim.unwrap())).collect();
        assert_eq!(all, self.told, "changes lead to the same as a snapshot");
        let told = self.told.iter();
        told.map(|((_, cidr), Claim { node, encap })| match encap {
            None => format!("{cidr} → {node}"),
            Some(encap) => format!("{cidr} → {node} {encap:?}"),
        })
        .collect()
    }

    fn problems(&mut self) -> Vec<String> {
        let problems = self.resolver.problems();
        problems.iter().map(|(origin, text)| format!("{origin} {text}")).collect()
    }
}

/// All names, each time one comes, moves or goes.
#[test]
fn names_of_nodes_are_reported_with_their_addresses() {
    let names = |reports: Vec<Report>| {
        let mut names = reports.into_iter().filter_map(|report| match report {
            Report::Names(names) => Some(names),
            _ => None,
        });
        let found = names.next().map(|names| {
            let shown = names.iter().map(|(address, name)| format!("{address} {name}"));
            shown.collect::<Vec<_>>()
        });
        assert_eq!(names.next(), None, "once");
        found
    };
    let mut resolver = Resolver::new(ME);
    resolver.set_node("far", Some(node("172.16.35.4/24")));
    resolver.set_node("nowhere", Some(nowhere()));
    assert_eq!(names(resolver.report_all()).unwrap(), ["172.16.35.4 far"]);
    assert_eq!(names(resolver.take_reports()), None);
    resolver.set_node(ME, Some(node("172.16.36.10/24")));
    resolver.set_node("double", Some(node("172.16.36.10/24")));
    let shown = names(resolver.take_reports()).unwrap();
    assert_eq!(shown, ["172.16.35.4 far", "172.16.36.10 me"], "the own one of two");
    resolver.set_node("far", Some(node("172.16.35.9/24")));
    resolver.set_node("double", None);
    let shown = names(resolver.take_reports()).unwrap();
    assert_eq!(shown, ["172.16.35.9 far", "172.16.36.10 me"]);
    // Another subnet, and the same address.
    resolver.set_node("far", Some(node("172.16.35.9/16")));
    assert_eq!(names(resolver.take_reports()), None);
    resolver.set_node("far", None);
    assert_eq!(names(resolver.take_reports()).unwrap(), ["172.16.36.10 me"]);
}

#[test]
fn a_block_is_its_hosts_and_a_lent_address_the_borrowers() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    let lent = [("10.20.1.3", "near"), ("10.20.1.9", ME)];
    scene.block("b", block("10.20.1.0/26", Some("far"), &lent));
    assert_eq!(
        scene.claims(),
        [
            "10.20.1.0/26 → 172.16.35.4 Ipip",
            "10.20.1.3/32 → 172.16.36.11 Ipip",
            "10.20.1.9/32 → 172.16.36.10 Ipip",
        ]
    );
    // Given back, and the block moves.
    scene.block("b", block("10.20.1.0/26", Some("near"), &lent[1..]));
    assert_eq!(
        scene.claims(),
        ["10.20.1.0/26 → 172.16.36.11 Ipip", "10.20.1.9/32 → 172.16.36.10 Ipip"]
    );
    scene.resolver.set_block("b".into(), None);
    assert_eq!(scene.claims(), [""; 0]);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn a_change_that_changes_nothing_is_none() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.1.0/26", Some("far"), &[]));
    scene.claims();
    scene.block("b", block("10.20.1.0/26", Some("far"), &[]));
    // Away and back again between two looks.
    scene.resolver.set_node("far", None);
    scene.resolver.set_node("far", Some(node("172.16.35.4/24")));
    scene.resolver.set_pool("pools/p".into(), None);
    scene.resolver.set_pool("pools/p".into(), Some(pool("10.20.0.0/16", Some(Encap::Ipip))));
    assert_eq!(scene.resolver.take_changes(), []);
    // Only that there is no problem may be repeated: the hub recognizes it.
    assert_eq!(scene.resolver.take_problems(), [("nodes/far".into(), None)]);
}

#[test]
fn our_own_blocks_are_claimed_for_ourselves() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.1.0/26", Some(ME), &[("10.20.1.1", "far")]));
    assert_eq!(
        scene.claims(),
        ["10.20.1.0/26 → 172.16.36.10 Ipip", "10.20.1.1/32 → 172.16.35.4 Ipip"]
    );
    scene.resolver.set_node(ME, None);
    assert_eq!(scene.claims(), ["10.20.1.1/32 → 172.16.35.4 Ipip"]);
}

#[test]
fn a_block_of_nobody_is_claimed_by_nobody() {
    let mut scene = Scene::new(None);
    scene.block("b", block("10.30.1.0/26", None, &[("10.30.1.7", "far")]));
    assert_eq!(scene.claims(), ["10.30.1.7/32 → 172.16.35.4"]);
}

#[test]
fn claims_follow_nodes_that_come_late_move_or_go() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.1.0/26", Some("late"), &[]));
    scene.block("c", block("10.20.2.0/26", Some("far"), &[("10.20.2.5", "late")]));
    let far = "10.20.2.0/26 → 172.16.35.4 Ipip";
    assert_eq!(scene.claims(), [far]);
    let problem = ["nodes/late is a block's node but has no Node: no routes to its pods"];
    assert_eq!(scene.problems(), problem);
    scene.resolver.set_node("late", Some(nowhere()));
    assert_eq!(scene.claims(), [far]);
    assert_eq!(scene.problems(), ["nodes/late has no IPv4 address: no routes to its pods"]);
    for address in ["172.16.34.7", "172.16.34.8"] {
        scene.resolver.set_node("late", Some(node(&format!("{address}/24"))));
        let late = ["10.20.1.0/26", "10.20.2.5/32"].map(|it| format!("{it} → {address} Ipip"));
        assert_eq!(scene.claims(), [late[0].as_str(), far, &late[1]]);
        assert_eq!(scene.problems(), [""; 0]);
    }
    scene.resolver.set_node("late", None);
    assert_eq!(scene.claims(), [far]);
    assert_eq!(scene.problems(), problem);
    // Nobody asks for it any more.
    scene.resolver.set_block("b".into(), None);
    scene.block("c", block("10.20.2.0/26", Some("far"), &[]));
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn a_pool_says_how_and_may_change_its_mind() {
    let mut scene = Scene::new(None);
    scene.resolver.set_pool("pools/p".into(), None);
    scene.block("b", block("10.20.1.0/26", Some("far"), &[("10.20.1.3", "near")]));
    let with = |far: &str, near: &str| {
        [format!("10.20.1.0/26 → 172.16.35.4{far}"), format!("10.20.1.3/32 → 172.16.36.11{near}")]
    };
    assert_eq!(scene.claims(), with("", ""), "in no pool");
    for (encap, far, near) in [
        (Encap::Ipip, " Ipip", " Ipip"),
        (Encap::Direct, " Direct", " Direct"),
        (Encap::CrossSubnet, " Ipip", " Direct"),
    ] {
        scene.resolver.set_pool("pools/p".into(), Some(pool("10.20.0.0/16", Some(encap))));
        assert_eq!(scene.claims(), with(far, near));
    }
    // The smaller pool counts, and of two alike the first.
    let smaller = |encap| Some(pool("10.20.0.0/17", Some(encap)));
    scene.resolver.set_pool("pools/q".into(), smaller(Encap::Ipip));
    assert_eq!(scene.claims(), with(" Ipip", " Ipip"));
    scene.resolver.set_pool("pools/a".into(), smaller(Encap::Direct));
    assert_eq!(scene.claims(), with(" Direct", " Direct"));
    // It turns to other addresses.
    scene.resolver.set_pool("pools/a".into(), Some(pool("10.30.0.0/16", Some(Encap::Direct))));
    assert_eq!(scene.claims(), with(" Ipip", " Ipip"));
    scene.resolver.set_pool("pools/q".into(), None);
    assert_eq!(scene.claims(), with(" Ipip", " Direct"));
}

#[test]
fn vxlan_pools_are_left_alone_and_say_so_once() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.1.0/26", Some("far"), &[("10.20.1.3", "near")]));
    scene.block("c", block("10.20.2.0/26", Some(ME), &[]));
    assert_eq!(scene.claims().len(), 3);
    scene.resolver.set_pool("pools/p".into(), Some(pool("10.20.0.0/16", None)));
    assert_eq!(scene.claims(), [""; 0]);
    let said = "10.20.0.0/16 travels by VXLAN, which is left to Calico: no routes to it";
    assert_eq!(scene.resolver.take_problems(), [("pools/p".into(), Some(said.to_owned()))]);
    assert_eq!(scene.problems(), [format!("pools/p {said}")]);
    scene.block("d", block("10.20.3.0/26", Some("far"), &[]));
    assert_eq!(scene.resolver.take_problems(), []);
    scene.resolver.set_pool("pools/p".into(), Some(pool("10.20.0.0/16", Some(Encap::Ipip))));
    assert_eq!(scene.resolver.take_problems(), [("pools/p".into(), None)]);
    assert_eq!(scene.claims().len(), 4);
}

#[test]
fn cross_subnet_is_about_our_subnet() {
    let mut scene = Scene::new(Some(Encap::CrossSubnet));
    scene.block("b", block("10.20.1.0/26", Some("far"), &[("10.20.1.3", "near")]));
    let mut ways = |me: Option<CalicoNode>| {
        scene.resolver.set_node(ME, me);
        let claims = scene.claims();
        claims.iter().map(|it| it.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ways(Some(node("172.16.36.10/24"))), ["Ipip", "Direct"]);
    assert_eq!(ways(Some(node("172.16.36.10/16"))), ["Direct", "Direct"]);
    assert_eq!(ways(Some(node("172.16.36.10/32"))), ["Ipip", "Ipip"]);
    // Decided later, by whoever knows it.
    let without_subnet = CalicoNode { subnet: None, ..node("172.16.36.10/32") };
    assert_eq!(ways(Some(without_subnet)), ["CrossSubnet", "CrossSubnet"]);
    assert_eq!(ways(Some(nowhere())), ["CrossSubnet", "CrossSubnet"]);
    assert_eq!(ways(None), ["CrossSubnet", "CrossSubnet"]);
}

#[test]
fn a_lent_address_that_is_a_block_is_the_borrowers() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.1.7/32", Some("far"), &[("10.20.1.7", "near")]));
    assert_eq!(scene.claims(), ["10.20.1.7/32 → 172.16.36.11 Ipip"]);
    scene.resolver.set_node("near", None);
    assert_eq!(scene.claims(), [""; 0], "it is not the block's host that has it");
}

/// Whose it is, the route table decides; it must hear of both.
#[test]
fn contradictions_are_passed_on() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    scene.block("b", block("10.20.1.0/26", Some("far"), &[]));
    scene.block("c", block("10.20.1.0/26", Some("near"), &[]));
    assert_eq!(
        scene.claims(),
        ["10.20.1.0/26 → 172.16.35.4 Ipip", "10.20.1.0/26 → 172.16.36.11 Ipip"]
    );
    // Two nodes with one address; a node's address inside a block.
    scene.resolver.set_node("near", Some(node("172.16.35.4/24")));
    scene.block("d", block("172.16.35.0/26", Some("far"), &[]));
    assert_eq!(
        scene.claims(),
        [
            "10.20.1.0/26 → 172.16.35.4 Ipip",
            "10.20.1.0/26 → 172.16.35.4 Ipip",
            "172.16.35.0/26 → 172.16.35.4",
        ]
    );
}

#[test]
fn an_affinity_that_contradicts_its_block_is_a_problem() {
    let mut scene = Scene::new(Some(Encap::Ipip));
    let affinity = |host: &str| {
        Some(Affinity { cidr: "10.20.1.0/26".parse().unwrap(), host: host.to_owned() })
    };
    scene.resolver.set_affinity("aff/near".into(), affinity("near"));
    scene.resolver.set_affinity("aff/far".into(), affinity("far"));
    assert_eq!(scene.problems(), [""; 0], "there is no block yet");
    scene.block("b", block("10.20.1.0/26", Some("far"), &[]));
    let said = "aff/near gives 10.20.1.0/26 to near, the block itself to far: the block counts";
    assert_eq!(scene.problems(), [said]);
    assert_eq!(scene.claims(), ["10.20.1.0/26 → 172.16.35.4 Ipip"]);
    scene.block("b", block("10.20.1.0/26", Some("near"), &[]));
    assert!(scene.problems()[0].starts_with("aff/far gives"), "{:?}", scene.problems());
    scene.block("b", block("10.20.1.0/26", None, &[]));
    assert_eq!(scene.problems(), [""; 0]);
    scene.block("b", block("10.20.1.0/26", Some("near"), &[]));
    scene.resolver.set_affinity("aff/far".into(), None);
    assert_eq!(scene.problems(), [""; 0]);
}
