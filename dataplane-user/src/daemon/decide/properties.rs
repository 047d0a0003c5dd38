//! The four properties of the [decision](super::decision): order, idempotence, independence,
//! incumbents. Each is a test of the whole decider over random histories, restarts included.

mod history;
mod world;

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_common::Mtu;
use ipnet::Ipv4Net;
use proptest::{
    collection::{btree_set, vec},
    prelude::*,
    sample::select,
};

use self::world::{
    A, B, BLOCKS, Daemon, ETH0, FAR, FILES, LOST, NEAR, OURS, REMOTE, SECOND, Settled,
    TUNNEL_ADDRESS, World, block, claim, net, owner, pod, pod_index,
};
use super::handovers::Counted;
use crate::{
    desired::{Desired, TunnelMode},
    sources::{Change, NodeRecord, SourceKind},
};

/// Something that happens: a part of the world becomes what it is in another one.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Part {
    File,
    Addresses,
    Eth1,
    Mtu,
    Tunl0,
    Pods,
    Macs,
    Xdp,
    Fitness,
    OwnNode,
    Server,
    Claims(SourceKind),
}

const PARTS: [Part; 14] = [
    Part::File,
    Part::Addresses,
    Part::Eth1,
    Part::Mtu,
    Part::Tunl0,
    Part::Pods,
    Part::Macs,
    Part::Xdp,
    Part::Fitness,
    Part::OwnNode,
    Part::Server,
    Part::Claims(SourceKind::Etcd),
    Part::Claims(SourceKind::Bird),
    Part::Claims(SourceKind::Kernel),
];

/// What follows a change of the world.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    /// More changes, before the daemon looks.
    Nothing,
    Reconcile,
    Restart,
}

fn then() -> impl Strategy<Value = Then> {
    select(vec![Then::Nothing, Then::Reconcile, Then::Reconcile, Then::Restart])
}

/// The part of `to` happens to `world`, and the daemon hears of it.
fn happen(world: &mut World, daemon: &mut Daemon, to: &World, part: Part, then: Then) {
    match part {
        Part::File => {
            world.file = to.file;
            daemon.reload(world);
        }
        Part::Addresses => world.has_addresses = to.has_addresses,
        Part::Eth1 => world.has_eth1 = to.has_eth1,
        Part::Mtu => world.mtu = to.mtu,
        Part::Tunl0 => world.has_tunl0 = to.has_tunl0,
        Part::Pods => world.pods.clone_from(&to.pods),
        Part::Macs => world.is_router_moved = to.is_router_moved,
        Part::Xdp => world.refuses_xdp = to.refuses_xdp,
        Part::Fitness => {
            world.refusal.clone_from(&to.refusal);
            daemon.decider.set_fitness(super::Fitness {
                refusal: world.refusal.clone(),
                ..super::Fitness::default()
            });
        }
        Part::OwnNode => {
            world.own_node = to.own_node;
            daemon.report(world, SourceKind::Etcd);
            if then == Then::Reconcile {
                daemon.step(world);
            }
        }
        Part::Server => {
            (world.server, world.is_behind) = (to.server, to.is_behind);
            daemon.report(world, SourceKind::Etcd);
            if then == Then::Reconcile {
                daemon.step(world);
            }
        }
        Part::Claims(SourceKind::Kernel) => world.kernel.clone_from(&to.kernel),
        Part::Claims(kind) => {
            world.claims.insert(kind, to.claims.get(&kind).cloned().unwrap_or_default());
            daemon.report(world, kind);
            if then == Then::Reconcile {
                daemon.step(world);
            }
        }
    }
    match then {
        Then::Nothing => {}
        Then::Reconcile => daemon.whole(world),
        Then::Restart => daemon.restart(world),
    }
}

fn claims(kind: SourceKind, blocks: &[u8]) -> Vec<Change> {
    blocks.iter().map(|third| claim(block(*third), "object", owner(kind, *third))).collect()
}

/// Our addresses in the datastore: ones that the host has, and others.
fn own_nodes() -> impl Strategy<Value = Option<NodeRecord>> {
    let address = select(vec![None, Some(OURS), Some(SECOND), Some(LOST)]);
    let tunnel_address = select(vec![None, Some(TUNNEL_ADDRESS), Some(pod(50))]);
    let record = (address, tunnel_address)
        .prop_map(|(address, tunnel_address)| NodeRecord { address, tunnel_address });
    proptest::option::weighted(0.8, record)
}

prop_compose! {
    /// A world in which each source names one node for a prefix.
    fn worlds(has_tunl0: bool, refuses_xdp: bool)(
        file in 0..FILES.len(),
        (has_addresses, has_eth1, is_router_moved) in any::<(bool, bool, bool)>(),
        mtu in select(vec![Mtu(1500), Mtu(9000)]),
        pods in btree_set(0_u8..4, 0..4),
        refusal in proptest::option::weighted(0.2, Just("netfilter is not asked".to_owned())),
        kernel in btree_set(0..BLOCKS, 0..4),
        etcd in btree_set(0..BLOCKS, 0..4),
        bird in btree_set(0..BLOCKS, 0..4),
        own_node in own_nodes(),
        server in select(vec![None, Some(pod(50)), Some(Ipv4Addr::new(10, 20, 2, 9))]),
        is_behind in any::<bool>(),
    ) -> World {
        let of = |kind, blocks: BTreeSet<u8>| {
            (kind, claims(kind, &blocks.into_iter().collect::<Vec<_>>()))
        };
        let mut world = World {
            file, has_addresses, has_eth1, mtu, has_tunl0, pods, is_router_moved, refuses_xdp,
            refusal, kernel, own_node: Some(own_node), server, is_behind,
            claims: [of(SourceKind::Etcd, etcd), of(SourceKind::Bird, bird)].into(),
            ..World::default()
        };
        // Refused, whatever came before: our own address, and the node itself, lie inside.
        let claims = world.claims.get_mut(&SourceKind::Etcd).unwrap();
        claims.push(claim(net("172.16.36.0/24"), "ours", B));
        claims.push(claim(net("172.16.32.0/22"), "node", A));
        world
    }
}

/// A world in which something can be decided, and the datastore names an address of the host:
/// without that, the address that it named before stays.
fn ends(has_tunl0: bool, refuses_xdp: bool) -> impl Strategy<Value = World> {
    let end = |(world, address, tunnel_address, server): (World, _, _, _)| {
        let own_node = Some(Some(NodeRecord { address: Some(address), tunnel_address }));
        World { file: 0, has_addresses: true, own_node, server: Some(server), ..world }
    };
    let addresses = select(vec![OURS, SECOND]);
    let tunnels = select(vec![None, Some(TUNNEL_ADDRESS), Some(pod(50))]);
    // A name that is not resolved any more keeps the addresses that it had.
    let servers = select(vec![Ipv4Addr::new(198, 51, 100, 9), Ipv4Addr::new(10, 20, 2, 9)]);
    (worlds(has_tunl0, refuses_xdp), addresses, tunnels, servers).prop_map(end)
}

/// A final world, parts of others on the way to it, and how its own arrive.
type History = (World, Vec<(World, Part, Then)>, Vec<(Part, Then)>);

fn histories() -> impl Strategy<Value = History> {
    any::<(bool, bool)>().prop_flat_map(|(has_tunl0, refuses_xdp)| {
        let end = ends(has_tunl0, refuses_xdp);
        let before = (worlds(has_tunl0, refuses_xdp), select(PARTS.to_vec()), then());
        let arrivals = Just(PARTS.to_vec()).prop_shuffle();
        let thens = vec(then(), PARTS.len());
        let arrivals = (arrivals, thens)
            .prop_map(|(parts, thens)| parts.into_iter().zip(thens).collect::<Vec<_>>());
        (end, vec(before, 0..8), arrivals)
    })
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Order, and idempotence (`settle`).
    #[test]
    fn the_order_of_arrivals_and_restarts_do_not_matter(
        (end, before, arrivals) in histories(),
        reports in Just(REMOTE.to_vec()).prop_shuffle(),
    ) {
        let expected = Daemon::start(&end).settle(&end, &REMOTE);
        let mut world = World::default();
        let mut daemon = Daemon::start(&world);
        for (other, part, then) in before {
            happen(&mut world, &mut daemon, &other, part, then);
        }
        for (part, then) in arrivals {
            happen(&mut world, &mut daemon, &end, part, then);
        }
        let found = daemon.settle(&world, &reports);
        prop_assert_eq!(found, expected);
    }

    /// Independence: of all that was decided, a change alters only its own part.
    #[test]
    fn a_change_alters_only_its_own_part(
        world in any::<bool>().prop_flat_map(|has_tunl0| ends(has_tunl0, false)),
        change in changes(),
        is_step: bool,
    ) {
        let mut daemon = Daemon::start(&world);
        let before = daemon.settle(&world, &REMOTE);
        let mut now = world.clone();
        change.apply(&mut now);
        if is_step {
            daemon.report(&now, SourceKind::Etcd);
            daemon.report(&now, SourceKind::Bird);
            daemon.step(&now);
        }
        let after = daemon.settle(&now, &REMOTE);
        prop_assert_eq!(change.others(&before), change.others(&after));
    }

    /// Incumbents: whatever comes or goes, and however often the daemon starts anew, a route
    /// stays with its node while that node claims it.
    #[test]
    fn a_route_stays_with_its_node_while_that_claims_it(
        steps in vec((0_u8..3, 0_usize..3, any::<bool>(), then()), 1..30),
    ) {
        let mut world = World { has_addresses: true, ..World::default() };
        let mut daemon = Daemon::start(&world);
        daemon.settle(&world, &REMOTE);
        let mut active = daemon.decider.table().routes().clone();
        for (third, claimant, is_claimed, then) in steps {
            let (origin, node) = [("a", A), ("b", B), ("ours", OURS)][claimant];
            let claims = world.claims.entry(SourceKind::Etcd).or_default();
            claims.retain(|it| (it.cidr, &*it.origin) != (block(third), origin));
            claims.extend(is_claimed.then(|| claim(block(third), origin, node)));
            let to = world.clone();
            happen(&mut world, &mut daemon, &to, Part::Claims(SourceKind::Etcd), then);
            if then == Then::Nothing {
                continue;
            }
            daemon.whole(&world);
            let routes = daemon.decider.table().routes();
            for (cidr, before) in &active {
                let claims = world.claims[&SourceKind::Etcd].iter();
                let mut claims = claims.filter(|it| it.cidr == *cidr);
                let is_claimed =
                    claims.any(|it| it.claim.is_some_and(|claim| claim.node == before.node));
                if is_claimed {
                    prop_assert_eq!(routes.get(cidr).map(|route| route.node), Some(before.node));
                }
            }
            active.clone_from(routes);
        }
    }
}

/// A change that concerns one prefix and its node, or one pod.
#[derive(Clone, Copy, Debug)]
enum One {
    Comes(SourceKind, Ipv4Addr),
    Goes(SourceKind, u8),
    Pod(u8),
}

/// A block that no source names otherwise.
const NEW: u8 = 50;

fn changes() -> impl Strategy<Value = One> {
    let kind = || select(vec![SourceKind::Etcd, SourceKind::Bird]);
    prop_oneof![
        (kind(), select(vec![A, B, NEAR, LOST])).prop_map(|(kind, node)| One::Comes(kind, node)),
        (kind(), 0..BLOCKS).prop_map(|(kind, third)| One::Goes(kind, third)),
        (0_u8..4).prop_map(One::Pod),
    ]
}

impl One {
    fn apply(self, world: &mut World) {
        match self {
            Self::Comes(kind, node) => {
                world.claims.get_mut(&kind).unwrap().push(claim(block(NEW), "new", node));
            }
            // Without nodes behind it an interface is not of the underlay any more.
            Self::Goes(_, third) if REMOTE.iter().any(|kind| owner(*kind, third) == FAR) => {}
            Self::Goes(kind, third) => {
                world.claims.get_mut(&kind).unwrap().retain(|it| it.cidr != block(third));
            }
            Self::Pod(index) => {
                if !world.pods.remove(&index) {
                    world.pods.insert(index);
                }
            }
        }
    }

    /// What was decided, but for what this change concerns.
    fn others(self, settled: &Settled) -> (Desired, Vec<Ipv4Net>) {
        let mut desired = settled.decision().desired.clone();
        let (cidr, nodes) = match self {
            Self::Comes(_, node) => (block(NEW), vec![node]),
            // A less trusted source may name another node.
            Self::Goes(_, third) => {
                (block(third), REMOTE.iter().map(|kind| owner(*kind, third)).collect())
            }
            Self::Pod(index) => (Ipv4Net::from(pod(index)), Vec::new()),
        };
        desired.tables.routes.remove(&cidr);
        desired.tables.kernel_routes.remove(&cidr);
        desired.tables.left_to_tunl0.remove(&cidr);
        for node in &nodes {
            desired.tables.nodes.remove(node);
            desired.tables.unreachable.remove(node);
            desired.tables.protected.remove(node);
        }
        if let Self::Pod(index) = self {
            desired.endpoints.remove(&pod(index));
            let ifindex = pod_index(index);
            desired.attachments.retain(|attachment| attachment.ifindex != ifindex);
        }
        // Of several nodes inside a prefix, its refusal names one.
        let alarms = settled.alarms.keys().filter(|other| **other != cidr);
        (desired, alarms.copied().collect())
    }
}
