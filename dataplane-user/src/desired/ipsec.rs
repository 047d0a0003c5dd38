//! Which nodes IPsec protects: the programs would send to them in the clear, and take in what an
//! attacker sends in the clear in their name.
//!
//! Such a node is left to tunl0 (`accelerate`), whose packets pass through xfrm; without tunl0
//! there is nothing that could encrypt, so nothing is sent (`replace`).

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::ipv4::PROTOCOL_IPIP;
use ipnet::Ipv4Net;

use crate::{
    address::supernets,
    kernel::{Policy, PolicyDirection},
};

/// The policies about encapsulated packets from and to us, by direction and by the nodes they
/// are about. There may be two for each node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policies(BTreeMap<(PolicyDirection, Ipv4Net), Vec<Ranked>>);

/// A policy, and how the kernel prefers it: by priority, then by the order of the dump.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ranked {
    rank: (u32, usize),
    policy: Policy,
}

impl Policies {
    /// Takes those that are about packets of ours.
    #[must_use]
    pub fn new(policies: &[Policy], ours: Ipv4Addr) -> Self {
        let mut by_node: BTreeMap<_, Vec<Ranked>> = BTreeMap::new();
        for (place, policy) in policies.iter().enumerate() {
            let (our_side, nodes) = match policy.direction {
                PolicyDirection::Out => (policy.source, policy.destination),
                PolicyDirection::In => (policy.destination, policy.source),
            };
            if our_side.contains(&ours) && [0, PROTOCOL_IPIP].contains(&policy.protocol) {
                let ranked = Ranked { rank: (policy.priority, place), policy: policy.clone() };
                by_node.entry((policy.direction, nodes.trunc())).or_default().push(ranked);
            }
        }
        Self(by_node)
    }

    /// The policy that keeps encapsulated packets between us and a node from travelling as they
    /// are, in words.
    #[must_use]
    pub fn protecting(&self, node: Ipv4Addr) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        [(PolicyDirection::Out, "out"), (PolicyDirection::In, "in")].into_iter().find_map(
            |(direction, name)| {
                let nets = supernets(Ipv4Net::from(node));
                let matching = nets.filter_map(|net| self.0.get(&(direction, net))).flatten();
                let Ranked { policy, .. } = matching.min_by_key(|ranked| ranked.rank)?;
                (!policy.is_plain).then(|| {
                    format!(
                        "the IPsec policy `src {} dst {} dir {name}` covers encapsulated packets",
                        policy.source, policy.destination
                    )
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);

    fn policy(text: &str) -> Policy {
        let words: Vec<&str> = text.split(' ').collect();
        let [direction, source, destination, protocol, priority, action] = words[..] else {
            panic!("{text}")
        };
        Policy {
            direction: match direction {
                "in" => PolicyDirection::In,
                _ => PolicyDirection::Out,
            },
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: protocol.parse().unwrap(),
            priority: priority.parse().unwrap(),
            is_plain: action == "plain",
        }
    }

    #[test]
    fn the_kernels_choice_among_policies_counts() {
        for (policies, expected) in [
            (&[][..], None),
            (&["out 172.16.36.10/32 172.16.35.4/32 0 0 esp"][..], Some("out")),
            (&["out 172.16.36.10/32 172.16.35.4/32 4 0 block"], Some("out")),
            (&["in 172.16.35.4/32 172.16.36.10/32 0 0 esp"], Some("in")),
            (&["out 0.0.0.0/0 172.16.35.0/24 0 0 esp"], Some("out")),
            // About other packets.
            (&["out 172.16.36.10/32 172.16.35.4/32 6 0 esp"], None),
            (&["out 172.16.36.10/32 172.16.35.5/32 0 0 esp"], None),
            (&["out 172.16.36.11/32 172.16.35.4/32 0 0 esp"], None),
            (&["in 172.16.36.10/32 172.16.35.4/32 0 0 esp"], None),
            // An exception counts where its priority is the lower number.
            (
                &[
                    "out 0.0.0.0/0 0.0.0.0/0 0 100 esp",
                    "out 172.16.36.10/32 172.16.35.4/32 4 10 plain",
                ],
                None,
            ),
            (
                &[
                    "out 0.0.0.0/0 0.0.0.0/0 0 10 esp",
                    "out 172.16.36.10/32 172.16.35.4/32 4 100 plain",
                ],
                Some("out"),
            ),
            (&["out 0.0.0.0/0 0.0.0.0/0 0 10 plain", "out 0.0.0.0/0 0.0.0.0/0 0 10 esp"], None),
            // Plain one way only.
            (
                &[
                    "out 172.16.36.10/32 172.16.35.4/32 0 0 plain",
                    "in 172.16.35.4/32 172.16.36.10/32 0 0 esp",
                ],
                Some("in"),
            ),
        ] {
            let policies: Vec<Policy> = policies.iter().map(|text| policy(text)).collect();
            let found = Policies::new(&policies, OURS).protecting(NODE);
            assert_eq!(found.is_some(), expected.is_some(), "{policies:?}");
            let direction = expected.map(|name| format!("dir {name}`"));
            assert!(direction.is_none_or(|it| found.is_some_and(|found| found.contains(&it))));
        }
    }
}
