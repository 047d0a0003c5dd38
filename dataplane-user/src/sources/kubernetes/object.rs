//! What an object says, as far as we have a use for it; the rest is not kept.

use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;

use super::access::Kind;
use crate::{
    address::parse_prefix,
    sources::{
        calico::{Affinity, Block, CalicoNode, Doubts, Pool, Understood, node::Field, text},
        error::Malformed,
    },
};

/// `172.17.0.6/16`, by Calico's node agent.
const ADDRESS: &str = "projectcalico.org/IPv4Address";
/// The same as problems name it.
const ANNOTATION: &str = "annotation projectcalico.org/IPv4Address";
/// `10.65.1.0`, likewise.
const TUNNEL: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
/// The same as problems name it.
const TUNNEL_ANNOTATION: &str = "annotation projectcalico.org/IPv4IPIPTunnelAddr";
/// For an object that does not even say its name.
const NAMELESS: &str = "(without a name)";

/// An object, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// What it says; else why that makes no sense, in one line.
    pub says: Result<Says, Malformed>,
}

/// What there is to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Says {
    /// A node.
    Node(NodeSays),
    /// A block; `None`: nothing for us, so as good as deleted.
    Block(Understood<Option<Block>>),
    /// An affinity; `None`: it claims nothing.
    Affinity(Option<Affinity>),
    /// A pool; `None` likewise.
    Pool(Option<Pool>),
}

impl Object {
    /// Whether metadata alone says all there is to know of a node: Calico's annotation counts
    /// before its status. `with_pods`: its pod CIDRs are wanted, too.
    pub fn is_complete(&self, with_pods: bool) -> bool {
        match &self.says {
            Ok(Says::Node(NodeSays { node, .. })) => {
                !with_pods && node.object.address.is_some() && node.doubt.is_none()
            }
            _ => true,
        }
    }
}

/// What a node says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSays {
    /// Its address, as well as it is known, and why that is not what the annotation says.
    pub node: Understood<CalicoNode>,
    /// The addresses of its pods, where `host-local` gives them.
    pub pods: Result<Understood<Option<Ipv4Net>>, Malformed>,
}

/// Reads an item of a list. Every item counts, whatever it is: one that makes no
/// sense must not hide the others.
pub fn read_text(kind: Kind, text: &str) -> Object {
    match serde_json::from_str(text) {
        Ok(value) => read(kind, value),
        Err(error) => Object { name: NAMELESS.to_owned(), says: Err(Malformed::new(error)) },
    }
}

/// Reads an object.
pub fn read(kind: Kind, mut value: Value) -> Object {
    let Some(name) = name(&value) else {
        let says = Err(Malformed::new("has no metadata.name"));
        return Object { name: NAMELESS.to_owned(), says };
    };
    let says = match kind {
        Kind::Node => Ok(Says::Node(read_node(&value))),
        Kind::Affinity => Affinity::from_spec(value["spec"].take()).map(Says::Affinity),
        Kind::Block => Block::from_value(value["spec"].take()).map(Says::Block),
        Kind::Pool => Pool::from_value(value).map(Says::Pool),
    };
    Object { name, says }
}

/// `metadata.name`.
pub fn name(value: &Value) -> Option<String> {
    let name = value.pointer("/metadata/name")?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// `metadata.resourceVersion`.
pub fn version(value: &Value) -> Option<String> {
    value.pointer("/metadata/resourceVersion")?.as_str().map(str::to_owned)
}

/// As Felix does: what Calico's agent found, then the cluster's own knowledge.
fn read_node(value: &Value) -> NodeSays {
    let annotations = &value["metadata"]["annotations"];
    let node = CalicoNode::from_fields(
        Field(ANNOTATION, &annotations[ADDRESS]),
        Field("status.addresses", &value["status"]["addresses"]),
        Field(TUNNEL_ANNOTATION, &annotations[TUNNEL]),
    );
    NodeSays { node, pods: pods(value) }
}

/// `podCIDRs` has one of each family; `podCIDR` is the first of them.
///
/// # Errors
/// If one is wrong, and none of the others is of IPv4.
fn pods(value: &Value) -> Result<Understood<Option<Ipv4Net>>, Malformed> {
    let spec = &value["spec"];
    let mut doubts = Doubts::default();
    let all = doubts.entries("podCIDRs", &spec["podCIDRs"]).iter().chain([&spec["podCIDR"]]);
    let mut found = None;
    for entry in all.filter(|entry| !entry.is_null() && *entry != "") {
        let why = match entry.as_str().map(parse_prefix) {
            Some(Ok(IpNet::V4(cidr))) if cidr.addr() == cidr.network() => {
                found = found.or(Some(cidr));
                continue;
            }
            Some(Ok(IpNet::V6(_))) => continue,
            Some(Err(why)) => why.to_string(),
            Some(Ok(IpNet::V4(_))) | None => "is no prefix".to_owned(),
        };
        doubts.add(format!("podCIDR `{}` {why}", text(entry)));
    }
    match (found, doubts.problem()) {
        (None, Some(wrong)) => Err(wrong),
        (object, doubt) => Ok(Understood { object, doubt }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(value: &Value) -> NodeSays {
        let mut value = value.clone();
        value["metadata"]["name"] = json!("node-b");
        match read(Kind::Node, value).says {
            Ok(Says::Node(node)) => node,
            other => panic!("{other:?}"),
        }
    }

    fn address(node: &NodeSays) -> String {
        let text = |it: Option<String>| it.unwrap_or_else(|| "-".to_owned());
        let CalicoNode { address, subnet, .. } = &node.node.object;
        let address = text(address.map(|it| it.to_string()));
        format!("{address} {}", text(subnet.map(|it| it.to_string())))
    }

    #[test]
    fn a_node_has_the_annotated_address_else_the_internal_else_the_external_one() {
        let mut value = json!({
            "metadata": {"annotations": {ADDRESS: "172.17.0.6/16"}},
            "status": {"addresses": [
                {"type": "Hostname", "address": "node-b"},
                {"type": "ExternalIP", "address": "5.5.5.5"},
                {"type": "InternalIP", "address": "fd00::7"},
                {"type": "InternalIP", "address": "172.17.0.7"},
            ]},
        });
        assert_eq!(address(&node(&value)), "172.17.0.6 172.17.0.0/16");
        value["metadata"]["annotations"] = json!({"other": "1"});
        assert_eq!(address(&node(&value)), "172.17.0.7 -");
        value["status"]["addresses"][3] = json!(null);
        assert_eq!(address(&node(&value)), "5.5.5.5 -");
        value["status"] = json!(null);
        assert_eq!(address(&node(&value)), "- -");
    }

    #[test]
    fn an_annotation_that_is_no_address_is_told_and_does_not_count() {
        let node = node(&json!({
            "metadata": {"annotations": {ADDRESS: "autodetect"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.17.0.7"}]},
        }));
        assert_eq!(address(&node), "172.17.0.7 -");
        assert!(node.node.doubt.unwrap().to_string().contains("`autodetect`"));
    }

    #[test]
    fn pod_cidrs_are_those_of_ipv4() {
        for (spec, pods) in [
            (json!({"podCIDR": "10.244.1.0/24"}), Ok(Some("10.244.1.0/24"))),
            (
                json!({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.244.1.0/24"]}),
                Ok(Some("10.244.1.0/24")),
            ),
            (json!({"podCIDR": "fd00::/64"}), Ok(None)),
            (json!({"podCIDR": ""}), Ok(None)),
            (json!({}), Ok(None)),
            (json!({"podCIDR": "10.244.1.7/24"}), Err("podCIDR `10.244.1.7/24` is no prefix")),
            (json!({"podCIDRs": ["ten"]}), Err("podCIDR `ten` is no prefix")),
        ] {
            let expected = pods.map(|pods| pods.map(|it: &str| it.parse().unwrap()));
            let found = node(&json!({"spec": spec})).pods;
            let expected = expected.map(|object| Understood { object, doubt: None });
            assert_eq!(found, expected.map_err(Malformed::new), "{spec}");
        }
    }

    #[test]
    fn a_wrong_pod_cidr_takes_no_other_away() {
        for (spec, said) in [
            (
                json!({"podCIDRs": ["ten", "10.244.1.0/24"], "podCIDR": "ten"}),
                "podCIDR `ten` is no prefix",
            ),
            (json!({"podCIDRs": [7, "10.244.1.0/24"]}), "podCIDR `7` is no prefix"),
            (json!({"podCIDRs": [null, "10.244.1.0/24"]}), ""),
            (
                json!({"podCIDRs": "x", "podCIDR": "10.244.1.0/24"}),
                "podCIDRs is `\"x\"` and not a list",
            ),
            (
                json!({"podCIDRs": ["010.244.1.0/24", "10.244.1.0/24"]}),
                "podCIDR `010.244.1.0/24` has leading zeros; write 10.244.1.0/24",
            ),
        ] {
            let Understood { object, doubt } = node(&json!({"spec": spec})).pods.unwrap();
            assert_eq!(object, Some("10.244.1.0/24".parse().unwrap()), "{spec}");
            let doubt = doubt.map(|doubt| doubt.to_string()).unwrap_or_default();
            assert!(doubt.starts_with(said) && doubt.is_empty() == said.is_empty(), "{doubt}");
        }
    }

    /// The BGP address as `calico::node` reads it, under the annotation's name.
    #[test]
    fn an_annotation_is_read_as_felix_reads_it() {
        for (annotation, found, said) in [
            (json!("10.99.2.2"), "10.99.2.2 10.99.2.2/32", None),
            (json!(" 10.99.2.2/24 "), "10.99.2.2 10.99.2.0/24", None),
            (
                json!("010.099.012.002/24"),
                "172.31.0.2 -",
                Some(
                    "annotation projectcalico.org/IPv4Address `010.099.012.002/24` has leading \
                     zeros; write 10.99.12.2/24; InternalIP 172.31.0.2 is used instead",
                ),
            ),
            (
                json!(7),
                "172.31.0.2 -",
                Some(
                    "annotation projectcalico.org/IPv4Address `7` is not text; \
                      InternalIP 172.31.0.2 is used instead",
                ),
            ),
        ] {
            let node = node(&json!({
                "metadata": {"annotations": {ADDRESS: annotation}},
                "status": {"addresses": [{"type": "InternalIP", "address": "172.31.0.2"}]},
            }));
            assert_eq!(address(&node), found);
            assert_eq!(node.node.doubt.map(|it| it.to_string()).as_deref(), said);
        }
    }

    #[test]
    fn a_block_is_its_spec_and_a_pool_the_whole_object() {
        let block = json!({
            "metadata": {"name": "10-65-1-0-26"},
            "spec": {"cidr": "10.65.1.0/26", "affinity": "host:node-b", "allocations": [],
                     "attributes": [], "deleted": false},
        });
        let Object { name, says } = read(Kind::Block, block);
        assert_eq!(name, "10-65-1-0-26");
        let Ok(Says::Block(Understood { object: Some(block), doubt: None })) = says else {
            panic!("{says:?}")
        };
        assert_eq!(block.host.as_deref(), Some("node-b"));

        let pool = json!({
            "metadata": {"name": "default"}, "spec": {"cidr": "10.65.0.0/16", "ipipMode": "Always"},
        });
        let says = read(Kind::Pool, pool).says;
        assert!(matches!(says, Ok(Says::Pool(Some(_)))), "{says:?}");
    }

    #[test]
    fn what_makes_no_sense_says_so() {
        for kind in [Kind::Node, Kind::Block, Kind::Pool] {
            for text in ["3", "null", "[]", "{}", "{\"metadata\": {\"name\": 4}}", "{"] {
                assert!(read_text(kind, text).says.is_err(), "{kind:?} {text}");
            }
        }
        for kind in [Kind::Block, Kind::Pool] {
            let read = read_text(kind, "{\"metadata\": {\"name\": \"x\"}, \"spec\": 3}");
            assert_eq!(read.name, "x");
            assert!(read.says.is_err(), "{kind:?}");
        }
    }
}
