//! `decap_tc`: what comes from the wire goes to the stack, into the pod, or
//! stays as it is.

use std::net::Ipv4Addr;

use dataplane_common::Reason::{
    self, DecapCannotUnwrap, DecapEcnViolation, DecapForgedSource, DecapFragmentToStack,
    DecapInnerBadChecksum, DecapInnerTtlZero, DecapNoEndpointToStack, DecapNotForHost,
    DecapOptionsToStack, DecapOuterBadChecksum, DecapSourceUnknown, DecapToPod, DecapToStack,
    DecapTtlToStack,
};
use tunless_tests::{
    case::{self, Case},
    decap::{ECN, failing, honest, ip, outer, plain, spoofs, truncated},
    faults::{Fails, Fault, MARTIAN, decap, fragments, in_order, not_for_host, options},
    packet::{DF, EVIL, Frame, MF, flags},
    prog::Program,
    world::{
        HOST_MAC, NEIGHBOUR, NODE_PROTECTED, NODE1, NODE2, POD, POD_IF, POD_MAC, REMOTE,
        REMOTE_PROTECTED, REMOTE3, ROUTER_MAC, STRANGER, TUNNEL_ADDRESS, TUNNEL_MAC, YOUNG_POD,
    },
};

#[test]
fn table() {
    case::run("decap_tc", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        into_the_pod(),
        to_the_stack(),
        congestion(),
        suspects(),
        refused(),
        protected(),
        in_order(Program::DecapTc, &plain(), &decap(Program::DecapTc), Fails::at_tc),
        delivery_in_order(),
    ]
    .concat()
}

fn case(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::DecapTc, what, packet)
}

/// Unwrapped, as the tunnel device's ingress takes it.
fn stack(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(TUNNEL_MAC, ROUTER_MAC)
}

/// Unwrapped, one hop less, as the pod takes it.
fn pod(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(POD_MAC, HOST_MAC).edit(0, |ip| ip.ttl -= 1)
}

fn into_the_pod() -> Vec<Case> {
    let any_outer = plain().edit(0, |ip| (ip.id, ip.fragment, ip.ttl) = (0, DF | EVIL, 0));
    let mut packets = vec![
        ("a datagram".to_string(), plain()),
        ("whatever the outer id, DF, reserved bit and TTL".to_string(), any_outer),
        ("TCP, any flags".to_string(), ip().tcp(1, 2, flags::SYN).payload(9)),
        ("an inner header and nothing else".to_string(), ip().raw(253)),
        ("DF inside is no fragment".to_string(), plain().edit(1, |ip| ip.fragment = DF | EVIL)),
        ("ICMP".to_string(), ip().raw(1).payload(64)),
        ("a full frame".to_string(), ip().raw(253).payload(1460)),
    ];
    for ttl in [2, 3, 64, 255] {
        packets.push((format!("TTL {ttl} less one"), plain().edit(1, |ip| ip.ttl = ttl)));
    }
    for (node, source) in honest() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        packets.push((format!("{source} from {node}"), packet));
    }
    let mut cases: Vec<_> = packets
        .iter()
        .map(|(what, packet)| case(what, packet).sent(DecapToPod, &pod(packet)))
        .collect();
    // Nobody's business but the receiver's, who cuts it off.
    let padded = plain().padding(6);
    cases
        .push(case("padding is not counted for the node", &padded).sent(DecapToPod, &pod(&padded)));
    let loose = plain().edit(0, |ip| ip.total_length = Some(118)).padding(6);
    cases.push(
        case("the outer packet carries more than the inner", &loose).sent(DecapToPod, &pod(&loose)),
    );
    cases
}

fn to_the_stack() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |what: String, packet: Frame, reason: Reason| {
        cases.push(case(&what, &packet).sent(reason, &stack(&packet)));
        // With the fast path off nobody asks why.
        cases.push(case(&what, &packet).stack_path().sent(DecapToStack, &stack(&packet)));
    };
    for address in [YOUNG_POD, TUNNEL_ADDRESS, NODE1, STRANGER, REMOTE3, Ipv4Addr::BROADCAST] {
        let packet = plain().edit(1, |ip| ip.to = address);
        add(format!("to {address}"), packet, DecapNoEndpointToStack);
    }
    add("TTL 1".to_string(), plain().edit(1, |ip| ip.ttl = 1), DecapTtlToStack);
    for (what, packet) in options(&plain(), 1) {
        add(what, packet, DecapOptionsToStack);
    }
    let unjudged = plain().edit(1, |ip| (ip.options, ip.wrong_checksum) = (vec![1; 4], true));
    add("a wrong checksum over options is for ip_rcv".to_string(), unjudged, DecapOptionsToStack);
    for (what, packet) in fragments(&plain(), 1) {
        add(what, packet, DecapFragmentToStack);
    }
    for packet in [plain(), plain().padding(6), plain().edit(1, |ip| ip.to = NEIGHBOUR)] {
        cases.push(
            case("the fast path is off", &packet).stack_path().sent(DecapToStack, &stack(&packet)),
        );
    }
    cases
}

/// IPsec protects the node: the kernel has to compare its packets with the policies, whatever entry
/// the inner source has. A spoofed source is dropped as from every node.
fn protected() -> Vec<Case> {
    let from =
        |source| plain().edit(0, |ip| ip.from = NODE_PROTECTED).edit(1, |ip| ip.from = source);
    let mut cases = Vec::new();
    for source in [REMOTE_PROTECTED, NODE_PROTECTED, STRANGER] {
        let case = case(format!("{source} from a protected node"), &from(source));
        cases.push(case.clone().passed(DecapSourceUnknown));
        cases.push(case.stack_path().passed(DecapSourceUnknown));
    }
    cases.push(case("a protected node's spoof", &from(REMOTE)).dropped(DecapForgedSource));
    cases.push(
        case("its address from another node", &plain().edit(1, |ip| ip.from = REMOTE_PROTECTED))
            .dropped(DecapForgedSource),
    );
    cases
}

/// RFC 6040: all sixteen pairs, on both paths, with DSCPs that must not mix.
fn congestion() -> Vec<Case> {
    const DSCP_OUTSIDE: u8 = 0xa0;
    const DSCP_INSIDE: u8 = 0x48;
    let mut cases = Vec::new();
    for (inner, row) in (0..).zip(ECN) {
        for (outer, merged) in (0..).zip(row) {
            let packet = plain()
                .edit(0, |ip| ip.tos = DSCP_OUTSIDE | outer)
                .edit(1, |ip| ip.tos = DSCP_INSIDE | inner);
            let case = case(format!("ECN {outer:02b} outside, {inner:02b} inside"), &packet);
            let Some(merged) = merged else {
                cases.push(case.clone().dropped(DecapEcnViolation));
                cases.push(case.stack_path().dropped(DecapEcnViolation));
                continue;
            };
            let packet = packet.edit(1, |ip| ip.tos = DSCP_INSIDE | merged);
            cases.push(case.clone().sent(DecapToPod, &pod(&packet)));
            cases.push(case.stack_path().sent(DecapToStack, &stack(&packet)));
        }
    }
    cases
}

/// `spoof: stack`: unwrapped, never into a pod, counted as what they are.
fn suspects() -> Vec<Case> {
    let mut cases = Vec::new();
    for (node, source, drop, to_stack) in spoofs() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let case = case(format!("{source} from {node}"), &packet);
        cases.push(case.clone().stack_path().dropped(drop));
        let case = case.spoof_to_stack();
        cases.push(case.clone().sent(to_stack, &stack(&packet)));
        cases.push(case.stack_path().sent(to_stack, &stack(&packet)));
    }
    // The checks behind the source's are not waived.
    let suspect = plain().edit(1, |ip| ip.from = MARTIAN);
    let marked = suspect.clone().edit(0, |ip| ip.tos = 3);
    let dead = suspect.edit(1, |ip| ip.ttl = 0);
    cases.push(
        case("a suspect marked outside alone", &marked).spoof_to_stack().dropped(DecapEcnViolation),
    );
    cases.push(case("a suspect with TTL 0", &dead).spoof_to_stack().dropped(DecapInnerTtlZero));
    cases.push(case("an honest one", &plain()).spoof_to_stack().sent(DecapToPod, &pod(&plain())));
    cases
}

fn refused() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, packet, fails) in failing().into_iter().chain(truncated()) {
        cases.push(fails.at_tc(case(what, &packet)));
    }
    for (what, mac) in not_for_host() {
        let packet = plain().macs(mac, ROUTER_MAC);
        cases.push(case(what, &packet).passed(DecapNotForHost));
    }
    cases.push(case("another interface, another MAC", &plain()).on(POD_IF).passed(DecapNotForHost));
    let outer_wrong = plain().edit(0, |ip| ip.wrong_checksum = true);
    let inner_wrong = plain().edit(1, |ip| ip.wrong_checksum = true);
    cases.push(case("outer checksum", &outer_wrong).passed(DecapOuterBadChecksum));
    cases.push(case("inner checksum", &inner_wrong).passed(DecapInnerBadChecksum));
    let dead = plain().edit(1, |ip| ip.ttl = 0);
    cases.push(case("TTL 0", &dead).dropped(DecapInnerTtlZero));
    cases.push(case("TTL 0, stack path", &dead).stack_path().dropped(DecapInnerTtlZero));
    // Of GSO no length field is believed; the kernel refuses this kind, and
    // the packet has to be as it was.
    let gso = |packet: Frame| {
        case("GSO of no known type", &packet).gso_size(1000).passed(DecapCannotUnwrap)
    };
    cases.push(gso(plain()));
    for length in [0, 19, 39, u16::MAX] {
        cases.push(gso(plain().edit(0, |ip| ip.total_length = Some(length))));
        cases.push(gso(plain().edit(1, |ip| ip.total_length = Some(length))));
    }
    // This host may be about to forward it, as a Service's answer; a pod takes it whole.
    let to_host = plain().edit(1, |ip| ip.to = NODE1);
    cases.push(
        case("GSO to this host, beside tunl0", &to_host)
            .gso_size(1000)
            .on_tunl0()
            .passed(Reason::DecapGsoToTunl0),
    );
    cases.push(
        case("GSO to a pod, beside tunl0", &plain())
            .gso_size(1000)
            .on_tunl0()
            .passed(DecapCannotUnwrap),
    );
    let cut = outer().ipv4(REMOTE, POD).raw(253).cut(53);
    cases.push(
        case("GSO too short all the same", &cut).gso_size(9).passed(Reason::DecapInnerTruncated),
    );
    let marked = plain().edit(0, |ip| ip.tos = 3).edit(1, |ip| ip.tos = 2);
    cases.push(gso(marked));
    cases
}

/// Makes a packet unfit for the fast path.
type Spoil = fn(Frame) -> Frame;

/// Why the stack gets what the fast path does not take, the first reason first.
fn delivery_in_order() -> Vec<Case> {
    let faults: [(Reason, Spoil); 5] = [
        (Reason::DecapForgedToStack, |frame| frame.edit(1, |ip| ip.from = REMOTE3)),
        (DecapTtlToStack, |frame| frame.edit(1, |ip| ip.ttl = 1)),
        (DecapOptionsToStack, |frame| frame.edit(1, |ip| ip.options = vec![1; 4])),
        (DecapFragmentToStack, |frame| frame.edit(1, |ip| ip.fragment = MF)),
        (DecapNoEndpointToStack, |frame| frame.edit(1, |ip| ip.to = STRANGER)),
    ];
    let mut cases = Vec::new();
    for (i, (earlier, spoil)) in faults.iter().enumerate() {
        for (later, spoil_more) in &faults[i + 1..] {
            let packet = spoil(spoil_more(plain()));
            let case = case(format!("{earlier:?} before {later:?}"), &packet).spoof_to_stack();
            cases.push(case.clone().sent(*earlier, &stack(&packet)));
            let off = if i == 0 { *earlier } else { DecapToStack };
            cases.push(case.stack_path().sent(off, &stack(&packet)));
        }
    }
    // The kernel's refusal comes before all of them.
    let faults = faults.map(|(_, spoil)| Fault::new(Fails::Passed(DecapCannotUnwrap), &[], spoil));
    for fault in faults {
        let packet = (fault.spoil)(outer().ipv4(REMOTE, POD).udp(1, 2));
        cases.push(
            case("cannot be unwrapped", &packet)
                .spoof_to_stack()
                .gso_size(9)
                .passed(DecapCannotUnwrap),
        );
    }
    let from_self = plain().edit(0, |ip| ip.from = NODE2).edit(1, |ip| ip.from = NODE2);
    cases.push(case("a node's own packet", &from_self).sent(DecapToPod, &pod(&from_self)));
    // Neither mark nor tc_index is ours without leases.
    let tagged = |case: Case| case.mark(0xffff_ffff).tag(0x5a5a);
    let off = case("the fast path is off", &plain()).stack_path();
    cases.push(tagged(off).sent(DecapToStack, &stack(&plain())));
    cases.push(tagged(case("into the pod", &plain())).sent(DecapToPod, &pod(&plain())));
    let ttl1 = plain().edit(1, |ip| ip.ttl = 1);
    cases.push(tagged(case("to the stack", &ttl1)).sent(DecapTtlToStack, &stack(&ttl1)));
    cases
}
