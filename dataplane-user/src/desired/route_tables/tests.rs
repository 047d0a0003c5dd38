use dataplane_common::{Endpoint, IfIndex, Mac};

use super::*;
use crate::{
    config::Config,
    desired::{Facts, Paths, ipsec::Policies},
    kernel::{Host, Link, Path, TunnelDevice},
};

const ETH0: IfIndex = IfIndex(2);
const TUNNEL: IfIndex = IfIndex(4);
const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
const FAR: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
/// In our own subnet.
const NEAR: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 11);
const LOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);
const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);
const BLOCK: &str = "10.20.42.0/26";
const POD: &str = "10.20.105.215/32";
const EXTRA: &str = "192.0.2.1/32";

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

/// A host with one NIC and nothing else.
fn facts(mode: TunnelMode) -> Facts {
    Facts {
        node: OURS,
        underlay: [ETH0].into(),
        receiving: [ETH0].into(),
        mode,
        tunnel: TunnelDevice { mtu: Mtu(1480), address: None, is_loose: false },
        pods: BTreeMap::new(),
        tunl0_routes: BTreeMap::new(),
        servers: BTreeSet::new(),
        ipsec: Policies::default(),
    }
}

/// A route's fate, in words: its entry, the kernel's route, what is wrong.
fn fate(tables: &RouteTables, cidr: &str) -> String {
    let cidr = net(cidr);
    let entry = tables.routes.get(&cidr).map_or("none", |route| match route.flags {
        0 => "ipip",
        Route::DIRECT => "direct",
        Route::LOCAL => "local",
        Route::SOURCE_ONLY => "source only",
        _ => "?",
    });
    let kernel = tables.kernel_routes.get(&cidr).map_or("none".to_owned(), |route| {
        let mtu = route.mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
        format!("dev {}{mtu}", route.ifindex)
    });
    let left = if tables.left_to_tunl0.contains_key(&cidr) { ", left to tunl0" } else { "" };
    let lost = if tables.out_of_reach().is_empty() { "" } else { ", unreachable" };
    format!("{entry}, {kernel}{left}{lost}")
}

/// Each route's fate alone, made whole and made by an update of empty tables: they agree.
#[test]
fn a_routes_fate() {
    const REPLACE: TunnelMode = TunnelMode::Replace;
    const ACCELERATE: TunnelMode = TunnelMode::Accelerate;
    let config: Config = serde_yaml::from_str(&format!(
        "routes: {{nodes: [{{node: {FAR}, extra_sources: [{EXTRA}]}}]}}"
    ))
    .unwrap();
    let link = |name: &str, mtu| Link {
        name: name.into(),
        alias: None,
        mac: Mac([1, 1, 1]),
        mtu,
        is_up: true,
        does_arp: true,
        ..Link::default()
    };
    let links = [(ETH0, link("eth0", Mtu(1500))), (TUNNEL, link("tunless0", Mtu(1480)))];
    let host = Host { links: links.into(), ..Host::default() };
    let path =
        |next_hop, mtu| Path { ifindex: ETH0, next_hop, source: Some(OURS), mtu, is_learnt: false };
    let paths = [(FAR, path(ROUTER, Some(Mtu(1400)))), (NEAR, path(NEAR, None))].into();
    for (mode, cidr, to, by_tunl0, expected) in [
        (REPLACE, BLOCK, Some((FAR, false)), None, "ipip, dev 4 mtu 1380"),
        (REPLACE, BLOCK, Some((NEAR, false)), None, "ipip, dev 4"),
        (REPLACE, BLOCK, Some((NEAR, true)), None, "direct, dev 2"),
        // The fabric's own routes lead there.
        (REPLACE, BLOCK, Some((FAR, true)), None, "direct, none"),
        (REPLACE, BLOCK, Some((LOST, false)), None, "ipip, dev 4, unreachable"),
        (REPLACE, BLOCK, None, None, "none, none"),
        // Ours, whichever source claims it; and what the file grants, unless it is a route.
        (REPLACE, POD, Some((FAR, false)), None, "local, none"),
        (REPLACE, POD, None, None, "local, none"),
        (REPLACE, EXTRA, None, None, "source only, none"),
        (REPLACE, EXTRA, Some((NEAR, false)), None, "ipip, dev 4"),
        (ACCELERATE, BLOCK, Some((FAR, false)), None, "ipip, none"),
        (ACCELERATE, BLOCK, Some((FAR, false)), Some(FAR), "ipip, none"),
        (ACCELERATE, BLOCK, Some((FAR, false)), Some(NEAR), "none, none, left to tunl0"),
    ] {
        let tunl0_routes = by_tunl0.map(|node| (net(cidr), node)).into_iter().collect();
        let pods = [(net(POD).addr(), Endpoint::default())].into();
        let facts = Facts { pods, tunl0_routes, ..facts(mode) };
        let inputs =
            Inputs { config: &config, host: &host, paths: &paths, facts: &facts, tunnel: TUNNEL };
        let source = SourceKind::Etcd;
        let route = to.map(|(node, is_direct)| ChosenRoute { node, is_direct, source, since: 0 });
        let routes = route.map(|route| (net(cidr), route)).into_iter().collect();
        let whole = RouteTables::whole(inputs, &routes);
        assert_eq!(fate(&whole, cidr), expected, "{mode:?} {cidr} {to:?} {by_tunl0:?}");
        // It comes and goes again.
        let empty = RouteTables::whole(inputs, &ChosenRoutes::new());
        let mut tables = empty.clone();
        let (prefixes, nodes) = ([net(cidr)].into(), to.map(|to| to.0).into_iter().collect());
        let mut update = |routes: &ChosenRoutes| {
            let has = |node| routes.values().any(|route| route.node == node);
            tables.update(inputs, routes, &prefixes, &nodes, has);
            tables.clone()
        };
        assert_eq!([update(&routes), update(&ChosenRoutes::new())], [whole, empty]);
    }
}

/// Beside tunl0 the kernel's longer route names the node of an address that moved.
#[test]
fn a_longer_route_over_tunl0_counts() {
    let (config, host, paths) = (Config::default(), Host::default(), Paths::new());
    let longer = net("10.20.42.7/32");
    let route = |node| ChosenRoute { node, is_direct: false, source: SourceKind::File, since: 0 };
    let block = ChosenRoutes::from([(net(BLOCK), route(FAR))]);
    for (by_tunl0, routes, expected) in [
        (&[(BLOCK, FAR), ("10.20.42.7/32", NEAR)][..], &block, Some(NEAR)),
        // The same node anyway; not inside any route of ours; no such route.
        (&[(BLOCK, FAR), ("10.20.42.7/32", FAR)], &block, None),
        (&[("10.20.42.7/32", NEAR)], &ChosenRoutes::new(), None),
        (&[(BLOCK, FAR)], &block, None),
    ] {
        let tunl0_routes = by_tunl0.iter().map(|(cidr, node)| (net(cidr), *node)).collect();
        let facts = Facts { tunl0_routes, ..facts(TunnelMode::Accelerate) };
        let (config, host, paths, facts) = (&config, &host, &paths, &facts);
        let inputs = Inputs { config, host, paths, facts, tunnel: TUNNEL };
        let whole = RouteTables::whole(inputs, routes);
        let node = |tables: &RouteTables| tables.routes.get(&longer).map(|it| it.node.into());
        assert_eq!(node(&whole), expected, "{by_tunl0:?}");
        // By a step, and gone with the route around it.
        let mut tables = RouteTables::default();
        let prefixes = [net(BLOCK), longer].into();
        tables.update(inputs, routes, &prefixes, &BTreeSet::new(), |_| true);
        assert_eq!(node(&tables), expected, "{by_tunl0:?}");
        let none = ChosenRoutes::new();
        tables.update(inputs, &none, &prefixes, &BTreeSet::new(), |_| true);
        assert_eq!(node(&tables), None, "{by_tunl0:?}");
    }
}

/// A node that IPsec protects: nothing is sent to it nor taken from it, or tunl0 has it.
#[test]
fn a_node_that_ipsec_protects() {
    use crate::kernel::{Policy, PolicyDirection};
    let config: Config = serde_yaml::from_str(&format!(
        "routes: {{nodes: [{{node: {FAR}, extra_sources: [{EXTRA}]}}]}}"
    ))
    .unwrap();
    let eth0 = Link { name: "eth0".into(), mac: Mac([1, 1, 1]), mtu: Mtu(1500), ..Link::default() };
    let host = Host { links: [(ETH0, eth0)].into(), ..Host::default() };
    let path =
        Path { ifindex: ETH0, next_hop: ROUTER, source: Some(OURS), mtu: None, is_learnt: false };
    let paths = [(FAR, path), (NEAR, path)].into();
    let policy = Policy {
        source: OURS.into(),
        destination: FAR.into(),
        priority: 0,
        ..Policy::blocking_by_default(PolicyDirection::Out)
    };
    let other = "10.20.43.0/26";
    for (mode, expected) in [
        (TunnelMode::Replace, ["none, dev 4, unreachable", "ipip, dev 4, unreachable"]),
        (TunnelMode::Accelerate, ["none, none, left to tunl0", "ipip, none"]),
    ] {
        let ipsec = Policies::new(std::slice::from_ref(&policy), OURS);
        let facts = Facts { ipsec, ..facts(mode) };
        let (config, host, paths, facts) = (&config, &host, &paths, &facts);
        let inputs = Inputs { config, host, paths, facts, tunnel: TUNNEL };
        let route =
            |node, is_direct| ChosenRoute { node, is_direct, source: SourceKind::Etcd, since: 0 };
        let routes = [(net(BLOCK), route(FAR, false)), (net(other), route(NEAR, false))].into();
        let tables = RouteTables::whole(inputs, &routes);
        assert_eq!([BLOCK, other].map(|cidr| fate(&tables, cidr)), expected, "{mode:?}");
        assert_eq!(fate(&tables, EXTRA).split(',').next(), Some("none"), "{mode:?}");
        // No source is the node's own, not even its address.
        assert_eq!(tables.nodes[&FAR], Node::PROTECTED, "{mode:?}");
        assert!(!tables.nodes[&NEAR].is_protected(), "{mode:?}");
        // Packets that travel plain anyway are the kernel's, which obeys the policy.
        let routes = [(net(BLOCK), route(FAR, true))].into();
        let direct = RouteTables::whole(inputs, &routes);
        assert_eq!(fate(&direct, BLOCK).split(',').next(), Some("direct"), "{mode:?}");
        assert_eq!(direct.nodes[&FAR], Node::PROTECTED, "{mode:?}");
        // The file lets the node send from another address, encapsulated.
        assert_eq!(direct.out_of_reach().is_empty(), mode == TunnelMode::Accelerate);
        let bare = Inputs { config: &Config::default(), ..inputs };
        assert_eq!(fate(&RouteTables::whole(bare, &routes), BLOCK), "direct, none", "{mode:?}");
        // One of its routes is encapsulated, as long as it is there.
        let mixed = [(net(BLOCK), route(FAR, true)), (net(other), route(FAR, false))].into();
        let mut tables = RouteTables::whole(bare, &mixed);
        assert_eq!(tables.out_of_reach().is_empty(), mode == TunnelMode::Accelerate);
        tables.update(bare, &routes, &[net(other)].into(), &[FAR].into(), |_| true);
        assert_eq!(tables, RouteTables::whole(bare, &routes), "{mode:?}");
        assert!(tables.out_of_reach().is_empty(), "{mode:?}");
    }
}

/// A way over a link that is no underlay: tunl0 sends by it, or no packet leaves.
#[test]
fn a_way_that_is_not_ours() {
    let [wg0, blue, eth1, cali1] = [5, 6, 7, 8].map(IfIndex);
    let link = |name: &str, kind: &str, mac, master| {
        let (name, kind) = (name.into(), Some(kind.into()));
        Link { name, kind, mac: Mac(mac), mtu: Mtu(1500), master, ..Link::default() }
    };
    let links = [
        (wg0, link("wg0", "wireguard", [0; 3], None)),
        (blue, link("blue", "vrf", [1, 1, 1], None)),
        (eth1, link("eth1", "vlan", [1, 1, 1], Some(blue))),
        (cali1, link("cali1", "veth", [1, 1, 1], None)),
        (ETH0, link("eth0", "veth", [1, 1, 1], None)),
    ];
    let host = Host { links: links.into(), ..Host::default() };
    let named = "underlay: {interfaces: [eth9]}";
    for (file, ifindex, expected) in [
        ("{}", wg0, ["ipip, dev 4, unreachable", "none, none, left to tunl0"]),
        ("{}", blue, ["ipip, dev 4, unreachable", "none, none, left to tunl0"]),
        ("{}", eth1, ["ipip, dev 4, unreachable", "none, none, left to tunl0"]),
        (named, ETH0, ["ipip, dev 4, unreachable", "none, none, left to tunl0"]),
        ("{}", cali1, ["ipip, dev 4, unreachable", "ipip, none, unreachable"]),
        ("{}", IfIndex(99), ["ipip, dev 4, unreachable", "ipip, none, unreachable"]),
    ] {
        let config: Config = serde_yaml::from_str(file).unwrap();
        let path = Path { ifindex, next_hop: FAR, source: Some(OURS), mtu: None, is_learnt: false };
        let paths = [(FAR, path)].into();
        let route = ChosenRoute { node: FAR, is_direct: false, source: SourceKind::File, since: 0 };
        let routes = [(net(BLOCK), route)].into();
        let found = [TunnelMode::Replace, TunnelMode::Accelerate].map(|mode| {
            let facts = Facts { underlay: BTreeSet::new(), ..facts(mode) };
            let (config, host, paths, facts) = (&config, &host, &paths, &facts);
            let inputs = Inputs { config, host, paths, facts, tunnel: TUNNEL };
            fate(&RouteTables::whole(inputs, &routes), BLOCK)
        });
        assert_eq!(found, expected, "{file} {ifindex}");
    }
}

/// What is learnt counts down to the floor; what an administrator wrote counts.
#[test]
fn a_learnt_path_mtu_has_a_floor() {
    let low: Config = serde_yaml::from_str("underlay: {min_path_mtu: 600}").unwrap();
    let link = Link { name: "eth0".into(), mtu: Mtu(1500), is_up: true, ..Link::default() };
    let host = Host { links: [(ETH0, link)].into(), ..Host::default() };
    let facts = facts(TunnelMode::Replace);
    for (config, mtu, is_learnt, expected, too_narrow) in [
        (&Config::default(), None, false, 1500, None),
        (&Config::default(), Some(1400), true, 1400, None),
        (&Config::default(), Some(1280), true, 1280, None),
        (&Config::default(), Some(552), true, 1280, Some(552)),
        (&Config::default(), Some(552), false, 552, None),
        (&Config::default(), Some(9000), true, 1500, None),
        (&low, Some(700), true, 700, None),
        (&low, Some(552), true, 600, Some(552)),
    ] {
        let mtu = mtu.map(Mtu);
        let path = Path { ifindex: ETH0, next_hop: ROUTER, source: Some(OURS), mtu, is_learnt };
        let paths = [(FAR, path)].into();
        let inputs = Inputs { config, host: &host, paths: &paths, facts: &facts, tunnel: TUNNEL };
        let route = ChosenRoute { node: FAR, is_direct: false, source: SourceKind::File, since: 0 };
        let tables = RouteTables::whole(inputs, &[(net(BLOCK), route)].into());
        let found = (tables.nodes[&FAR].mtu, tables.too_narrow.get(&FAR).copied());
        assert_eq!(found, (Mtu(expected), too_narrow.map(Mtu)), "{mtu:?}, learnt: {is_learnt}");
    }
}
