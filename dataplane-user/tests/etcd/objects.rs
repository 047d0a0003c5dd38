//! What is in etcd, and what becomes of it.

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_user::sources::{NodeRecord, OwnNode};
use serde_json::json;
use tunless_lab::{
    Etcd,
    calico::{affinity, block, node, pool},
};

use crate::listener::{Listener, ME, plain};

/// The tunnel address of every node.
pub const TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);

#[test]
fn what_etcd_has_about_this_node_is_followed() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    let mut listener = Listener::new(plain(etcd.endpoints()));
    let own = |address: [u8; 4], tunnel_address| {
        let record = NodeRecord { address: Some(address.into()), tunnel_address };
        Some(OwnNode { object: format!("nodes/{ME}"), record: Some(record) })
    };
    let first = own([172, 16, 36, 10], Some(TUNNEL));
    listener.until("the own node", |it| it.own == first);
    let stored = node(ME, "172.16.36.12/24", TUNNEL);
    etcd.store(&stored).unwrap();
    let moved = own([172, 16, 36, 12], Some(TUNNEL));
    listener.until("another address", |it| it.own == moved);
    etcd.store(&stored.clone().with("/spec/bgp/ipv4IPIPTunnelAddr", json!(null))).unwrap();
    let bare = own([172, 16, 36, 12], None);
    listener.until("no tunnel address", |it| it.own == bare);
    // What is not understood leaves what is valid.
    etcd.put(&stored.key, "{").unwrap();
    listener.until_problem(&stored.key, "stays active");
    assert_eq!(listener.own, bare);
    etcd.delete(&stored.key).unwrap();
    let none = Some(OwnNode { object: format!("nodes/{ME}"), record: None });
    listener.until("no node", |it| it.own == none);
}

/// Of all endpoints, also those that are not connected to, and before any route.
#[test]
fn the_addresses_of_all_endpoints_are_reported() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    let others = ["localhost", "192.0.2.7", "none.invalid"].map(|it| format!("http://{it}:1"));
    let mut listener = Listener::new(plain([etcd.endpoints(), others.to_vec()].concat()));
    listener.until("the servers", |it| !it.servers.is_empty());
    let found = |host: &str| listener.servers[host].clone().map(Vec::from_iter);
    assert_eq!(found("localhost"), Some(vec![Ipv4Addr::LOCALHOST]));
    assert_eq!(found("192.0.2.7"), Some(vec![Ipv4Addr::new(192, 0, 2, 7)]));
    assert_eq!(found("none.invalid"), None);
}

/// Of all members, also where the file has another address for them: that may be a load balancer's.
#[test]
fn the_addresses_of_all_members_are_reported() {
    let etcd = Etcd::new().option("--advertise-client-urls=http://192.0.2.7:2379").start().unwrap();
    cluster(&etcd, "Always");
    let mut listener = Listener::new(plain(etcd.endpoints()));
    listener.until("the members", |it| !it.backends.is_empty());
    let member = BTreeSet::from([Ipv4Addr::new(192, 0, 2, 7)]);
    assert_eq!(listener.backends, [("192.0.2.7".to_owned(), Some(member))].into());
    assert!(!listener.servers.contains_key("192.0.2.7"), "{:?}", listener.servers);
    listener.until("the claims", |it| it.own.is_some());
}

/// Three nodes, two of them in one subnet, and a pool.
pub fn cluster(etcd: &Etcd, ipip: &str) {
    etcd.store(&pool("default-ipv4-ippool", "10.20.0.0/16", ipip)).unwrap();
    etcd.store(&node(ME, "172.16.36.10/24", TUNNEL)).unwrap();
    etcd.store(&node("near", "172.16.36.11/24", TUNNEL)).unwrap();
    etcd.store(&node("far", "172.16.35.4/24", TUNNEL)).unwrap();
}

#[test]
fn a_first_list_then_every_change() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    etcd.store(&block("10.20.105.192/26", ME, &[])).unwrap();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    let (far, me) = ("10.20.42.0/26 172.16.35.4 ipip", "10.20.105.192/26 172.16.36.10 ipip");
    listener.until_claims(&[far, me]);

    // A new block, and one that lends addresses.
    etcd.store(&block("10.20.43.0/26", "near", &[(3, "far"), (4, ME)])).unwrap();
    let [near, lent, own] =
        ["10.20.43.0/26 172.16.36.11", "10.20.43.3/32 172.16.35.4", "10.20.43.4/32 172.16.36.10"]
            .map(|it| format!("{it} ipip"));
    listener.until_claims(&[far, &near, &lent, &own, me]);
    // One is given back, the block moves: one step.
    let steps = listener.steps;
    etcd.store(&block("10.20.43.0/26", "far", &[(4, ME)])).unwrap();
    let moved = "10.20.43.0/26 172.16.35.4 ipip";
    listener.until_claims(&[far, moved, &own, me]);
    assert_eq!(listener.steps, steps + 1);

    // A node gets another address.
    etcd.store(&node("far", "172.16.34.7/24", TUNNEL)).unwrap();
    let far = "10.20.42.0/26 172.16.34.7 ipip";
    listener.until_claims(&[far, "10.20.43.0/26 172.16.34.7 ipip", &own, me]);
    let called = |it: &Listener, address: [u8; 4]| it.names.get(&address.into()).cloned();
    assert_eq!(called(&listener, [172, 16, 34, 7]).as_deref(), Some("far"));
    assert_eq!(called(&listener, [172, 16, 35, 4]), None, "its address before");
    assert_eq!(called(&listener, [172, 16, 36, 11]).as_deref(), Some("near"));

    // Marked as deleted, then deleted.
    let marked = block("10.20.43.0/26", "far", &[(4, ME)]).with("/deleted", json!(true));
    etcd.store(&marked).unwrap();
    listener.until_claims(&[far, me]);
    etcd.delete(&marked.key).unwrap();
    etcd.delete(&block("10.20.42.0/26", "far", &[]).key).unwrap();
    listener.until_claims(&[me]);
    assert_eq!((listener.snapshots, listener.problems()), (1, vec![]));
}

#[test]
fn pools_say_how_packets_travel() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "CrossSubnet");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    let mut ways = |far: &str, near: &str| {
        let far = format!("10.20.42.0/26 172.16.35.4 {far}");
        listener.until_claims(&[far.trim(), format!("10.20.43.0/26 172.16.36.11 {near}").trim()]);
    };
    ways("ipip", "direct");
    cluster(&etcd, "Never");
    ways("direct", "direct");
    // No new pods, but those there are go on.
    let disabled = pool("default-ipv4-ippool", "10.20.0.0/16", "Always");
    etcd.store(&disabled.clone().with("/spec/disabled", json!(true))).unwrap();
    ways("ipip", "ipip");
    etcd.delete(&disabled.key).unwrap();
    ways("", "");
    let vxlan = disabled.with("/spec/vxlanMode", json!("Always"));
    etcd.store(&vxlan).unwrap();
    listener.until_claims(&[]);
    listener.until_problem(&vxlan.key, "travels by VXLAN");
    cluster(&etcd, "CrossSubnet");
    listener.until("the pool is well", |it| it.problems().is_empty());
    listener.until_claims(&["10.20.42.0/26 172.16.35.4 ipip", "10.20.43.0/26 172.16.36.11 direct"]);
}

#[test]
fn what_contradicts_or_lacks_something_is_named() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    etcd.store(&block("10.20.43.0/26", "unknown", &[])).unwrap();
    etcd.store(&affinity("10.20.42.0/26", "far")).unwrap();
    let lie = affinity("10.20.42.0/26", "near");
    etcd.store(&lie).unwrap();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    let far = "10.20.42.0/26 172.16.35.4 ipip";
    listener.until_claims(&[far]);
    let said = "gives 10.20.42.0/26 to near, the block itself to far";
    assert!(listener.problem(&lie.key).unwrap().contains(said));
    assert!(listener.problem("nodes/unknown").unwrap().contains("has no Node"));
    assert_eq!(listener.problems().len(), 2);
    etcd.store(&lie.with("/state", json!("pendingDeletion"))).unwrap();
    etcd.store(&node("unknown", "172.16.34.7/24", TUNNEL)).unwrap();
    listener.until_claims(&[far, "10.20.43.0/26 172.16.34.7 ipip"]);
    listener.until("all is well", |it| it.problems().is_empty());
    // Addresses of nobody, and those of load balancers.
    let virtual_ = block("10.20.42.0/26", "far", &[(9, "near")]);
    etcd.store(&virtual_.clone().with("/affinity", json!("virtual:load-balancer"))).unwrap();
    let own = "10.20.42.0/32 172.16.35.4 ipip";
    let lent = "10.20.42.9/32 172.16.36.11 ipip";
    listener.until_claims(&[own, lent, "10.20.43.0/26 172.16.34.7 ipip"]);
}

#[test]
fn a_value_that_cannot_be_understood_takes_no_route_away() {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    let good = block("10.20.42.0/26", "far", &[]);
    let bad = block("10.20.43.0/26", "far", &[]);
    let [v6, deeper] = [
        format!("{}fd00::-122", bad.key.trim_end_matches("10.20.43.0-26")),
        format!("{}/more", node("far", "1.1.1.1/24", TUNNEL).key),
    ];
    etcd.store(&good).unwrap();
    etcd.put(&bad.key, "{\"cidr\":").unwrap();
    etcd.put(&v6, r#"{"cidr":"fd00::/122","affinity":"host:far"}"#).unwrap();
    etcd.put(&deeper, "x").unwrap();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    let far = "10.20.42.0/26 172.16.35.4 ipip";
    listener.until_claims(&[far]);
    let mut keys = vec![bad.key.as_str(), deeper.as_str()];
    keys.sort_unstable();
    assert_eq!(listener.problems(), keys, "IPv6 is no problem");
    assert!(listener.problem(&bad.key).unwrap().ends_with("; skipped"));

    // What was good turns bad, each in its own way.
    let (far_node, pool) = (node("far", "x", TUNNEL).key, pool("default-ipv4-ippool", "", "").key);
    for (key, garbage, said) in [
        (&good.key, "", "is empty"),
        (&good.key, "\u{1}\u{2}", "is no allocation block"),
        (&good.key, r#"{"cidr":"10.20.42.0/26","affinity":"rack:7"}"#, "affinity `rack:7`"),
        (&good.key, r#"{"cidr":"10.20.44.0/26","affinity":"host:far"}"#, "10.20.44.0/26, which"),
        (&far_node, "[]", "is no Node"),
        (&far_node, r#"{"apiVersion":"projectcalico.org/v9","spec":{}}"#, "v9`, which is unknown"),
        (&pool, r#"{"spec":{"cidr":"10.20.0.0/16","ipipMode":"Sometimes"}}"#, "`Sometimes`"),
    ] {
        etcd.put(key, garbage).unwrap();
        listener.until_problem(key, said);
        listener.until_problem(key, "stays active");
        assert_eq!(listener.claims(), [far]);
    }
    // A wrong entry takes no more than its own address.
    let dangling = r#"{"cidr":"10.20.42.0/26","affinity":"host:far","allocations":[7]}"#;
    etcd.put(&good.key, dangling).unwrap();
    listener.until_problem(&good.key, "attribute 7, of 0: 10.20.42.0 is skipped");
    assert_eq!(listener.claims(), [far]);
    // Good again.
    etcd.store(&bad).unwrap();
    etcd.store(&good).unwrap();
    cluster(&etcd, "Always");
    etcd.delete(&deeper).unwrap();
    listener.until("all is well", |it| it.problems().is_empty());
    listener.until_claims(&[far, "10.20.43.0/26 172.16.35.4 ipip"]);
    // Deleted while it is bad.
    etcd.put(&bad.key, "{").unwrap();
    listener.until_problem(&bad.key, "stays active");
    etcd.delete(&bad.key).unwrap();
    listener.until("all is well", |it| it.problems().is_empty());
    listener.until_claims(&[far]);
    assert_eq!(listener.snapshots, 1);
}
