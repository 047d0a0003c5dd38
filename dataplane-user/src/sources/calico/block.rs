//! IPAM blocks: `libcalico-go/lib/backend/model/block.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Affinity,
    json::{self, Doubts, Understood},
};
use crate::{address::parse_prefix, sources::error::Malformed};

const WHAT: &str = "allocation block";

/// An IPAM block: who carries it, and which of its addresses were lent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// The node it belongs to, by name; `None`: to nobody (`virtual:` is nobody, too).
    pub host: Option<String>,
    /// Addresses in use on other nodes than `host`, and those nodes' names.
    pub borrowed: BTreeMap<Ipv4Addr, String>,
}

/// As it is stored; what we have no use for is left out. The lists are read entry by entry, so
/// that a wrong one costs only its own address.
#[derive(Deserialize)]
struct Stored {
    cidr: String,
    affinity: Option<String>,
    #[serde(rename = "hostAffinity")]
    host_affinity: Option<String>,
    #[serde(default)]
    allocations: Value,
    #[serde(default)]
    attributes: Value,
    #[serde(default, deserialize_with = "json::flag")]
    deleted: bool,
}

/// What an affinity says of a block, where it counts in its place.
impl From<Affinity> for Block {
    fn from(Affinity { cidr, host }: Affinity) -> Self {
        Self { cidr, host: Some(host), borrowed: BTreeMap::new() }
    }
}

impl Block {
    /// The nodes it names: its host, and those that borrow from it.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&str> {
        self.host.iter().chain(self.borrowed.values()).map(String::as_str).collect()
    }

    /// Of the value of an etcd key; `None` if there is nothing in it for us:
    /// marked as deleted, or of IPv6 addresses.
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Understood<Option<Self>>, Malformed> {
        json::parse(bytes, WHAT).and_then(|stored| Self::from_stored(&stored))
    }

    /// Of the `spec` of an `IPAMBlock`; otherwise as [`Block::from_json`].
    ///
    /// # Errors
    /// If the object cannot be understood: what is wrong with it.
    pub fn from_value(spec: Value) -> Result<Understood<Option<Self>>, Malformed> {
        json::convert(spec, WHAT).and_then(|stored| Self::from_stored(&stored))
    }

    fn from_stored(stored: &Stored) -> Result<Understood<Option<Self>>, Malformed> {
        const NOTHING: Understood<Option<Block>> = Understood { object: None, doubt: None };
        if stored.deleted {
            return Ok(NOTHING);
        }
        let cidr = match parse_cidr(&stored.cidr)? {
            IpNet::V4(cidr) => cidr,
            IpNet::V6(_) => return Ok(NOTHING),
        };
        let host = host(stored)?;
        let mut doubts = Doubts::default();
        let borrowed = borrowed(stored, cidr, host.as_deref(), &mut doubts);
        Ok(Understood { object: Some(Self { cidr, host, borrowed }), doubt: doubts.problem() })
    }
}

/// A prefix without host bits.
pub(super) fn parse_cidr(text: &str) -> Result<IpNet, Malformed> {
    let net = parse_prefix(text).map_err(|why| Malformed::new(format!("cidr `{text}` {why}")))?;
    if net.addr() == net.network() {
        Ok(net)
    } else {
        Err(Malformed::new(format!("cidr `{text}` has bits set behind its prefix length")))
    }
}

/// Reads a block as keys of etcd name it: `10.65.1.0-26`.
pub fn cidr_of_key(name: &str) -> Option<Ipv4Net> {
    let (network, length) = name.rsplit_once('-')?;
    match parse_prefix(&format!("{network}/{length}")) {
        Ok(IpNet::V4(cidr)) => Some(cidr),
        _ => None,
    }
}

fn host(stored: &Stored) -> Result<Option<String>, Malformed> {
    let host = match (&stored.affinity, &stored.host_affinity) {
        (Some(affinity), _) => match affinity.split_once(':') {
            Some(("host", host)) => host,
            // Held for load balancers and the like: no node carries it.
            Some(("virtual", _)) => return Ok(None),
            _ => {
                return Err(Malformed::new(format!(
                    "affinity `{affinity}` is neither `host:…` nor `virtual:…`"
                )));
            }
        },
        // The name before there was `affinity`.
        (None, Some(host)) => host,
        (None, None) => return Ok(None),
    };
    if host.is_empty() {
        return Err(Malformed::new("affinity names no node"));
    }
    Ok(Some(host.to_owned()))
}

/// `AllocationBlock.NonAffineAllocations`. As there, an entry that makes no sense takes no more
/// than its own address.
fn borrowed(
    stored: &Stored,
    cidr: Ipv4Net,
    host: Option<&str>,
    doubts: &mut Doubts,
) -> BTreeMap<Ipv4Addr, String> {
    let allocations = doubts.entries("allocations", &stored.allocations);
    let attributes = doubts.entries("attributes", &stored.attributes);
    let size = 1_u64 << (32 - cidr.prefix_len());
    if allocations.len() as u64 > size {
        let count = allocations.len();
        doubts.add(format!("{count} allocations in {cidr}, of {size}: the last ones are skipped"));
    }
    let addresses = u32::from(cidr.network())..=u32::from(cidr.broadcast());
    let mut borrowed = BTreeMap::new();
    for (ordinal, (address, index)) in addresses.map(Ipv4Addr::from).zip(allocations).enumerate() {
        match borrower(index, attributes) {
            Ok(Some(node)) if Some(node) != host => {
                borrowed.insert(address, node.to_owned());
            }
            Ok(_) => {}
            Err(why) => doubts.add(format!("allocation {ordinal} {why}: {address} is skipped")),
        }
    }
    borrowed
}

/// Returns the node that has an address in use, by the address's entry in `allocations`.
fn borrower<'v>(index: &Value, attributes: &'v [Value]) -> Result<Option<&'v str>, String> {
    if index.is_null() {
        return Ok(None);
    }
    let number = index.as_u64().and_then(|number| usize::try_from(number).ok());
    let number = number.ok_or_else(|| format!("is `{index}` and not a number"))?;
    let count = attributes.len();
    let fields = match attributes.get(number) {
        None => return Err(format!("refers to attribute {number}, of {count}")),
        Some(Value::Object(fields)) => fields,
        Some(Value::Null) => return Ok(None),
        Some(_) => return Err(format!("refers to attribute {number}, which is not an object")),
    };
    // Given back, and only kept from being used again too soon.
    if fields.get("releasedAt").is_some_and(|at| !at.is_null()) {
        return Ok(None);
    }
    match fields.get("secondary") {
        // Not only text, in blocks of others than Calico's CNI plugin.
        Some(Value::Object(secondary)) => {
            let node = secondary.get("node").and_then(Value::as_str);
            Ok(node.filter(|node| !node.is_empty()))
        }
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err(format!("refers to attribute {number}, whose secondary is not an object")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn understand(value: &Value) -> Result<Understood<Option<Block>>, Malformed> {
        let from_json = Block::from_json(value.to_string().as_bytes());
        // The one knows where in the text, too.
        let same = |error: Malformed| error.to_string().split(" at line").next().map(str::to_owned);
        assert_eq!(
            from_json.clone().map_err(same),
            Block::from_value(value.clone()).map_err(|error| Some(error.to_string()))
        );
        from_json
    }

    fn parse(value: &Value) -> Result<Option<Block>, Malformed> {
        understand(value).map(|understood| understood.object)
    }

    /// As in Calico's own documentation of the format.
    fn stored() -> Value {
        json!({
            "cidr": "10.65.1.0/26", "affinity": "host:node-b",
            "allocations": [0, null, 1, 2], "unallocated": [1, 4, 5],
            "attributes": [
                {"handle_id": "ipip-tunnel-addr-node-b",
                 "secondary": {"node": "node-b", "type": "ipipTunnelAddress"}},
                {"handle_id": "k8s-pod-network.abc",
                 "secondary": {"namespace": "default", "node": "node-a", "pod": "web-1"}},
                {"handle_id": "k8s-pod-network.def", "releasedAt": "2026-11-01T00:00:00Z",
                 "secondary": {"node": "node-c"}},
            ],
            "sequenceNumber": 17, "sequenceNumberForAllocation": {"0": 3, "2": 17},
            "affinity_claim_time": "2026-11-01T00:00:00Z", "deleted": false, "strictAffinity": false,
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut stored = stored();
        stored[key] = value;
        stored
    }

    #[test]
    fn a_block_belongs_to_a_node_and_lends_an_address() {
        let block = parse(&stored()).unwrap().unwrap();
        assert_eq!(block.cidr, "10.65.1.0/26".parse().unwrap());
        assert_eq!(block.host.as_deref(), Some("node-b"));
        let lent = [(Ipv4Addr::new(10, 65, 1, 2), "node-a".to_owned())];
        assert_eq!(block.borrowed, BTreeMap::from(lent), "what was given back is not lent");
    }

    #[test]
    fn a_block_of_nobody_lends_every_address_in_use() {
        let lent = [(0, "node-b"), (2, "node-a")];
        let lent = lent.map(|(n, node)| (Ipv4Addr::new(10, 65, 1, n), node.to_owned()));
        for nobody in [json!(null), json!("virtual:load-balancer"), json!("virtual:node-b")] {
            let block = parse(&with("affinity", nobody)).unwrap().unwrap();
            assert_eq!((block.host, block.borrowed), (None, BTreeMap::from(lent.clone())));
        }
    }

    #[test]
    fn the_old_name_of_the_affinity_counts_unless_there_is_the_new_one() {
        let mut old = with("hostAffinity", json!("node-old"));
        assert_eq!(parse(&old).unwrap().unwrap().host.as_deref(), Some("node-b"));
        old["affinity"] = Value::Null;
        assert_eq!(parse(&old).unwrap().unwrap().host.as_deref(), Some("node-old"));
    }

    #[test]
    fn there_is_nothing_for_us_in_deleted_and_ipv6_blocks() {
        for nothing in [
            with("deleted", json!(true)),
            with("deleted", json!("true")),
            with("cidr", json!("fd00:65::/122")),
        ] {
            assert_eq!(parse(&nothing), Ok(None), "{nothing}");
        }
        assert!(parse(&with("deleted", json!("false"))).unwrap().is_some());
        assert!(parse(&with("deleted", json!(null))).unwrap().is_some());
    }

    #[test]
    fn empty_lists_may_be_null_and_attributes_may_say_little() {
        let mut bare = json!({"cidr": "10.65.1.0/26", "affinity": "host:b", "allocations": null});
        assert!(parse(&bare).unwrap().unwrap().borrowed.is_empty());
        bare["allocations"] = json!([0, 1, 2]);
        bare["attributes"] =
            json!([{"secondary": null}, {"handle_id": null}, {"secondary": {"node": 7}}]);
        assert!(parse(&bare).unwrap().unwrap().borrowed.is_empty());
    }

    #[test]
    fn the_last_address_of_all_can_be_lent() {
        let value = json!({
            "cidr": "255.255.255.255/32", "affinity": "host:b",
            "allocations": [0], "attributes": [{"secondary": {"node": "a"}}],
        });
        let block = parse(&value).unwrap().unwrap();
        assert_eq!(block.borrowed, BTreeMap::from([(Ipv4Addr::BROADCAST, "a".to_owned())]));
    }

    /// Address 2 is lent to node-a by allocation 2, attribute 1.
    #[test]
    fn a_wrong_entry_takes_no_more_than_its_own_address() {
        let mut sixty_five = stored()["allocations"].as_array().unwrap().clone();
        sixty_five.resize(65, json!(1));
        let attributes = |first: Value| {
            let mut attributes = stored()["attributes"].clone();
            attributes[0] = first;
            with("attributes", attributes)
        };
        for (value, lends, said) in [
            (
                with("allocations", json!([9, null, 1])),
                true,
                "allocation 0 refers to attribute 9, of 3: 10.65.1.0 is skipped",
            ),
            (
                with("allocations", json!(["0", 9, 1, -1, 0.5])),
                true,
                "allocation 0 is `\"0\"` and not a number: 10.65.1.0 is skipped (and 3 more",
            ),
            (with("allocations", json!([-1, null, 1])), true, "allocation 0 is `-1` and"),
            (with("allocations", json!([{}, [], 1])), true, "allocation 0 is `{}` and"),
            (with("allocations", json!("none")), false, "allocations is `\"none\"` and not a list"),
            (
                with("allocations", Value::Array(sixty_five)),
                true,
                "65 allocations in 10.65.1.0/26, of 64",
            ),
            (attributes(json!("x")), true, "allocation 0 refers to attribute 0, which is not"),
            (attributes(json!([])), true, "allocation 0 refers to attribute 0, which is not"),
            (
                attributes(json!({"secondary": "x"})),
                true,
                "allocation 0 refers to attribute 0, whose secondary is not an object",
            ),
            (with("attributes", json!("none")), false, "attributes is `\"none\"` and not a list"),
            (attributes(json!(null)), true, ""),
            (with("unallocated", json!("x")), true, ""),
        ] {
            let Understood { object, doubt } = understand(&value).unwrap();
            let block = object.unwrap();
            assert_eq!(
                (block.cidr.to_string(), block.host.as_deref()),
                ("10.65.1.0/26".into(), Some("node-b"))
            );
            let lent = Ipv4Addr::new(10, 65, 1, 2);
            assert_eq!(block.borrowed.contains_key(&lent), lends, "{value}");
            assert!(block.borrowed.keys().all(|address| block.cidr.contains(address)));
            let doubt = doubt.map(|doubt| doubt.to_string()).unwrap_or_default();
            assert!(doubt.starts_with(said) && doubt.is_empty() == said.is_empty(), "{doubt}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (value, said) in [
            (with("cidr", json!("10.65.1.0")), "cidr `10.65.1.0` is no prefix"),
            (with("cidr", json!("10.65.1.9/26")), "bits set behind"),
            (with("cidr", json!("010.065.1.0/26")), "has leading zeros; write 10.65.1.0/26"),
            (with("cidr", json!(null)), "is no allocation block"),
            (with("affinity", json!("node-b")), "affinity `node-b` is neither"),
            (with("affinity", json!("host:")), "names no node"),
            (json!([]), "is no allocation block"),
        ] {
            let error = parse(&value).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains('\n'), "no {said} in {error}");
        }
        for garbage in ["{\"cidr\":", "\u{0}\u{1}", "null"] {
            let error = Block::from_json(garbage.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("is no allocation block: "), "{error}");
        }
        assert_eq!(
            Block::from_json(b" ").unwrap_err().to_string(),
            "is empty instead of allocation block"
        );
    }
}
