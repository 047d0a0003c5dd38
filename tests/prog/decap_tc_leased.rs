//! `decap_tc` where netfilter is the judge: what has a lease of the node that
//! sent it goes into the pod; the rest crosses the stack with a tag.

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, Flow, Lease, Mtu, Node,
    Reason::{
        self, DecapCannotUnwrap, DecapControlToStack, DecapEcnViolation, DecapForgedSource,
        DecapForgedToStack, DecapFragmentToStack, DecapInnerTtlZero, DecapLeaseExpiredToStack,
        DecapLeaseOutdatedToStack, DecapMartianSource, DecapMartianToStack, DecapNoLeaseToStack,
        DecapNoPortsToStack, DecapNotForHost, DecapOptionsToStack, DecapSourceUnknown, DecapToPod,
        DecapTtlToStack, DecapUnknownNode,
    },
};
use tunless_tests::{
    case::{self, Case},
    decap::{ECN, failing, honest, ip, plain, spoofs, truncated},
    faults::{Fails, MARTIAN, decap, fragments, in_order, options},
    packet::{DF, EVIL, Frame, MF, Mac, flags},
    prog::Program,
    world::{
        EPOCH, Entry, HOST_MAC, MARK, NEIGHBOUR, NEIGHBOUR_IF, NODE_UNKNOWN, NODE1, NODE2, NODE3,
        NOW, OTHER_MAC, OVER, POD, POD_IF, POD_MAC, REMOTE, REMOTE_UNKNOWN, REMOTE3, ROUTER_MAC,
        SECRET, STRANGER, TUNNEL_ADDRESS, TUNNEL_MAC, YOUNG_POD, flow, hop, lease, way_to_node3,
        way_to_pod,
    },
};

#[test]
fn table() {
    case::run("decap_tc, leased", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        into_the_pod(),
        by_the_lease_alone(),
        no_good(),
        of_another_node(),
        others(),
        never_leased(),
        unfit(),
        congestion(),
        suspects(),
        refused(),
        cut_by_its_own_length(),
        delivery_in_order(),
    ]
    .concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
/// Nothing of ours.
const STRAY: u16 = 0x5a5a;
/// Length of the packet inside [`plain`].
const INNER: u64 = 20 + 8 + 64;

fn udp(source: Ipv4Addr) -> Flow {
    flow(Direction::Decap, UDP, (source, 1000), (POD, 2000))
}

fn udp2() -> Flow {
    udp(REMOTE)
}

fn tcp() -> Flow {
    flow(Direction::Decap, TCP, (REMOTE, 1000), (POD, 80))
}

fn good(flow: Flow, node: Ipv4Addr) -> Entry {
    Entry::Lease(flow, lease(&flow, node, way_to_pod()))
}

fn case(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::DecapTc, what, packet).verified().mark(MARK | 1).tag(STRAY)
}

fn leased(what: impl Into<String>, packet: &Frame) -> Case {
    case(what, packet).with(good(udp2(), NODE2)).with(good(tcp(), NODE2))
}

/// Unwrapped, as the tunnel device's ingress takes it.
fn stack(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(TUNNEL_MAC, ROUTER_MAC)
}

fn to_stack(case: Case, reason: Reason, tag: u16, packet: &Frame) -> Case {
    case.leaves_tag(tag).sent(reason, &stack(packet))
}

/// Unwrapped, one hop less, with these MACs.
fn pod_of(packet: &Frame, pod: Mac, host: Mac) -> Frame {
    packet.clone().unwrapped().macs(pod, host).edit(0, |ip| ip.ttl -= 1)
}

fn pod(packet: &Frame) -> Frame {
    pod_of(packet, POD_MAC, HOST_MAC)
}

fn into_the_pod() -> Vec<Case> {
    let any_outer = plain().edit(0, |ip| (ip.id, ip.fragment, ip.ttl) = (0, DF | EVIL, 0));
    let mut packets = vec![
        ("a datagram".to_string(), plain()),
        ("whatever the outer id, DF, reserved bit and TTL".to_string(), any_outer),
        ("DF inside is no fragment".to_string(), plain().edit(1, |ip| ip.fragment = DF | EVIL)),
        ("padding".to_string(), plain().padding(6)),
        (
            "more carried than the packet is long".to_string(),
            plain().edit(0, |ip| ip.total_length = Some(118)).padding(6),
        ),
    ];
    for ttl in [2, 3, 64, 255] {
        packets.push((format!("TTL {ttl} less one"), plain().edit(1, |ip| ip.ttl = ttl)));
    }
    let mut cases: Vec<_> = packets
        .iter()
        .map(|(what, packet)| {
            leased(what, packet).uses(udp2(), INNER).sent(DecapToPod, &pod(packet))
        })
        .collect();
    cases.push(
        leased("spoofs to the stack", &plain())
            .spoof_to_stack()
            .uses(udp2(), INNER)
            .sent(DecapToPod, &pod(&plain())),
    );
    for control in [flags::ACK, flags::ACK | flags::PSH, flags::ACK | flags::URG, 0] {
        let packet = ip().tcp(1000, 80, control).payload(9);
        cases.push(
            leased(format!("TCP with flags {control:#04x}"), &packet)
                .uses(tcp(), 49)
                .sent(DecapToPod, &pod(&packet)),
        );
    }
    for (node, source) in honest() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let flow = udp(source);
        cases.push(
            case(format!("{source} from {node}"), &packet)
                .with(good(flow, node))
                .uses(flow, INNER)
                .sent(DecapToPod, &pod(&packet)),
        );
        // Without a lease the same packet has a right to ask for one.
        let case = case(format!("{source} from {node}, no lease"), &packet);
        cases.push(to_stack(case, DecapNoLeaseToStack, flow.tag(SECRET), &packet));
    }
    cases
}

/// The lease holds all: neither node nor route nor endpoint is looked up. A
/// change of those raises the epoch instead.
fn by_the_lease_alone() -> Vec<Case> {
    let from = |node, source| plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
    let mut cases = Vec::new();
    for (what, node, source) in [
        ("the node is not in NODES", NODE_UNKNOWN, REMOTE_UNKNOWN),
        ("no route covers the source", NODE2, STRANGER),
        ("the route names another node", NODE3, REMOTE),
        ("the source is one of ours", NODE2, NEIGHBOUR),
    ] {
        let packet = from(node, source);
        cases.push(
            case(what, &packet)
                .with(good(udp(source), node))
                .uses(udp(source), INNER)
                .sent(DecapToPod, &pod(&packet)),
        );
    }
    for destination in [YOUNG_POD, STRANGER, NODE1] {
        let packet = plain().edit(1, |ip| ip.to = destination);
        let flow = flow(Direction::Decap, UDP, (REMOTE, 1000), (destination, 2000));
        let way = Node { hop: hop(NEIGHBOUR_IF, OTHER_MAC, ROUTER_MAC), mtu: Mtu(0) };
        cases.push(
            case(format!("to {destination}, by the lease's MACs"), &packet)
                .with(Entry::Lease(flow, lease(&flow, NODE2, way)))
                .uses(flow, INNER)
                .sent(DecapToPod, &pod_of(&packet, OTHER_MAC, ROUTER_MAC)),
        );
    }
    cases
}

fn no_good() -> Vec<Case> {
    let flow = udp2();
    let tag = flow.tag(SECRET);
    let good = lease(&flow, NODE2, way_to_pod());
    let with = |what: &str, lease: Lease, reason| {
        to_stack(case(what, &plain()).with(Entry::Lease(flow, lease)), reason, tag, &plain())
    };
    let ack = ip().tcp(1000, 80, flags::ACK).payload(9);
    let mut cases = vec![
        to_stack(case("none", &plain()), DecapNoLeaseToStack, tag, &plain()),
        to_stack(case("none, TCP", &ack), DecapNoLeaseToStack, tcp().tag(SECRET), &ack),
        to_stack(
            case("none, spoofs to the stack", &plain()).spoof_to_stack(),
            DecapNoLeaseToStack,
            tag,
            &plain(),
        ),
        with("over since long", Lease { expires: OVER, ..good }, DecapLeaseExpiredToStack),
        with("over this very tick", Lease { expires: NOW, ..good }, DecapLeaseExpiredToStack),
        with("of the last epoch", Lease { epoch: EPOCH - 1, ..good }, DecapLeaseOutdatedToStack),
        with("of the next epoch", Lease { epoch: EPOCH + 1, ..good }, DecapLeaseOutdatedToStack),
        with("of no epoch", Lease { epoch: 0, ..good }, DecapLeaseOutdatedToStack),
        with(
            "of the last epoch, and over",
            Lease { epoch: EPOCH - 1, expires: OVER, ..good },
            DecapLeaseOutdatedToStack,
        ),
        with(
            "in memory that became another flow's",
            Lease { flow: Flow { destination: NEIGHBOUR.into(), ..good.flow }, ..good },
            DecapNoLeaseToStack,
        ),
        with(
            "that, of another epoch, and over",
            Lease {
                flow: Flow { destination: NEIGHBOUR.into(), ..good.flow },
                epoch: 0,
                expires: OVER,
                ..good
            },
            DecapNoLeaseToStack,
        ),
    ];
    // Whoever it is for; what becomes of it there is the stack's business.
    for address in [NEIGHBOUR, YOUNG_POD, TUNNEL_ADDRESS, NODE1, STRANGER, REMOTE3] {
        let packet = plain().edit(1, |ip| ip.to = address);
        let flow =
            tunless_tests::world::flow(Direction::Decap, UDP, (REMOTE, 1000), (address, 2000));
        let case = case(format!("to {address}"), &packet);
        cases.push(to_stack(case, DecapNoLeaseToStack, flow.tag(SECRET), &packet));
    }
    cases
}

/// It vouches for its own node alone: the source check judges the rest.
fn of_another_node() -> Vec<Case> {
    let flow = udp2();
    let theirs = good(flow, NODE3);
    let lie = plain().edit(0, |ip| ip.from = NODE3);
    let unknown = plain().edit(0, |ip| ip.from = NODE_UNKNOWN);
    let martian = udp(MARTIAN);
    let martian_packet = plain().edit(1, |ip| ip.from = MARTIAN);
    let own = udp(NEIGHBOUR);
    let own_packet = plain().edit(1, |ip| ip.from = NEIGHBOUR);
    let stranger = plain().edit(1, |ip| ip.from = STRANGER);
    vec![
        to_stack(
            case("node 3's lease, node 2's right", &plain()).with(theirs),
            DecapNoLeaseToStack,
            flow.tag(SECRET),
            &plain(),
        ),
        leased("node 2's lease, node 3's lie", &lie).dropped(DecapForgedSource),
        leased("an unknown node's", &unknown).passed(DecapUnknownNode),
        // Suspects take no tag along: netfilter's consent must not make them leased.
        to_stack(
            leased("node 2's lease, node 3's lie", &lie).spoof_to_stack(),
            DecapForgedToStack,
            0,
            &lie,
        ),
        case("node 3's lease of a martian", &martian_packet)
            .with(good(martian, NODE3))
            .dropped(DecapMartianSource),
        to_stack(
            case("node 3's lease of a martian", &martian_packet)
                .with(good(martian, NODE3))
                .spoof_to_stack(),
            DecapMartianToStack,
            0,
            &martian_packet,
        ),
        case("node 3's lease of our own", &own_packet)
            .with(good(own, NODE3))
            .dropped(Reason::DecapOwnSource),
        case("node 3's lease of a stranger", &stranger)
            .with(good(udp(STRANGER), NODE3))
            .passed(DecapSourceUnknown),
    ]
}

/// Leases of flows that differ in one thing.
fn others() -> Vec<Case> {
    let flow = udp2();
    [
        Flow { source: REMOTE3.into(), ..flow },
        Flow { destination: NEIGHBOUR.into(), ..flow },
        Flow { source_port: flow.source_port ^ 1, ..flow },
        Flow { destination_port: flow.destination_port ^ 1, ..flow },
        Flow { source_port: flow.destination_port, destination_port: flow.source_port, ..flow },
        Flow { protocol: TCP, ..flow },
        Flow { direction: Direction::Encap as u8, ..flow },
        flow.reverse(),
    ]
    .into_iter()
    .map(|other| {
        let case = case(format!("a lease of {other:?}"), &plain()).with(good(other, NODE2));
        to_stack(case, DecapNoLeaseToStack, flow.tag(SECRET), &plain())
    })
    .collect()
}

/// Whatever leases there are; and no tag, for there is nothing to ask for.
fn never_leased() -> Vec<Case> {
    let ack = ip().tcp(1000, 80, flags::ACK).payload(9);
    let mut cases = Vec::new();
    let mut add = |what: String, packet: &Frame, reason| {
        cases.push(to_stack(leased(what, packet), reason, 0, packet));
    };
    for (what, packet) in options(&plain(), 1).into_iter().chain(options(&ack, 1)) {
        add(what, &packet, DecapOptionsToStack);
    }
    for (what, packet) in fragments(&plain(), 1).into_iter().chain(fragments(&ack, 1)) {
        add(what, &packet, DecapFragmentToStack);
    }
    for length in 0..4 {
        add(format!("{length} bytes of UDP"), &ip().raw(UDP).payload(length), DecapNoPortsToStack);
    }
    for length in 0..14 {
        add(format!("{length} bytes of TCP"), &ip().raw(TCP).payload(length), DecapNoPortsToStack);
    }
    for control in [flags::SYN, flags::SYN | flags::ACK, flags::FIN | flags::ACK, flags::RST, 0xff]
    {
        if control != flags::SYN | flags::ACK {
            let packet = ip().tcp(1000, 80, control);
            add(format!("TCP with flags {control:#04x}"), &packet, DecapControlToStack);
        }
    }
    for (name, protocol) in [("ICMP", 1), ("SCTP", 132), ("GRE", 47), ("none", 253)] {
        // Behind the header lies what ports would look like.
        let packet = ip().raw(protocol).payload(64);
        let bytes = packet.bytes();
        let port = |at: usize| u16::from_ne_bytes([bytes[54 + at], bytes[55 + at]]);
        let alike = Flow { protocol, source_port: port(0), destination_port: port(2), ..udp2() };
        let case = case(name, &packet).with(good(alike, NODE2));
        cases.push(to_stack(case, DecapNoPortsToStack, 0, &packet));
    }
    cases
}

/// It has a lease and cannot use it: not counted, and no tag.
fn unfit() -> Vec<Case> {
    let ttl1 = plain().edit(1, |ip| ip.ttl = 1);
    let dead = plain().edit(1, |ip| ip.ttl = 0);
    let marked = plain().edit(0, |ip| ip.tos = 3).edit(1, |ip| ip.tos = 2);
    let ack = ip().tcp(1000, 80, flags::ACK).payload(9);
    vec![
        to_stack(leased("TTL 1", &ttl1), DecapTtlToStack, 0, &ttl1),
        to_stack(
            case("TTL 1 without a lease", &ttl1),
            DecapNoLeaseToStack,
            udp2().tag(SECRET),
            &ttl1,
        ),
        leased("TTL 0", &dead).dropped(DecapInnerTtlZero),
        // The kernel refuses: as it was, TTL and congestion included.
        leased("GSO of no known type", &plain()).gso_size(1000).passed(DecapCannotUnwrap),
        leased("GSO of no known type, TCP", &ack).gso_size(1000).passed(DecapCannotUnwrap),
        leased("GSO, marked outside", &marked).gso_size(1000).passed(DecapCannotUnwrap),
        leased("for another machine", &plain().macs(OTHER_MAC, ROUTER_MAC)).passed(DecapNotForHost),
        leased("on another interface", &plain()).on(POD_IF).passed(DecapNotForHost),
    ]
}

fn congestion() -> Vec<Case> {
    let mut cases = Vec::new();
    for (inner, row) in (0..).zip(ECN) {
        for (outer, merged) in (0..).zip(row) {
            let packet =
                plain().edit(0, |ip| ip.tos = 0xa0 | outer).edit(1, |ip| ip.tos = 0x48 | inner);
            let case = leased(format!("ECN {outer:02b} outside, {inner:02b} inside"), &packet);
            cases.push(match merged {
                None => case.dropped(DecapEcnViolation),
                Some(merged) => {
                    let packet = packet.edit(1, |ip| ip.tos = 0x48 | merged);
                    case.uses(udp2(), INNER).sent(DecapToPod, &pod(&packet))
                }
            });
        }
    }
    cases
}

/// No lie is told better by a lease of somebody else's.
fn suspects() -> Vec<Case> {
    let mut cases = Vec::new();
    for (node, source, drop, reason) in spoofs() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let rightful = if node == NODE2 { NODE3 } else { NODE2 };
        let case = case(format!("{source} from {node}"), &packet);
        for case in [case.clone(), case.with(good(udp(source), rightful))] {
            cases.push(case.clone().dropped(drop));
            cases.push(to_stack(case.spoof_to_stack(), reason, 0, &packet));
        }
    }
    cases
}

/// A lease stands for node and source; every other check is made all the same.
fn refused() -> Vec<Case> {
    let with_leases =
        |case: Case| case.verified().tag(STRAY).with(good(udp2(), NODE2)).with(good(tcp(), NODE2));
    let mut cases: Vec<_> =
        in_order(Program::DecapTc, &plain(), &decap(Program::DecapTc), Fails::at_tc)
            .into_iter()
            .map(with_leases)
            .collect();
    for (what, packet, fails) in failing().into_iter().chain(truncated()) {
        cases.push(fails.at_tc(leased(what, &packet)));
    }
    cases
}

/// Ports and flags are read where they would be. A packet whose own length ends
/// before them is its receiver's to refuse, with a lease or without.
fn cut_by_its_own_length() -> Vec<Case> {
    let cut = |frame: Frame, length| frame.edit(1, |ip| ip.total_length = Some(length));
    let datagram = cut(plain(), 23);
    let syn = cut(ip().tcp(1000, 80, flags::SYN), 33);
    vec![
        to_stack(leased("a datagram's ports", &datagram), DecapNoPortsToStack, 0, &datagram),
        to_stack(leased("a segment's flags", &syn), DecapNoPortsToStack, 0, &syn),
    ]
}

/// Makes a packet unfit for the fast path.
type Spoil = fn(Frame) -> Frame;

/// Why the stack gets what the fast path does not take, the first reason first.
fn delivery_in_order() -> Vec<Case> {
    let faults: [(Reason, Spoil); 4] = [
        (DecapForgedToStack, |frame| frame.edit(1, |ip| ip.from = REMOTE3)),
        (DecapOptionsToStack, |frame| frame.edit(1, |ip| ip.options = vec![1; 4])),
        (DecapFragmentToStack, |frame| frame.edit(1, |ip| ip.fragment = MF)),
        (DecapControlToStack, |frame| frame.tcp(1000, 80, flags::SYN)),
    ];
    let mut cases = Vec::new();
    for (i, (earlier, spoil)) in faults.iter().enumerate() {
        for (later, spoil_more) in &faults[i + 1..] {
            let packet = spoil(spoil_more(plain()));
            let case = leased(format!("{earlier:?} before {later:?}"), &packet).spoof_to_stack();
            cases.push(to_stack(case, *earlier, 0, &packet));
        }
        let packet = spoil(plain()).edit(1, |ip| ip.ttl = 1);
        let case = leased(format!("{earlier:?} before TTL 1"), &packet).spoof_to_stack();
        cases.push(to_stack(case, *earlier, 0, &packet));
    }
    let flow = udp2();
    let stale = Lease { epoch: 0, ..lease(&flow, NODE2, way_to_node3()) };
    let packet = plain().edit(1, |ip| ip.ttl = 1);
    let case = case("an outdated lease before TTL 1", &packet).with(Entry::Lease(flow, stale));
    cases.push(to_stack(case, DecapLeaseOutdatedToStack, flow.tag(SECRET), &packet));
    cases
}
