//! Leases and services: which flows a node that translates them does not lease, and that each end sees
//! the addresses it should. Those that it leases are in `services`.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder,
    felix::Allow,
    netns::Netns,
    service::{Protocol, Service, kube_proxy, masquerade},
    traffic::{conversation::Conversation, http},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup,
    leased::{Side, assert_unleased, leases, wait_leased_at_client, wait_leased_at_server},
};

const PORT: u16 = 7000;
const BOTH: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn service(protocol: Protocol, backend: Ipv4Addr) -> Service {
    Service {
        name: format!("default/{protocol:?}").to_lowercase(),
        protocol,
        address: "10.10.48.7:53".parse().unwrap(),
        endpoints: vec![SocketAddrV4::new(backend, PORT)],
    }
}

/// Talks to `address`, which leads to the backend; its node sees the client as
/// `seen` and leases, the client's does not.
fn assert_leased_only_at_backend(
    side: &Side<'_>,
    protocol: Protocol,
    address: SocketAddrV4,
    seen: Ipv4Addr,
) {
    let Side { client: (client, node, at_client), backend: (backend, at_backend) } = side;
    let talk = Conversation::start(protocol, &client.netns, address, &backend.netns, PORT).unwrap();
    assert!(talk.wait_for(20, SOON), "{protocol:?} to {address}");
    let peer = talk.seen().unwrap();
    assert_eq!(peer.ip(), seen, "what the backend sees");
    let SocketAddr::V4(peer) = peer else { unreachable!() };
    wait_leased_at_server(at_backend, peer, SocketAddrV4::new(backend.ip, PORT));
    assert!(talk.wait_for(100, SOON));
    let mut found = leases(at_client).into_iter();
    let found = found.find(|lease| lease.ends_at(talk.client) || lease.ends_at(peer));
    assert_eq!(found, None, "{} translates", node.label);
}

fn assert_direct_is_leased(side: &Side<'_>) {
    let Side { client: (client, _, at_client), backend: (backend, at_backend) } = side;
    let to = SocketAddrV4::new(backend.ip, PORT);
    for protocol in BOTH {
        let talk = Conversation::start(protocol, &client.netns, to, &backend.netns, PORT).unwrap();
        wait_leased_at_client(at_client, talk.client, to);
        wait_leased_at_server(at_backend, talk.client, to);
    }
}

/// By default it does; the configuration switches it off.
#[test]
fn the_node_that_translates_does_not_lease_where_it_is_switched_off() {
    let scene = |setup| Scene::with(lab(), setup, "leases: {services: false}\n", &[]);
    for setup in Setup::BOTH_VERIFIED {
        scene(setup).case(translated_flows_are_leased_only_at_the_backend);
    }
}

fn translated_flows_are_leased_only_at_the_backend(scene: &mut Scene) {
    scene.police(&[Allow::ALL]);
    for side in Side::both(scene) {
        let (client, node, _) = side.client;
        let backend = side.backend.0;
        let services = BOTH.map(|protocol| service(protocol, backend.ip));
        kube_proxy(&node.netns, &services).unwrap();
        for Service { protocol, address, .. } in services {
            assert_leased_only_at_backend(&side, protocol, address, client.ip);
        }
        assert_direct_is_leased(&side);
        let _server = http::Server::start(&backend.netns, PORT, "backend").unwrap();
        let reply = http::get(&client.netns, "10.10.48.7:53".parse().unwrap(), SOON).unwrap();
        assert_eq!(*reply.client.ip(), client.ip);
    }
    scene.assert_nothing_plain();
}

#[test]
fn masqueraded_flows_are_leased_only_at_the_far_end() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.police(&[Allow::ALL]);
        for side in Side::both(scene) {
            let (client, node, _) = side.client;
            masquerade(&node.netns, client.ip).unwrap();
            let to = SocketAddrV4::new(side.backend.0.ip, PORT);
            for protocol in BOTH {
                assert_leased_only_at_backend(&side, protocol, to, node.tunnel);
            }
            node.netns.exec("iptables", &["-t", "nat", "-F", "PREROUTING"]).unwrap();
        }
        assert_direct_is_leased(&Side::both(scene)[0]);
        scene.assert_nothing_plain();
    });
}

/// Ends the rewriting. What a closed connection repeats would leave the node untranslated, for no
/// route leads to `address`: it is dropped from now on.
fn stop_rewriting(node: &Netns, address: &str) {
    let rules = format!(
        "flush table ip rewrite
         add rule ip rewrite out ip daddr {address} drop"
    );
    node.exec_with_input("nft", &["-f", "-"], &rules).unwrap();
}

/// What IPVS does: conntrack takes the flow for a plain one, and the status bits
/// say nothing. Its packets are not as they came, which the flow tag shows.
#[test]
fn an_address_rewritten_behind_conntracks_back_is_never_leased() {
    const VIRTUAL: &str = "10.10.48.99";
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        // Before conntrack on the way out, behind every filter on the way back.
        let rules = format!(
            "table ip rewrite
             delete table ip rewrite
             table ip rewrite {{
                 chain out {{
                     type filter hook prerouting priority -310
                     iifname \"cali*\" ip daddr {VIRTUAL} ip daddr set {sit}
                 }}
                 chain back {{
                     type filter hook postrouting priority 200
                     oifname \"cali*\" ip saddr {sit} ip saddr set {VIRTUAL}
                 }}
             }}",
            sit = sit.ip
        );
        let node2 = &scene.lab.node2.netns;
        node2.exec_with_input("nft", &["-f", "-"], &rules).unwrap();
        let before = Counters::of(&scene.daemon2);
        for protocol in BOTH {
            let address = SocketAddrV4::new(VIRTUAL.parse().unwrap(), PORT);
            let talk =
                Conversation::start(protocol, &perf.netns, address, &sit.netns, PORT).unwrap();
            assert!(talk.wait_for(100, SOON), "{protocol:?}");
            assert_unleased(&scene.daemon2, sit.ip);
            assert_unleased(&scene.daemon2, perf.ip);
        }
        let moved = before.moved(&scene.daemon2);
        for reason in [Reason::HostUnproven, Reason::GrantUnproven] {
            assert!(moved[&reason] >= 100, "netfilter would have let it: {moved:?}");
        }
        for reason in [Reason::HostLeaseGranted, Reason::GrantGiven] {
            assert_eq!(moved.get(&reason), None, "{moved:?}");
        }
        stop_rewriting(node2, VIRTUAL);
        assert_direct_is_leased(&Side::both(scene)[0]);
        scene.assert_nothing_plain();
    });
}
