//! Field by field: what libcalico makes of a value, and what we do. `lib` names the file below
//! `libcalico-go/lib` that decides; Felix's own are below `felix/calc`.
//!
//! A row is *same* where the routes are those of Felix. It *differs* where we leave a value out on
//! purpose: what Felix would make of it is unsafe, or Felix itself would crash.

use serde_json::{Value, json};

use super::{Affinity, Block, CalicoNode, Pool};

/// What becomes of a row, against libcalico.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Against {
    Same,
    /// With the reason.
    Differs(&'static str),
}
use Against::{Differs, Same};

/// A field, the file that decides, its rule there, a value, what comes of it here.
type Row = (&'static str, &'static str, &'static str, Value, &'static str, Against);

fn block() -> Value {
    json!({
        "cidr": "10.65.1.0/30", "affinity": "host:b", "allocations": [0, null, 1],
        "attributes": [
            {"handle_id": "h", "secondary": {"node": "b"}},
            {"handle_id": "h", "secondary": {"node": "a"}},
        ],
    })
}

fn node() -> Value {
    json!({
        "bgp": {"ipv4Address": "172.17.0.6/16", "ipv4IPIPTunnelAddr": "10.65.1.0"},
        "addresses": [{"address": "172.31.0.6", "type": "InternalIP"}],
    })
}

fn with(mut object: Value, pointer: &str, value: &Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { &mut object } else { object.pointer_mut(parent).unwrap() };
    match parent {
        Value::Array(entries) => entries[field.parse::<usize>().unwrap()] = value.clone(),
        parent => parent[field] = value.clone(),
    }
    object
}

/// `b 10.65.1.2=a`: the host, and who borrowed; `?` in front: something in it does not count.
fn read_block(value: Value) -> String {
    match Block::from_value(value) {
        Err(_) => "refused".into(),
        Ok(understood) => match understood.object {
            None => "nothing".into(),
            Some(block) => {
                let doubt = if understood.doubt.is_some() { "? " } else { "" };
                let host = block.host.unwrap_or_else(|| "-".into());
                let lent = block.borrowed.iter().map(|(ip, node)| format!(" {ip}={node}"));
                format!("{doubt}{host}{}", lent.collect::<String>())
            }
        },
    }
}

/// Address, subnet and tunnel address.
fn read_node(spec: &Value) -> String {
    let Ok(understood) = CalicoNode::from_value(json!({"spec": spec})) else {
        return "refused".into();
    };
    let text = |it: Option<String>| it.unwrap_or_else(|| "-".into());
    let CalicoNode { address, subnet, tunnel } = understood.object;
    let doubt = if understood.doubt.is_some() { "? " } else { "" };
    let (address, subnet) = (address.map(|it| it.to_string()), subnet.map(|it| it.to_string()));
    let tunnel = tunnel.map(|it| it.to_string());
    format!("{doubt}{} {} {}", text(address), text(subnet), text(tunnel))
}

fn check(rows: Vec<Row>, base: fn() -> Value, read: impl Fn(Value) -> String) {
    for (field, file, rule, value, expected, against) in rows {
        let found = read(with(base(), field, &value));
        assert_eq!(found, expected, "{field} = {value}: {file}: {rule} ({against:?})");
        if let Differs(why) = against {
            assert!(!why.is_empty());
        }
    }
}

#[test]
fn blocks() {
    const MODEL: &str = "backend/model/block.go";
    const RESOLVER: &str = "l3_route_resolver.go";
    const CRASH: &str = "Felix crashes on it: an index out of range";
    let attribute = "/attributes/1";
    check(
        vec![
            ("/cidr", MODEL, "ParseCIDR", json!("10.65.1.0/30"), "b 10.65.1.2=a", Same),
            ("/cidr", MODEL, "IPv6 is of the other trie", json!("fd00::/126"), "nothing", Same),
            (
                "/cidr",
                MODEL,
                "ParseCIDR masks host bits",
                json!("10.65.1.1/30"),
                "refused",
                Differs("Calico never writes it; whose addresses were meant is not known"),
            ),
            ("/affinity", MODEL, "host:… is the host", json!("host:a"), "a 10.65.1.0=b", Same),
            (
                "/affinity",
                MODEL,
                "none has no host",
                json!(null),
                "- 10.65.1.0=b 10.65.1.2=a",
                Same,
            ),
            (
                "/affinity",
                MODEL,
                "another kind has no host",
                json!("virtual:lb"),
                "- 10.65.1.0=b 10.65.1.2=a",
                Same,
            ),
            (
                "/affinity",
                MODEL,
                "anything else has no host",
                json!("b"),
                "refused",
                Differs("a kind we do not know may be a host's; the last valid one stays"),
            ),
            (
                "/hostAffinity",
                MODEL,
                "deprecated: affinity counts",
                json!("c"),
                "b 10.65.1.2=a",
                Same,
            ),
            ("/allocations", MODEL, "null is empty", json!(null), "b", Same),
            ("/allocations/2", MODEL, "null is free", json!(null), "b", Same),
            ("/allocations/2", MODEL, "too large: skipped", json!(7), "? b", Same),
            ("/allocations/2", MODEL, "negative", json!(-1), "? b", Differs(CRASH)),
            ("/attributes", MODEL, "null is empty", json!(null), "? b", Same),
            (attribute, MODEL, "null has no node", json!(null), "b", Same),
            (attribute, MODEL, "no secondary, no node", json!({"handle_id": null}), "b", Same),
            (
                attribute,
                RESOLVER,
                "an empty node makes no route",
                json!({"secondary": {"node": ""}}),
                "b",
                Same,
            ),
            (
                attribute,
                MODEL,
                "the host's own is no loan",
                json!({"secondary": {"node": "b"}}),
                "b",
                Same,
            ),
            ("/deleted", MODEL, "marked, then removed", json!(true), "nothing", Same),
            ("/deleted", MODEL, "text in old CRDs", json!("true"), "nothing", Same),
            ("/sequenceNumber", MODEL, "not for routes", json!("x"), "b 10.65.1.2=a", Same),
            ("/unallocated", MODEL, "not for routes", json!(3), "b 10.65.1.2=a", Same),
        ],
        block,
        read_block,
    );
}

#[test]
fn nodes() {
    const RESOLVER: &str = "l3_route_resolver.go";
    const ADDRESS: &str = "resources/node.go";
    const TUNNEL: &str = "syncersv1/updateprocessors/felixnodeprocessor.go";
    let bgp = "/bgp/ipv4Address";
    check(
        vec![
            (
                bgp,
                RESOLVER,
                "ParseCIDROrIP",
                json!("172.17.0.6/16"),
                "172.17.0.6 172.17.0.0/16 10.65.1.0",
                Same,
            ),
            (
                bgp,
                RESOLVER,
                "without a length a /32",
                json!("172.17.0.6"),
                "172.17.0.6 172.17.0.6/32 10.65.1.0",
                Same,
            ),
            (bgp, RESOLVER, "else InternalIP", json!(""), "172.31.0.6 - 10.65.1.0", Same),
            (
                bgp,
                RESOLVER,
                "validated before",
                json!("x"),
                "? 172.31.0.6 - 10.65.1.0",
                Differs("Felix crashes on it; the next address is used, and named"),
            ),
            (
                "/bgp",
                RESOLVER,
                "with an IPv6 address alone no IPv4 address",
                json!({"ipv6Address": "fd00::6/64"}),
                "172.31.0.6 - -",
                Differs("the InternalIP is its address all the same"),
            ),
            (
                "/addresses/0",
                ADDRESS,
                "CalicoNodeIP does not count",
                json!({"address": "172.31.0.7", "type": "CalicoNodeIP"}),
                "172.17.0.6 172.17.0.0/16 10.65.1.0",
                Same,
            ),
            (
                "/bgp/ipv4IPIPTunnelAddr",
                TUNNEL,
                "ParseIP",
                json!("10.65.1.9"),
                "172.17.0.6 172.17.0.0/16 10.65.1.9",
                Same,
            ),
            (
                "/bgp/ipv4IPIPTunnelAddr",
                TUNNEL,
                "empty is none",
                json!(""),
                "172.17.0.6 172.17.0.0/16 -",
                Same,
            ),
            (
                "/bgp/ipv4IPIPTunnelAddr",
                TUNNEL,
                "what is no IP is as good as deleted",
                json!("10.65.1.0/26"),
                "? 172.17.0.6 172.17.0.0/16 -",
                Same,
            ),
        ],
        node,
        |spec| read_node(&spec),
    );
    let bare = || json!({"addresses": [{"address": "172.31.0.6/24", "type": "InternalIP"}]});
    check(
        vec![
            (
                "/addresses/0/type",
                ADDRESS,
                "ExternalIP is the last",
                json!("ExternalIP"),
                "172.31.0.6 - -",
                Differs("its length is no subnet: where it is known the host's own counts"),
            ),
            ("/addresses/0/type", ADDRESS, "others are not read", json!("Hostname"), "- - -", Same),
            ("/addresses/0/address", ADDRESS, "IPv6 is skipped", json!("fd00::6"), "- - -", Same),
            ("/addresses/0/address", ADDRESS, "no IP is skipped", json!("x"), "? - - -", Same),
        ],
        bare,
        |spec| read_node(&spec),
    );
}

#[test]
fn pools_and_affinities() {
    const POOL: &str = "syncersv1/updateprocessors/ippoolprocessor.go";
    const AFFINITY: &str = "backend/k8s/resources/ipam_affinity_v1.go";
    let pool = || json!({"cidr": "10.65.0.0/16", "ipipMode": "Always"});
    let read = |spec| match Pool::from_value(json!({"spec": spec})) {
        Err(_) => "refused".to_owned(),
        Ok(None) => "nothing".into(),
        Ok(Some(pool)) => format!("{} {:?}", pool.cidr, pool.encap),
    };
    let unknown =
        Differs("Felix would send unencapsulated; a mode we do not know is named instead");
    check(
        vec![
            ("/cidr", POOL, "ParseCIDR", json!("10.65.0.0/16"), "10.65.0.0/16 Some(Ipip)", Same),
            ("/cidr", POOL, "ParseCIDR", json!("x"), "refused", Same),
            ("/ipipMode", POOL, "Always", json!("Always"), "10.65.0.0/16 Some(Ipip)", Same),
            (
                "/ipipMode",
                POOL,
                "CrossSubnet",
                json!("CrossSubnet"),
                "10.65.0.0/16 Some(CrossSubnet)",
                Same,
            ),
            ("/ipipMode", POOL, "Never", json!("Never"), "10.65.0.0/16 Some(Direct)", Same),
            ("/ipipMode", POOL, "empty", json!(""), "10.65.0.0/16 Some(Direct)", Same),
            ("/ipipMode", POOL, "unknown is undefined", json!("Twice"), "refused", unknown),
            ("/vxlanMode", POOL, "VXLAN wins", json!("Always"), "10.65.0.0/16 None", Same),
            ("/vxlanMode", POOL, "VXLAN wins", json!("CrossSubnet"), "10.65.0.0/16 None", Same),
            ("/disabled", POOL, "pods live on", json!(true), "10.65.0.0/16 Some(Ipip)", Same),
        ],
        pool,
        read,
    );
    let affinity =
        || json!({"cidr": "10.65.1.0/26", "node": "b", "state": "confirmed", "deleted": "false"});
    let read = |spec| match Affinity::from_spec(spec) {
        Err(_) => "refused".to_owned(),
        Ok(None) => "nothing".into(),
        Ok(Some(affinity)) => format!("{} {}", affinity.cidr, affinity.host),
    };
    let claim = "10.65.1.0/26 b";
    check(
        vec![
            ("/state", AFFINITY, "confirmed", json!("confirmed"), claim, Same),
            ("/state", AFFINITY, "pending", json!("pending"), "nothing", Same),
            ("/state", AFFINITY, "pendingDeletion", json!("pendingDeletion"), "nothing", Same),
            ("/deleted", AFFINITY, "text", json!("true"), "nothing", Same),
            ("/deleted", AFFINITY, "or bool", json!(true), "nothing", Same),
            ("/type", AFFINITY, "host", json!("host"), claim, Same),
            ("/type", AFFINITY, "virtual", json!("virtual"), "nothing", Same),
            ("/cidr", AFFINITY, "IPv6", json!("fd00::/122"), "nothing", Same),
        ],
        affinity,
        read,
    );
}
