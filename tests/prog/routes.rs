//! Which route covers an address, among prefixes of every length there is.

use std::net::Ipv4Addr;

use dataplane_common::{
    EndpointEntry, Ipv4Be, NodeEntry, Prefix, PrefixRoute, Reason, Route, Settings,
};
use tunless_tests::{
    decap,
    netns::in_namespace,
    packet::{ETHERNET, Frame},
    prog::{Action, Context, Loaded, Program},
    world::{
        self, Entry, MTU, NIC_IF, NODE2, NODE3, POD, REMOTE, from_stack, node, route, way_to_node3,
    },
};

/// Both nodes' prefixes are nested: lengths of one are even, of the other odd.
fn owner(length: u8) -> Ipv4Addr {
    if length.is_multiple_of(2) { NODE2 } else { NODE3 }
}

fn prefix(length: u8) -> Entry {
    let Prefix { network, .. } = Prefix::new(Ipv4Be::from(REMOTE), length);
    route(network.into(), length, owner(length), 0)
}

fn packet() -> Frame {
    from_stack().ipv4(POD, REMOTE).ttl(63).udp(1000, 2000).payload(64)
}

/// The node a packet to [`REMOTE`] is sent to.
fn sent_to(loaded: &mut Loaded) -> Option<Ipv4Addr> {
    let (program, packet) = (Program::EncapHost, packet().bytes());
    let ran = loaded.run(program, &packet, &Context::new(program)).unwrap();
    let at = ETHERNET + 16;
    let destination: [u8; 4] = ran.packet[at..at + 4].try_into().unwrap();
    (ran.action == Action::Redirect).then(|| destination.into())
}

fn nodes() -> [Entry; 2] {
    [node(NODE2, NIC_IF, MTU), Entry::Node(NODE3, way_to_node3())]
}

fn loaded() -> Loaded {
    Loaded::with(world::settings(Settings::OFF, Settings::SPOOF_DROP), &nodes())
}

/// Every length once, neither rising nor falling.
fn shuffled() -> impl Iterator<Item = u8> {
    (0..=32_u16).map(|n| (n * 14 % 33) as u8)
}

#[test]
fn the_longest_prefix_wins_whatever_came_first() {
    in_namespace(|_| {
        let mut loaded = loaded();
        assert_eq!(sent_to(&mut loaded), None);
        let mut longest = 0;
        for length in shuffled() {
            loaded.add(&prefix(length));
            longest = longest.max(length);
            assert_eq!(sent_to(&mut loaded), Some(owner(longest)), "/{length} is new");
        }
        for length in (0..=32).rev() {
            assert_eq!(sent_to(&mut loaded), Some(owner(length)), "/{length} is the longest");
            loaded.remove(&prefix(length));
        }
        assert_eq!(sent_to(&mut loaded), None);
    });
}

#[test]
fn a_length_is_looked_for_while_it_is_listed() {
    in_namespace(|_| {
        let mut loaded = loaded();
        for length in shuffled() {
            loaded.add(&prefix(length));
        }
        let mut listed: Vec<u8> = (1..=32).collect();
        assert_eq!(loaded.masks().lengths().unwrap().into_iter().collect::<Vec<_>>(), listed);
        for length in shuffled() {
            loaded.masks().remove(length).unwrap();
            listed.retain(|other| *other != length);
            assert_eq!(loaded.masks().lengths().unwrap().into_iter().collect::<Vec<_>>(), listed);
            // The default route's is no list's.
            let longest = listed.last().copied().unwrap_or(0);
            assert_eq!(sent_to(&mut loaded), Some(owner(longest)), "without /{length}");
        }
        loaded.masks().insert(0).unwrap();
        assert!(loaded.masks().lengths().unwrap().is_empty());
    });
}

#[test]
fn memory_that_another_prefix_got_meanwhile_is_no_route() {
    in_namespace(|_| {
        let mut loaded = loaded();
        loaded.add(&prefix(26));
        assert_eq!(sent_to(&mut loaded), Some(owner(26)));
        // As it is for a moment when an entry is freed while a program reads it.
        let (here, other) = (Prefix::new(REMOTE.into(), 26), Prefix::new(REMOTE.into(), 25));
        let route = Route { node: NODE3.into(), ..Route::default() };
        loaded.routes().0.insert(here, PrefixRoute { prefix: other, route }, 0).unwrap();
        assert_eq!(sent_to(&mut loaded), None);
        // A shorter one that covers the address is not hidden by it.
        loaded.add(&prefix(24));
        loaded.add(&prefix(17));
        assert_eq!(sent_to(&mut loaded), Some(owner(24)));
    });
}

#[test]
fn memory_that_another_node_got_meanwhile_is_not_this_node() {
    in_namespace(|_| {
        let mut loaded = loaded();
        loaded.add(&prefix(26));
        assert_eq!(sent_to(&mut loaded), Some(owner(26)));
        let known = loaded.nodes().get(NODE2.into()).unwrap();
        let (node, index) = known;
        let entry = NodeEntry { address: NODE3.into(), node, index };
        loaded.nodes().0.insert(Ipv4Be::from(NODE2), entry, 0).unwrap();
        assert_eq!(sent_to(&mut loaded), None);
        loaded.nodes().insert(NODE2.into(), known, 0).unwrap();
        assert_eq!(sent_to(&mut loaded), Some(owner(26)));
    });
}

/// With `trusted`: into the pod, or to the stack.
#[test]
fn memory_that_another_pod_got_meanwhile_is_not_this_pod() {
    in_namespace(|_| {
        let mut loaded = Loaded::new(world::settings(Settings::TRUSTED, Settings::SPOOF_DROP));
        let (program, packet) = (Program::DecapTc, decap::plain().bytes());
        let counted = |loaded: &mut Loaded, reason| {
            loaded.reset();
            loaded.run(program, &packet, &Context::new(program)).unwrap();
            let reasons: Vec<Reason> = loaded.counters().reasons.into_keys().collect();
            assert_eq!(reasons, [reason]);
        };
        counted(&mut loaded, Reason::DecapToPod);
        let endpoint = loaded.endpoints().get(POD.into()).unwrap();
        let entry = EndpointEntry { address: REMOTE.into(), endpoint };
        loaded.endpoints().0.insert(Ipv4Be::from(POD), entry, 0).unwrap();
        counted(&mut loaded, Reason::DecapNoEndpointToStack);
        loaded.endpoints().insert(POD.into(), endpoint, 0).unwrap();
        counted(&mut loaded, Reason::DecapToPod);
    });
}
