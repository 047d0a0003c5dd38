//! What is read of the API: the one table that the requests, the discovery and
//! `packaging/rbac.yaml` go by.

use std::fmt;

/// What is done to each resource; nothing is ever written.
pub const VERBS: [&str; 2] = ["list", "watch"];

/// A resource of the API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Resource {
    /// The API group; empty: the core's.
    pub group: &'static str,
    /// The version of it.
    pub version: &'static str,
    /// As in paths and rules: lower case, plural.
    pub plural: &'static str,
    /// What it is to us.
    pub kind: Kind,
}

/// A kind of objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Kubernetes' nodes.
    Node,
    /// Calico's allocation blocks.
    Block,
    /// Which node a block belongs to, by Calico.
    Affinity,
    /// Calico's IP pools.
    Pool,
}

impl Kind {
    /// As it is written in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Block => "IPAMBlock",
            Self::Affinity => "BlockAffinity",
            Self::Pool => "IPPool",
        }
    }
}

/// A version of Calico's own resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CalicoGroup {
    /// The blocks.
    pub blocks: Resource,
    /// Their nodes.
    pub affinities: Resource,
    /// The pools.
    pub pools: Resource,
}

/// The nodes.
pub const NODES: Resource =
    Resource { group: "", version: "v1", plural: "nodes", kind: Kind::Node };
/// `crd.projectcalico.org/v1`, what Calico calls its backing resources.
pub const CALICO_V1: CalicoGroup = CalicoGroup::new("crd.projectcalico.org", "v1");
/// `projectcalico.org/v3` as resources of the API itself (chart value `useV3CRDs`).
/// Calico's aggregated API server has the same group, but no blocks in it.
pub const CALICO_V3: CalicoGroup = CalicoGroup::new("projectcalico.org", "v3");

/// What serves behind the Services of the namespace that has the API servers' own.
pub const ENDPOINT_SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// All that may ever be read in the whole cluster.
pub const ALL: [Resource; 7] = [
    NODES,
    CALICO_V1.blocks,
    CALICO_V1.affinities,
    CALICO_V1.pools,
    CALICO_V3.blocks,
    CALICO_V3.affinities,
    CALICO_V3.pools,
];

impl CalicoGroup {
    const fn new(group: &'static str, version: &'static str) -> Self {
        Self {
            blocks: Resource { group, version, plural: "ipamblocks", kind: Kind::Block },
            affinities: Resource {
                group,
                version,
                plural: "blockaffinities",
                kind: Kind::Affinity,
            },
            pools: Resource { group, version, plural: "ippools", kind: Kind::Pool },
        }
    }

    /// `crd.projectcalico.org/v1`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.blocks.group, self.blocks.version)
    }
}

impl Resource {
    /// Where the whole collection is.
    #[must_use]
    pub fn path(&self) -> String {
        match self.group {
            "" => format!("/api/{}/{}", self.version, self.plural),
            group => format!("/apis/{group}/{}/{}", self.version, self.plural),
        }
    }
}

/// As Kubernetes names it in its own messages: `ipamblocks.crd.projectcalico.org`.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Deserialize as _;
    use serde_json::{Value, json};

    use super::*;

    const MANIFESTS: &str = include_str!("../../../../packaging/rbac.yaml");

    fn manifest(kind: &str) -> Value {
        let all = serde_yaml::Deserializer::from_str(MANIFESTS);
        let mut all = all.map(|document| Value::deserialize(document).unwrap());
        all.find(|document| document["kind"] == kind).unwrap()
    }

    #[test]
    fn the_rules_that_are_shipped_are_the_rights_that_are_used() {
        let role = manifest("ClusterRole");
        let texts = |rule: &Value, key: &str| -> Vec<String> {
            let texts = rule[key].as_array().unwrap().iter();
            texts.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let mut allowed = Vec::new();
        for rule in role["rules"].as_array().unwrap() {
            assert_eq!(rule.as_object().unwrap().len(), 3, "nothing but whole resources: {rule}");
            for group in texts(rule, "apiGroups") {
                for resource in texts(rule, "resources") {
                    for verb in texts(rule, "verbs") {
                        allowed.push((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
        let used = ALL.iter().flat_map(|resource| {
            VERBS.map(|verb| {
                (resource.group.to_owned(), resource.plural.to_owned(), verb.to_owned())
            })
        });
        let used: BTreeSet<_> = used.collect();
        assert_eq!(allowed.iter().cloned().collect::<BTreeSet<_>>(), used);
        assert_eq!(allowed.len(), used.len(), "nothing is said twice");
    }

    #[test]
    fn endpoints_may_be_listed_in_the_namespace_where_they_are_asked_for() {
        let role = manifest("Role");
        let rule = json!({
            "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"],
        });
        assert_eq!(role["rules"], json!([rule]));
        let namespace = role["metadata"]["namespace"].as_str().unwrap();
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        assert_eq!(ENDPOINT_SLICES, path);
        assert_eq!(manifest("RoleBinding")["metadata"]["namespace"], namespace);
    }

    #[test]
    fn the_rules_are_bound_to_the_account_that_is_shipped() {
        let account = manifest("ServiceAccount");
        for kind in ["ClusterRole", "Role"] {
            let (role, binding) = (manifest(kind), manifest(&format!("{kind}Binding")));
            assert_eq!(
                binding["roleRef"],
                json!({
                    "apiGroup": "rbac.authorization.k8s.io", "kind": kind,
                    "name": role["metadata"]["name"],
                })
            );
            assert_eq!(
                binding["subjects"],
                json!([{
                    "kind": "ServiceAccount", "name": account["metadata"]["name"],
                    "namespace": account["metadata"]["namespace"],
                }])
            );
        }
    }

    #[test]
    fn paths_and_names_are_those_of_the_api() {
        let all: Vec<_> = ALL.iter().map(|one| (one.path(), one.to_string())).collect();
        let expected = [
            ("/api/v1/nodes", "nodes"),
            ("/apis/crd.projectcalico.org/v1/ipamblocks", "ipamblocks.crd.projectcalico.org"),
            (
                "/apis/crd.projectcalico.org/v1/blockaffinities",
                "blockaffinities.crd.projectcalico.org",
            ),
            ("/apis/crd.projectcalico.org/v1/ippools", "ippools.crd.projectcalico.org"),
            ("/apis/projectcalico.org/v3/ipamblocks", "ipamblocks.projectcalico.org"),
            ("/apis/projectcalico.org/v3/blockaffinities", "blockaffinities.projectcalico.org"),
            ("/apis/projectcalico.org/v3/ippools", "ippools.projectcalico.org"),
        ];
        let expected = expected.map(|(path, name)| (path.to_owned(), name.to_owned()));
        assert_eq!(all, expected);
    }
}
