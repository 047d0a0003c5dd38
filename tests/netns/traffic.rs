//! Traffic between two nodes, in every setup: it arrives, and on the wire it
//! is IP in IP and nothing else.

use std::net::{Ipv4Addr, SocketAddrV4};

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder, RpFilter,
    capture::Capture,
    frame::{Direction, Frame, protocol},
    packet::{IPV4, Ipv4, ethernet},
    traffic::{ping, tcp, udp},
};
use tunless_tests::scene::{Counters, SOON, Scene, Setup, assert_answered};

/// Strict `rp_filter`, and a fabric that drops and counts pods' plain packets.
fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// What a ping counts at each end: a request out and an answer in, or the reverse.
pub(crate) fn expected(setup: Setup, pings: u64) -> Vec<(Reason, u64)> {
    let reasons: &[Reason] = match setup.fastpath {
        "trusted" => &[Reason::PodEncapsulated, Reason::DecapToPod],
        // Only TCP and UDP are ever leased; every hook says why not.
        "verified" => &[
            Reason::PodNoPorts,
            Reason::HostEncapsulated,
            Reason::DecapNoPortsToStack,
            Reason::GrantNoFlow,
        ],
        _ => &[Reason::HostEncapsulated, Reason::DecapToStack],
    };
    let mut expected: Vec<_> = reasons.iter().map(|reason| (*reason, pings)).collect();
    if setup.is_xdp() {
        expected.push((Reason::XdpUnwrapped, pings));
    }
    expected
}

#[test]
fn ping_shows_two_hops_and_counts_what_it_is() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let (perf, sit) = scene.pods();
        for (from, to) in [(perf, sit), (sit, perf)] {
            let report = assert_answered(&from.netns, to.ip);
            assert_eq!(report.ttl(), Some(62), "{}", report.text);
        }
        for (before, daemon) in before.iter().zip([&scene.daemon1, &scene.daemon2]) {
            before.assert_moved(daemon, &expected(scene.setup, 6));
        }
        scene.assert_nothing_plain();
    });
}

#[test]
fn both_nodes_count_the_same_packets_and_bytes() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let counts = |daemon: &tunless_lab::Daemon| -> [u64; 4] {
            let answer = daemon.cli_json(&["nodes", "list"]).unwrap();
            ["encap_packets", "encap_bytes", "decap_packets", "decap_bytes"]
                .map(|key| answer["items"][0][key].as_u64().expect("a number"))
        };
        let before = counts(&scene.daemon2);
        let (perf, sit) = scene.pods();
        // 1000 bytes of data, 8 of ICMP, 20 of IP; the outer header does not count.
        let options = ping::Options { count: 5, size: 1000, ..Default::default() };
        assert!(ping::ping(&perf.netns, sit.ip, &options).unwrap().all_answered());
        let [encap, encap_bytes, decap, decap_bytes] = counts(&scene.daemon2);
        let moved = [
            encap - before[0],
            encap_bytes - before[1],
            decap - before[2],
            decap_bytes - before[3],
        ];
        assert_eq!(moved, [5, 5 * 1028, 5, 5 * 1028]);
        assert_eq!(counts(&scene.daemon1), [decap, decap_bytes, encap, encap_bytes]);
    });
}

#[test]
fn the_outer_header_is_right_in_every_byte() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        // Sent by the pod, and what the outer header makes of it: DSCP stays
        // inside, congestion marks show (RFC 6040, normal mode).
        for (ttl, tos, outer_tos) in
            [(64, 0x00, 0), (33, 0xb8, 0), (2, 0x02, 2), (255, 0x29, 1), (64, 0x03, 3)]
        {
            let wire = Capture::wire(&scene.lab.router, &scene.lab.node2).unwrap();
            let options = ping::Options { count: 1, ttl: Some(ttl), tos, ..Default::default() };
            let report = ping::ping(&perf.netns, sit.ip, &options).unwrap();
            // The far node takes its hop, too: TTL 2 ends there.
            assert_eq!(report.received, u32::from(ttl > 2), "{}", report.text);
            let frames = wire.stop().unwrap();
            let requests: Vec<&Frame> =
                frames.iter().filter(|frame| is_request(frame, perf.ip, sit.ip)).collect();
            assert_eq!(requests.len(), 1, "{frames:#?}");
            assert_eq!(requests[0].direction, Direction::In);
            assert_outer_of(requests[0], scene, ttl - 1, tos, outer_tos);
        }
        scene.assert_nothing_plain();
    });
}

pub(crate) fn is_request(frame: &Frame, from: Ipv4Addr, to: Ipv4Addr) -> bool {
    frame.inner().is_some_and(|(ip, icmp)| {
        (ip.source, ip.destination, ip.protocol) == (from, to, protocol::ICMP) && icmp[0] == 8
    })
}

/// Compares everything up to the inner header with what tunl0 would have written.
pub(crate) fn assert_outer_of(frame: &Frame, scene: &Scene, ttl: u8, tos: u8, outer_tos: u8) {
    let Lab { node1, node2, .. } = &scene.lab;
    let (inner, _) = frame.inner().expect("IP in IP");
    assert_eq!((inner.ttl, inner.tos, inner.checksum_ok), (ttl, tos, true), "{frame}");
    let header = Ipv4 { ttl, tos: outer_tos, ..Ipv4::ipip(node2.ip, node1.ip) };
    let expected = ethernet(node2.gateway_mac, node2.mac, IPV4, &header.packet(&frame.bytes[34..]));
    assert_eq!(frame.bytes, expected, "{frame}");
}

#[test]
fn on_the_wire_there_is_nothing_but_the_nodes() {
    Scene::each(&lab(), |scene| {
        let (perf, sit) = scene.pods();
        let nodes = (scene.lab.node2.ip, scene.lab.node1.ip);
        let wire = Capture::start_filtered(&scene.lab.router, &scene.lab.node2.router_port, |f| {
            f.outer().is_some()
        })
        .unwrap();
        assert_answered(&perf.netns, sit.ip);
        let to = SocketAddrV4::new(sit.ip, 5001);
        let options = tcp::Options { mebibytes: 1, ..Default::default() };
        tcp::bulk(&perf.netns, to, &sit.netns, 5001, &options).unwrap();
        udp::exchange(&perf.netns, to, &sit.netns, 5001, &Default::default()).unwrap();
        let frames = wire.stop().unwrap();
        let (mut out, mut back) = (0, 0);
        for frame in &frames {
            let there = frame.is_ipip(nodes, (perf.ip, sit.ip));
            let here = frame.is_ipip((nodes.1, nodes.0), (sit.ip, perf.ip));
            assert!(there || here, "{frame}");
            let (outer, _) = frame.outer().unwrap();
            assert!(outer.df && outer.checksum_ok && outer.id == 0, "{frame}");
            out += usize::from(there);
            back += usize::from(here);
        }
        assert!(out > 5 && back > 5, "{out} there, {back} back");
        scene.assert_nothing_plain();
    });
}

#[test]
fn tcp_arrives_whole_both_ways() {
    Scene::each(&lab(), |scene| {
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        let (perf, sit) = scene.pods();
        for (client, server) in [(perf, sit), (sit, perf)] {
            for server_sends in [false, true] {
                let wire = Capture::wire(&scene.lab.router, &scene.lab.node1).unwrap();
                let options = tcp::Options { mebibytes: 16, server_sends, ..Default::default() };
                let to = SocketAddrV4::new(server.ip, 5001);
                let report = tcp::bulk(&client.netns, to, &server.netns, 5001, &options).unwrap();
                assert_eq!(*report.peer.ip(), client.ip);
                let frames = wire.stop().unwrap();
                // XDP on a veth takes TSO from the sender; TC must not.
                let has_super_packets = frames.iter().any(|frame| frame.bytes.len() > 1514);
                assert!(has_super_packets || scene.setup.is_xdp(), "GSO is lost");
            }
        }
        before[0].assert_nothing_dropped(&scene.daemon1);
        before[1].assert_nothing_dropped(&scene.daemon2);
        scene.assert_nothing_plain();
    });
}

#[test]
fn the_host_talks_to_pods_from_its_tunnel_address() {
    Scene::each(&lab(), |scene| {
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (perf, sit) = scene.pods();
        for (node, pod) in [(node2, sit), (node1, perf)] {
            // One hop less than between pods: the sender does not forward.
            assert_eq!(assert_answered(&node.netns, pod.ip).ttl(), Some(63));
            let to = SocketAddrV4::new(pod.ip, 5001);
            let seen = udp::exchange(&node.netns, to, &pod.netns, 5001, &Default::default());
            assert_eq!(*seen.unwrap().seen.ip(), node.tunnel);
            let options = tcp::Options { mebibytes: 2, ..Default::default() };
            let report = tcp::bulk(&node.netns, to, &pod.netns, 5001, &options).unwrap();
            assert_eq!(*report.peer.ip(), node.tunnel);
        }
        // And tunnel address to tunnel address, host to host.
        assert_answered(&node2.netns, node1.tunnel);
        scene.assert_nothing_plain();
    });
}

#[test]
fn a_pod_reaches_its_own_host() {
    Scene::each(&lab(), |scene| {
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (perf, sit) = scene.pods();
        for (pod, node) in [(perf, node2), (sit, node1)] {
            for address in [node.ip, node.tunnel] {
                assert_eq!(assert_answered(&pod.netns, address).ttl(), Some(64));
            }
            assert_eq!(assert_answered(&node.netns, pod.ip).ttl(), Some(64));
            let to = SocketAddrV4::new(node.ip, 5001);
            let options = tcp::Options { mebibytes: 2, ..Default::default() };
            let report = tcp::bulk(&pod.netns, to, &node.netns, 5001, &options).unwrap();
            assert_eq!(*report.peer.ip(), pod.ip);
        }
        scene.assert_nothing_plain();
    });
}

/// No tunnel leads to a node itself: the packet leaves plain, as with tunl0.
/// (Clusters whose fabric drops such packets masquerade them.) The answer comes
/// from the node's own address through the tunnel.
#[test]
fn a_pods_packet_to_another_node_leaves_plain() {
    // The other node has the way back over its tunnel: strict rp_filter would
    // drop what arrives over its NIC, with tunl0, too.
    Scene::each(&Lab::new().rp_filter(RpFilter::Loose), |scene| {
        scene.warm_up();
        let (perf, node1, node2) = (scene.lab.perf(), &scene.lab.node1, &scene.lab.node2);
        let wire = Capture::wire(&scene.lab.router, node2).unwrap();
        assert_answered(&perf.netns, node1.ip);
        wire.wait_for(SOON, |frame| frame.is_plain(perf.ip, node1.ip)).expect("a plain request");
        let nodes = (node1.ip, node2.ip);
        wire.wait_for(SOON, |frame| frame.is_ipip(nodes, (node1.ip, perf.ip)))
            .expect("an answer in the tunnel");
    });
}
