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

/// The mark of outer packets where the kernel looks for a policy. tunl0 asks with the tunnel's own
/// mark (`net/ipv4/ip_tunnel.c`), and this tunnel takes none; what arrives has none yet.
const MARK: u32 = 0;
/// The xfrm interface of packets that neither leave by one nor came out of one. A node behind one is
/// not reached anyway: it has no Ethernet header (`links`).
const IF_ID: u32 = 0;

/// The policies about encapsulated packets from and to us, by direction and by the nodes they
/// are about. There may be two for each node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policies(BTreeMap<(PolicyDirection, Ipv4Net), Vec<Policy>>);

impl Policies {
    /// Takes those that are about packets of ours.
    #[must_use]
    pub fn new(policies: &[Policy], ours: Ipv4Addr) -> Self {
        let mut by_node: BTreeMap<_, Vec<Policy>> = BTreeMap::new();
        for policy in policies {
            let (our_side, nodes) = match policy.direction {
                PolicyDirection::Out => (policy.source, policy.destination),
                PolicyDirection::In => (policy.destination, policy.source),
            };
            if our_side.contains(&ours) && counts(policy) {
                by_node.entry((policy.direction, nodes.trunc())).or_default().push(policy.clone());
            }
        }
        Self(by_node)
    }

    /// Returns the policy that keeps encapsulated packets between us and a node from travelling as
    /// they are, in words.
    #[must_use]
    pub fn protecting(&self, node: Ipv4Addr) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        [(PolicyDirection::Out, "out"), (PolicyDirection::In, "in")].into_iter().find_map(
            |(direction, name)| {
                let nets = supernets(Ipv4Net::from(node));
                let matching = nets.filter_map(|net| self.0.get(&(direction, net))).flatten();
                // Of equal priorities the kernel takes now the older one, now the one in a narrower
                // table: none of them is an exception for certain.
                let policy = matching.min_by_key(|policy| (policy.priority, policy.is_plain))?;
                (!policy.is_plain).then(|| text(policy, name))
            },
        )
    }
}

/// Whether a policy counts for our outer packets, as `xfrm_policy_match` in
/// `net/xfrm/xfrm_policy.c` decides it. Where only the kernel can decide, a policy counts if it
/// forbids packets to travel as they are, and not if it is an exception.
fn counts(policy: &Policy) -> bool {
    [0, PROTOCOL_IPIP].contains(&policy.protocol)
        && MARK & policy.mark.mask == policy.mark.value
        && policy.if_id == IF_ID
        && !(policy.asks_more && policy.is_plain)
}

fn text(policy: &Policy, direction: &str) -> String {
    let Policy { source, destination, is_default, .. } = policy;
    if *is_default {
        return format!(
            "the default of IPsec (`ip xfrm policy setdefault {direction} block`) covers \
             encapsulated packets"
        );
    }
    format!(
        "the IPsec policy `src {source} dst {destination} dir {direction}` covers encapsulated packets"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::PolicyMark;

    const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);

    fn policy(text: &str) -> Policy {
        let words: Vec<&str> = text.split(' ').collect();
        let [direction, source, destination, protocol, priority, action, more @ ..] = &words[..]
        else {
            panic!("{text}")
        };
        let after = |key: &str| {
            let at = more.iter().position(|word| *word == key)?;
            Some(more[at + 1].parse().unwrap())
        };
        Policy {
            direction: match *direction {
                "in" => PolicyDirection::In,
                _ => PolicyDirection::Out,
            },
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: protocol.parse().unwrap(),
            priority: priority.parse().unwrap(),
            is_plain: *action == "plain",
            mark: PolicyMark {
                value: after("mark").unwrap_or(0),
                mask: after("mask").unwrap_or(0),
            },
            if_id: after("if_id").unwrap_or(0),
            asks_more: more.contains(&"more"),
            is_default: false,
        }
    }

    const OUT: Option<&str> = Some("out");

    /// Outer packets have no mark and no xfrm interface.
    #[test]
    fn marks_and_interfaces_count_as_in_the_kernel() {
        for (more, protects, exempts) in [
            ("", true, true),
            // Those of unmarked packets, with and without other bits.
            (" mark 0 mask 255", true, true),
            (" mark 0 mask 4294967295", true, true),
            // Those of marked ones. Before 6.15 a value outside its mask never matches; since then the
            // kernel lists it without them.
            (" mark 5 mask 255", false, false),
            (" mark 1 mask 1", false, false),
            (" mark 5 mask 0", false, false),
            (" mark 256 mask 255", false, false),
            // Of an xfrm interface.
            (" if_id 42", false, false),
            (" mark 0 mask 255 if_id 42", false, false),
            // What only the kernel can decide.
            (" more", true, false),
            (" mark 0 mask 255 more", true, false),
            (" mark 5 mask 255 more", false, false),
        ] {
            for (direction, ends) in [
                ("out", "172.16.36.10/32 172.16.35.4/32"),
                ("in", "172.16.35.4/32 172.16.36.10/32"),
            ] {
                let alone = policy(&format!("{direction} {ends} 4 10 esp{more}"));
                let found = Policies::new(&[alone], OURS).protecting(NODE);
                assert_eq!(found.is_some(), protects, "{direction}{more}");
                let all = [
                    policy(&format!("{direction} {ends} 0 20 esp")),
                    policy(&format!("{direction} {ends} 4 10 plain{more}")),
                ];
                let found = Policies::new(&all, OURS).protecting(NODE);
                assert_eq!(found.is_none(), exempts, "exception: {direction}{more}");
            }
        }
    }

    #[test]
    fn the_default_counts_where_no_policy_does() {
        let default = Policy::blocking_by_default(PolicyDirection::Out);
        let found = Policies::new(std::slice::from_ref(&default), OURS).protecting(NODE).unwrap();
        assert!(found.contains("setdefault out block"), "{found}");
        let exception = policy("out 172.16.36.10/32 172.16.35.4/32 4 10 plain");
        assert_eq!(Policies::new(&[default.clone(), exception], OURS).protecting(NODE), None);
        let marked = policy("out 172.16.36.10/32 172.16.35.4/32 4 10 plain mark 5 mask 255");
        assert!(Policies::new(&[default, marked], OURS).protecting(NODE).is_some());
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
            // Of equals the kernel may take either.
            (&["out 0.0.0.0/0 0.0.0.0/0 4 10 plain", "out 0.0.0.0/0 0.0.0.0/0 0 10 esp"], OUT),
            (&["out 0.0.0.0/0 0.0.0.0/0 0 10 esp", "out 0.0.0.0/0 0.0.0.0/0 4 10 plain"], OUT),
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
