//! What leases hold, and is no longer so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::{
    EpochSlots, Route,
    epochs::{BLOCK_LENGTH, SLOTS},
};
use ipnet::Ipv4Net;

use crate::bpf::epochs::Raised;

/// Something that leases may hold, and that has changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outdated {
    /// Something that cannot be found in leases.
    All,
    /// The node of a prefix, or whether it has one.
    Route(Ipv4Net),
    /// The path to a node.
    Node(Ipv4Addr),
    /// The interface of a local pod.
    Pod(Ipv4Addr),
}

/// Adds the routes that are `going`, but are still there, if a node has changed: their leases hold how it
/// was, and must not wait until they go. (A node that IPsec protects from now on loses its routes.)
pub fn with_going(outdated: &mut BTreeSet<Outdated>, going: &BTreeSet<Outdated>) {
    if outdated.iter().any(|it| matches!(it, Outdated::Node(_))) {
        outdated.extend(going);
    }
}

/// Returns the epochs that end every lease which holds something of it. `routes`: all of them, as they are
/// after the change; one that the change has removed or moved is itself outdated.
#[must_use]
pub fn raised(outdated: &BTreeSet<Outdated>, routes: &BTreeMap<Ipv4Net, Route>) -> Raised {
    let mut raised = Raised::default();
    let mut nodes = BTreeSet::new();
    for outdated in outdated {
        match outdated {
            Outdated::All => raised.all = true,
            Outdated::Route(prefix) => raise_remote(&mut raised, *prefix),
            Outdated::Node(node) => drop(nodes.insert(*node)),
            Outdated::Pod(pod) => drop(raised.local.insert(EpochSlots::local((*pod).into()))),
        }
    }
    if !nodes.is_empty() {
        let is_theirs = |(_, route): &(_, &Route)| nodes.contains(&Ipv4Addr::from(route.node));
        routes.iter().filter(is_theirs).for_each(|(prefix, _)| raise_remote(&mut raised, *prefix));
    }
    raised
}

/// The epoch of each block that has addresses of the prefix.
fn raise_remote(raised: &mut Raised, prefix: Ipv4Net) {
    const ALL: u8 = BLOCK_LENGTH - SLOTS.ilog2() as u8;
    // It has a block for each slot, or more.
    if prefix.prefix_len() <= ALL {
        raised.all = true;
        return;
    }
    let first = u32::from(prefix.network());
    let blocks = 1 << BLOCK_LENGTH.saturating_sub(prefix.prefix_len());
    let step = 1 << (32 - BLOCK_LENGTH);
    let slots =
        (0..blocks).map(|block| EpochSlots::remote(Ipv4Addr::from(first + block * step).into()));
    raised.remote.extend(slots);
}

#[cfg(test)]
mod tests {
    use dataplane_common::Ipv4Be;
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    fn route(node: &str) -> Route {
        Route { node: Ipv4Be::from(ip(node)), since: 0, flags: 0, source: Route::SOURCE_FILE }
    }

    /// The epochs of these remote addresses and these local pods.
    fn only(remote: &[&str], local: &[&str]) -> Raised {
        Raised {
            all: false,
            remote: remote.iter().map(|address| EpochSlots::remote(ip(address).into())).collect(),
            local: local.iter().map(|address| EpochSlots::local(ip(address).into())).collect(),
        }
    }

    #[test]
    fn each_change_raises_what_it_concerns() {
        let all = Raised { all: true, ..Raised::default() };
        let routes = BTreeMap::from([
            (net("10.20.42.0/26"), route("172.16.35.4")),
            (net("10.20.43.7/32"), route("172.16.35.4")),
            (net("192.0.2.8/32"), Route { flags: Route::SOURCE_ONLY, ..route("172.16.35.4") }),
            (net("10.20.44.0/26"), route("172.16.36.11")),
            (net("10.32.0.0/12"), route("172.16.36.12")),
        ]);
        let table: [(&str, &[Outdated], Raised); 13] = [
            ("nothing", &[], Raised::default()),
            ("anything", &[Outdated::All], all.clone()),
            ("a block", &[Outdated::Route(net("10.20.42.0/26"))], only(&["10.20.42.0"], &[])),
            ("an address", &[Outdated::Route(net("10.20.42.7/32"))], only(&["10.20.42.63"], &[])),
            (
                "part of a block",
                &[Outdated::Route(net("10.20.42.64/28"))],
                only(&["10.20.42.65"], &[]),
            ),
            (
                "four blocks",
                &[Outdated::Route(net("10.20.42.0/24"))],
                only(&["10.20.42.0", "10.20.42.64", "10.20.42.128", "10.20.42.192"], &[]),
            ),
            ("as many as there are", &[Outdated::Route(net("10.20.0.0/16"))], all.clone()),
            ("more", &[Outdated::Route(net("0.0.0.0/0"))], all.clone()),
            (
                "the path to a node: its routes, and what it may send from",
                &[Outdated::Node(ip("172.16.35.4"))],
                only(&["10.20.42.0", "10.20.43.0", "192.0.2.8"], &[]),
            ),
            ("that to a node with a wide route", &[Outdated::Node(ip("172.16.36.12"))], all),
            (
                "that to a node without any",
                &[Outdated::Node(ip("172.16.36.13"))],
                Raised::default(),
            ),
            (
                "a local pod, and no other",
                &[Outdated::Pod(ip("10.20.105.215"))],
                only(&[], &["10.20.105.215"]),
            ),
            (
                "several at once",
                &[
                    Outdated::Route(net("10.20.42.0/26")),
                    Outdated::Node(ip("172.16.36.11")),
                    Outdated::Pod(ip("10.20.105.215")),
                ],
                only(&["10.20.42.0", "10.20.44.0"], &["10.20.105.215"]),
            ),
        ];
        for (what, outdated, expected) in table {
            assert_eq!(raised(&outdated.iter().copied().collect(), &routes), expected, "{what}");
        }
        // Beside them in the same block of 64, and in the next.
        assert_ne!(only(&[], &["10.20.105.215"]), only(&[], &["10.20.105.216"]));
        assert_ne!(only(&["10.20.42.63"], &[]), only(&["10.20.42.64"], &[]));
    }

    #[test]
    fn routes_that_go_do_not_outlive_a_change_of_their_node() {
        let (node, pod) = (Outdated::Node(ip("172.16.35.4")), Outdated::Pod(ip("10.20.105.215")));
        let going = BTreeSet::from([Outdated::Route(net("10.20.42.0/26"))]);
        let with = |outdated: &[Outdated]| {
            let mut outdated = outdated.iter().copied().collect();
            with_going(&mut outdated, &going);
            outdated
        };
        assert_eq!(with(&[node, pod]), &BTreeSet::from([node, pod]) | &going);
        assert_eq!(with(&[pod]), BTreeSet::from([pod]), "they end when they go");
    }

    proptest! {
        #[test]
        fn every_address_of_a_prefix_is_covered(
            address: u32, length in 0..=32_u8, inside: u32, is_of_node: bool,
        ) {
            let prefix = Ipv4Net::new(Ipv4Addr::from(address), length).unwrap().trunc();
            let inside = Ipv4Addr::from(u32::from(prefix.network()) | inside & u32::from(prefix.hostmask()));
            let node = "172.16.35.4";
            let routes = BTreeMap::from([(prefix, route(node))]);
            let outdated = if is_of_node { Outdated::Node(ip(node)) } else { Outdated::Route(prefix) };
            let raised = raised(&BTreeSet::from([outdated]), &routes);
            prop_assert!(raised.all || raised.remote.contains(&EpochSlots::remote(inside.into())));
            prop_assert!(raised.local.is_empty());
            // And no more than that.
            prop_assert_eq!(raised.all, length <= 16);
            let blocks = if raised.all { 0 } else { 1 << 26_u8.saturating_sub(length) };
            prop_assert_eq!(raised.remote.len(), blocks);
        }

        /// A flow's lease ends by a change if and only if that concerns one of its two pods.
        #[test]
        fn a_pod_s_epoch_is_its_own(pod: u32, other in 1..1024_u32) {
            let other = Ipv4Addr::from(pod ^ other);
            let raised = raised(&BTreeSet::from([Outdated::Pod(Ipv4Addr::from(pod))]), &BTreeMap::new());
            prop_assert!(!raised.local.contains(&EpochSlots::local(other.into())));
            prop_assert!(raised.remote.is_empty() && !raised.all);
        }
    }
}
