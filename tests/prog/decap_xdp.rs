//! `decap_xdp`: unwrapped before an skb exists and vouched for, dropped if a
//! proven lie, or left as it is for `decap_tc`.

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, IfIndex, Lease, LinkState,
    Reason::{
        DecapEcnViolation, DecapInnerTtlZero, DecapMartianSource, XdpMarked, XdpUnable,
        XdpUnwrapped,
    },
    link::{PATIENCE, TICKS},
};
use tunless_tests::{
    case::{self, Case},
    decap::{ECN, failing, honest, ip, plain, spoofs, truncated},
    faults::{Fails, decap, fragments, in_order, options},
    packet::{DF, EVIL, Frame, flags},
    prog::Program,
    world::{
        Entry, HANDOVER_MAC, LATER, NIC_IF, NIC_MAC, NODE2, NODE3, POD, REMOTE, ROUTER_MAC, SECRET,
        STRANGER, TUNNEL_ADDRESS, YOUNG_POD, flow, lease, way_to_pod,
    },
};

#[test]
fn table() {
    case::run("decap_xdp", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        unwrapped(),
        congestion(),
        left_alone(),
        metadata(),
        phases(),
        leases_matter_to_tc_alone(),
        in_order(Program::DecapXdp, &plain(), &decap(Program::DecapXdp), Fails::at_xdp),
    ]
    .concat()
}

fn case(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::DecapXdp, what, packet)
}

/// What tells `decap_tc` that `node` sent it.
fn handover(node: Ipv4Addr) -> Vec<u8> {
    [SECRET.to_ne_bytes(), node.octets()].concat()
}

/// Without its outer header, from a MAC that tells it is.
fn bare(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(NIC_MAC, HANDOVER_MAC)
}

/// Handed over without its outer header, otherwise untouched.
fn handed(what: impl Into<String>, packet: &Frame) -> Case {
    case(what, packet).handed_over(XdpUnwrapped, &bare(packet), &handover(NODE2))
}

fn unwrapped() -> Vec<Case> {
    let any_outer = plain().edit(0, |ip| (ip.id, ip.fragment, ip.ttl) = (0, DF | EVIL, 0));
    let mut cases = vec![
        handed("a datagram", &plain()),
        handed("with the fast path off", &plain()).stack_path(),
        handed("with spoofs to the stack", &plain()).spoof_to_stack(),
        handed("whatever the outer id, DF, reserved bit and TTL", &any_outer),
        handed("TCP", &ip().tcp(1, 2, flags::SYN).payload(9)),
        handed("an inner header and nothing else", &ip().raw(253)),
        handed("a full frame", &ip().raw(253).payload(1460)),
        handed("padding", &plain().padding(6)),
        handed("TTL 1 is for TC to judge", &plain().edit(1, |ip| ip.ttl = 1)),
    ];
    for address in [TUNNEL_ADDRESS, YOUNG_POD, STRANGER] {
        cases.push(handed(format!("to {address}"), &plain().edit(1, |ip| ip.to = address)));
    }
    for (what, packet) in options(&plain(), 1).into_iter().chain(fragments(&plain(), 1)) {
        cases.push(handed(what, &packet));
    }
    for (node, source) in honest() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let out = bare(&packet);
        let case = case(format!("{source} from {node}"), &packet);
        cases.push(case.handed_over(XdpUnwrapped, &out, &handover(node)));
    }
    cases
}

fn congestion() -> Vec<Case> {
    let mut cases = Vec::new();
    for (inner, row) in (0..).zip(ECN) {
        for (outer, merged) in (0..).zip(row) {
            let packet =
                plain().edit(0, |ip| ip.tos = 0xa0 | outer).edit(1, |ip| ip.tos = 0x48 | inner);
            let case = case(format!("ECN {outer:02b} outside, {inner:02b} inside"), &packet);
            cases.push(match merged {
                None => case.dropped(DecapEcnViolation),
                Some(merged) => {
                    let out = bare(&packet.edit(1, |ip| ip.tos = 0x48 | merged));
                    case.handed_over(XdpUnwrapped, &out, &handover(NODE2))
                }
            });
        }
    }
    cases
}

fn left_alone() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, packet, fails) in failing().into_iter().chain(truncated()) {
        cases.push(fails.at_xdp(case(what, &packet)));
    }
    // Not even the headers are there.
    for length in 14..34 {
        cases.push(case(format!("cut to {length} bytes"), &plain().cut(length)));
    }
    for (node, source, drop, _) in spoofs() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let case = case(format!("{source} from {node}"), &packet);
        cases.push(case.clone().stack_path().dropped(drop));
        // Which of them it is, the stack's copy is counted under by TC.
        cases.push(case.spoof_to_stack());
    }
    for (what, mac) in [("all", [0xff; 6]), ("many", [0x01, 0x00, 0x5e, 0, 0, 5])] {
        cases.push(case(format!("a frame for {what}"), &plain().macs(mac, ROUTER_MAC)));
    }
    let dead = plain().edit(1, |ip| ip.ttl = 0);
    cases.push(case("TTL 0", &dead).dropped(DecapInnerTtlZero));
    cases
}

/// What came for a lease, GRO may have merged with more by the time TC looks
/// for one: here the maps judge, and nothing is counted.
fn leases_matter_to_tc_alone() -> Vec<Case> {
    let leased = |what: &str, packet: &Frame, node, source| {
        let flow = flow(Direction::Decap, 17, (source, 1000), (POD, 2000));
        let lease = Lease { node, ..lease(&flow, NODE2, way_to_pod()) };
        case(what, packet).verified().with(Entry::Lease(flow, lease))
    };
    let mut cases = vec![
        handed("verified, no lease", &plain()).verified(),
        leased("a lease", &plain(), NODE2.into(), REMOTE).handed_over(
            XdpUnwrapped,
            &bare(&plain()),
            &handover(NODE2),
        ),
        leased("another node's lease", &plain(), NODE3.into(), REMOTE).handed_over(
            XdpUnwrapped,
            &bare(&plain()),
            &handover(NODE2),
        ),
    ];
    for (node, source, drop, _) in spoofs() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let what = format!("{source} from {node}, with a lease");
        let case = leased(&what, &packet, node.into(), source);
        cases.push(case.clone().dropped(drop));
        // Left to TC, where the lease will vouch.
        cases.push(case.spoof_to_stack());
    }
    cases
}

/// Until marks are known to arrive packets are marked, and none is touched; where hand-overs do not
/// arrive, all is left to TC.
fn phases() -> Vec<Case> {
    let mark = [[0; 4], SECRET.to_ne_bytes()].concat();
    let testing = LinkState::new(IfIndex(NIC_IF));
    let packet = &plain();
    // Asked long ago, in as many ticks as patience has, and never answered.
    let in_vain = |phase| LinkState { phase, asked: 1, last: 1, ticks: TICKS, ..testing };
    let marked = |what, link| case(what, packet).link(link).handed_over(XdpMarked, packet, &mark);
    let given_up = |what, link| {
        let case = case(what, packet).link(link).leaves_phase(LinkState::SILENT);
        // Room was made before it was asked.
        case.leaves_metadata(&[0; 8])
    };
    let lie = plain().edit(1, |ip| ip.from = Ipv4Addr::LOCALHOST);
    let mut cases = vec![
        marked("a link that is tested", testing),
        marked("asked long ago, but not often", LinkState { ticks: TICKS - 1, ..in_vain(0) }),
        handed("proven, asked long ago and answered", packet)
            .link(LinkState { seen: 1, ..in_vain(LinkState::PROVEN) }),
        handed("proven, asked often, but just now", packet)
            .link(LinkState { asked: LATER - PATIENCE, ..in_vain(LinkState::PROVEN) }),
        given_up("no mark arrives", in_vain(LinkState::TESTING)),
        given_up("nothing arrives any more", in_vain(LinkState::PROVEN)),
        case("a lie, on a link that is tested", &lie).link(testing).dropped(DecapMartianSource),
        case("not ours, on a link that is tested", &ip().unwrapped().udp(1, 2)).link(testing),
        case("no room for a mark", packet)
            .link(testing)
            .metadata(&[0xa5; MOST_METADATA])
            .passed(XdpUnable),
    ];
    for phase in [LinkState::LOST, LinkState::SILENT, LinkState::TAGGED] {
        let link = LinkState { phase, ..testing };
        cases.push(case(format!("given up: {phase}"), packet).link(link));
        cases.push(case("a lie, given up", &lie).link(link).dropped(DecapMartianSource));
    }
    cases
}

/// As much as kernel 6.18 takes in front of a frame: eight more do not fit.
const MOST_METADATA: usize = 216;

/// Metadata of others stays behind ours; where there is no room, nothing happens.
fn metadata() -> Vec<Case> {
    let theirs = [0xa5; 4];
    let both = [handover(NODE2), theirs.to_vec()].concat();
    vec![
        case("metadata of others", &plain()).metadata(&theirs).handed_over(
            XdpUnwrapped,
            &bare(&plain()),
            &both,
        ),
        case("no room for more metadata", &plain())
            .metadata(&[0xa5; MOST_METADATA])
            .passed(XdpUnable),
        case("not ours, with metadata", &ip().unwrapped().udp(1, 2)).metadata(&theirs),
    ]
}
