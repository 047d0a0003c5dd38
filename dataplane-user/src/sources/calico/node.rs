//! Nodes: `lib/apis/internalapi/node.go`, read as `felix/calc/dataplane_passthru.go` does.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use super::json;
use crate::address::is_host;
use crate::sources::error::Malformed;

const WHAT: &str = "Node";

/// A node's addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CalicoNode {
    /// Its underlay address; `None`: not known (yet), so there is no way to it.
    pub address: Option<Ipv4Addr>,
    /// The network that address is part of, as far as it is known; a /32 says that
    /// no other node is near.
    pub subnet: Option<Ipv4Net>,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(flatten)]
    header: json::Header,
    #[serde(default, deserialize_with = "json::object")]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, deserialize_with = "json::object")]
    bgp: Bgp,
    #[serde(default, deserialize_with = "json::nullable")]
    addresses: Vec<Address>,
}

#[derive(Default, Deserialize)]
struct Bgp {
    #[serde(rename = "ipv4Address")]
    ipv4_address: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default, deserialize_with = "json::nullable")]
    address: String,
    #[serde(default, deserialize_with = "json::nullable", rename = "type")]
    kind: String,
}

impl CalicoNode {
    /// Of the value of an etcd key. A node may have no address (yet).
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Malformed> {
        json::parse(bytes, WHAT).and_then(Self::from_stored)
    }

    /// Of a `Node` of `projectcalico.org/v3`.
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_value(node: Value) -> Result<Self, Malformed> {
        json::convert(node, WHAT).and_then(Self::from_stored)
    }

    /// Of an address with its prefix length, like `172.17.0.6/16`.
    #[must_use]
    pub fn from_cidr(text: &str) -> Option<Self> {
        let net: Ipv4Net = text.parse().ok()?;
        let address = Some(net.addr()).filter(|address| is_host(*address))?;
        Some(Self { address: Some(address), subnet: Some(net.trunc()) })
    }

    /// Of an address alone; with a prefix length, that tells nothing of the subnet.
    #[must_use]
    pub fn from_address(text: &str) -> Option<Self> {
        let address = text.split('/').next()?.parse().ok().filter(|address| is_host(*address))?;
        Some(Self { address: Some(address), subnet: None })
    }

    fn from_stored(stored: Stored) -> Result<Self, Malformed> {
        stored.header.check(WHAT)?;
        let Spec { bgp, addresses } = stored.spec;
        let of_kind = |kind| {
            let mut those = addresses.iter().filter(move |address| address.kind == kind);
            those.find_map(|address| Self::from_address(&address.address))
        };
        let known = bgp
            .ipv4_address
            .as_deref()
            .and_then(Self::from_cidr)
            .or_else(|| of_kind("InternalIP"))
            .or_else(|| of_kind("ExternalIP"));
        Ok(known.unwrap_or(Self { address: None, subnet: None }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(spec: &Value) -> (Option<String>, Option<String>) {
        let node = json!({
            "kind": "Node", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "node-b", "uid": "1"}, "spec": spec,
        });
        let from_json = CalicoNode::from_json(node.to_string().as_bytes()).unwrap();
        assert_eq!(from_json, CalicoNode::from_value(node).unwrap());
        (from_json.address.map(|it| it.to_string()), from_json.subnet.map(|it| it.to_string()))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_bgp_address_comes_with_a_subnet() {
        let spec = json!({
            "bgp": {"ipv4Address": "172.17.0.6/16", "ipv4IPIPTunnelAddr": "10.65.1.0"},
            "addresses": [{"address": "9.9.9.9", "type": "InternalIP"}],
        });
        assert_eq!(parse(&spec), (some("172.17.0.6"), some("172.17.0.0/16")));
        let alone = json!({"bgp": {"ipv4Address": "172.17.0.6/32"}});
        assert_eq!(parse(&alone), (some("172.17.0.6"), some("172.17.0.6/32")));
    }

    #[test]
    fn else_the_internal_address_then_the_external_one() {
        let addresses = json!([
            {"address": "5.5.5.5", "type": "ExternalIP"},
            {"address": "fd00::1", "type": "InternalIP"},
            {"address": "172.17.0.7", "type": "InternalIP"},
            {"address": "node-b", "type": "Hostname"},
        ]);
        for bgp in [json!(null), json!({}), json!({"ipv4Address": "172.17.0.6"})] {
            let spec = json!({"bgp": bgp, "addresses": addresses});
            assert_eq!(parse(&spec), (some("172.17.0.7"), None), "{spec}");
        }
        let outside = json!({"addresses": [{"address": "5.5.5.5/24", "type": "ExternalIP"}]});
        assert_eq!(parse(&outside), (some("5.5.5.5"), None));
    }

    #[test]
    fn a_node_may_have_no_address() {
        for spec in [
            json!(null),
            json!({"bgp": {"ipv6Address": "fd00::1/64"}, "addresses": null}),
            json!({"bgp": {"ipv4Address": "0.0.0.0/0"}}),
            json!({"addresses": [{"address": "127.0.0.1", "type": "InternalIP"}, {}]}),
        ] {
            assert_eq!(parse(&spec), (None, None), "{spec}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (garbage, said) in [
            ("7", "is no Node: "),
            ("{", "is no Node: "),
            (" []", "is no Node: it is a list"),
            (r#"{"spec": 1}"#, "is no Node: "),
            (r#"{"spec": []}"#, "is no Node: "),
            (r#"{"spec": {"bgp": "x"}}"#, "is no Node: "),
            (r#"{"spec": {"bgp": []}}"#, "is no Node: "),
            (r#"{"kind": "IPPool"}"#, "is no Node but of kind `IPPool`"),
            (r#"{"apiVersion": "projectcalico.org/v9"}"#, "of `projectcalico.org/v9`, which is"),
        ] {
            let error = CalicoNode::from_json(garbage.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains('\n'), "no {said} in {error}");
        }
        assert!(CalicoNode::from_value(serde_json::json!([])).is_err());
    }
}
