//! Looking at the wire, and putting frames on it.

use std::{net::UdpSocket, time::Duration};

use tunless_lab::{
    Lab,
    addr::{HELLO_PERF, HELLO_SIT},
    capture::{Capture, count},
    frame::Direction,
    inject,
    packet::{self, Ipv4, ethernet, icmp_echo},
    traffic::{ping, tcp},
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_capture_sees_both_directions_from_its_start_to_its_stop() {
    let lab = Lab::new().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let capture = Capture::wire(&lab.router, node2).unwrap();
    let options = ping::Options { count: 5, ..Default::default() };
    assert!(ping::ping(&node2.netns, node1.ip, &options).unwrap().all_answered());
    let frames = capture.stop().unwrap();
    assert_eq!(count(&frames, Direction::In, |frame| frame.is_plain(node2.ip, node1.ip)), 5);
    assert_eq!(count(&frames, Direction::Out, |frame| frame.is_plain(node1.ip, node2.ip)), 5);
    let first = frames.iter().find(|frame| frame.is_plain(node2.ip, node1.ip)).unwrap();
    assert_eq!(first.to_string(), "IP 172.16.36.10 > 172.16.35.4: ICMP echo request, ttl 64");
}

#[test]
fn a_filtered_capture_of_bulk_traffic_misses_nothing() {
    let lab = Lab::new().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let capture =
        Capture::start_filtered(&node1.netns, "eth0", |frame| frame.outer().is_none()).unwrap();
    let address = std::net::SocketAddrV4::new(node1.ip, 5001);
    tcp::bulk(&node2.netns, address, &node1.netns, 5001, &tcp::Options::default()).unwrap();
    // An error here would mean frames that were dropped unseen.
    let frames = capture.stop().unwrap();
    assert!(frames.iter().all(|frame| frame.outer().is_none()));
}

#[test]
fn an_injected_datagram_is_delivered() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node1;
    let socket = node.netns.run(|| Ok(UdpSocket::bind((node.ip, 9000))?)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let ip = Ipv4::udp(lab.node2.ip, node.ip);
    node.inject(&lab.router, &ip.packet(&packet::udp(&ip, 1234, 9000, b"by hand"))).unwrap();
    let mut buffer = [0; 100];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.port()), (b"by hand".as_slice(), 1234));
}

#[test]
fn an_injected_tunnel_packet_shows_both_layers_on_the_wire() {
    let lab = Lab::new().build().unwrap();
    let nodes = (lab.node2.ip, lab.node1.ip);
    let capture = Capture::start(&lab.node1.netns, "eth0").unwrap();
    let inner = Ipv4::icmp(HELLO_PERF, HELLO_SIT).packet(&icmp_echo(8, 1, 1, b"hello"));
    lab.node1.inject(&lab.router, &Ipv4::ipip(nodes.0, nodes.1).packet(&inner)).unwrap();
    let pods = (HELLO_PERF, HELLO_SIT);
    let frame = capture.wait_for(SOON, |frame| frame.is_ipip(nodes, pods)).unwrap();
    assert_eq!(frame.direction, Direction::In);
}

#[test]
fn the_fabric_drops_and_counts_a_plain_packet_of_a_pod() {
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let node = &lab.node2;
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 0);
    let ping = |from, to| {
        let wait = Duration::from_millis(100);
        let options = ping::Options { count: 1, wait, ..Default::default() };
        ping::ping(from, to, &options).unwrap().received
    };
    // No tunnel here: the node sends the pod's packet to its default gateway.
    assert_eq!(ping(&lab.perf().netns, HELLO_SIT), 0);
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 1);
    assert_eq!(ping(&node.netns, lab.node1.ip), 1, "nodes may talk");
    let inner = Ipv4::icmp(HELLO_PERF, HELLO_SIT).packet(&icmp_echo(8, 1, 1, b"hello"));
    let outer = Ipv4::ipip(node.ip, lab.node1.ip).packet(&inner);
    let frame = ethernet(node.gateway_mac, node.mac, packet::IPV4, &outer);
    let capture = Capture::wire(&lab.router, &lab.node1).unwrap();
    inject::inject(&node.netns, "eth0", &frame).unwrap();
    let tunnelled = |frame: &tunless_lab::frame::Frame| frame.inner().is_some();
    assert!(capture.wait_for(SOON, tunnelled).is_some(), "tunnelled packets pass");
    assert_eq!(lab.plain_packets_on_wire().unwrap(), 1);
}
