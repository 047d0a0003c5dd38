//! IP pools: `api/pkg/apis/projectcalico/v3/ippool.go`.

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::Value;

use super::{block::parse_cidr, json};
use crate::sources::{Encap, error::Malformed};

const WHAT: &str = "IPPool";

/// An IP pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// How packets travel; `None`: by VXLAN, which is not ours to do.
    pub encap: Option<Encap>,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(flatten)]
    header: json::Header,
    #[serde(deserialize_with = "json::object")]
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    cidr: String,
    #[serde(rename = "ipipMode")]
    ipip_mode: Option<String>,
    #[serde(rename = "vxlanMode")]
    vxlan_mode: Option<String>,
}

impl Pool {
    /// Of the value of an etcd key; `None` for a pool of IPv6 addresses. One that
    /// is disabled is a pool like any other: its pods live on.
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        json::parse(bytes, WHAT).and_then(Self::from_stored)
    }

    /// Of an `IPPool` of either API group; otherwise as [`Pool::from_json`].
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_value(pool: Value) -> Result<Option<Self>, Malformed> {
        json::convert(pool, WHAT).and_then(Self::from_stored)
    }

    fn from_stored(stored: Stored) -> Result<Option<Self>, Malformed> {
        stored.header.check(WHAT)?;
        let Spec { cidr, ipip_mode, vxlan_mode } = stored.spec;
        let IpNet::V4(cidr) = parse_cidr(&cidr)? else { return Ok(None) };
        // Felix lets VXLAN win where both are set.
        let by_vxlan = match vxlan_mode.as_deref().unwrap_or("") {
            "" | "Never" => false,
            "Always" | "CrossSubnet" => true,
            other => return Err(Malformed::new(format!("vxlanMode `{other}` is unknown"))),
        };
        let encap = match ipip_mode.as_deref().unwrap_or("") {
            "" | "Never" => Encap::Direct,
            "Always" => Encap::Ipip,
            "CrossSubnet" => Encap::CrossSubnet,
            other => return Err(Malformed::new(format!("ipipMode `{other}` is unknown"))),
        };
        Ok(Some(Self { cidr, encap: (!by_vxlan).then_some(encap) }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(spec: &Value) -> Result<Option<Pool>, Malformed> {
        let pool = json!({
            "kind": "IPPool", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "default-ipv4-ippool"}, "spec": spec,
        });
        let from_json = Pool::from_json(pool.to_string().as_bytes());
        // The one knows where in the text, too.
        let same = |error: Malformed| error.to_string().split(" at line").next().map(str::to_owned);
        assert_eq!(
            from_json.clone().map_err(same),
            Pool::from_value(pool).map_err(|error| Some(error.to_string()))
        );
        from_json
    }

    #[test]
    fn each_mode_says_how_packets_travel() {
        for (ipip, vxlan, encap) in [
            (json!("Always"), json!("Never"), Some(Encap::Ipip)),
            (json!("CrossSubnet"), json!(null), Some(Encap::CrossSubnet)),
            (json!("Never"), json!(""), Some(Encap::Direct)),
            (json!(null), json!(null), Some(Encap::Direct)),
            (json!("Never"), json!("Always"), None),
            (json!(null), json!("CrossSubnet"), None),
            (json!("Always"), json!("Always"), None),
        ] {
            let spec = json!({
                "cidr": "10.65.0.0/16", "ipipMode": ipip, "vxlanMode": vxlan, "natOutgoing": true,
                "blockSize": 26, "nodeSelector": "all()", "disabled": true,
            });
            let pool = parse(&spec).unwrap().unwrap();
            assert_eq!(pool, Pool { cidr: "10.65.0.0/16".parse().unwrap(), encap }, "{spec}");
        }
    }

    #[test]
    fn ipv6_pools_are_not_for_us() {
        assert_eq!(parse(&json!({"cidr": "fd00::/48", "ipipMode": "Never"})), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (spec, said) in [
            (json!({"cidr": "10.65.0.0/16", "ipipMode": "Twice"}), "ipipMode `Twice` is unknown"),
            (json!({"cidr": "10.65.0.0/16", "vxlanMode": 1}), "is no IPPool"),
            (json!({"cidr": "10.65.0.0/16", "vxlanMode": "Some"}), "vxlanMode `Some` is unknown"),
            (json!({"cidr": "10.65.0.0/33"}), "is no prefix"),
            (json!({"cidr": "10.065.0.0/16"}), "has leading zeros; write 10.65.0.0/16"),
            (json!({}), "is no IPPool"),
        ] {
            let error = parse(&spec).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains('\n'), "no {said} in {error}");
        }
    }
}
