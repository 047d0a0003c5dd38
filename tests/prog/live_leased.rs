//! Leases where they belong: behind XDP, on headers in pages, and from hook to
//! hook by way of routing and netfilter, which must leave the flow tag alone.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use aya::programs::TcAttachType;
use dataplane_common::{
    Direction, Flow, Lease, Mtu, Node,
    Reason::{
        self, DecapControlToStack, DecapForgedSource, DecapFragmentToStack,
        DecapLeaseExpiredToStack, DecapLeaseOutdatedToStack, DecapNoLeaseToStack,
        DecapNoPortsToStack, DecapOptionsToStack, DecapToPod, DecapTtlToStack, GrantGiven,
        GrantNoFlow, GrantUnmarked, GrantUnproven, HostLeaseGranted, HostUnmarked, HostUnproven,
        PodEncapsulated, PodNoLease, PodNotIpv4, XdpUnwrapped,
    },
    Settings,
};
use tunless_tests::{
    case, decap, hex,
    live::{self, Exit, Hook, LiveCase, attach},
    netns::{Net, in_namespace, ip},
    packet::{DF, Frame, MF, flags},
    prog::{Loaded, Program},
    wire::{Shape, Wire},
    world::{
        Entry, HANDOVER_MAC, HOST_MAC, JUMBO, MARK, NIC_MAC, NODE1, NODE2, NODE3, OVER, POD,
        POD_MAC, REMOTE, REMOTE3, ROUTER_MAC, SECRET, TUNNEL_MAC, flow, from_pod, from_stack,
        from_wire, lease, settings, to_pod, way_to_node2, way_to_pod,
    },
};

#[test]
fn table() {
    live::run("live, leased", Settings::VERIFIED, &cases());
}

/// Every row.
pub fn cases() -> Vec<LiveCase> {
    [handed_over(), in_pages(), other()].concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
/// Length of the packet inside [`decap::plain`].
const INNER: u64 = 20 + 8 + 64;

fn udp(direction: Direction) -> Flow {
    match direction {
        Direction::Encap => flow(direction, UDP, (POD, 1000), (REMOTE, 2000)),
        Direction::Decap => flow(direction, UDP, (REMOTE, 1000), (POD, 2000)),
    }
}

fn tcp(direction: Direction) -> Flow {
    match direction {
        Direction::Encap => flow(direction, TCP, (POD, 1000), (REMOTE, 80)),
        Direction::Decap => flow(direction, TCP, (REMOTE, 1000), (POD, 80)),
    }
}

fn into_pod(flow: Flow, node: Ipv4Addr) -> (Flow, Lease) {
    (flow, lease(&flow, node, way_to_pod()))
}

fn used((flow, lease): (Flow, Lease), bytes: u64) -> (Flow, Lease) {
    (flow, Lease { packets: lease.packets + 1, bytes: lease.bytes + bytes, ..lease })
}

fn stack(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(TUNNEL_MAC, ROUTER_MAC)
}

fn pod(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(POD_MAC, HOST_MAC).edit(0, |ip| ip.ttl -= 1)
}

/// On the wire, by way of the router.
fn wrapped() -> Frame {
    from_wire().macs(ROUTER_MAC, NIC_MAC).ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(63)
}

/// What XDP unwrapped, TC delivers by the lease it finds then.
fn handed_over() -> Vec<LiveCase> {
    let packet = decap::plain();
    let flow = udp(Direction::Decap);
    let good = into_pod(flow, NODE2);
    let length = |packet: &Frame| packet.bytes().len() as u64 - 34;
    let with = |what: &str, packet: &Frame, lease: (Flow, Lease)| {
        LiveCase::new(Hook::NicXdp, what, packet).with(Entry::Lease(lease.0, lease.1))
    };
    let to_stack = |case: LiveCase, packet: &Frame, reason| {
        let bytes = length(packet);
        case.counted(XdpUnwrapped).counted_bytes(reason, bytes).sent(
            Exit::Tunnel,
            &stack(packet).macs(TUNNEL_MAC, HANDOVER_MAC),
            NODE2,
            bytes,
        )
    };
    let mut cases = vec![
        with("a lease", &packet, good)
            .leaves(used(good, INNER))
            .counted(XdpUnwrapped)
            .counted_bytes(DecapToPod, INNER)
            .sent(Exit::Pod, &pod(&packet), NODE2, INNER),
        to_stack(LiveCase::new(Hook::NicXdp, "no lease", &packet), &packet, DecapNoLeaseToStack),
    ];
    let (_, lease) = good;
    for (what, stale, reason) in [
        ("another node's lease", Lease { node: NODE3.into(), ..lease }, DecapNoLeaseToStack),
        ("a lease that is over", Lease { expires: OVER, ..lease }, DecapLeaseExpiredToStack),
        ("an outdated lease", Lease { epoch: 0, ..lease }, DecapLeaseOutdatedToStack),
    ] {
        let case = with(what, &packet, (flow, stale)).leaves((flow, stale));
        cases.push(to_stack(case, &packet, reason));
    }
    let syn = into_pod(tcp(Direction::Decap), NODE2);
    for (what, packet, lease, reason) in [
        ("TTL 1", packet.clone().edit(1, |ip| ip.ttl = 1), good, DecapTtlToStack),
        ("a fragment", packet.clone().edit(1, |ip| ip.fragment = MF), good, DecapFragmentToStack),
        (
            "options",
            packet.clone().edit(1, |ip| ip.options = vec![1; 4]),
            good,
            DecapOptionsToStack,
        ),
        ("ICMP", decap::ip().raw(1).payload(64), good, DecapNoPortsToStack),
        ("a SYN", decap::ip().tcp(1000, 80, flags::SYN), syn, DecapControlToStack),
    ] {
        cases.push(to_stack(with(what, &packet, lease).leaves(lease), &packet, reason));
    }
    // XDP asks for no lease: it judges by the maps alone.
    let lie = packet.clone().edit(1, |ip| ip.from = REMOTE3);
    let theirs = into_pod(Flow { source: REMOTE3.into(), ..flow }, NODE2);
    cases.push(with("a lie with a lease", &lie, theirs).leaves(theirs).counted(DecapForgedSource));
    let handover = [SECRET.to_ne_bytes(), NODE2.octets()].concat();
    let plain = packet.clone().unwrapped();
    cases.push(
        LiveCase::new(Hook::AfterXdp, "vouched for, and a lease", &plain)
            .metadata(&handover)
            .with(Entry::Lease(flow, lease))
            .leaves(used(good, INNER))
            .counted(DecapToPod)
            .sent(
                Exit::Pod,
                &plain.macs(POD_MAC, HOST_MAC).edit(0, |ip| ip.ttl -= 1),
                NODE2,
                INNER,
            ),
    );
    cases
}

/// A driver may leave the headers, or half of one, in a page.
fn in_pages() -> Vec<LiveCase> {
    // Of less than a page a packet socket makes a linear skb.
    const LENGTH: usize = 5000;
    let whole = 40 + LENGTH as u64;
    let tcp_frame = |frame: Frame| frame.tcp(1000, 80, flags::ACK).payload(LENGTH);
    let jumbo = Node { mtu: Mtu(JUMBO), ..way_to_node2() };
    let out = (tcp(Direction::Encap), lease(&tcp(Direction::Encap), NODE2, jumbo));
    let into = into_pod(tcp(Direction::Decap), NODE2);
    let mut cases = Vec::new();
    for linear in [14, 20, 34, 38, 40, 47, 53, 60, 67, 80] {
        let shape = Shape { linear, ..Shape::default() };
        let what = format!("{linear} bytes linear");
        let packet = tcp_frame(from_pod().ipv4(POD, REMOTE));
        cases.push(
            LiveCase::new(Hook::Pod, &what, &packet)
                .shape(shape)
                .with(Entry::Lease(out.0, out.1))
                .leaves(used(out, whole))
                .counted(PodEncapsulated)
                .sent(Exit::Wire, &tcp_frame(wrapped().ipv4(POD, REMOTE).ttl(63)), NODE2, whole),
        );
        let packet = tcp_frame(decap::ip());
        cases.push(
            LiveCase::new(Hook::Nic, &what, &packet)
                .shape(shape)
                .with(Entry::Lease(into.0, into.1))
                .leaves(used(into, whole))
                .counted(DecapToPod)
                .sent(Exit::Pod, &pod(&packet), NODE2, whole),
        );
    }
    cases
}

fn other() -> Vec<LiveCase> {
    const GSO: Shape = Shape { gso_size: 1000, transport: 34, linear: 0 };
    let good = (tcp(Direction::Encap), lease(&tcp(Direction::Encap), NODE2, way_to_node2()));
    let with = |case: LiveCase| case.with(Entry::Lease(good.0, good.1));
    let segments = |frame: Frame| frame.tcp(1000, 80, flags::ACK).payload(3000);
    let packet = segments(from_pod().ipv4(POD, REMOTE));
    let out = segments(wrapped().ipv4(POD, REMOTE).ttl(63));
    let tagged = from_pod().ipv4(POD, REMOTE).tcp(1000, 80, flags::ACK).vlan(100);
    let from_host = segments(from_stack().ipv4(POD, REMOTE).ttl(63));
    vec![
        with(LiveCase::new(Hook::Pod, "TCP GSO stays whole and counts whole", &packet))
            .shape(GSO)
            .leaves(used(good, 3040))
            .counted(PodEncapsulated)
            .sent(Exit::Wire, &out, NODE2, 3040),
        with(LiveCase::new(Hook::Pod, "a VLAN tag", &tagged))
            .leaves(good)
            .counted_bytes(PodNotIpv4, 40),
        with(LiveCase::new(Hook::Tunnel, "TCP GSO", &from_host))
            .shape(GSO)
            .gone(good.0)
            .counted(HostUnmarked)
            .sent(Exit::Wire, &out, NODE2, 3040),
    ]
}

/// `grant_decap` alone, on what leaves for the pod: frames no test run takes.
#[test]
fn grant_decap_reads_headers_wherever_they_are() {
    let flow = tcp(Direction::Decap);
    let good = into_pod(flow, NODE2).1;
    in_namespace(|net| {
        let mut loaded = Loaded::new(settings(Settings::VERIFIED, Settings::SPOOF_DROP));
        attach(&mut loaded, Program::GrantDecap, "cali0", TcAttachType::Egress);
        let host = Wire::open("cali0");
        let mut check = |what: &str, frame: &Frame, shape: Shape, reason, bytes: u64| {
            loaded.set_leases(&[(flow, good)]);
            loaded.reset();
            host.send(&frame.bytes(), shape);
            let wrong = case::difference(&live::settle(&loaded, 1), &[(reason, bytes)], &[]);
            assert!(wrong.is_empty(), "{what}: {wrong}");
            // Nobody marks here: seen for what it is, it ends the lease.
            let expected = if reason == GrantUnmarked { None } else { Some(good) };
            assert_eq!(loaded.lease(&flow), expected, "{what}");
        };
        let ack = to_pod().ipv4(REMOTE, POD).tcp(1000, 80, flags::ACK);
        for length in 14..34 {
            let what = format!("cut to {length} bytes");
            let bytes = length as u64 - 14;
            check(&what, &ack.clone().cut(length), Shape::default(), GrantNoFlow, bytes);
        }
        check("a VLAN tag", &ack.clone().vlan(100), Shape::default(), GrantNoFlow, 44);
        let large = ack.payload(5000);
        for linear in [14, 20, 34, 38, 47, 48, 60] {
            let shape = Shape { linear, ..Shape::default() };
            check(&format!("{linear} bytes linear"), &large, shape, GrantUnmarked, 5040);
        }
        drop(net.pod.receive());
    });
}

/// From the wire, by way of the stack, into the pod: the first packet is granted
/// what the second goes by.
#[test]
fn wire_to_pod() {
    let flow = udp(Direction::Decap);
    let packet = decap::plain();
    let expected = pod(&packet);
    routed(MARKS, |net, loaded| {
        let send = || net.wire.send(&packet.bytes(), Shape::default());
        let from_node2 = (NODE2, Direction::Decap, INNER);
        let by_stack = [(DecapNoLeaseToStack, 20 + INNER), (GrantGiven, INNER)];
        step(loaded, &net.pod, send, &expected, &by_stack, from_node2);
        let granted = loaded.lease(&flow).expect("a lease");
        let first = Lease { packets: 0, bytes: 0, ..into_pod(flow, NODE2).1 };
        assert_eq!(granted, Lease { expires: granted.expires, ..first });
        step(loaded, &net.pod, send, &expected, &[(DecapToPod, 20 + INNER)], from_node2);
        let count = Lease { packets: 1, bytes: INNER, ..granted };
        assert_eq!(loaded.lease(&flow), Some(count));
    });
}

/// The other way, the same.
#[test]
fn pod_to_wire() {
    let flow = udp(Direction::Encap);
    let packet = from_pod().ipv4(POD, REMOTE).udp(1000, 2000).payload(64);
    let expected = wrapped().ipv4(POD, REMOTE).ttl(63).udp(1000, 2000).payload(64);
    routed(MARKS, |net, loaded| {
        let send = || net.pod.send(&packet.bytes(), Shape::default());
        let to_node2 = (NODE2, Direction::Encap, INNER);
        let by_stack = [(PodNoLease, INNER), (HostLeaseGranted, INNER)];
        step(loaded, &net.wire, send, &expected, &by_stack, to_node2);
        let granted = loaded.lease(&flow).expect("a lease");
        let first = Lease { packets: 0, bytes: 0, ..lease(&flow, NODE2, way_to_node2()) };
        assert_eq!(granted, Lease { expires: granted.expires, ..first });
        step(loaded, &net.wire, send, &expected, &[(PodEncapsulated, INNER)], to_node2);
        let count = Lease { packets: 1, bytes: INNER, ..granted };
        assert_eq!(loaded.lease(&flow), Some(count));
    });
}

/// Somebody rewrites a port and conntrack does not know: marked, but not leased.
#[test]
fn translated_behind_the_back_of_conntrack() {
    let rewrite = MARKS.replace("accept;", "accept; udp dport 2000 udp dport set 2001;");
    routed(&rewrite, |net, loaded| {
        let packet = decap::plain();
        let expected = pod(&decap::ip().udp(1000, 2001).payload(64));
        let send = || net.wire.send(&packet.bytes(), Shape::default());
        let counts = [(DecapNoLeaseToStack, 20 + INNER), (GrantUnproven, INNER)];
        for _ in 0..2 {
            step(loaded, &net.pod, send, &expected, &counts, (NODE2, Direction::Decap, INNER));
        }
        let packet = from_pod().ipv4(POD, REMOTE).udp(1000, 2000).payload(64);
        let expected = wrapped().ipv4(POD, REMOTE).ttl(63).udp(1000, 2001).payload(64);
        let send = || net.pod.send(&packet.bytes(), Shape::default());
        let counts = [(PodNoLease, INNER), (HostUnproven, INNER)];
        for _ in 0..2 {
            step(loaded, &net.wire, send, &expected, &counts, (NODE2, Direction::Encap, INNER));
        }
        assert_eq!(loaded.leases(), []);
    });
}

/// Netfilter's consent, without its reasons.
const MARKS: &str = "
    table ip consent {
        chain postrouting {
            type filter hook postrouting priority 300; policy accept;
            meta mark set meta mark | 0x1000
        }
    }
";

/// Runs `test` where the stack routes between the pod and the tunnel device,
/// with these rules and all programs but XDP.
fn routed(rules: &str, test: impl FnOnce(&Net, &mut Loaded) + Send) {
    assert_eq!(MARK, 0x1000, "as in the rules");
    in_namespace(|net| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("packets can be forwarded");
        ip("route add 10.20.105.215/32 dev cali0
            neigh add 10.20.105.215 lladdr 02:00:00:00:00:05 dev cali0 nud permanent
            route add 10.20.42.0/26 dev tunless0
            ");
        nft(rules);
        let mut loaded = Loaded::new(settings(Settings::VERIFIED, Settings::SPOOF_DROP));
        attach(&mut loaded, Program::EncapPod, "cali0", TcAttachType::Ingress);
        attach(&mut loaded, Program::GrantDecap, "cali0", TcAttachType::Egress);
        attach(&mut loaded, Program::EncapHost, "tunless0", TcAttachType::Egress);
        attach(&mut loaded, Program::DecapTc, "eth0", TcAttachType::Ingress);
        test(net, &mut loaded);
    });
}

fn nft(rules: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nftables is installed");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(rules.as_bytes()).expect("nft reads its rules");
    drop(stdin);
    assert!(child.wait().expect("nft ends").success(), "nft failed on:\n{rules}");
}

/// One packet: what comes out at `exit`, and what is counted.
fn step(
    loaded: &mut Loaded,
    exit: &Wire,
    send: impl Fn(),
    expected: &Frame,
    counts: &[(Reason, u64)],
    node: (Ipv4Addr, Direction, u64),
) {
    exit.drain();
    loaded.reset();
    send();
    let came = exit.receive().expect("it comes out");
    let expected = expected.bytes();
    assert!(came.frame == expected, "{}", hex::difference(&expected, &came.frame));
    let wrong = case::difference(&live::settle(loaded, counts.len() as u64), counts, &[node]);
    assert!(wrong.is_empty(), "{wrong}");
}
