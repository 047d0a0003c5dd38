//! `encap_pod` where netfilter is the judge: only what has a lease goes
//! straight to the wire. All else takes along what it looks like.

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, Flow, IfIndex, Lease,
    Reason::{
        self, PodBadChecksum, PodBadHeader, PodCannotEncapsulate, PodConnectionControl,
        PodEncapsulated, PodForgedSource, PodFragment, PodLeaseExpired, PodLeaseOutdated,
        PodNoLease, PodNoPorts, PodNotForHost, PodNotIpv4, PodOptions, PodTooBig, PodTruncated,
        PodTtlExpired,
    },
};
use tunless_tests::{
    case::{self, Case},
    faults::{fragments, impossible_headers, impossible_lengths, not_for_host, not_ipv4, options},
    packet::{DF, EVIL, Frame, flags},
    prog::{Action, Program},
    world::{
        EPOCH, Entry, LATER, MARK, MTU, NEIGHBOUR, NEIGHBOUR_IF, NEXT_HOP_MAC, NIC_IF, NIC_MAC,
        NODE_UNKNOWN, NODE1, NODE2, NODE3, NOW, OVER, POD, POD_MAC, REMOTE, REMOTE_UNKNOWN,
        REMOTE3, SECRET, SMALL_MTU, STRANGER, flow, from_pod, lease, node, route, way_to_node2,
        way_to_node3,
    },
};

#[test]
fn table() {
    case::run("encap_pod, leased", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        sent(),
        by_the_lease_alone(),
        no_good(),
        others(),
        not_this_pod(),
        never_leased(),
        unfit(),
        bad_input(),
        no_room(),
        in_order(),
    ]
    .concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
/// What a pod's own programs left in `tc_index`; it must not survive.
const STRAY: u16 = 0x5a5a;
/// Length of [`plain`]'s packet.
const LENGTH: u64 = 20 + 8 + 64;

fn ip() -> Frame {
    from_pod().ipv4(POD, REMOTE)
}

fn plain() -> Frame {
    ip().udp(1000, 2000).payload(64)
}

fn ack() -> Frame {
    ip().tcp(1000, 80, flags::ACK).payload(9)
}

fn wrapped(node: Ipv4Addr) -> Frame {
    from_pod().ipv4(NODE1, node).id(0).fragment(DF).ttl(63)
}

fn wrapped_ip() -> Frame {
    wrapped(NODE2).ipv4(POD, REMOTE).ttl(63)
}

fn wrapped_plain() -> Frame {
    wrapped_ip().udp(1000, 2000).payload(64)
}

fn udp(destination: Ipv4Addr) -> Flow {
    flow(Direction::Encap, UDP, (POD, 1000), (destination, 2000))
}

fn tcp() -> Flow {
    flow(Direction::Encap, TCP, (POD, 1000), (REMOTE, 80))
}

fn good(flow: Flow) -> Entry {
    Entry::Lease(flow, lease(&flow, NODE2, way_to_node2()))
}

/// A packet without a lease so far. The mark is netfilter's to set and others' to keep.
fn case(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::EncapPod, what, packet).verified().mark(MARK | 1).tag(STRAY).leaves_tag(0)
}

fn leased(what: impl Into<String>, packet: &Frame) -> Case {
    case(what, packet).with(good(udp(REMOTE))).with(good(tcp()))
}

fn sent() -> Vec<Case> {
    let mut cases = vec![
        leased("a datagram", &plain())
            .uses(udp(REMOTE), LENGTH)
            .sent(PodEncapsulated, &wrapped_plain()),
        leased("padding neither travels nor counts", &plain().padding(15))
            .uses(udp(REMOTE), LENGTH)
            .sent(PodEncapsulated, &wrapped_plain()),
        leased("the reserved bit is no fragment's", &plain().fragment(EVIL | DF))
            .uses(udp(REMOTE), LENGTH)
            .sent(PodEncapsulated, &wrapped_ip().fragment(EVIL | DF).udp(1000, 2000).payload(64)),
        leased("as large as the path takes", &ip().udp(1000, 2000).payload(MTU as usize - 48))
            .uses(udp(REMOTE), u64::from(MTU) - 20)
            .sent(PodEncapsulated, &wrapped_ip().udp(1000, 2000).payload(MTU as usize - 48)),
    ];
    for control in [flags::ACK, flags::ACK | flags::PSH, flags::ACK | flags::URG, 0] {
        let packet = ip().tcp(1000, 80, control).payload(9);
        cases.push(
            leased(format!("TCP with flags {control:#04x}"), &packet)
                .uses(tcp(), 49)
                .sent(PodEncapsulated, &wrapped_ip().tcp(1000, 80, control).payload(9)),
        );
    }
    for (ttl, tos) in [(2, 0), (3, 3), (64, 0xb8), (255, 0xff)] {
        let out = wrapped(NODE2).ttl(ttl - 1).tos(tos & 3).ipv4(POD, REMOTE).ttl(ttl - 1).tos(tos);
        cases.push(
            leased(format!("TTL {ttl}, TOS {tos:#04x}"), &plain().ttl(ttl).tos(tos))
                .uses(udp(REMOTE), LENGTH)
                .sent(PodEncapsulated, &out.udp(1000, 2000).payload(64)),
        );
    }
    cases
}

/// The lease holds all: neither endpoint nor route nor node is looked up. A
/// change of those raises the epoch instead.
fn by_the_lease_alone() -> Vec<Case> {
    let to = |to| from_pod().ipv4(POD, to).udp(1000, 2000).payload(64);
    let cached = |node, to| {
        wrapped(node).macs(NEXT_HOP_MAC, NIC_MAC).ipv4(POD, to).ttl(63).udp(1000, 2000).payload(64)
    };
    let by_node3 = |to| Entry::Lease(udp(to), lease(&udp(to), NODE3, way_to_node3()));
    let mut cases = vec![
        case("the next hop's MAC is in the lease", &to(REMOTE3))
            .with(by_node3(REMOTE3))
            .uses(udp(REMOTE3), LENGTH)
            .sent(PodEncapsulated, &cached(NODE3, REMOTE3)),
        case("the route says node 2, the lease node 3", &to(REMOTE))
            .with(by_node3(REMOTE))
            .uses(udp(REMOTE), LENGTH)
            .sent(PodEncapsulated, &cached(NODE3, REMOTE)),
        case("no route covers the destination", &to(STRANGER))
            .with(by_node3(STRANGER))
            .uses(udp(STRANGER), LENGTH)
            .sent(PodEncapsulated, &cached(NODE3, STRANGER)),
    ];
    // A source that is no endpoint of ours: its lease is what counts.
    let other = Flow { source: NEIGHBOUR.into(), ..udp(REMOTE) };
    let packet = from_pod().ipv4(NEIGHBOUR, REMOTE).udp(1000, 2000).payload(64);
    cases.push(
        case("the endpoint map names another interface, the lease this one", &packet)
            .with(good(other))
            .uses(other, LENGTH)
            .sent(
                PodEncapsulated,
                &wrapped(NODE2).ipv4(NEIGHBOUR, REMOTE).ttl(63).udp(1000, 2000).payload(64),
            ),
    );
    // A node that is not in NODES has no counter either, so `node` adds one.
    cases.push(
        case("the node has a way, the lease its own", &to(REMOTE_UNKNOWN))
            .with(node(NODE_UNKNOWN, 0, MTU))
            .with(Entry::Lease(
                udp(REMOTE_UNKNOWN),
                lease(&udp(REMOTE_UNKNOWN), NODE_UNKNOWN, way_to_node2()),
            ))
            .uses(udp(REMOTE_UNKNOWN), LENGTH)
            .sent(
                PodEncapsulated,
                &wrapped(NODE_UNKNOWN)
                    .ipv4(POD, REMOTE_UNKNOWN)
                    .ttl(63)
                    .udp(1000, 2000)
                    .payload(64),
            ),
    );
    cases
}

/// No lease, or none that is good: to the stack with a tag.
fn no_good() -> Vec<Case> {
    let flow = udp(REMOTE);
    let tag = flow.tag(SECRET);
    let good = lease(&flow, NODE2, way_to_node2());
    let with = |what: &str, lease: Lease, reason: Reason| {
        case(what, &plain()).with(Entry::Lease(flow, lease)).leaves_tag(tag).passed(reason)
    };
    let mut cases = vec![
        case("none", &plain()).leaves_tag(tag).passed(PodNoLease),
        case("none, TCP", &ack()).leaves_tag(tcp().tag(SECRET)).passed(PodNoLease),
        case("spoofs to the stack", &plain()).spoof_to_stack().leaves_tag(tag).passed(PodNoLease),
        with("over since long", Lease { expires: OVER, ..good }, PodLeaseExpired),
        with("over this very tick", Lease { expires: NOW, ..good }, PodLeaseExpired),
        with("of the last epoch", Lease { epoch: EPOCH - 1, ..good }, PodLeaseOutdated),
        with("of the next epoch", Lease { epoch: EPOCH + 1, ..good }, PodLeaseOutdated),
        with("of no epoch", Lease { epoch: 0, ..good }, PodLeaseOutdated),
        with(
            "of the last epoch, and over",
            Lease { epoch: EPOCH - 1, expires: OVER, ..good },
            PodLeaseOutdated,
        ),
        with(
            "in memory that became another flow's",
            Lease { flow: udp(REMOTE3), ..good },
            PodNoLease,
        ),
        with(
            "that, of another epoch, and over",
            Lease { flow: udp(REMOTE3), epoch: 0, expires: OVER, ..good },
            PodNoLease,
        ),
        // Whose it is is asked of a good lease only.
        with(
            "of another interface, and over",
            Lease { endpoint: IfIndex(NEIGHBOUR_IF), expires: OVER, ..good },
            PodLeaseExpired,
        ),
    ];
    // What the trusted fast path would not take is the stack's, too, but asked for.
    for destination in [STRANGER, NEIGHBOUR, NODE1, Ipv4Addr::BROADCAST] {
        let packet = from_pod().ipv4(POD, destination).udp(1000, 2000).payload(64);
        cases.push(
            case(format!("to {destination}"), &packet)
                .leaves_tag(udp(destination).tag(SECRET))
                .passed(PodNoLease),
        );
    }
    let ttl1 = plain().ttl(1);
    cases.push(case("TTL 1 without a lease", &ttl1).leaves_tag(tag).passed(PodNoLease));
    let big = plain().payload(MTU as usize);
    cases.push(case("too big without a lease", &big).leaves_tag(tag).passed(PodNoLease));
    cases
}

/// Leases of flows that differ in one thing.
fn others() -> Vec<Case> {
    let flow = udp(REMOTE);
    [
        Flow { source: NEIGHBOUR.into(), ..flow },
        Flow { destination: REMOTE3.into(), ..flow },
        Flow { source_port: flow.source_port ^ 1, ..flow },
        Flow { destination_port: flow.destination_port ^ 1, ..flow },
        Flow { source_port: flow.destination_port, destination_port: flow.source_port, ..flow },
        Flow { protocol: TCP, ..flow },
        Flow { direction: Direction::Decap as u8, ..flow },
        flow.reverse(),
    ]
    .into_iter()
    .map(|other| {
        case(format!("a lease of {other:?}"), &plain())
            .with(good(other))
            .leaves_tag(flow.tag(SECRET))
            .passed(PodNoLease)
    })
    .collect()
}

/// A neighbour must not ride along, nor ask for a lease of its own.
fn not_this_pod() -> Vec<Case> {
    let flow = udp(REMOTE);
    let of = |endpoint| {
        Entry::Lease(
            flow,
            Lease { endpoint: IfIndex(endpoint), ..lease(&flow, NODE2, way_to_node2()) },
        )
    };
    vec![
        case("a lease of another interface", &plain())
            .with(of(NEIGHBOUR_IF))
            .passed(PodForgedSource),
        case("a lease of no interface", &plain()).with(of(0)).passed(PodForgedSource),
        leased("on another interface", &plain().macs(NIC_MAC, POD_MAC))
            .on(NIC_IF)
            .passed(PodForgedSource),
        // Where it came from before does not matter: it is here.
        leased("on the right one", &plain())
            .came_by(NIC_IF)
            .uses(flow, LENGTH)
            .sent(PodEncapsulated, &wrapped_plain()),
    ]
}

/// Whatever leases there are.
fn never_leased() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, packet) in options(&plain(), 0).into_iter().chain(options(&ack(), 0)) {
        cases.push(leased(what, &packet).passed(PodOptions));
    }
    for (what, packet) in fragments(&plain(), 0).into_iter().chain(fragments(&ack(), 0)) {
        cases.push(leased(what, &packet).passed(PodFragment));
    }
    for (name, protocol) in [("ICMP", 1), ("SCTP", 132), ("GRE", 47), ("none", 253)] {
        // Behind the header lies what ports would look like.
        let packet = ip().raw(protocol).payload(64);
        let bytes = packet.bytes();
        let port = |at: usize| u16::from_ne_bytes([bytes[34 + at], bytes[35 + at]]);
        let alike =
            Flow { protocol, source_port: port(0), destination_port: port(2), ..udp(REMOTE) };
        cases.push(case(name, &packet).with(good(alike)).passed(PodNoPorts));
    }
    for length in 0..4 {
        let packet = ip().raw(UDP).payload(length);
        cases.push(leased(format!("{length} bytes of UDP"), &packet).passed(PodNoPorts));
    }
    for control in [flags::SYN, flags::SYN | flags::ACK, flags::FIN | flags::ACK, flags::RST, 0xff]
    {
        let packet = ip().tcp(1000, 80, control);
        let what = format!("TCP with flags {control:#04x}");
        // Who accepts a connection asks for a lease.
        let tag = if control == flags::SYN | flags::ACK { tcp().tag(SECRET) } else { 0 };
        for case in [leased(&what, &packet), case(&what, &packet)] {
            cases.push(case.leaves_tag(tag).passed(PodConnectionControl));
        }
    }
    cases
}

/// It has a lease and cannot use it: as it was, and not counted.
fn unfit() -> Vec<Case> {
    let flow3 = udp(REMOTE3);
    let to3 = from_pod().ipv4(POD, REMOTE3).udp(1000, 2000).payload(SMALL_MTU as usize - 47);
    let big = |beyond: usize| ip().udp(1000, 2000).payload(MTU as usize - 48 + beyond);
    vec![
        leased("TTL 0", &plain().ttl(0)).passed(PodTtlExpired),
        leased("TTL 1", &plain().ttl(1)).passed(PodTtlExpired),
        leased("a wrong checksum", &plain().wrong_checksum()).passed(PodBadChecksum),
        leased("a byte too large", &big(1)).passed(PodTooBig),
        leased("much too large", &big(900)).passed(PodTooBig),
        leased("a byte too large, with padding", &big(1).padding(4)).passed(PodTooBig),
        case("a byte too large for the lease's way", &to3)
            .with(Entry::Lease(flow3, lease(&flow3, NODE3, way_to_node3())))
            .passed(PodTooBig),
    ]
}

fn bad_input() -> Vec<Case> {
    let plain = plain();
    let mut cases = Vec::new();
    for (what, packet) in not_ipv4(&plain) {
        cases.push(leased(what, &packet).passed(PodNotIpv4));
    }
    for (what, packet) in impossible_headers(&plain, 0) {
        cases.push(leased(what, &packet).passed(PodBadHeader));
    }
    for (what, packet) in impossible_lengths(&plain, 0, LENGTH as u16) {
        cases.push(leased(what, &packet).passed(PodBadHeader));
    }
    for (what, mac) in not_for_host() {
        cases.push(leased(what, &plain.clone().macs(mac, POD_MAC)).passed(PodNotForHost));
    }
    for length in 0..14 {
        let packet = ip().raw(TCP).payload(length);
        cases.push(leased(format!("{length} bytes of TCP"), &packet).passed(PodTruncated));
    }
    cases
}

/// The kernel refuses room: the packet and the lease have to be as they were.
fn no_room() -> Vec<Case> {
    vec![
        leased("what we wrapped has no ports", &plain())
            .uses(udp(REMOTE), LENGTH)
            .sent(PodEncapsulated, &wrapped_plain())
            .again(PodNoPorts, Action::Pass),
        leased("GSO of no known type", &plain()).gso_size(1000).passed(PodCannotEncapsulate),
        leased("UDP GSO: a segment does not fit", &plain()).gso_size(1453).passed(PodTooBig),
        leased("TCP GSO: a segment fits", &ack()).gso_size(1440).passed(PodCannotEncapsulate),
        leased("TCP GSO: a segment does not fit", &ack()).gso_size(1441).passed(PodTooBig),
    ]
}

/// Each packet fails two checks.
fn in_order() -> Vec<Case> {
    let flow = udp(REMOTE);
    let neighbours = Entry::Lease(
        flow,
        Lease {
            endpoint: IfIndex(NEIGHBOUR_IF),
            expires: LATER,
            ..lease(&flow, NODE2, way_to_node2())
        },
    );
    let fragment = |frame: Frame| frame.fragment(tunless_tests::packet::MF);
    vec![
        leased("options before fragment", &fragment(plain().options(&[1; 4]))).passed(PodOptions),
        leased("fragment before no ports", &fragment(ip().raw(1).payload(9))).passed(PodFragment),
        leased("control before TTL", &ip().ttl(1).tcp(1000, 80, flags::SYN))
            .passed(PodConnectionControl),
        case("another's lease before TTL", &plain().ttl(1))
            .with(neighbours)
            .passed(PodForgedSource),
        case("no lease before no way there", &from_pod().ipv4(POD, STRANGER).udp(1000, 2000))
            .leaves_tag(udp(STRANGER).tag(SECRET))
            .passed(PodNoLease),
        leased("TTL before size", &plain().ttl(1).payload(MTU as usize)).passed(PodTtlExpired),
        leased("size before room", &plain().payload(MTU as usize)).gso_size(1453).passed(PodTooBig),
        case("a route of node 3's over node 2's lease", &plain())
            .with(route(REMOTE, 32, NODE3, 0))
            .with(good(flow))
            .uses(flow, LENGTH)
            .sent(PodEncapsulated, &wrapped_plain()),
    ]
}
