//! Block affinities: `libcalico-go/lib/backend/model/block_affinity.go`.
//!
//! Blocks are the truth, as for Felix. An affinity that contradicts one is worth
//! telling: BIRD announces what affinities say.

use ipnet::Ipv4Net;
use serde::Deserialize;

use super::{block::cidr_of_key, json};
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

impl Affinity {
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
            || match json::parse::<Stored>(value, "block affinity")? {
                Stored { deleted: true, .. } => false,
                Stored { state, .. } => state.is_empty() || state == "confirmed",
            };
        Ok(is_claimed.then(|| Self { cidr, host: host.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
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
