//! Senders that flood tuples which are another flow's to the programs: they have its flow tag. Real ones
//! would have to find them among very many; these know the secret.
//!
//! What is noted of a packet is read behind netfilter, mostly some microseconds later. A queue to user space
//! makes that long enough for others to take the note's place each time. The daemon would withhold leases
//! where there is such a queue, so it is dead meanwhile.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use dataplane_common::{Direction, Flow, Ipv4Be, Reason, ipv4::PROTOCOL_UDP};
use dataplane_user::bpf::frozen;
use serde_json::Value;
use tunless_lab::{
    Lab, Netns, Node, Pod,
    felix::{Allow, Endpoint, enforce},
    inject::Injector,
    nfqueue::Queue,
    packet::{IPV4, Ipv4, ethernet, udp},
    service::{Protocol, Service, kube_proxy},
    traffic::stream::{Options, Stream},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, endpoint_of,
    leased::{leases, wait_leased_by_service},
    lossless, until,
};

const PORT: u16 = 7000;
const CLIENT_PORT: u16 = 5555;
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 7), 53);
/// So many tuples with the tag are sent in turn.
const TUPLES: usize = 8;

fn scene(setup: Setup) -> Scene {
    Scene::with(Lab::new().fabric_filter(true), setup, "leases: {seconds: 1}\n", &[])
}

/// Node 2 translates the Service to these ports of demo-hello-sit, the first for new flows.
fn serve(scene: &Scene, ports: &[u16]) {
    let sit = scene.lab.sit().ip;
    let endpoints = ports.iter().map(|port| SocketAddrV4::new(sit, *port)).collect();
    let name = "default/victim".to_owned();
    let service = Service { name, protocol: Protocol::Udp, address: ADDRESS, endpoints };
    kube_proxy(&scene.lab.node2.netns, &[service]).unwrap();
}

/// demo-hello-perf talks to the Service, with leases both ways; new flows would go elsewhere.
fn victim(scene: &Scene) -> Stream {
    let (perf, sit) = scene.pods();
    serve(scene, &[PORT]);
    let options = Options { answered: true, source_port: CLIENT_PORT, ..Options::default() };
    let stream = Stream::start(&perf.netns, ADDRESS, &sit.netns, PORT, &options).unwrap();
    let client = SocketAddrV4::new(perf.ip, CLIENT_PORT);
    wait_leased_by_service(&scene.daemon2, client, ADDRESS, SocketAddrV4::new(sit.ip, PORT));
    serve(scene, &[PORT + 1, PORT]);
    stream
}

fn flow(from: SocketAddrV4, to: SocketAddrV4, direction: Direction) -> Flow {
    let [source, destination] = [from, to].map(|end| Ipv4Be::from(*end.ip()));
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let ports = u32::from_ne_bytes(ports.try_into().unwrap());
    Flow::new(source, destination, ports, PROTOCOL_UDP, direction)
}

/// The secret of a node's programs.
fn secret(node: &Node) -> u32 {
    let memory = frozen::read_memory(&node.bpffs.join("memory")).unwrap().expect("a memory");
    let memory: Value = serde_json::from_slice(&memory).unwrap();
    u32::try_from(memory["secret"].as_u64().expect("a secret")).unwrap()
}

/// Datagrams with the tag of `victim`, by their ends.
fn with_tag_of(
    victim: Flow,
    node: &Node,
    ends: impl Iterator<Item = (SocketAddrV4, SocketAddrV4)>,
) -> Vec<Vec<u8>> {
    let secret = secret(node);
    let tag = victim.tag(secret);
    let same = ends.filter(|(from, to)| flow(*from, *to, victim.direction()).tag(secret) == tag);
    let found: Vec<_> = same.map(|(from, to)| datagram(from, to)).take(TUPLES).collect();
    assert_eq!(found.len(), TUPLES, "so many have it");
    found
}

fn datagram(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let ip = Ipv4::udp(*from.ip(), *to.ip());
    ip.packet(&udp(&ip, from.port(), to.port(), b"flood"))
}

/// Where a flood comes from.
struct Outlet {
    netns: Netns,
    interface: String,
    injector: Injector,
}

impl Outlet {
    fn new(netns: &Netns, interface: &str) -> Self {
        let injector = Injector::new(netns, interface).unwrap();
        Self { netns: netns.clone(), interface: interface.to_owned(), injector }
    }

    /// Packets, of anyone, that found the far end's queue full.
    fn dropped(&self) -> u64 {
        let args = ["-s", "-j", "link", "show", "dev", &self.interface];
        let text = self.netns.exec("ip", &args).unwrap();
        let links: Value = serde_json::from_str(&text).unwrap();
        links[0]["stats64"]["tx"]["dropped"].as_u64().unwrap_or_else(|| panic!("{text}"))
    }
}

/// Sends these frames in turn while the stream lives through three leases; returns how many arrive at
/// least, and at most: as many as were sent.
fn flood(stream: &Stream, outlet: &Outlet, frames: &[Vec<u8>]) -> RangeInclusive<u64> {
    const BURST: usize = 16;
    let dropped = outlet.dropped();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0_u64;
            for (number, frame) in frames.iter().cycle().enumerate() {
                outlet.injector.send(frame).unwrap();
                sent += 1;
                if number % BURST == BURST - 1 {
                    // What the kernel queues on the way is finite.
                    thread::sleep(Duration::from_millis(1));
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            sent
        });
        let goes_on = stream.wait_for(1500, 2 * SOON);
        is_over.store(true, Ordering::Relaxed);
        let sent = flood.join().unwrap();
        assert!(goes_on, "the stream stands still");
        sent.saturating_sub(outlet.dropped() - dropped)..=sent
    })
}

/// Floods once more, while the packets of the stream that ask for leases wait behind their notes. `which`: the
/// words of iptables that select them. Each packet of the flood is counted for `reason`: none of them found a
/// lease, be it for a moment.
fn flood_while_they_wait(
    scene: &mut Scene,
    stream: &Stream,
    which: &str,
    outlet: &Outlet,
    frames: &[Vec<u8>],
    reason: Reason,
) {
    scene.daemon2.kill9().unwrap();
    let node2 = scene.lab.node2.netns.clone();
    let queue = Queue::hold(&node2, 7, Duration::from_millis(100)).unwrap();
    let rule = |command| {
        let words = format!("-t mangle -{command} FORWARD -p udp {which} -j NFQUEUE --queue-num 7");
        node2.exec("iptables", &words.split(' ').collect::<Vec<_>>()).unwrap();
    };
    rule("A");
    until("packets wait", SOON, || (queue.seen() > 0).then_some(()));
    let before = Counters::of(&scene.daemon2);
    let sent = flood(stream, outlet, frames);
    assert_all_counted(&before, scene, reason, &sent);
    // A lease of another pod's making would be refused so.
    let moved = before.moved(&scene.daemon2);
    assert_eq!(moved.get(&Reason::PodForgedSource), None, "{moved:?}");
    assert_no_other_leases(scene);
    rule("D");
    // What waits goes on.
    thread::sleep(Duration::from_millis(300));
    drop(queue);
    scene.daemon2.restart().unwrap();
}

/// Waits until so many packets were counted for `reason`, and no more.
fn assert_all_counted(
    before: &Counters,
    scene: &Scene,
    reason: Reason,
    sent: &RangeInclusive<u64>,
) {
    let counted = || before.moved(&scene.daemon2).get(&reason).copied().unwrap_or(0);
    let mut last = 0;
    until("no further packet is counted", SOON, || {
        let now = counted();
        thread::sleep(Duration::from_millis(200));
        (std::mem::replace(&mut last, now) == now && now > 0).then_some(())
    });
    let moved = before.moved(&scene.daemon2);
    assert!(sent.contains(&counted()), "{reason}: {sent:?} of {moved:?}");
}

/// Only the leases of the stream are there, and they lead where they led.
fn assert_victims_leases_only(scene: &Scene) {
    let (perf, sit) = scene.pods();
    let client = SocketAddrV4::new(perf.ip, CLIENT_PORT);
    let behind = SocketAddrV4::new(sit.ip, PORT);
    wait_leased_by_service(&scene.daemon2, client, ADDRESS, behind);
    assert_no_other_leases(scene);
}

fn assert_no_other_leases(scene: &Scene) {
    let (perf, sit) = scene.pods();
    let client = SocketAddrV4::new(perf.ip, CLIENT_PORT);
    let behind = SocketAddrV4::new(sit.ip, PORT);
    for lease in leases(&scene.daemon2) {
        let ends = (lease.source, lease.destination, lease.translated_to);
        let is_victims =
            ends == (client, ADDRESS, Some(behind)) || ends == (behind, client, Some(ADDRESS));
        assert!(is_victims, "{lease:?}");
    }
}

/// Another pod of the node, whose tuples take the place of the victim's in what is noted of pods' packets;
/// and which forges the victim's very tuple.
#[test]
fn a_pod_that_floods_another_pods_tag_gets_nothing_and_harms_nothing() {
    scene(Setup::VERIFIED_XDP).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let node2 = &scene.lab.node2;
        let intruder = node2.add_pod("intruder", Lab::pod_ip(node2, 9)).unwrap();
        endpoint_of(&scene.daemon2, &intruder);
        enforce(&scene.lab.node1.netns, &[Endpoint::allowing(sit, Allow::port(PORT))]).unwrap();
        enforce(&node2.netns, &[Endpoint::open(perf), Endpoint::open(&intruder)]).unwrap();
        let stream = victim(scene);
        let client = SocketAddrV4::new(perf.ip, CLIENT_PORT);
        // Where a policy drops them, so that no answer of any kind comes.
        let ends = (8000..8100).flat_map(|to| {
            let from = (1024..=u16::MAX).map(|port| SocketAddrV4::new(intruder.ip, port));
            from.map(move |from| (from, SocketAddrV4::new(sit.ip, to)))
        });
        let own = with_tag_of(flow(client, ADDRESS, Direction::Encap), node2, ends);
        let outlet = Outlet::new(&intruder.netns, "eth0");
        let before = Counters::of(&scene.daemon2);
        let sent = flood(&stream, &outlet, &frames_of(&intruder, &own));
        assert_all_counted(&before, scene, Reason::HostUnmarked, &sent);
        assert_victims_leases_only(scene);

        let forged = frames_of(&intruder, &[datagram(client, ADDRESS)]);
        let before = Counters::of(&scene.daemon2);
        let sent = flood(&stream, &outlet, &forged);
        let moved = before.moved(&scene.daemon2);
        assert_eq!(moved.get(&Reason::HostUnmarked), None, "Felix drops what is forged: {moved:?}");
        assert!(moved[&Reason::PodForgedSource] <= *sent.end(), "{moved:?}");
        assert_victims_leases_only(scene);
        let which = format!("-i cali+ -d {} --dport {PORT}", sit.ip);
        let (frames, unmarked) = (frames_of(&intruder, &own), Reason::HostUnmarked);
        flood_while_they_wait(scene, &stream, &which, &outlet, &frames, unmarked);
        assert_victims_leases_only(scene);
        lossless(stream);
        scene.lab.node2.remove_pod(&intruder).unwrap();
        scene.assert_nothing_plain();
    });
}

fn frames_of(pod: &Pod, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frame = |packet: &Vec<u8>| ethernet(tunless_lab::addr::CALI_MAC, pod.mac, IPV4, packet);
    packets.iter().map(frame).collect()
}

/// A sender on the wire, in the name of the other node and its pods, whose tuples have the tag of the
/// answers to the victim. A policy lets no new flow to the victim.
#[test]
fn an_outsider_that_floods_the_tag_of_answers_gets_nothing_and_harms_nothing() {
    scene(Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let Lab { node1, node2, router, .. } = &scene.lab;
        enforce(&node1.netns, &[Endpoint::allowing(sit, Allow::port(PORT))]).unwrap();
        let closed = Endpoint { ingress: Vec::new(), ..Endpoint::open(perf) };
        enforce(&node2.netns, &[closed]).unwrap();
        let stream = victim(scene);
        let client = SocketAddrV4::new(perf.ip, CLIENT_PORT);
        let behind = SocketAddrV4::new(sit.ip, PORT);
        let ends = (40..60).flat_map(|pod| {
            let from = Lab::pod_ip(node1, pod);
            (1024..=u16::MAX).map(move |port| (SocketAddrV4::new(from, port), client))
        });
        let inner = with_tag_of(flow(behind, client, Direction::Decap), node2, ends);
        let outer = Ipv4::ipip(node1.ip, node2.ip);
        let frame =
            |inner: &Vec<u8>| ethernet(node2.mac, node2.gateway_mac, IPV4, &outer.packet(inner));
        let frames: Vec<_> = inner.iter().map(frame).collect();
        let outlet = Outlet::new(router, &node2.router_port);
        let before = Counters::of(&scene.daemon2);
        let sent = flood(&stream, &outlet, &frames);
        assert_all_counted(&before, scene, Reason::DecapNoLeaseToStack, &sent);
        let moved = before.moved(&scene.daemon2);
        assert_eq!(moved.get(&Reason::GrantUnmarked), None, "Felix drops them: {moved:?}");
        assert_victims_leases_only(scene);
        let which = format!("-o cali+ -s {} --sport {PORT}", sit.ip);
        let unleased = Reason::DecapNoLeaseToStack;
        flood_while_they_wait(scene, &stream, &which, &outlet, &frames, unleased);
        assert_victims_leases_only(scene);
        lossless(stream);
        scene.assert_nothing_plain();
    });
}
