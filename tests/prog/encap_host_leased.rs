//! `encap_host` behind netfilter: every packet is wrapped, and its flow's
//! lease granted, renewed or ended.

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, Flow, IfIndex, Lease, Node,
    Reason::{
        self, HostCannotEncapsulate, HostConnectionControl, HostEncapsulated, HostLeaseGranted,
        HostLeased, HostNoRoute, HostNodeUnreachable, HostTooBig, HostTtlExpired, HostUnmarked,
        HostUnproven,
    },
};
use tunless_tests::{
    case::{self, Case},
    faults::{fragments, options},
    packet::{DF, EVIL, Frame, MF, flags},
    prog::Program,
    world::{
        BORROWED, BYTES, EPOCH, Entry, LATER, LEASE, MARK, MTU, NEIGHBOUR, NEIGHBOUR_IF,
        NEXT_HOP_MAC, NIC_IF, NIC_MAC, NODE1, NODE2, NODE3, NOW, OVER, PACKETS, POD, REMOTE,
        REMOTE_AWAY, REMOTE3, SECRET, SIGNATURE, STRANGER, TUNNEL_ADDRESS, TUNNEL_IF, YOUNG_POD,
        flow, from_stack, going, lease, way_to_node2, way_to_node3, way_to_pod,
    },
};

#[test]
fn table() {
    case::run("encap_host, leased", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        granted(),
        renewed(),
        leased(),
        not_marked(),
        not_proven(),
        nobodys(),
        control(),
        never_leased(),
        dropped(),
        in_order(),
    ]
    .concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
/// Bits of others.
const THEIRS: u32 = 0xffff_ffff ^ MARK;

fn ip() -> Frame {
    from_stack().ipv4(POD, REMOTE).ttl(63)
}

fn plain() -> Frame {
    ip().udp(1000, 2000).payload(64)
}

fn ack() -> Frame {
    ip().tcp(1000, 80, flags::ACK).payload(9)
}

/// With the outer header on: what any packet to node 2 becomes. The inner one
/// stays as it is, to the byte.
fn out(packet: &Frame) -> Frame {
    let bytes = packet.clone().padding(0).bytes();
    let ip = &bytes[14..];
    let outer = from_stack().ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(ip[8]).tos(ip[1] & 3);
    outer.raw(4).bytes_payload(ip)
}

fn udp(source: Ipv4Addr, destination: Ipv4Addr) -> Flow {
    flow(Direction::Encap, UDP, (source, 1000), (destination, 2000))
}

fn udp2() -> Flow {
    udp(POD, REMOTE)
}

fn tcp() -> Flow {
    flow(Direction::Encap, TCP, (POD, 1000), (REMOTE, 80))
}

/// A packet of `of` with our mark and the tag that it is as the pod sent it.
fn proven(what: impl Into<String>, packet: &Frame, of: &Flow) -> Case {
    Case::new(Program::EncapHost, what, packet)
        .verified()
        .mark(MARK)
        .leaves_mark(0)
        .tag(of.tag(SECRET))
}

fn good(flow: &Flow) -> Lease {
    lease(flow, NODE2, way_to_node2())
}

/// What a flow is granted the first time.
fn first(flow: &Flow, node: Ipv4Addr, way: Node) -> Lease {
    Lease { packets: 0, bytes: 0, ..lease(flow, node, way) }
}

fn both(case: Case, flow: Flow) -> Case {
    let answers = lease(&flow.reverse(), NODE2, way_to_pod());
    case.with(Entry::Lease(flow, good(&flow))).with(Entry::Lease(flow.reverse(), answers))
}

fn ended(case: Case, flow: Flow) -> Case {
    case.revokes(flow).revokes(flow.reverse())
}

fn granted() -> Vec<Case> {
    let given = first(&udp2(), NODE2, way_to_node2());
    let answers = lease(&udp2().reverse(), NODE2, way_to_pod());
    let mut cases = vec![
        proven("a datagram", &plain(), &udp2())
            .grants(udp2(), given)
            .sent(HostLeaseGranted, &out(&plain())),
        proven("other bits of the mark stay", &plain(), &udp2())
            .mark(THEIRS | MARK)
            .leaves_mark(THEIRS)
            .grants(udp2(), given)
            .sent(HostLeaseGranted, &out(&plain())),
        proven("padding", &plain().padding(9), &udp2())
            .grants(udp2(), given)
            .sent(HostLeaseGranted, &out(&plain())),
        proven("DF and the reserved bit", &plain().fragment(DF | EVIL), &udp2())
            .grants(udp2(), given)
            .sent(HostLeaseGranted, &out(&plain().fragment(DF | EVIL))),
        proven("the answers' lease is none of its own", &plain(), &udp2())
            .with(Entry::Lease(udp2().reverse(), answers))
            .grants(udp2(), given)
            .sent(HostLeaseGranted, &out(&plain())),
        proven("TTL 1, which the pod's next may not have", &plain().ttl(1), &udp2())
            .grants(udp2(), given)
            .sent(HostLeaseGranted, &out(&plain().ttl(1))),
    ];
    for destination in [REMOTE3, BORROWED] {
        let packet = from_stack().ipv4(POD, destination).ttl(63).udp(1000, 2000);
        let out = from_stack()
            .macs(NEXT_HOP_MAC, NIC_MAC)
            .ipv4(NODE1, NODE3)
            .id(0)
            .fragment(DF)
            .ttl(63)
            .ipv4(POD, destination)
            .ttl(63)
            .udp(1000, 2000);
        let flow = udp(POD, destination);
        cases.push(
            proven(format!("the way to node 3, for {destination}"), &packet, &flow)
                .grants(flow, first(&flow, NODE3, way_to_node3()))
                .sent(HostLeaseGranted, &out),
        );
    }
    for control in [flags::ACK, flags::ACK | flags::PSH, flags::ACK | flags::URG, 0] {
        let packet = ip().tcp(1000, 80, control).payload(9);
        cases.push(
            proven(format!("TCP with flags {control:#04x}"), &packet, &tcp())
                .grants(tcp(), first(&tcp(), NODE2, way_to_node2()))
                .sent(HostLeaseGranted, &out(&packet)),
        );
    }
    // Its MAC is nothing the way out needs.
    let packet = from_stack().ipv4(YOUNG_POD, REMOTE).ttl(63).udp(1000, 2000);
    let young = udp(YOUNG_POD, REMOTE);
    cases.push(
        proven("a pod whose MAC nobody knows", &packet, &young)
            .came_by(NEIGHBOUR_IF)
            .grants(
                young,
                Lease { endpoint: IfIndex(NEIGHBOUR_IF), ..first(&young, NODE2, way_to_node2()) },
            )
            .sent(HostLeaseGranted, &out(&packet)),
    );
    cases
}

/// What takes the place of `stale`: it goes on counting if that was the flow's own.
fn goes_on(stale: &Lease, granted: Lease) -> Lease {
    let (packets, bytes) = if stale.flow == granted.flow { (PACKETS, BYTES) } else { (0, 0) };
    Lease { packets, bytes, ..granted }
}

/// A lease that is no good is replaced whole, but for what it has counted.
fn renewed() -> Vec<Case> {
    let old = good(&udp2());
    let stale = [
        ("over", Lease { expires: OVER, ..old }),
        ("over this very tick", Lease { expires: NOW, ..old }),
        ("of the last epoch", Lease { epoch: EPOCH - 1, ..old }),
        ("of the next epoch", Lease { epoch: EPOCH + 1, ..old }),
        (
            "over, of another node, interface and way",
            going(
                way_to_node3(),
                Lease { expires: OVER, node: NODE3.into(), endpoint: IfIndex(NIC_IF), ..old },
            ),
        ),
        (
            "in memory that became another flow's",
            Lease { flow: Flow { destination: NODE3.into(), ..old.flow }, ..old },
        ),
    ];
    let mut cases = Vec::new();
    for (what, lease) in stale {
        cases.push(
            proven(format!("a lease {what}"), &plain(), &udp2())
                .with(Entry::Lease(udp2(), lease))
                .grants(udp2(), goes_on(&lease, old))
                .sent(HostLeaseGranted, &out(&plain())),
        );
        cases.push(
            proven(format!("a lease {what}, and no tag"), &plain(), &udp2())
                .tag(0)
                .with(Entry::Lease(udp2(), lease))
                .sent(HostUnproven, &out(&plain())),
        );
    }
    cases
}

/// What has a lease and came by the stack all the same leaves it alone.
fn leased() -> Vec<Case> {
    let case = |what| proven(what, &plain(), &udp2()).with(Entry::Lease(udp2(), good(&udp2())));
    let soon = Lease { expires: LATER - (LEASE & !SIGNATURE), ..good(&udp2()) };
    let out = out(&plain());
    vec![
        case("with a tag").sent(HostLeased, &out),
        // TTL 1, too big and the like take no tag along.
        case("without a tag").tag(0).sent(HostLeased, &out),
        case("by another way than it was granted for").came_by(NIC_IF).sent(HostLeased, &out),
        proven("not renewed before its time", &plain(), &udp2())
            .with(Entry::Lease(udp2(), soon))
            .sent(HostLeased, &out),
        // The lease is for the pod's next packet; this one goes by the maps.
        proven("a lease of another node", &plain(), &udp2())
            .with(Entry::Lease(udp2(), lease(&udp2(), NODE3, way_to_node3())))
            .sent(HostLeased, &out),
    ]
}

fn not_marked() -> Vec<Case> {
    let out = out(&plain());
    let mut cases = Vec::new();
    for mark in [0, THEIRS, MARK << 1, MARK >> 1] {
        let case = proven(format!("mark {mark:#x}"), &plain(), &udp2()).mark(mark);
        cases.push(case.clone().sent(HostUnmarked, &out));
        cases.push(ended(both(case.clone(), udp2()), udp2()).sent(HostUnmarked, &out));
        cases.push(
            case.clone()
                .with(Entry::Lease(udp2(), good(&udp2())))
                .revokes(udp2())
                .sent(HostUnmarked, &out),
        );
        let answers = udp2().reverse();
        cases.push(
            case.with(Entry::Lease(answers, lease(&answers, NODE2, way_to_pod())))
                .revokes(answers)
                .sent(HostUnmarked, &out),
        );
    }
    let mut case = proven("leases of others stay", &plain(), &udp2()).mark(0);
    for other in others(udp2()) {
        case = case.with(Entry::Lease(other, good(&other)));
    }
    cases.push(case.sent(HostUnmarked, &out));
    cases
}

/// Flows that differ from `flow` in one thing.
fn others(flow: Flow) -> Vec<Flow> {
    vec![
        Flow { source: NEIGHBOUR.into(), ..flow },
        Flow { destination: REMOTE3.into(), ..flow },
        Flow { source_port: flow.source_port ^ 1, ..flow },
        Flow { destination_port: flow.destination_port ^ 1, ..flow },
        Flow { protocol: flow.protocol ^ UDP ^ TCP, ..flow },
        Flow { direction: Direction::Decap as u8, ..flow },
    ]
}

/// Not the packet `encap_pod` saw.
fn not_proven() -> Vec<Case> {
    let out = out(&plain());
    let mut cases =
        vec![proven("the host's own", &plain(), &udp2()).tag(0).sent(HostUnproven, &out)];
    let mut wrong: Vec<(String, u16)> = others(udp2())
        .into_iter()
        .map(|other| (format!("the tag of {other:?}"), other.tag(SECRET)))
        .collect();
    wrong.push(("a tag by another secret".to_string(), udp2().tag(SECRET ^ 1)));
    wrong.push(("the answers' tag".to_string(), udp2().reverse().tag(SECRET)));
    for bit in 0..16 {
        wrong.push((format!("bit {bit} of the tag wrong"), udp2().tag(SECRET) ^ 1 << bit));
    }
    for (what, tag) in wrong {
        let case = proven(what, &plain(), &udp2()).tag(tag);
        cases.push(case.clone().sent(HostUnproven, &out));
        cases.push(ended(both(case, udp2()), udp2()).sent(HostUnproven, &out));
    }
    cases
}

/// Marked and proven, but of no pod, or not from its own interface.
fn nobodys() -> Vec<Case> {
    let mut cases = Vec::new();
    for ifindex in [0, NIC_IF, TUNNEL_IF, NEIGHBOUR_IF] {
        let case = proven(format!("came in by interface {ifindex}"), &plain(), &udp2());
        cases.push(case.came_by(ifindex).sent(HostUnproven, &out(&plain())));
    }
    for source in [NEIGHBOUR, TUNNEL_ADDRESS, NODE1, STRANGER, REMOTE3] {
        let packet = from_stack().ipv4(source, REMOTE).ttl(63).udp(1000, 2000);
        let case = proven(format!("from {source}"), &packet, &udp(source, REMOTE));
        cases.push(case.sent(HostUnproven, &out(&packet)));
    }
    // No interface is nobody's, even if somebody claims to have none.
    let packet = from_stack().ipv4(STRANGER, REMOTE).ttl(63).udp(1000, 2000);
    cases.push(
        proven("from nobody, by no interface", &packet, &udp(STRANGER, REMOTE))
            .came_by(0)
            .sent(HostUnproven, &out(&packet)),
    );
    cases
}

fn control() -> Vec<Case> {
    let mut cases = Vec::new();
    for control in [
        flags::SYN,
        flags::SYN | flags::ACK,
        flags::FIN,
        flags::FIN | flags::ACK,
        flags::RST,
        flags::RST | flags::ACK,
        0xff,
    ] {
        let packet = ip().tcp(1000, 80, control);
        let what = format!("TCP with flags {control:#04x}");
        let marked = proven(&what, &packet, &tcp());
        let accepts = control == flags::SYN | flags::ACK;
        let mut all = vec![marked.clone().mark(0)];
        if accepts {
            all.extend([marked.clone().tag(0), marked.clone().tag(1)]);
        } else {
            all.push(marked.clone());
        }
        for case in all {
            cases.push(case.clone().sent(HostConnectionControl, &out(&packet)));
            let case = ended(both(case, tcp()), tcp());
            cases.push(case.sent(HostConnectionControl, &out(&packet)));
        }
        if accepts {
            let given = first(&tcp(), NODE2, way_to_node2());
            let marked = marked.grants(tcp(), given);
            cases.push(marked.clone().sent(HostLeaseGranted, &out(&packet)));
            // Those of an earlier connection end: the new one's begins to count.
            let again = both(marked, tcp()).revokes(tcp().reverse());
            cases.push(again.sent(HostLeaseGranted, &out(&packet)));
        }
    }
    cases
}

/// Neither granted nor ended; the mark is taken off.
fn never_leased() -> Vec<Case> {
    let mut packets = [options(&plain(), 0), fragments(&plain(), 0)].concat();
    for (name, protocol) in [("ICMP", 1), ("SCTP", 132), ("GRE", 47)] {
        packets.push((name.to_string(), ip().raw(protocol).payload(64)));
    }
    for length in 0..4 {
        packets.push((format!("{length} bytes of UDP"), ip().raw(UDP).payload(length)));
    }
    packets.push(("a SYN behind options".to_string(), ip().options(&[1; 8]).tcp(1, 2, flags::SYN)));
    let mut cases = Vec::new();
    for (what, packet) in packets {
        let case = both(proven(what, &packet, &udp2()), udp2()).mark(MARK | 1).leaves_mark(1);
        cases.push(case.clone().sent(HostEncapsulated, &out(&packet)));
        cases.push(case.mark(1).sent(HostEncapsulated, &out(&packet)));
    }
    cases
}

/// What is dropped before it is asked for its lease keeps its lease; the mark is
/// ours alone and goes in any case.
fn dropped() -> Vec<Case> {
    let to = |destination| from_stack().ipv4(POD, destination).ttl(63).udp(1000, 2000);
    let case = |what: &str, packet: &Frame, flow: Flow, reason: Reason| {
        both(proven(what, packet, &flow), flow).mark(MARK).leaves_mark(0).tag(0).dropped(reason)
    };
    let big = plain().payload(MTU as usize);
    vec![
        case("no route", &to(STRANGER), udp(POD, STRANGER), HostNoRoute),
        case("no way there", &to(REMOTE_AWAY), udp(POD, REMOTE_AWAY), HostNodeUnreachable),
        case("TTL 0", &plain().ttl(0), udp2(), HostTtlExpired),
        case("too big", &big, udp2(), HostTooBig),
        // Too late to ask for nothing: the lease is for packets that do fit.
        proven("no room", &plain(), &udp2())
            .gso_size(1000)
            .grants(udp2(), first(&udp2(), NODE2, way_to_node2()))
            .dropped(HostCannotEncapsulate),
    ]
}

fn in_order() -> Vec<Case> {
    let syn = ip().tcp(1000, 80, flags::SYN);
    let wrong = tcp().tag(SECRET) ^ 1;
    let fragment = syn.clone().fragment(MF);
    vec![
        proven("a fragment of a SYN", &fragment, &tcp()).sent(HostEncapsulated, &out(&fragment)),
        proven("a SYN, no mark, wrong tag", &syn, &tcp())
            .mark(0)
            .tag(wrong)
            .sent(HostConnectionControl, &out(&syn)),
        proven("no mark, wrong tag, wrong way", &ack(), &tcp())
            .mark(0)
            .tag(wrong)
            .came_by(NIC_IF)
            .sent(HostUnmarked, &out(&ack())),
        ended(both(proven("wrong tag, wrong way", &ack(), &tcp()), tcp()), tcp())
            .tag(wrong)
            .came_by(NIC_IF)
            .sent(HostUnproven, &out(&ack())),
    ]
}
