//! Whatever happened before: what follows from the objects is the same.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

use super::{tests::*, *};

#[derive(Clone, Debug)]
enum Step {
    Block(usize, Option<Block>),
    Node(usize, Option<CalicoNode>),
    Pool(usize, Option<Pool>),
    Affinity(usize, Option<Affinity>),
    Take,
}

const NAMES: [&str; 4] = ["me", "a", "b", "c"];

fn name() -> impl Strategy<Value = &'static str> {
    (0..NAMES.len()).prop_map(|n| NAMES[n])
}

fn a_block() -> impl Strategy<Value = Block> {
    let lent = vec((0..4_u8, name()), 0..3);
    (0..3_u8, prop_oneof![Just(30_u8), Just(32)], option::of(name()), lent).prop_map(
        |(n, length, host, lent)| {
            let lent: Vec<_> = lent
                .into_iter()
                .map(|(m, node)| (format!("10.0.{n}.{}", if length == 32 { 0 } else { m }), node))
                .collect();
            let lent: Vec<_> = lent.iter().map(|(ip, node)| (ip.as_str(), *node)).collect();
            block(&format!("10.0.{n}.0/{length}"), host, &lent)
        },
    )
}

fn a_node() -> impl Strategy<Value = CalicoNode> {
    prop_oneof![
        Just(CalicoNode::default()),
        (0..3_u8, prop_oneof![Just(24_u8), Just(16), Just(32)])
            .prop_map(|(n, length)| node(&format!("172.16.{n}.4/{length}"))),
    ]
}

fn a_pool() -> impl Strategy<Value = Pool> {
    let encap = prop_oneof![
        Just(None),
        Just(Some(Encap::Ipip)),
        Just(Some(Encap::Direct)),
        Just(Some(Encap::CrossSubnet)),
    ];
    let cidr = prop_oneof![
        Just("10.0.0.0/16"),
        Just("10.0.0.0/23"),
        Just("10.0.1.0/24"),
        Just("10.0.2.0/30"),
        Just("0.0.0.0/0"),
    ];
    (cidr, encap).prop_map(|(cidr, encap)| pool(cidr, encap))
}

fn an_affinity() -> impl Strategy<Value = Affinity> {
    (0..3_u8, name()).prop_map(|(n, host)| Affinity {
        cidr: format!("10.0.{n}.0/30").parse().unwrap(),
        host: host.to_owned(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_usize, option::of(a_block())).prop_map(|(n, it)| Step::Block(n, it)),
        (0..4_usize, option::of(a_node())).prop_map(|(n, it)| Step::Node(n, it)),
        (0..3_usize, option::of(a_pool())).prop_map(|(n, it)| Step::Pool(n, it)),
        (0..3_usize, option::of(an_affinity())).prop_map(|(n, it)| Step::Affinity(n, it)),
        Just(Step::Take),
    ]
}

/// The objects there are, and nothing else.
#[derive(Default)]
struct World {
    blocks: BTreeMap<usize, Block>,
    nodes: BTreeMap<usize, CalicoNode>,
    pools: BTreeMap<usize, Pool>,
    affinities: BTreeMap<usize, Affinity>,
}

fn put<T>(map: &mut BTreeMap<usize, T>, n: usize, value: Option<T>) {
    match value {
        Some(value) => map.insert(n, value),
        None => map.remove(&n),
    };
}

fn origin(kind: &str, n: usize) -> Origin {
    format!("{kind}/{n}").into()
}

impl World {
    /// Of everything, once, and not in the order in which it came.
    fn resolve(&self) -> Resolver {
        let mut resolver = Resolver::new("me");
        for (n, it) in &self.affinities {
            resolver.set_affinity(origin("affinities", *n), Some(it.clone()));
        }
        for (n, it) in self.nodes.iter().rev() {
            resolver.set_node(NAMES[*n], Some(it.clone()));
        }
        for (n, it) in &self.blocks {
            resolver.set_block(origin("blocks", *n), Some(it.clone()));
        }
        for (n, it) in self.pools.iter().rev() {
            resolver.set_pool(origin("pools", *n), Some(it.clone()));
        }
        resolver
    }
}

proptest! {
    #[test]
    fn the_order_does_not_matter(steps in vec(step(), 0..60)) {
        let (mut world, mut resolver) = (World::default(), Resolver::new("me"));
        let (mut claims, mut problems) = (BTreeMap::new(), BTreeMap::new());
        for step in steps.into_iter().chain([Step::Take]) {
            match step {
                Step::Block(n, it) => {
                    put(&mut world.blocks, n, it.clone());
                    resolver.set_block(origin("blocks", n), it);
                }
                Step::Node(n, it) => {
                    put(&mut world.nodes, n, it.clone());
                    resolver.set_node(NAMES[n], it);
                }
                Step::Pool(n, it) => {
                    put(&mut world.pools, n, it.clone());
                    resolver.set_pool(origin("pools", n), it);
                }
                Step::Affinity(n, it) => {
                    put(&mut world.affinities, n, it.clone());
                    resolver.set_affinity(origin("affinities", n), it);
                }
                Step::Take => {
                    for Change { cidr, origin, claim } in resolver.take_changes() {
                        let before = match claim {
                            Some(claim) => claims.insert((origin, cidr), claim),
                            None => claims.remove(&(origin, cidr)),
                        };
                        prop_assert_ne!(before, claim, "a change changes something");
                    }
                    for (origin, problem) in resolver.take_problems() {
                        // What came and went in between is reported as gone.
                        match problem {
                            Some(text) => drop(problems.insert(origin, text)),
                            None => drop(problems.remove(&origin)),
                        }
                    }
                    let fresh = world.resolve();
                    prop_assert_eq!(fresh.snapshot(), resolver.snapshot());
                    prop_assert_eq!(fresh.problems(), resolver.problems());
                    let told: Vec<_> = claims
                        .iter()
                        .map(|((origin, cidr), claim)| Change {
                            cidr: *cidr,
                            origin: Origin::clone(origin),
                            claim: Some(*claim),
                        })
                        .collect();
                    prop_assert_eq!(told, resolver.snapshot());
                    let told: Vec<_> = problems.clone().into_iter().collect();
                    prop_assert_eq!(told, resolver.problems());
                }
            }
        }
    }
}
