//! `grant_decap`: what the stack hands to a pod. It passes in any case; its
//! flow's lease is granted, renewed or ended.

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, Flow, IfIndex, Lease,
    Reason::{
        GrantConnectionControl, GrantGiven, GrantLeased, GrantNoFlow, GrantUnmarked, GrantUnproven,
    },
};
use tunless_tests::{
    case::{self, Case},
    faults::{fragments, impossible_headers, not_ipv4, options},
    packet::{DF, EVIL, Frame, MF, flags},
    prog::Program,
    world::{
        BORROWED, BYTES, EPOCH, EXTRA_SOURCE, Entry, HOST_MAC, LATER, LEASE, MARK, NEIGHBOUR,
        NEIGHBOUR_IF, NIC_IF, NODE1, NODE2, NODE3, OTHER_MAC, OVER, PACKETS, POD, POD_IF, POD_MAC,
        REMOTE, REMOTE_AWAY, REMOTE_UNKNOWN, REMOTE3, SECRET, SIGNATURE, STRANGER, TUNNEL_ADDRESS,
        TUNNEL_IF, YOUNG_POD, endpoint, flow, going, hop, lease, to_pod, way_to_node2, way_to_pod,
    },
};

#[test]
fn table() {
    case::run("grant_decap", &cases());
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
        no_flow(),
        in_order(),
    ]
    .concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
/// Bits of others, and ours.
const THEIRS: u32 = 0xffff_ffff ^ MARK;

fn plain() -> Frame {
    from(REMOTE)
}

fn from(source: Ipv4Addr) -> Frame {
    to_pod().ipv4(source, POD).ttl(62).udp(1000, 2000).payload(64)
}

fn udp(source: Ipv4Addr) -> Flow {
    flow(Direction::Decap, UDP, (source, 1000), (POD, 2000))
}

fn tcp() -> Flow {
    flow(Direction::Decap, TCP, (REMOTE, 1000), (POD, 80))
}

/// A packet of `of` with our mark and the tag that it is as it came.
fn proven(what: impl Into<String>, packet: &Frame, of: &Flow) -> Case {
    unmarked(what, packet).mark(MARK).leaves_mark(0).tag(of.tag(SECRET))
}

fn unmarked(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::GrantDecap, what, packet).verified()
}

/// What a flow from a pod of `node` is granted the first time.
fn first(flow: &Flow, node: Ipv4Addr) -> Lease {
    Lease { packets: 0, bytes: 0, ..lease(flow, node, way_to_pod()) }
}

fn good(flow: &Flow) -> Lease {
    lease(flow, NODE2, way_to_pod())
}

/// The answers' lease, at the pod's interface.
fn good_answers(flow: &Flow) -> Lease {
    lease(&flow.reverse(), NODE2, way_to_node2())
}

fn both(case: Case, flow: Flow) -> Case {
    case.with(Entry::Lease(flow, good(&flow)))
        .with(Entry::Lease(flow.reverse(), good_answers(&flow)))
}

fn granted() -> Vec<Case> {
    let udp2 = udp(REMOTE);
    let mut cases = vec![
        proven("a datagram", &plain(), &udp2).passed(GrantGiven).grants(udp2, first(&udp2, NODE2)),
        proven("other bits of the mark stay", &plain(), &udp2)
            .mark(THEIRS | MARK)
            .leaves_mark(THEIRS)
            .passed(GrantGiven)
            .grants(udp2, first(&udp2, NODE2)),
        proven("padding", &plain().padding(9), &udp2)
            .passed(GrantGiven)
            .grants(udp2, first(&udp2, NODE2)),
        proven("DF and the reserved bit are no fragment's", &plain().fragment(DF | EVIL), &udp2)
            .passed(GrantGiven)
            .grants(udp2, first(&udp2, NODE2)),
        proven("spoofs to the stack", &plain(), &udp2)
            .spoof_to_stack()
            .passed(GrantGiven)
            .grants(udp2, first(&udp2, NODE2)),
        proven("the answers' lease is none of its own", &plain(), &udp2)
            .with(Entry::Lease(udp2.reverse(), good_answers(&udp2)))
            .passed(GrantGiven)
            .grants(udp2, first(&udp2, NODE2)),
    ];
    // A node out of reach may send.
    for (source, node) in [
        (REMOTE3, NODE3),
        (BORROWED, NODE3),
        (EXTRA_SOURCE, NODE2),
        (REMOTE_AWAY, tunless_tests::world::NODE_AWAY),
    ] {
        let flow = udp(source);
        cases.push(
            proven(format!("from {source} of {node}"), &from(source), &flow)
                .passed(GrantGiven)
                .grants(flow, first(&flow, node)),
        );
    }
    for control in [flags::ACK, flags::ACK | flags::PSH, flags::ACK | flags::URG, 0] {
        let packet = to_pod().ipv4(REMOTE, POD).tcp(1000, 80, control).payload(9);
        cases.push(
            proven(format!("TCP with flags {control:#04x}"), &packet, &tcp())
                .passed(GrantGiven)
                .grants(tcp(), first(&tcp(), NODE2)),
        );
    }
    cases
}

/// A lease that is no good is replaced whole, but for what it has counted.
fn renewed() -> Vec<Case> {
    let flow = udp(REMOTE);
    let old = good(&flow);
    let stale = [
        ("over", Lease { expires: OVER, ..old }),
        ("over this very tick", Lease { expires: tunless_tests::world::NOW, ..old }),
        ("of the last epoch", Lease { epoch: EPOCH - 1, ..old }),
        ("of the next epoch", Lease { epoch: EPOCH + 1, ..old }),
        (
            "over, of another node, interface and way",
            going(
                way_to_node2(),
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
        let case = proven(format!("a lease {what}"), &plain(), &flow)
            .with(Entry::Lease(flow, lease))
            .passed(GrantGiven);
        let is_own = lease.flow == flow;
        let (packets, bytes) = if is_own { (PACKETS, BYTES) } else { (0, 0) };
        cases.push(case.grants(flow, Lease { packets, bytes, ..old }));
        // Without a tag nothing is renewed, but nothing ended either.
        let case = proven(format!("a lease {what}, and no tag"), &plain(), &flow).tag(0);
        cases.push(case.with(Entry::Lease(flow, lease)).passed(GrantUnproven));
    }
    cases
}

/// What has a lease and came by the stack all the same leaves it alone.
fn leased() -> Vec<Case> {
    let flow = udp(REMOTE);
    let case = |what| proven(what, &plain(), &flow).with(Entry::Lease(flow, good(&flow)));
    let soon = Lease { expires: LATER - (LEASE & !SIGNATURE), ..good(&flow) };
    vec![
        case("with a tag").passed(GrantLeased),
        // TTL 1 and the like take no tag along.
        case("without a tag").tag(0).passed(GrantLeased),
        case("by another way than it was granted for").came_by(NIC_IF).passed(GrantLeased),
        proven("not renewed before its time", &plain(), &flow)
            .with(Entry::Lease(flow, soon))
            .passed(GrantLeased),
    ]
}

/// Netfilter did not set our bit, whatever else it set.
fn not_marked() -> Vec<Case> {
    let flow = udp(REMOTE);
    let mut cases = Vec::new();
    for mark in [0, THEIRS, MARK << 1, MARK >> 1] {
        let case = proven(format!("mark {mark:#x}"), &plain(), &flow).mark(mark);
        cases.push(case.clone().passed(GrantUnmarked));
        cases.push(
            both(case.clone(), flow).passed(GrantUnmarked).revokes(flow).revokes(flow.reverse()),
        );
        cases.push(
            case.clone().with(Entry::Lease(flow, good(&flow))).passed(GrantUnmarked).revokes(flow),
        );
        cases.push(
            case.with(Entry::Lease(flow.reverse(), good_answers(&flow)))
                .passed(GrantUnmarked)
                .revokes(flow.reverse()),
        );
    }
    // Only its own: every field of the flow counts.
    let mut case = unmarked("leases of others stay", &plain());
    for other in others(flow) {
        case = case.with(Entry::Lease(other, good(&other)));
    }
    cases.push(case.passed(GrantUnmarked));
    cases
}

/// Flows that differ from `flow` in one thing.
fn others(flow: Flow) -> Vec<Flow> {
    vec![
        Flow { source: REMOTE3.into(), ..flow },
        Flow { destination: NEIGHBOUR.into(), ..flow },
        Flow { source_port: flow.source_port ^ 1, ..flow },
        Flow { destination_port: flow.destination_port ^ 1, ..flow },
        Flow { protocol: flow.protocol ^ UDP ^ TCP, ..flow },
        Flow { direction: Direction::Encap as u8, ..flow },
    ]
}

/// Not the packet `decap_tc` saw.
fn not_proven() -> Vec<Case> {
    let flow = udp(REMOTE);
    let mut cases = vec![
        proven("no ingress hook of ours saw it", &plain(), &flow).tag(0).passed(GrantUnproven),
    ];
    let mut wrong: Vec<(String, u16)> = others(flow)
        .into_iter()
        .map(|other| (format!("the tag of {other:?}"), other.tag(SECRET)))
        .collect();
    wrong.push(("a tag by another secret".to_string(), flow.tag(SECRET ^ 1)));
    wrong.push(("the answers' tag".to_string(), flow.reverse().tag(SECRET)));
    for bit in 0..16 {
        wrong.push((format!("bit {bit} of the tag wrong"), flow.tag(SECRET) ^ 1 << bit));
    }
    for (what, tag) in wrong {
        let case = proven(what, &plain(), &flow).tag(tag);
        cases.push(case.clone().passed(GrantUnproven));
        // Translated unknown to conntrack: what it had ends, both ways.
        cases.push(both(case, flow).passed(GrantUnproven).revokes(flow).revokes(flow.reverse()));
    }
    cases
}

/// Marked and proven, but not to be leased to anybody.
fn nobodys() -> Vec<Case> {
    let flow = udp(REMOTE);
    let to = |destination| to_pod().ipv4(REMOTE, destination).udp(1000, 2000).payload(64);
    let to_flow =
        |destination| self::flow(Direction::Decap, UDP, (REMOTE, 1000), (destination, 2000));
    let mut cases = Vec::new();
    for ifindex in [0, NIC_IF, POD_IF, NEIGHBOUR_IF] {
        let case = proven(format!("came in by interface {ifindex}"), &plain(), &flow);
        cases.push(case.came_by(ifindex).passed(GrantUnproven));
    }
    // Interfaces of a test run have to exist.
    for ifindex in [NIC_IF, TUNNEL_IF] {
        let case = proven(format!("into interface {ifindex}"), &plain(), &flow);
        cases.push(case.on(ifindex).passed(GrantUnproven));
    }
    for (what, destination) in [
        ("the pod of another interface", NEIGHBOUR),
        ("no pod", TUNNEL_ADDRESS),
        ("nobody we know", STRANGER),
    ] {
        let case = proven(format!("to {what}"), &to(destination), &to_flow(destination));
        cases.push(case.passed(GrantUnproven));
    }
    let young = Ipv4Addr::new(10, 20, 105, 218);
    cases.push(
        proven("to a pod without a MAC", &to(young), &to_flow(young))
            .with(endpoint(young, POD_IF, [0; 6]))
            .passed(GrantUnproven),
    );
    cases.push(
        proven("to the same pod with one", &to(young), &to_flow(young))
            .with(endpoint(young, POD_IF, OTHER_MAC))
            .passed(GrantGiven)
            .grants(
                to_flow(young),
                Lease { hop: hop(POD_IF, OTHER_MAC, HOST_MAC), ..first(&to_flow(young), NODE2) },
            ),
    );
    // NODE2 itself is an honest source without a route: never leased. Nor is a pod of a node that we do
    // not know.
    for source in [REMOTE_UNKNOWN, STRANGER, NODE1, NODE2, TUNNEL_ADDRESS, NEIGHBOUR, YOUNG_POD] {
        let case = proven(format!("from {source}"), &from(source), &udp(source));
        cases.push(case.passed(GrantUnproven));
    }
    cases
}

/// Netfilter wants to see both directions of what begins or ends.
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
        let packet = to_pod().ipv4(REMOTE, POD).tcp(1000, 80, control);
        let what = format!("TCP with flags {control:#04x}");
        let marked = proven(&what, &packet, &tcp());
        let accepts = control == flags::SYN | flags::ACK;
        let mut all = vec![unmarked(&what, &packet).tag(tcp().tag(SECRET))];
        if accepts {
            all.extend([marked.clone().tag(0), marked.clone().tag(1)]);
        } else {
            all.push(marked.clone());
        }
        for case in all {
            cases.push(case.clone().passed(GrantConnectionControl));
            let case = both(case, tcp()).passed(GrantConnectionControl);
            cases.push(case.revokes(tcp()).revokes(tcp().reverse()));
        }
        if accepts {
            let marked = marked.grants(tcp(), first(&tcp(), NODE2)).passed(GrantGiven);
            cases.push(marked.clone());
            // Those of an earlier connection end: the new one's begins to count.
            cases.push(both(marked, tcp()).revokes(tcp().reverse()));
        }
    }
    cases
}

/// Never leased: neither granted nor ended, but the mark is taken off.
fn no_flow() -> Vec<Case> {
    let base = plain();
    let mut packets: Vec<(String, Frame)> =
        [options(&base, 0), fragments(&base, 0), not_ipv4(&base), impossible_headers(&base, 0)]
            .concat();
    for (name, protocol) in [("ICMP", 1), ("SCTP", 132), ("IPIP", 4), ("GRE", 47)] {
        let packet = to_pod().ipv4(REMOTE, POD).raw(protocol).payload(64);
        packets.push((name.to_string(), packet));
    }
    let ip = to_pod().ipv4(REMOTE, POD);
    for length in 0..4 {
        let packet = ip.clone().raw(UDP).payload(length);
        packets.push((format!("{length} bytes of UDP"), packet));
    }
    for length in 0..14 {
        packets.push((format!("{length} bytes of TCP"), ip.clone().raw(TCP).payload(length)));
    }
    packets.push(("a SYN behind options".to_string(), ip.options(&[1; 8]).tcp(1, 2, flags::SYN)));
    let flow = udp(REMOTE);
    let mut cases = Vec::new();
    for (what, packet) in packets {
        let case = both(proven(what, &packet, &flow), flow).mark(MARK | 1).leaves_mark(1);
        cases.push(case.clone().passed(GrantNoFlow));
        cases.push(case.mark(0x10).passed(GrantNoFlow));
    }
    cases
}

/// Connection control before the mark, the mark before the tag, the tag before the claim.
fn in_order() -> Vec<Case> {
    let syn = to_pod().ipv4(REMOTE, POD).tcp(1000, 80, flags::SYN);
    let ack = to_pod().ipv4(REMOTE, POD).tcp(1000, 80, flags::ACK);
    let wrong = tcp().tag(SECRET) ^ 1;
    vec![
        proven("a fragment of a SYN", &syn.clone().fragment(MF), &tcp()).passed(GrantNoFlow),
        proven("a SYN, no mark, wrong tag", &syn, &tcp())
            .mark(0)
            .tag(wrong)
            .passed(GrantConnectionControl),
        proven("no mark, wrong tag, wrong way", &ack, &tcp())
            .mark(0)
            .tag(wrong)
            .came_by(NIC_IF)
            .passed(GrantUnmarked),
        both(proven("wrong tag, wrong way", &ack, &tcp()), tcp())
            .tag(wrong)
            .came_by(NIC_IF)
            .passed(GrantUnproven)
            .revokes(tcp())
            .revokes(tcp().reverse()),
        both(proven("a frame with any MACs", &ack.macs(OTHER_MAC, POD_MAC), &tcp()), tcp())
            .passed(GrantLeased),
    ]
}
