//! The servers that the sources need: this host's own path to them stays outside the tunnel.
//!
//! The addresses of a host count until the source reports others, so they are part of the memory. A
//! source that is silent, or a name that is not resolved after a restart, exposes no server.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::SourcesConfig,
    sources::{SourceKind, claims::is_configured, servers::ServerAddresses},
};

/// The addresses of the servers of each configured source, by host.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct KnownServers(BTreeMap<SourceKind, BTreeMap<String, BTreeSet<Ipv4Addr>>>);

impl KnownServers {
    /// Returns what is known: of each host what the source has `reported`, else what an earlier run
    /// knew. A source that has not reported its hosts yet has those it had; one that the file does
    /// not configure has none.
    #[must_use]
    pub fn known(
        config: &SourcesConfig,
        reported: &BTreeMap<SourceKind, ServerAddresses>,
        remembered: &Self,
    ) -> Self {
        let of = |kind: SourceKind| {
            let earlier = remembered.0.get(&kind);
            let Some(hosts) = reported.get(&kind) else { return earlier.cloned() };
            let known = |(host, found): (&String, &Option<BTreeSet<Ipv4Addr>>)| {
                let earlier = || earlier.and_then(|hosts| hosts.get(host));
                Some((host.clone(), found.as_ref().or_else(earlier)?.clone()))
            };
            Some(hosts.iter().filter_map(known).collect())
        };
        let kinds = SourceKind::ALL.into_iter().filter(|kind| is_configured(*kind, config));
        Self(kinds.filter_map(|kind| Some((kind, of(kind)?))).collect())
    }

    /// Returns all their addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.0.values().flat_map(BTreeMap::values).flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BirdConfig, KubernetesConfig};

    const KUBE: SourceKind = SourceKind::Kubernetes;

    fn set(address: &str) -> BTreeSet<Ipv4Addr> {
        BTreeSet::from([address.parse().unwrap()])
    }

    #[test]
    fn what_counts_is_reported_or_else_remembered() {
        let config =
            SourcesConfig { kubernetes: Some(KubernetesConfig::default()), ..Default::default() };
        let other = SourcesConfig { bird: Some(BirdConfig::default()), ..Default::default() };
        let hosts = BTreeMap::from([("api".to_owned(), set("192.0.2.1"))]);
        let earlier = KnownServers(BTreeMap::from([(KUBE, hosts)]));
        let reported = |host: &str, found| {
            let found: ServerAddresses = [(host.to_owned(), found)].into();
            BTreeMap::from([(KUBE, found)])
        };
        for (what, config, reported, expected) in [
            ("silent", &config, BTreeMap::new(), Some("192.0.2.1")),
            ("not resolved", &config, reported("api", None), Some("192.0.2.1")),
            ("moved", &config, reported("api", Some(set("192.0.2.2"))), Some("192.0.2.2")),
            ("another host", &config, reported("new", None), None),
            ("another host", &config, reported("new", Some(set("192.0.2.3"))), Some("192.0.2.3")),
            ("not configured", &other, BTreeMap::new(), None),
        ] {
            let known = KnownServers::known(config, &reported, &earlier);
            let expected: Vec<Ipv4Addr> = expected.iter().map(|it| it.parse().unwrap()).collect();
            assert_eq!(known.addresses().collect::<Vec<_>>(), expected, "{what}");
            // To look again changes nothing, and the memory outlives the daemon.
            let text = serde_json::to_string(&known).unwrap();
            let remembered = serde_json::from_str(&text).unwrap();
            assert_eq!(KnownServers::known(config, &reported, &remembered), known, "{what}");
        }
    }
}
