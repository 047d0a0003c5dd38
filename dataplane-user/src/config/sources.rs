//! The sources of routes besides the file itself.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cidr, given::some_mapping};
use crate::{
    sources::{reads::MANY, servers::host_of},
    vocabulary::SourceKind,
};

/// Each is off until it has a key of its own.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct SourcesConfig {
    /// Who is right where two sources name different nodes for one prefix, first
    /// the most trusted. Those left out follow in their usual order.
    pub precedence: Vec<SourceKind>,
    /// The kernel's main routing table.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_mapping")]
    pub kernel: Option<KernelConfig>,
    /// BIRD.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_mapping")]
    pub bird: Option<BirdConfig>,
    /// Calico's datastore in etcd.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_mapping")]
    pub etcd: Option<EtcdConfig>,
    /// Calico's datastore in the Kubernetes API.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_mapping")]
    pub kubernetes: Option<KubernetesConfig>,
}

impl SourcesConfig {
    /// The addresses of the sources' servers, where the file has addresses and not names.
    #[must_use]
    pub fn servers(&self) -> BTreeSet<Ipv4Addr> {
        let hosts = self.etcd.iter().flat_map(EtcdConfig::hosts);
        hosts.filter_map(|host| host.parse().ok()).collect()
    }
}

impl Default for SourcesConfig {
    fn default() -> Self {
        Self {
            precedence: SourceKind::ALL.to_vec(),
            kernel: None,
            bird: None,
            etcd: None,
            kubernetes: None,
        }
    }
}

impl SourcesConfig {
    /// Returns what is left to the size of the cluster, in a sentence; `None`: nothing.
    #[must_use]
    pub fn left_to_size(&self) -> Option<String> {
        let nodes = self.kubernetes.as_ref().is_some_and(|it| it.nodes == Nodes::Auto);
        let borrowed = self.borrowed().any(|(_, borrowed)| borrowed == Borrowed::Auto);
        let what = match (nodes, borrowed) {
            (true, true) => "nodes and borrowed addresses",
            (true, false) => "nodes",
            (false, true) => "borrowed addresses",
            (false, false) => return None,
        };
        Some(format!(
            "auto: {what} are followed in a cluster of up to {MANY} nodes, else polled; `tunless \
             status` shows which"
        ))
    }

    /// Returns how the borrowed addresses of each configured datastore are to be learnt.
    pub fn borrowed(&self) -> impl Iterator<Item = (SourceKind, Borrowed)> {
        let kubernetes = self.kubernetes.as_ref();
        let kubernetes = kubernetes.map(|it| (SourceKind::Kubernetes, it.borrowed));
        let etcd = self.etcd.as_ref().map(|it| (SourceKind::Etcd, it.borrowed));
        kubernetes.into_iter().chain(etcd)
    }
}

/// Routes that Felix or Calico's BIRD put into the kernel's main table.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct KernelConfig {
    /// The numbers they carry (rtnetlink's `RTPROT_*`): BIRD's 12, Felix's 80.
    pub protocols: Vec<u8>,
    /// The pods' addresses: only prefixes inside count. Empty: all but the default route.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Cidr>,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self { protocols: vec![12, 80], within: Vec::new() }
    }
}

/// BIRD's routing table, read by its control socket.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct BirdConfig {
    /// The control socket.
    pub socket: PathBuf,
    /// The table in it that holds the pods' routes.
    pub table: String,
    /// How often BIRD is asked whether anything changed, milliseconds.
    #[schemars(range(min = 100, max = 60_000))]
    pub poll_milliseconds: u64,
    /// After a start of BIRD's: how long at most its sessions are waited for, seconds,
    /// before what it does not have counts as gone.
    #[schemars(range(min = 1, max = 3600))]
    pub settle_seconds: u64,
    /// The pods' addresses: only prefixes inside count. Empty: all but the default
    /// route, for a BIRD that knows nothing else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<Cidr>,
}

impl Default for BirdConfig {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/bird/bird.ctl"),
            table: "master4".to_owned(),
            poll_milliseconds: 1000,
            settle_seconds: 60,
            within: Vec::new(),
        }
    }
}

/// Calico's datastore in etcd (v3 API).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of keys to values")]
pub struct EtcdConfig {
    /// `https://172.16.35.4:2379` …; all of one cluster.
    pub endpoints: Vec<String>,
    /// The authority that signed the servers' certificates, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Our own certificate, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Who we are, where etcd asks for a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The file with the password in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// What Calico's keys begin with.
    #[serde(default = "calico")]
    pub prefix: String,
    /// How addresses are learnt that a node borrowed from another node's block.
    #[serde(default)]
    pub borrowed: Borrowed,
}

impl EtcdConfig {
    /// Returns the hosts of the endpoints: addresses or names.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().filter_map(|endpoint| host_of(endpoint))
    }
}

fn calico() -> String {
    "/calico".to_owned()
}

/// Calico's datastore in the Kubernetes API.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values")]
pub struct KubernetesConfig {
    /// Who we are and where the API is; left out: as a pod of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; left out: its current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Whose resources: Calico's older group, its newer one, none at all (pod CIDRs
    /// of the nodes, `host-local`), or whichever the API has.
    pub api: CalicoApi,
    /// How changes of other nodes' Nodes are learnt. This node's own is always followed.
    pub nodes: Nodes,
    /// How addresses are learnt that a node borrowed from another node's block.
    pub borrowed: Borrowed,
}

/// How changes of Nodes are learnt. Each kubelet rewrites its Node every five minutes at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Nodes {
    /// Followed in a small cluster, polled in a large one.
    #[default]
    Auto,
    /// Nodes are watched: nothing is missed.
    Followed,
    /// Nodes are read about once an hour, and a node that gets its first block at once. Pod CIDRs
    /// of Nodes (`host-local`) are followed all the same: nothing else announces a new node.
    Polled,
}

/// How addresses are learnt that a node borrowed from another node's block. Only blocks name them,
/// and each pod that comes or goes rewrites a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Borrowed {
    /// Followed in a small cluster, polled in a large one.
    #[default]
    Auto,
    /// Blocks are watched: nothing is missed.
    Followed,
    /// Block affinities are watched, and blocks read about once an hour.
    Polled,
    /// Block affinities are watched, and blocks never read.
    Off,
}

/// A group of Calico's resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CalicoApi {
    /// Whichever is there: `v3`, then `v1`, then `none`.
    #[default]
    Auto,
    /// `crd.projectcalico.org/v1`.
    V1,
    /// `projectcalico.org/v3`.
    V3,
    /// No IPAM of Calico's: `spec.podCIDR` of the nodes.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_the_size_of_the_cluster_is_named() {
        for (sources, what) in [
            ("{}", None),
            ("kubernetes: {}", Some("nodes and borrowed addresses are")),
            ("kubernetes: {borrowed: off}", Some("auto: nodes are")),
            ("kubernetes: {nodes: polled}", Some("auto: borrowed addresses are")),
            ("kubernetes: {nodes: followed, borrowed: polled}", None),
            ("etcd: {endpoints: []}", Some("auto: borrowed addresses are")),
            ("etcd: {endpoints: [], borrowed: followed}", None),
        ] {
            let sources: SourcesConfig = serde_yaml::from_str(sources).unwrap();
            let found = sources.left_to_size();
            assert_eq!(found.is_some(), what.is_some(), "{found:?}");
            assert!(what.is_none_or(|what| found.is_some_and(|it| it.contains(what))), "{what:?}");
        }
    }
}
