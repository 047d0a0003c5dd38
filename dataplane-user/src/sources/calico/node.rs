//! Nodes: `lib/apis/internalapi/node.go`, read as `felix/calc/dataplane_passthru.go` does.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::Value;

use super::json::{self, Doubts, Understood};
use crate::{
    address::{is_host, parse_prefix_or_address},
    sources::error::Malformed,
};

const WHAT: &str = "Node";

/// A node's addresses.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CalicoNode {
    /// Its underlay address; `None`: not known (yet), so there is no way to it.
    pub address: Option<Ipv4Addr>,
    /// The network that address is part of, as far as it is known; a /32 says that
    /// no other node is near.
    pub subnet: Option<Ipv4Net>,
    /// The address that Calico gave its IPIP device: the host's source towards pods.
    pub tunnel: Option<Ipv4Addr>,
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
    #[serde(default)]
    addresses: Value,
}

#[derive(Default, Deserialize)]
struct Bgp {
    #[serde(default, rename = "ipv4Address")]
    ipv4_address: Value,
    #[serde(default, rename = "ipv4IPIPTunnelAddr")]
    tunnel: Value,
}

/// A field of an object, with the name it has in a problem.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a>(pub &'a str, pub &'a Value);

impl CalicoNode {
    /// Of the value of an etcd key. A node may have no address (yet).
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Understood<Self>, Malformed> {
        json::parse(bytes, WHAT).and_then(Self::from_stored)
    }

    /// Of a `Node` of `projectcalico.org/v3`.
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_value(node: Value) -> Result<Understood<Self>, Malformed> {
        json::convert(node, WHAT).and_then(Self::from_stored)
    }

    /// Of an address with its prefix length, like `172.17.0.6/16`, or alone: as Felix, we take
    /// that for a network of its own.
    ///
    /// # Errors
    /// If it is anything else: what, as a predicate that follows the text.
    pub fn from_cidr(text: &str) -> Result<Self, String> {
        match parse_prefix_or_address(text).map_err(|why| why.to_string())? {
            IpNet::V4(net) if is_host(net.addr()) => {
                Ok(Self { address: Some(net.addr()), subnet: Some(net.trunc()), tunnel: None })
            }
            IpNet::V4(_) => Err("is no host's address".to_owned()),
            IpNet::V6(_) => Err("is no IPv4 address".to_owned()),
        }
    }

    /// Of what a Node object has, in Felix's order: the BGP address, else the first
    /// `InternalIP`, else the first `ExternalIP`. A BGP address that cannot be understood is a
    /// doubt that names what is used instead. A tunnel address that cannot be understood is none.
    #[must_use]
    pub fn from_fields(
        bgp: Field<'_>,
        addresses: Field<'_>,
        tunnel: Field<'_>,
    ) -> Understood<Self> {
        let Understood { object, doubt } = Self::underlay(bgp, addresses);
        let (tunnel, wrong) = match tunnel_address(tunnel) {
            Ok(tunnel) => (tunnel, None),
            Err(why) => (None, Some(why)),
        };
        Understood { object: Self { tunnel, ..object }, doubt: doubt.or(wrong) }
    }

    fn underlay(bgp: Field<'_>, addresses: Field<'_>) -> Understood<Self> {
        let wrong = match bgp.1 {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => match Self::from_cidr(text) {
                Ok(node) => return Understood { object: node, doubt: None },
                Err(why) => Some(why),
            },
            _ => Some("is not text".to_owned()),
        };
        let mut doubts = Doubts::default();
        let mut others = Doubts::default();
        let entries = others.entries(addresses.0, addresses.1);
        for (index, entry) in entries.iter().enumerate() {
            if !entry.is_null() && !entry.is_object() {
                let name = addresses.0;
                others
                    .add(format!("{name}[{index}] `{entry}` is not an object; it does not count"));
            }
        }
        let found = ["InternalIP", "ExternalIP"].into_iter().find_map(|kind| {
            first_of(kind, addresses.0, entries, &mut others).map(|address| (kind, address))
        });
        if let Some(why) = wrong {
            let instead = match found {
                Some((kind, address)) => format!("{kind} {address} is used instead"),
                None => "there is no other address".to_owned(),
            };
            doubts.add(format!("{} `{}` {why}; {instead}", bgp.0, json::text(bgp.1)));
        }
        let node = Self { address: found.map(|(_, address)| address), ..Self::default() };
        Understood { object: node, doubt: doubts.problem().or_else(|| others.problem()) }
    }

    fn from_stored(stored: Stored) -> Result<Understood<Self>, Malformed> {
        stored.header.check(WHAT)?;
        let Spec { bgp, addresses } = stored.spec;
        Ok(Self::from_fields(
            Field("spec.bgp.ipv4Address", &bgp.ipv4_address),
            Field("spec.addresses", &addresses),
            Field("spec.bgp.ipv4IPIPTunnelAddr", &bgp.tunnel),
        ))
    }
}

/// Reads a tunnel address as `felix/…/felixnodeprocessor.go` does: a bare IPv4 address.
fn tunnel_address(Field(name, value): Field<'_>) -> Result<Option<Ipv4Addr>, Malformed> {
    let why = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => match parse_prefix_or_address(text) {
            Ok(IpNet::V4(net)) if text.contains('/') || !is_host(net.addr()) => {
                "is no host's address".to_owned()
            }
            Ok(IpNet::V4(net)) => return Ok(Some(net.addr())),
            Ok(IpNet::V6(_)) => "is no IPv4 address".to_owned(),
            Err(why) => why.to_string(),
        },
        _ => "is not text".to_owned(),
    };
    let text = json::text(value);
    Err(Malformed::new(format!("{name} `{text}` {why}; this node has no tunnel address by it")))
}

/// Returns the first IPv4 address of a kind; a prefix length there tells nothing of the subnet.
fn first_of(kind: &str, name: &str, entries: &[Value], doubts: &mut Doubts) -> Option<Ipv4Addr> {
    entries.iter().enumerate().find_map(|(index, entry)| {
        let address = entry.get("address").filter(|_| entry["type"] == kind)?;
        let why = match address.as_str().map(parse_prefix_or_address) {
            Some(Ok(IpNet::V4(net))) => return Some(net.addr()).filter(|it| is_host(*it)),
            Some(Ok(IpNet::V6(_))) => return None,
            _ if address.is_null() => return None,
            Some(Err(why)) => why.to_string(),
            None => "is not text".to_owned(),
        };
        let text = json::text(address);
        doubts.add(format!("{name}[{index}].address `{text}` {why}; it does not count"));
        None
    })
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
        let understood = CalicoNode::from_json(node.to_string().as_bytes()).unwrap();
        assert_eq!(understood, CalicoNode::from_value(node).unwrap());
        let from_json = understood.object;
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
        for bgp in
            [json!(null), json!({}), json!({"ipv4Address": ""}), json!({"ipv4Address": null})]
        {
            let spec = json!({"bgp": bgp, "addresses": addresses});
            assert_eq!(parse(&spec), (some("172.17.0.7"), None), "{spec}");
        }
        let outside = json!({"addresses": [{"address": "5.5.5.5/24", "type": "ExternalIP"}]});
        assert_eq!(parse(&outside), (some("5.5.5.5"), None));
    }

    /// What Felix's `ParseCIDROrIP` takes counts; what it does not is named, and what is used
    /// in its place.
    #[test]
    fn a_bgp_address_is_taken_as_felix_takes_it() {
        let addresses = json!([{"address": "172.31.0.2", "type": "InternalIP"}]);
        for (bgp, address, subnet, said) in [
            (json!("10.99.2.2"), "10.99.2.2", Some("10.99.2.2/32"), ""),
            (json!(" 10.99.4.2/24 "), "10.99.4.2", Some("10.99.4.0/24"), ""),
            (json!("\t10.99.4.2\n"), "10.99.4.2", Some("10.99.4.2/32"), ""),
            (
                json!("10.99.4.2/"),
                "172.31.0.2",
                None,
                "`10.99.4.2/` is no prefix; InternalIP 172.31.0.2 is",
            ),
            (
                json!("010.99.4.2/24"),
                "172.31.0.2",
                None,
                "`010.99.4.2/24` has leading zeros; write 10.99.4.2/24; Int",
            ),
            (
                json!("010.99.4.2"),
                "172.31.0.2",
                None,
                "`010.99.4.2` has leading zeros; write 10.99.4.2; Int",
            ),
            (
                json!("autodetect"),
                "172.31.0.2",
                None,
                "`autodetect` is no address; InternalIP 172.31.0.2 is",
            ),
            (json!("fd00::1/64"), "172.31.0.2", None, "`fd00::1/64` is no IPv4 address; Int"),
            (json!("0.0.0.0/0"), "172.31.0.2", None, "`0.0.0.0/0` is no host's address; Int"),
            (
                json!(7),
                "172.31.0.2",
                None,
                "`7` is not text; InternalIP 172.31.0.2 is used instead",
            ),
        ] {
            let node = json!({"spec": {"bgp": {"ipv4Address": bgp}, "addresses": addresses}});
            let Understood { object, doubt } = CalicoNode::from_value(node).unwrap();
            assert_eq!(object.address.map(|it| it.to_string()).as_deref(), Some(address), "{bgp}");
            assert_eq!(object.subnet.map(|it| it.to_string()).as_deref(), subnet, "{bgp}");
            let doubt = doubt.map(|doubt| doubt.to_string()).unwrap_or_default();
            let said = if said.is_empty() {
                String::new()
            } else {
                format!("spec.bgp.ipv4Address {said}")
            };
            assert!(doubt.starts_with(&said) && doubt.is_empty() == said.is_empty(), "{doubt}");
        }
        let alone = json!({"spec": {"bgp": {"ipv4Address": "x"}}});
        let Understood { object, doubt } = CalicoNode::from_value(alone).unwrap();
        assert_eq!(object.address, None);
        assert!(
            doubt.unwrap().to_string().ends_with("`x` is no address; there is no other address")
        );
    }

    #[test]
    fn a_wrong_address_takes_no_other_away() {
        let good = json!({"address": "172.17.0.7", "type": "InternalIP"});
        for (wrong, said) in [
            (json!(null), ""),
            (json!({}), ""),
            (json!({"address": null, "type": "InternalIP"}), ""),
            (json!({"address": "fd00::1", "type": "InternalIP"}), ""),
            (json!({"address": "x", "type": "Hostname"}), ""),
            (json!("172.17.0.8"), "spec.addresses[0] `\"172.17.0.8\"` is not an object; it does"),
            (
                json!({"address": 7, "type": "InternalIP"}),
                "spec.addresses[0].address `7` is not text",
            ),
            (
                json!({"address": "172.017.0.8", "type": "InternalIP"}),
                "spec.addresses[0].address `172.017.0.8` has leading zeros; write 172.17.0.8",
            ),
        ] {
            let node = json!({"spec": {"addresses": [wrong, good]}});
            let Understood { object, doubt } = CalicoNode::from_value(node).unwrap();
            assert_eq!(object.address, Some(Ipv4Addr::new(172, 17, 0, 7)), "{wrong}");
            let doubt = doubt.map(|doubt| doubt.to_string()).unwrap_or_default();
            assert!(doubt.starts_with(said) && doubt.is_empty() == said.is_empty(), "{doubt}");
        }
        let no_list = json!({"spec": {"addresses": "172.17.0.7"}});
        assert!(CalicoNode::from_value(no_list).unwrap().doubt.is_some());
    }

    #[test]
    fn a_tunnel_address_is_a_bare_one() {
        let bgp = |tunnel| json!({"ipv4Address": "172.17.0.6/16", "ipv4IPIPTunnelAddr": tunnel});
        for (tunnel, expected, wrong) in [
            (json!("10.65.1.0"), Some(Ipv4Addr::new(10, 65, 1, 0)), ""),
            (json!(null), None, ""),
            (json!(""), None, ""),
            (json!("10.65.1.0/26"), None, "`10.65.1.0/26` is no host's address"),
            (json!("fd00::1"), None, "`fd00::1` is no IPv4 address"),
            (json!("127.0.0.1"), None, "`127.0.0.1` is no host's address"),
            (json!("010.65.1.0"), None, "`010.65.1.0` has leading zeros; write 10.65.1.0"),
            (json!("x"), None, "`x` is no address"),
            (json!(7), None, "`7` is not text"),
        ] {
            let node = json!({"spec": {"bgp": bgp(tunnel)}});
            let Understood { object, doubt } = CalicoNode::from_value(node).unwrap();
            assert_eq!(object.tunnel, expected, "{wrong}");
            assert_eq!(object.address, Some(Ipv4Addr::new(172, 17, 0, 6)));
            let doubt = doubt.map(|doubt| doubt.to_string()).unwrap_or_default();
            let prefix = if wrong.is_empty() { "" } else { "spec.bgp.ipv4IPIPTunnelAddr " };
            assert!(doubt.starts_with(&format!("{prefix}{wrong}")), "{doubt}");
            assert_eq!(doubt.is_empty(), wrong.is_empty(), "{doubt}");
        }
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
