//! What a datastore records about this node: which of its addresses are ours, and where the
//! record and the host disagree.
//!
//! A record counts until the same datastore reports another one. So it is part of the memory: a
//! source that is silent, stale or not yet heard after a restart changes nothing.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    address::supernets,
    config::{Config, SourcesConfig},
    daemon::report::{Code, Problem},
    desired::Facts,
    kernel::Host,
    sources::{NodeRecord, OwnNode, SourceKind, claims::is_configured, table::RouteTable},
};

/// What the configured datastores record about this node, the most trusted first.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct OwnNodes(Vec<(SourceKind, OwnNode)>);

impl OwnNodes {
    /// Returns what is known: what each datastore has `reported`, else what it reported to an
    /// earlier run. A source that the file does not configure does not count.
    #[must_use]
    pub fn known(
        config: &SourcesConfig,
        reported: &BTreeMap<SourceKind, OwnNode>,
        remembered: &Self,
    ) -> Self {
        let of = |kind| {
            let earlier = || remembered.0.iter().find(|it| it.0 == kind).map(|it| &it.1);
            reported.get(&kind).or_else(earlier).map(|own| (kind, own.clone()))
        };
        let kinds = SourceKind::in_order(&config.precedence).into_iter();
        Self(kinds.filter(|kind| is_configured(*kind, config)).filter_map(of).collect())
    }

    /// The objects that exist.
    fn records(&self) -> impl Iterator<Item = (SourceKind, &str, NodeRecord)> {
        self.0.iter().filter_map(|(kind, own)| Some((*kind, own.object.as_str(), own.record?)))
    }

    /// The underlay address on record, if this host has it on any interface.
    #[must_use]
    pub fn address(&self, host: &Host) -> Option<Ipv4Addr> {
        let mut addresses = self.records().filter_map(|(_, _, record)| record.address);
        addresses.find(|address| host.has(*address))
    }

    /// The tunnel address on record.
    #[must_use]
    pub fn tunnel_address(&self) -> Option<Ipv4Addr> {
        self.records().find_map(|(_, _, record)| record.tunnel_address)
    }
}

#[cfg(test)]
impl OwnNodes {
    /// Of one datastore.
    pub fn of(kind: SourceKind, own: OwnNode) -> Self {
        Self(vec![(kind, own)])
    }
}

/// Lists where the datastores and this host disagree about its addresses. `facts`: what the host
/// comes to; `None` without a node address.
#[must_use]
pub fn problems(
    own: &OwnNodes,
    config: &Config,
    host: &Host,
    facts: Option<&Facts>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let missing = own.0.iter().filter(|(_, own)| own.record.is_none());
    problems.extend(missing.map(|(kind, OwnNode { object, .. })| {
        let what = format!(
            "{kind}: it has no {object}, so nothing in it names this node's addresses and blocks"
        );
        Problem::new(Code::OwnNodeMissing, format!("{kind} {object}"), what)
            .remedy("set node.name to what the datastore calls this node")
    }));
    for (kind, object, record) in own.records() {
        let subject = format!("{kind} {object}");
        if let Some(recorded) = record.address {
            let used = facts.map(|facts| facts.node);
            let problem = underlay(&subject, recorded, used, config, host);
            problems.extend(problem);
        }
        let tunnel = facts.and_then(|facts| facts.tunnel.address);
        if let (Some(recorded), Some(used)) = (record.tunnel_address, tunnel)
            && recorded != used
        {
            problems.push(tunnel_differs(&subject, recorded, used, config));
        }
    }
    problems
}

fn underlay(
    subject: &str,
    recorded: Ipv4Addr,
    used: Option<Ipv4Addr>,
    config: &Config,
    host: &Host,
) -> Option<Problem> {
    if used == Some(recorded) {
        return None;
    }
    let uses = used.map_or_else(|| "it has no other".into(), |used| format!("it uses {used}"));
    let colon = subject.replacen(' ', ": ", 1);
    let (what, remedy) = match (host.has(recorded), config.node.address) {
        (false, _) => (
            format!(
                "{colon} has address {recorded}, and this host has it on no interface: {uses}; \
                 other nodes send to {recorded}"
            ),
            "give the host that address, correct it in the datastore, or correct node.name",
        ),
        (true, Some(_)) => (
            format!(
                "{colon} has address {recorded}, but node.address in the file is another: {uses}; \
                 other nodes send to {recorded}"
            ),
            "remove node.address from the file, or correct the datastore",
        ),
        (true, None) => (
            format!("{colon} has address {recorded}, but a more trusted source another: {uses}"),
            "correct one of the two, or remove that source from the file",
        ),
    };
    Some(Problem::new(Code::OwnNodeAddress, subject, what).remedy(remedy))
}

fn tunnel_differs(subject: &str, recorded: Ipv4Addr, used: Ipv4Addr, config: &Config) -> Problem {
    let colon = subject.replacen(' ', ": ", 1);
    let (whose, remedy) = match config.node.tunnel_address {
        Some(address) if address == used => {
            ("node.tunnel_address in the file is", "remove node.tunnel_address from the file")
        }
        _ => ("this host uses", "Felix gives tunl0 its address: see what its log reports"),
    };
    let what = format!("{colon} has tunnel address {recorded}, but {whose} {used}");
    Problem::new(Code::TunnelAddressDiffers, subject, what).remedy(remedy)
}

/// Reports a tunnel address that lies in no block of ours: answers to what this host sends pods
/// then go to another node, or nowhere. Only for a datastore that has reported all blocks.
/// `knows_borrowed`: it also reports addresses that are borrowed from the blocks of others.
#[must_use]
pub fn foreign_tunnel_address(
    own: &OwnNodes,
    table: &RouteTable,
    facts: &Facts,
    knows_borrowed: bool,
) -> Option<Problem> {
    let address = facts.tunnel.address?;
    let recorded: Vec<Ipv4Addr> =
        own.records().filter_map(|(_, _, record)| record.address).chain([facts.node]).collect();
    // Without a Node of our name no block is ours: that is a problem by itself.
    own.records().next()?;
    let owners = supernets(Ipv4Net::from(address)).find_map(|net| {
        let claims = table.claims_to(net).filter(|(kind, ..)| kind.is_datastore());
        let owners: Vec<_> = claims.map(|(_, _, claim)| (net, claim.node)).collect();
        (!owners.is_empty()).then_some(owners)
    });
    let owners = owners.unwrap_or_default();
    if owners.iter().any(|(_, node)| recorded.contains(node)) {
        return None;
    }
    let whose = match owners.first() {
        Some(_) if !knows_borrowed => return None,
        Some((net, node)) => format!("it lies in {net}, which is {node}'s"),
        None => "no block contains it".to_owned(),
    };
    let device = facts.mode.device();
    let what = format!(
        "the tunnel address {address} is not this node's: {whose}; pods' answers to this host do \
         not come here"
    );
    let remedy = "have Calico allocate one (`calico-node -allocate-tunnel-addrs`), and leave \
                  node.tunnel_address out";
    Some(Problem::new(Code::TunnelAddressForeign, device, what).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use dataplane_common::IfIndex;

    use super::*;
    use crate::{
        config::{EtcdConfig, KubernetesConfig, NodeConfig},
        desired::{Paths, TunnelMode},
        sources::{Change, Claim},
    };

    const X: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
    const Y: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const T: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 192);
    const U: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 0);

    fn own(address: Option<Ipv4Addr>, tunnel_address: Option<Ipv4Addr>) -> OwnNode {
        let record = Some(NodeRecord { address, tunnel_address });
        OwnNode { object: "Node/us".into(), record }
    }

    fn unknown() -> OwnNode {
        OwnNode { object: "Node/us".into(), record: None }
    }

    fn etcd() -> EtcdConfig {
        serde_yaml::from_str("endpoints: [\"http://172.16.35.4:2379\"]").unwrap()
    }

    fn both() -> SourcesConfig {
        SourcesConfig {
            etcd: Some(etcd()),
            kubernetes: Some(KubernetesConfig::default()),
            ..SourcesConfig::default()
        }
    }

    fn host(addresses: &[Ipv4Addr]) -> Host {
        let nets = addresses.iter().map(|it| (IfIndex(2), Ipv4Net::from(*it)));
        Host { addresses: nets.collect(), ..Host::default() }
    }

    fn facts(node: Ipv4Addr, tunnel: Option<Ipv4Addr>) -> Facts {
        let mut config = Config::default();
        config.node.tunnel_address = tunnel;
        Facts::find(TunnelMode::Replace, node, &config, &host(&[node]), &Paths::new())
    }

    #[test]
    fn a_record_counts_until_its_datastore_reports_another() {
        use SourceKind::{Etcd, Kubernetes};
        let first = own(Some(X), Some(T));
        let later = own(Some(Y), None);
        let none = OwnNodes::default();
        let known = |config: &SourcesConfig, reported: &[(SourceKind, &OwnNode)], before| {
            let reported = reported.iter().map(|(kind, own)| (*kind, (*own).clone())).collect();
            OwnNodes::known(config, &reported, before)
        };
        let before = known(&both(), &[(Etcd, &first)], &none);
        assert_eq!(before.0, [(Etcd, first.clone())]);
        // Silence changes nothing; what another datastore reports changes nothing of it.
        assert_eq!(known(&both(), &[], &before), before);
        let two = known(&both(), &[(Kubernetes, &later)], &before);
        assert_eq!(two.0, [(Kubernetes, later.clone()), (Etcd, first.clone())]);
        let config = SourcesConfig { precedence: vec![Etcd], ..both() };
        assert_eq!(known(&config, &[], &two).0, [(Etcd, first), (Kubernetes, later.clone())]);
        // A report takes the place, also that there is no such object.
        assert_eq!(known(&both(), &[(Etcd, &unknown())], &before).0, [(Etcd, unknown())]);
        // The file no longer has the source.
        assert_eq!(known(&SourcesConfig::default(), &[(Etcd, &later)], &two), none);
        let text = serde_json::to_string(&two).unwrap();
        assert_eq!(serde_json::from_str::<OwnNodes>(&text).unwrap(), two);
    }

    #[test]
    fn the_most_trusted_record_that_fits_the_host_counts() {
        let nodes = |first: OwnNode, second: OwnNode| {
            OwnNodes(vec![(SourceKind::Kubernetes, first), (SourceKind::Etcd, second)])
        };
        for (nodes, has, address, tunnel) in [
            (nodes(own(Some(X), Some(T)), own(Some(Y), Some(U))), &[X, Y][..], Some(X), Some(T)),
            (nodes(own(Some(X), None), own(Some(Y), Some(U))), &[Y], Some(Y), Some(U)),
            (nodes(unknown(), own(Some(Y), None)), &[X, Y], Some(Y), None),
            (nodes(own(None, None), own(Some(Y), None)), &[X], None, None),
            (OwnNodes::default(), &[X], None, None),
        ] {
            let host = host(has);
            assert_eq!((nodes.address(&host), nodes.tunnel_address()), (address, tunnel));
        }
    }

    #[test]
    fn what_datastore_and_host_disagree_about_names_both() {
        let of = |own| OwnNodes::of(SourceKind::Kubernetes, own);
        for (own, has, file, used, code, shown) in [
            (own(Some(X), Some(T)), &[X][..], (None, None), Some((X, Some(T))), None, ""),
            (own(None, None), &[X], (None, None), Some((X, None)), None, ""),
            (
                unknown(),
                &[X],
                (None, None),
                Some((X, None)),
                Some(Code::OwnNodeMissing),
                "it has no Node/us, so nothing in it names this node's addresses",
            ),
            (
                own(Some(X), None),
                &[Y],
                (None, None),
                Some((Y, None)),
                Some(Code::OwnNodeAddress),
                "kubernetes: Node/us has address 172.16.36.10, and this host has it on no \
                 interface: it uses 10.0.2.15; other nodes send to 172.16.36.10",
            ),
            (
                own(Some(X), None),
                &[],
                (None, None),
                None,
                Some(Code::OwnNodeAddress),
                "on no interface: it has no other",
            ),
            (
                own(Some(X), None),
                &[X, Y],
                (Some(Y), None),
                Some((Y, None)),
                Some(Code::OwnNodeAddress),
                "but node.address in the file is another: it uses 10.0.2.15",
            ),
            (
                own(Some(X), Some(T)),
                &[X],
                (None, Some(U)),
                Some((X, Some(U))),
                Some(Code::TunnelAddressDiffers),
                "Node/us has tunnel address 10.20.105.192, but node.tunnel_address in the file is \
                 10.20.42.0",
            ),
        ] {
            let (address, tunnel_address) = file;
            let node = NodeConfig { address, tunnel_address, ..NodeConfig::default() };
            let config = Config { node, ..Config::default() };
            let facts = used.map(|(node, tunnel)| facts(node, tunnel));
            let found = problems(&of(own), &config, &host(has), facts.as_ref());
            assert_eq!(found.first().map(|it| it.code), code, "{found:?}");
            assert_eq!(found.len(), usize::from(code.is_some()), "{found:?}");
            assert!(found.iter().all(|it| it.what.contains(shown) && it.remedy.is_some()));
        }
    }

    #[test]
    fn a_tunnel_address_has_to_lie_in_a_block_of_ours() {
        let block = |text: &str, node| Change {
            cidr: text.parse().unwrap(),
            origin: "block".into(),
            claim: Some(Claim { node, encap: None }),
        };
        let ours = block("10.20.105.192/26", X);
        let of_node = OwnNodes::of(SourceKind::Etcd, own(Some(X), Some(T)));
        for (own, claims, tunnel, shown) in [
            (of_node.clone(), vec![ours.clone()], Some(T), None),
            (of_node.clone(), vec![ours.clone()], None, None),
            (of_node.clone(), vec![ours.clone()], Some(U), Some("no block contains it")),
            (of_node.clone(), vec![], Some(T), Some("no block contains it")),
            (
                of_node.clone(),
                vec![ours.clone(), block("10.20.42.0/26", Y)],
                Some(U),
                Some("it lies in 10.20.42.0/26, which is 10.0.2.15's"),
            ),
            // Lent to us, and by us.
            (
                of_node.clone(),
                vec![block("10.20.42.0/26", Y), block("10.20.42.0/32", X)],
                Some(U),
                None,
            ),
            (
                of_node,
                vec![ours, block("10.20.105.192/32", Y)],
                Some(T),
                Some("it lies in 10.20.105.192/32, which is 10.0.2.15's"),
            ),
            // No datastore has reported.
            (OwnNodes::default(), vec![], Some(T), None),
            (OwnNodes::of(SourceKind::Etcd, unknown()), vec![], Some(T), None),
        ] {
            let mut table = RouteTable::default();
            table.replace(SourceKind::Etcd, claims);
            let found = foreign_tunnel_address(&own, &table, &facts(X, tunnel), true);
            assert_eq!(found.is_some(), shown.is_some(), "{found:?}");
            let unsure = foreign_tunnel_address(&own, &table, &facts(X, tunnel), false);
            assert_eq!(unsure.is_some(), shown == Some("no block contains it"), "{unsure:?}");
            assert!(found.is_none_or(|it| it.what.contains(shown.unwrap_or_default())));
        }
    }
}
