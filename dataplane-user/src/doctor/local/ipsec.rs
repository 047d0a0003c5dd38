//! Nodes that IPsec protects: their packets are the kernel's, or stay here.

use std::net::Ipv4Addr;

use super::super::{Check, Row, Verdict};
use crate::{
    daemon::{outside::Outside, report::Decided},
    desired::{Policies, TunnelMode},
};

/// So many nodes have a row of their own.
const LISTED: usize = 20;

/// A row for each node with a policy.
pub fn rows(decided: &Decided, outside: &Outside) -> Vec<Row> {
    let policies = Policies::new(&outside.host.policies, decided.node);
    let nodes = outside.maps.iter().flat_map(|maps| maps.nodes.iter()).flatten();
    let nodes = nodes.map(|(node, _)| Ipv4Addr::from(node));
    let protected = nodes.filter_map(|node| Some((node, policies.protecting(node)?)));
    protected.take(LISTED).map(|(node, policy)| row(decided.mode, node, &policy)).collect()
}

fn row(mode: TunnelMode, node: Ipv4Addr, policy: &str) -> Row {
    let (verdict, consequence) = match mode {
        TunnelMode::Replace => {
            (Verdict::Fail, "nothing is sent to it, because nothing would be encrypted")
        }
        TunnelMode::Accelerate => (Verdict::Warn, "its packets are left to tunl0"),
    };
    Row::new(Check::Ipsec, verdict, node.to_string(), format!("{policy}: {consequence}"))
        .remedy("docs/hosts.md lists what works with IPsec between the nodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tunl0_a_policy_stops_the_traffic() {
        let node = Ipv4Addr::new(172, 16, 35, 4);
        assert_eq!(row(TunnelMode::Replace, node, "a policy").verdict, Verdict::Fail);
        assert_eq!(row(TunnelMode::Accelerate, node, "a policy").verdict, Verdict::Warn);
    }
}
