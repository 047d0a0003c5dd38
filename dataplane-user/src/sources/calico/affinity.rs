//! Block affinities: `libcalico-go/lib/backend/model/block_affinity.go`; as objects of the
//! Kubernetes API `api/pkg/apis/projectcalico/v3/block_affinity.go`.
//!
//! Blocks are the truth, as for Felix. An affinity that contradicts one is worth
//! telling: BIRD announces what affinities say. Where blocks are not read, affinities count.

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::Value;

use super::{
    block::{cidr_of_key, parse_cidr},
    json,
};
use crate::sources::error::Malformed;

/// A node's confirmed claim to a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Affinity {
    /// The block's addresses.
    pub cidr: Ipv4Net,
    /// The node's name.
    pub host: String,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(default, deserialize_with = "json::nullable")]
    state: String,
    #[serde(default, deserialize_with = "json::flag")]
    deleted: bool,
}

/// The `spec` of a `BlockAffinity`.
#[derive(Deserialize)]
struct Spec {
    #[serde(default, deserialize_with = "json::nullable")]
    node: String,
    #[serde(default, deserialize_with = "json::nullable")]
    cidr: String,
    /// `host`, or something else that blocks may belong to.
    #[serde(default, rename = "type", deserialize_with = "json::nullable")]
    owner: String,
    #[serde(flatten)]
    stored: Stored,
}

impl Stored {
    /// Whether it is confirmed: the block exists, and is not about to be given back.
    fn is_claimed(&self) -> bool {
        !self.deleted && (self.state.is_empty() || self.state == "confirmed")
    }
}

impl Affinity {
    /// Of the `spec` of a `BlockAffinity` of either API group; `None` if it claims nothing:
    /// pending, deleted, no node's, or of IPv6 addresses.
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_spec(spec: Value) -> Result<Option<Self>, Malformed> {
        let Spec { node, cidr, owner, stored } = json::convert(spec, "block affinity")?;
        if !stored.is_claimed() || !matches!(owner.as_str(), "" | "host") {
            return Ok(None);
        }
        let IpNet::V4(cidr) = parse_cidr(&cidr)? else { return Ok(None) };
        if node.is_empty() {
            return Err(Malformed::new("names no node"));
        }
        Ok(Some(Self { cidr, host: node }))
    }

    /// Of a key of etcd below `…/ipam/v2/`, `host/<node>/ipv4/block/10.65.1.0-26`,
    /// and its value; `None` if it claims nothing: pending, deleted, or no node's.
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_etcd(key: &str, value: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(rest) = key.strip_prefix("host/") else { return Ok(None) };
        // A node's name has no slash in it.
        let Some((host, rest)) = rest.split_once('/') else { return Ok(None) };
        let Some(block) = rest.strip_prefix("ipv4/block/") else { return Ok(None) };
        let wrong = || Malformed::new(format!("`{block}` is no block like 10.65.1.0-26"));
        let cidr = cidr_of_key(block).ok_or_else(wrong)?;
        if cidr.addr() != cidr.network() || host.is_empty() {
            return Err(wrong());
        }
        // Old data has no value; it is as good as confirmed.
        let is_claimed = value.iter().all(u8::is_ascii_whitespace)
            || json::parse::<Stored>(value, "block affinity")?.is_claimed();
        Ok(is_claimed.then(|| Self { cidr, host: host.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "host/node-b/ipv4/block/10.65.1.0-26";

    #[test]
    fn a_confirmed_one_names_the_node() {
        let affinity =
            Affinity { cidr: "10.65.1.0/26".parse().unwrap(), host: "node-b".to_owned() };
        for value in ["", "{}", r#"{"state":"confirmed","deleted":false}"#, r#"{"state":null}"#] {
            let found = Affinity::from_etcd(KEY, value.as_bytes());
            assert_eq!(found, Ok(Some(affinity.clone())), "{value}");
        }
    }

    #[test]
    fn others_claim_nothing() {
        for (key, value) in [
            (KEY, r#"{"state":"pending","deleted":false}"#),
            (KEY, r#"{"state":"pendingDeletion"}"#),
            (KEY, r#"{"state":"confirmed","deleted":true}"#),
            (KEY, r#"{"state":"confirmed","deleted":"true"}"#),
            ("virtual/load-balancer/ipv4/block/10.65.1.0-26", "{}"),
            ("host/node-b/ipv6/block/fd00::-122", "{}"),
            ("host/node-b", "{}"),
        ] {
            assert_eq!(Affinity::from_etcd(key, value.as_bytes()), Ok(None), "{key} {value}");
        }
    }

    #[test]
    fn one_of_the_api_says_the_same() {
        let affinity =
            Affinity { cidr: "10.65.1.0/26".parse().unwrap(), host: "node-b".to_owned() };
        let spec = |state: &str, deleted: Value, more: Value| {
            let mut spec = json!({
                "cidr": "10.65.1.0/26", "node": "node-b", "state": state, "deleted": deleted,
            });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Affinity::from_spec(spec)
        };
        for deleted in [json!(false), json!("false"), json!(null)] {
            assert_eq!(spec("confirmed", deleted, json!({})), Ok(Some(affinity.clone())));
        }
        let host = spec("confirmed", json!(false), json!({"type": "host"}));
        assert_eq!(host, Ok(Some(affinity)));
        for (state, deleted, more) in [
            ("pending", json!(false), json!({})),
            ("pendingDeletion", json!("false"), json!({})),
            ("confirmed", json!("true"), json!({})),
            ("confirmed", json!(true), json!({})),
            ("confirmed", json!(false), json!({"type": "virtual"})),
            ("confirmed", json!(false), json!({"cidr": "fd00::/122"})),
        ] {
            assert_eq!(spec(state, deleted.clone(), more.clone()), Ok(None), "{deleted} {more}");
        }
        for more in [json!({"cidr": "x"}), json!({"cidr": "10.65.1.9/26"}), json!({"node": null})] {
            let error = spec("confirmed", json!(false), more).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (key, value) in [
            (KEY, "confirmed"),
            ("host/node-b/ipv4/block/10.65.1.0", ""),
            ("host/node-b/ipv4/block/10.65.1.1-26", ""),
            ("host/node-b/ipv4/block/x-26", ""),
            ("host/node-b/ipv4/block/10.065.1.0-26", ""),
            ("host//ipv4/block/10.65.1.0-26", ""),
        ] {
            let error = Affinity::from_etcd(key, value.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("is no block") && !error.contains('\n'), "{error}");
        }
    }
}
