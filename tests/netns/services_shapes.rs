//! Packets of unusual shapes through leases of Services.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use dataplane_common::Reason;
use tunless_lab::{
    Lab, Netns, Pod,
    addr::CALI_MAC,
    capture::Capture,
    felix::Allow,
    frame::{Direction, Frame, Ip, protocol},
    inject::Injector,
    packet::{IPV4, Ipv4, ethernet, udp},
    service::{Protocol, Service, kube_proxy},
    traffic,
};
use tunless_tests::scene::{Counters, SOON, Scene, Setup, in_time, leased::leases, until};

const PORT: u16 = 7000;
const CLIENT_PORT: u16 = 5555;
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 7), 53);

/// A datagram without checksum stays one: what the leases write into it they write into no checksum.
#[test]
fn a_datagram_without_checksum_stays_without() {
    for setup in Setup::BOTH_VERIFIED {
        Scene::with(Lab::new().fabric_filter(true), setup, "leases: {seconds: 9}\n", &[])
            .case(without_checksum);
    }
}

fn without_checksum(scene: &mut Scene) {
    scene.warm_up();
    scene.police(&[Allow::ALL]);
    let (perf, sit) = scene.pods();
    serve(scene, SocketAddrV4::new(sit.ip, PORT));
    // Before the leases can be over.
    let (moved, frames) =
        in_time(Duration::from_secs(8), |number| one_by_leases(scene, CLIENT_PORT + number));
    for (moved, reasons) in moved.iter().zip([
        [Reason::DecapToPod, Reason::PodEncapsulated],
        [Reason::PodServiceEncapsulated, Reason::DecapServiceToPod],
    ]) {
        for reason in reasons {
            assert_eq!(moved.get(&reason), Some(&1), "{moved:?}");
        }
    }
    let [at_client, wire, at_server] = frames;
    let request = sent(&at_client);
    let become_behind = |ip: &mut Ipv4, ports: &mut [u16; 2]| {
        (ip.destination, ports[1]) = (sit.ip, PORT);
    };
    assert_eq!(inner_of(&wire, perf), rewritten(&request, 1, become_behind));
    assert_eq!(received(&at_server), delivered(sit, &rewritten(&request, 2, become_behind)));
    let answer = sent(&at_server);
    assert_eq!(inner_of(&wire, sit), rewritten(&answer, 1, |_, _| {}));
    let become_service = |ip: &mut Ipv4, ports: &mut [u16; 2]| {
        (ip.source, ports[0]) = (*ADDRESS.ip(), ADDRESS.port());
    };
    assert_eq!(received(&at_client), delivered(perf, &rewritten(&answer, 2, become_service)));
}

/// A datagram without checksum and its answer, from this port, once all of the flow's leases are there. Returns
/// what node1 and node2 counted, and what was captured: in the client, on the wire, in the server.
fn one_by_leases(scene: &Scene, port: u16) -> ([BTreeMap<Reason, u64>; 2], [Vec<Frame>; 3]) {
    let (perf, sit) = scene.pods();
    let (client, behind) = (SocketAddrV4::new(perf.ip, port), SocketAddrV4::new(sit.ip, PORT));
    let options =
        traffic::udp::Options { checksum: false, source_port: port, ..Default::default() };
    let exchange = || {
        let report =
            traffic::udp::exchange(&perf.netns, ADDRESS, &sit.netns, PORT, &options).unwrap();
        assert_eq!((report.seen, report.answered_by), (client, ADDRESS));
    };
    until("leases both ways on both nodes", SOON, || {
        exchange();
        let here = leases(&scene.daemon2);
        let there = leases(&scene.daemon1);
        let is_leased = here.iter().any(|lease| lease.is(client, ADDRESS))
            && here.iter().any(|lease| lease.is(behind, client))
            && there.iter().any(|lease| lease.is(client, behind))
            && there.iter().any(|lease| lease.is(behind, client));
        is_leased.then_some(())
    });
    let before = [&scene.daemon1, &scene.daemon2].map(Counters::of);
    let at_client = Capture::start(&perf.netns, "eth0").unwrap();
    let wire = Capture::wire(&scene.lab.router, &scene.lab.node2).unwrap();
    let at_server = Capture::start(&sit.netns, "eth0").unwrap();
    exchange();
    let moved = [before[0].moved(&scene.daemon1), before[1].moved(&scene.daemon2)];
    (moved, [at_client, wire, at_server].map(|it| it.stop().unwrap()))
}

/// Node 2 translates the Service to this end.
fn serve(scene: &Scene, behind: SocketAddrV4) {
    let name = "default/shapes".to_owned();
    let protocol = Protocol::Udp;
    let service = Service { name, protocol, address: ADDRESS, endpoints: vec![behind] };
    kube_proxy(&scene.lab.node2.netns, &[service]).unwrap();
}

/// GRO puts datagrams of one flow into a list, one packet to the programs (`SKB_GSO_FRAGLIST`): only the first
/// one's headers are rewritten, and the kernel does the same to the others when it takes the list apart.
#[test]
fn trains_that_gro_only_lists_arrive_whole() {
    for setup in Setup::BOTH_VERIFIED {
        Scene::with(Lab::new().fabric_filter(true), setup, "leases: {seconds: 9}\n", &[])
            .case(listed);
    }
}

fn listed(scene: &mut Scene) {
    const SEGMENT: usize = 1000;
    const COUNT: usize = 20;
    scene.warm_up();
    scene.police(&[Allow::ALL]);
    let (perf, sit) = scene.pods();
    let node2 = &scene.lab.node2.netns;
    let (client_end, behind) =
        (SocketAddrV4::new(perf.ip, CLIENT_PORT), SocketAddrV4::new(sit.ip, PORT));
    serve(scene, behind);
    // By a thread, so that it finds several packets at a time.
    let threaded = "echo 1 > /sys/class/net/eth0/threaded";
    node2.with_sysfs().exec("sh", &["-c", threaded]).unwrap();
    node2.exec("ethtool", &["-K", "eth0", "gro", "on", "rx-gro-list", "on"]).unwrap();
    let (client, server) = (socket(&perf.netns, CLIENT_PORT), socket(&sit.netns, PORT));
    client.connect(ADDRESS).unwrap();
    let mut buffer = [0; 2 * SEGMENT];
    until("leases both ways", SOON, || {
        client.send(b"question").unwrap();
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(from, client_end.into());
        server.send_to(b"answer", from).unwrap();
        client.recv(&mut buffer).unwrap();
        let leases = leases(&scene.daemon2);
        let is_leased = |from, to| leases.iter().any(|lease| lease.is(from, to));
        (is_leased(client_end, ADDRESS) && is_leased(behind, client_end)).then_some(())
    });
    // Not by the other node: on a virtual link its packets would still be marked as encapsulated here.
    let Lab { node1, node2: node, router, .. } = &scene.lab;
    let outer = Ipv4::ipip(node1.ip, node.ip);
    let inner = Ipv4::udp(sit.ip, perf.ip);
    let frames: Vec<Vec<u8>> = (0..COUNT)
        .map(|number| {
            let datagram = udp(&inner, PORT, CLIENT_PORT, &[number as u8; SEGMENT]);
            let packet = outer.packet(&inner.packet(&datagram));
            ethernet(node.mac, node.gateway_mac, IPV4, &packet)
        })
        .collect();
    let injector = Injector::new(router, &node.router_port).unwrap();
    let before = Counters::of(&scene.daemon2);
    let arriving = Capture::start(&perf.netns, "eth0").unwrap();
    // As it comes out of the programs: one packet, from the Service.
    let is_list = |frame: &Frame| {
        let is_answer = frame.is_plain(*ADDRESS.ip(), perf.ip);
        is_answer && frame.direction == Direction::In && frame.bytes.len() > 2 * SEGMENT
    };
    let mut trains = 0;
    until("lists", SOON, || {
        frames.iter().for_each(|frame| injector.send(frame).unwrap());
        trains += 1;
        for number in 0..COUNT {
            let length = client.recv(&mut buffer).unwrap();
            assert!(buffer[..length] == [number as u8; SEGMENT], "datagram {number} of {COUNT}");
        }
        // Without `rx-gro-list` the kernel merges no datagrams that it forwards.
        let lists = arriving.frames().iter().filter(|frame| is_list(frame)).count();
        (lists >= 20).then_some(())
    });
    drop(arriving);
    let moved = before.moved(&scene.daemon2);
    let packets = moved[&Reason::DecapServiceToPod];
    assert!(packets >= trains && packets < trains * COUNT as u64, "{trains} trains: {moved:?}");
    before.assert_nothing_dropped(&scene.daemon2);
    node2.exec("ethtool", &["-K", "eth0", "rx-gro-list", "off"]).unwrap();
    let threaded = "echo 0 > /sys/class/net/eth0/threaded";
    node2.with_sysfs().exec("sh", &["-c", threaded]).unwrap();
    scene.assert_nothing_plain();
}

fn socket(netns: &Netns, port: u16) -> UdpSocket {
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?);
    let socket = netns.run(bind).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn is_udp(frame: &Frame, direction: Direction) -> bool {
    let is_udp = frame.outer().is_some_and(|(ip, _)| ip.protocol == protocol::UDP);
    is_udp && frame.direction == direction
}

/// The one datagram that left the pod, from its IP header on.
fn sent(frames: &[Frame]) -> Vec<u8> {
    let mut found = frames.iter().filter(|frame| is_udp(frame, Direction::Out));
    let one = found.next().expect("a datagram");
    assert_eq!(found.count(), 0, "only one");
    one.bytes[14..].to_vec()
}

/// The one frame with a datagram that came to the pod.
fn received(frames: &[Frame]) -> Vec<u8> {
    let mut found = frames.iter().filter(|frame| is_udp(frame, Direction::In));
    let one = found.next().expect("a datagram");
    assert_eq!(found.count(), 0, "only one");
    one.bytes.clone()
}

/// The one inner packet from a pod, on the wire.
fn inner_of(frames: &[Frame], from: &Pod) -> Vec<u8> {
    let is_from = |ip: &Ip| ip.source == from.ip && ip.protocol == protocol::UDP;
    let mut found = frames.iter().filter(|frame| frame.inner().is_some_and(|(ip, _)| is_from(&ip)));
    let one = found.next().expect("an encapsulated datagram");
    assert_eq!(found.count(), 0, "only one");
    one.bytes[14 + 20..].to_vec()
}

fn delivered(pod: &Pod, packet: &[u8]) -> Vec<u8> {
    ethernet(pod.mac, CALI_MAC, IPV4, packet)
}

/// A datagram without checksum after so many routers, and what was written into it.
fn rewritten(packet: &[u8], hops: u8, write: impl Fn(&mut Ipv4, &mut [u16; 2])) -> Vec<u8> {
    let (ip, payload) = Ip::decode(packet).unwrap();
    let half = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    let mut ports = [half(0), half(2)];
    assert_eq!(half(6), 0, "it was sent without a checksum");
    let mut header = Ipv4 {
        ttl: ip.ttl - hops,
        tos: ip.tos,
        id: ip.id,
        df: ip.df,
        ..Ipv4::udp(ip.source, ip.destination)
    };
    write(&mut header, &mut ports);
    let ports = ports.map(u16::to_be_bytes).concat();
    header.packet(&[ports.as_slice(), &payload[4..]].concat())
}
