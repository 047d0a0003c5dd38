//! `encap_host`: what the stack hands to the tunnel device. A "no" drops: a
//! plain packet must never leave.

use std::net::Ipv4Addr;

use dataplane_common::Reason::{
    HostAlreadyEncapsulated, HostBadHeader, HostCannotEncapsulate, HostEncapsulated, HostNoRoute,
    HostNodeUnreachable, HostNotIpv4, HostTooBig, HostTruncated, HostTtlExpired,
};
use tunless_tests::{
    case::{self, Case},
    faults::{
        Fails::{self, Dropped},
        Fault, fragments, impossible_headers, impossible_lengths, in_order, not_ipv4, options,
    },
    packet::{DF, EVIL, Frame, flags},
    prog::{Action, Program},
    world::{
        BORROWED, EXTRA_SOURCE, MTU, NEIGHBOUR, NEXT_HOP_MAC, NIC_MAC, NODE1, NODE2, NODE3, POD,
        REMOTE, REMOTE_AWAY, REMOTE_DIRECT, REMOTE_PROTECTED, REMOTE_UNKNOWN, REMOTE3, SMALL_MTU,
        STRANGER, TUNNEL_ADDRESS, from_stack, route,
    },
};

#[test]
fn table() {
    case::run("encap_host", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        sent(),
        sent_though_no_fast_path_takes_it(),
        dropped(),
        bad_input(),
        truncated(),
        no_room(),
        in_order(Program::EncapHost, &plain(), &faults(), Fails::at_tc),
    ]
    .concat()
}

fn case(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::EncapHost, what, packet)
}

/// A forwarded packet: its TTL has lost our hop already.
fn ip() -> Frame {
    from_stack().ipv4(POD, REMOTE).ttl(63)
}

fn plain() -> Frame {
    ip().udp(1000, 2000).payload(64)
}

fn wrapped(node: Ipv4Addr) -> Frame {
    from_stack().ipv4(NODE1, node).id(0).fragment(DF).ttl(63)
}

fn wrapped_ip() -> Frame {
    wrapped(NODE2).ipv4(POD, REMOTE).ttl(63)
}

fn sent() -> Vec<Case> {
    let to_node3 =
        |to: Ipv4Addr| wrapped(NODE3).macs(NEXT_HOP_MAC, NIC_MAC).ipv4(POD, to).ttl(63).udp(1, 2);
    let from_pod3 = |to: Ipv4Addr| from_stack().ipv4(POD, to).ttl(63).udp(1, 2);
    let mut cases = vec![
        case("a forwarded datagram", &plain())
            .sent(HostEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case(
            "routed to us a moment before it was to travel plain",
            &from_stack().ipv4(POD, REMOTE_DIRECT).ttl(63).udp(1, 2),
        )
        .sent(HostEncapsulated, &wrapped(NODE2).ipv4(POD, REMOTE_DIRECT).ttl(63).udp(1, 2)),
        case("with the fast path off", &plain())
            .stack_path()
            .sent(HostEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case("neither mark nor tc_index is ours without leases", &plain())
            .mark(0xffff_ffff)
            .tag(0x5a5a)
            .sent(HostEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case("the same with the fast path off", &plain())
            .stack_path()
            .mark(0xffff_ffff)
            .tag(0x5a5a)
            .sent(HostEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case("the next hop's MAC is known", &from_pod3(REMOTE3))
            .sent(HostEncapsulated, &to_node3(REMOTE3)),
        case("a borrowed address", &from_pod3(BORROWED))
            .sent(HostEncapsulated, &to_node3(BORROWED)),
        case("padding does not travel", &ip().udp(1, 2).payload(3).padding(15))
            .sent(HostEncapsulated, &wrapped_ip().udp(1, 2).payload(3)),
        case("the reserved bit", &ip().fragment(EVIL | DF).udp(1, 2))
            .sent(HostEncapsulated, &wrapped_ip().fragment(EVIL | DF).udp(1, 2)),
        case("as large as the path takes", &ip().raw(253).payload(MTU as usize - 40))
            .sent(HostEncapsulated, &wrapped_ip().raw(253).payload(MTU as usize - 40)),
        case("an IP header and nothing else", &ip().raw(253))
            .sent(HostEncapsulated, &wrapped_ip().raw(253)),
    ];
    for source in [TUNNEL_ADDRESS, NODE1, NEIGHBOUR, STRANGER] {
        let packet = from_stack().ipv4(source, REMOTE).ttl(63).udp(1, 2);
        let out = wrapped(NODE2).ipv4(source, REMOTE).ttl(63).udp(1, 2);
        cases.push(case(format!("from {source}"), &packet).sent(HostEncapsulated, &out));
    }
    for ttl in [1, 2, 64, 255] {
        let out = wrapped(NODE2).ttl(ttl).ipv4(POD, REMOTE).ttl(ttl).udp(1, 2);
        let packet = ip().ttl(ttl).udp(1, 2);
        cases.push(case(format!("TTL {ttl} stays"), &packet).sent(HostEncapsulated, &out));
    }
    for tos in [0x00, 0x01, 0x02, 0x03, 0xb8, 0xbb, 0xff] {
        let out = wrapped(NODE2).tos(tos & 3).ipv4(POD, REMOTE).ttl(63).tos(tos).udp(1, 2);
        let packet = ip().tos(tos).udp(1, 2);
        cases.push(case(format!("TOS {tos:#04x}"), &packet).sent(HostEncapsulated, &out));
    }
    cases
}

/// Options, fragments, the beginnings and ends of connections: the stack has
/// seen them, and they are on their way.
fn sent_though_no_fast_path_takes_it() -> Vec<Case> {
    let outside = wrapped(NODE2);
    let mut cases = Vec::new();
    for (what, packet) in options(&plain(), 0) {
        let (_, out) = options(&wrapped_ip().udp(1000, 2000).payload(64), 1)
            .into_iter()
            .find(|(same, _)| *same == what)
            .expect("the same families inside and outside");
        cases.push(case(what, &packet).sent(HostEncapsulated, &out));
    }
    let inside = wrapped_ip().udp(1000, 2000).payload(64);
    for ((what, packet), (_, out)) in fragments(&plain(), 0).into_iter().zip(fragments(&inside, 1))
    {
        cases.push(case(what, &packet).sent(HostEncapsulated, &out));
    }
    let last = |frame: Frame| frame.fragment(185).raw(6).payload(3);
    cases.push(
        case("the last three bytes of a TCP segment", &last(ip()))
            .sent(HostEncapsulated, &last(wrapped_ip())),
    );
    for control in [flags::SYN, flags::SYN | flags::ACK, flags::FIN | flags::ACK, flags::RST] {
        let out = outside.clone().ipv4(POD, REMOTE).ttl(63).tcp(1, 2, control).payload(9);
        let packet = ip().tcp(1, 2, control).payload(9);
        cases.push(case(format!("TCP flags {control:#04x}"), &packet).sent(HostEncapsulated, &out));
    }
    cases
}

fn dropped() -> Vec<Case> {
    let to = |destination| from_stack().ipv4(POD, destination).ttl(63).udp(1, 2);
    let small = |to: Ipv4Addr, payload: u32| {
        from_stack().ipv4(POD, to).ttl(63).raw(253).payload(payload as usize)
    };
    vec![
        case("to an address outside the cluster", &to(STRANGER)).dropped(HostNoRoute),
        case("to a pod of ours", &to(NEIGHBOUR)).dropped(HostNoRoute),
        case("to our node", &to(NODE1)).dropped(HostNoRoute),
        case("to an address that is only ever a source", &to(EXTRA_SOURCE)).dropped(HostNoRoute),
        case("to many", &to(Ipv4Addr::new(224, 0, 0, 5))).dropped(HostNoRoute),
        case("to a node without a way there", &to(REMOTE_AWAY)).dropped(HostNodeUnreachable),
        case("to a protected node", &to(REMOTE_PROTECTED)).dropped(HostNodeUnreachable),
        case("to a node that is not in NODES", &to(REMOTE_UNKNOWN)).dropped(HostNodeUnreachable),
        case("TTL 0", &ip().ttl(0).udp(1, 2)).dropped(HostTtlExpired),
        case("a byte too large for node 2", &small(REMOTE, MTU - 39)).dropped(HostTooBig),
        case("a byte too large for node 3", &small(REMOTE3, SMALL_MTU - 39)).dropped(HostTooBig),
    ]
}

fn bad_input() -> Vec<Case> {
    let plain = plain();
    let room = 20 + 8 + 64;
    let mut cases = Vec::new();
    for (what, packet) in not_ipv4(&plain) {
        cases.push(case(what, &packet).dropped(HostNotIpv4));
    }
    for (what, packet) in impossible_headers(&plain, 0) {
        cases.push(case(what, &packet).dropped(HostBadHeader));
    }
    for (what, packet) in impossible_lengths(&plain, 0, room) {
        cases.push(case(what, &packet).dropped(HostBadHeader));
    }
    cases
}

fn truncated() -> Vec<Case> {
    let whole = plain().bytes().len();
    let mut cases: Vec<_> = (34..whole)
        .map(|length| {
            let packet = plain().cut(length);
            case(format!("cut to {length} of {whole} bytes"), &packet).dropped(HostBadHeader)
        })
        .collect();
    let short = ip().raw(6).payload(13);
    cases.push(
        case("13 bytes of TCP, to be segmented", &short).gso_size(1000).dropped(HostTruncated),
    );
    // What an IP packet holds is its receiver's business (RFC 2003 §3).
    for length in 0..=14 {
        let (packet, out) = (ip().raw(6).payload(length), wrapped_ip().raw(6).payload(length));
        cases.push(case(format!("{length} bytes of TCP"), &packet).sent(HostEncapsulated, &out));
    }
    cases
}

fn no_room() -> Vec<Case> {
    let ack = ip().tcp(1, 2, flags::ACK).payload(99);
    vec![
        case("already a tunnel packet", &plain())
            .with(route(NODE2, 32, NODE3, 0))
            .sent(HostEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64))
            .again(HostAlreadyEncapsulated, Action::Drop),
        case("GSO of no known type", &plain()).gso_size(1000).dropped(HostCannotEncapsulate),
        case("UDP GSO: a segment fits", &plain()).gso_size(1452).dropped(HostCannotEncapsulate),
        case("UDP GSO: a segment does not fit", &plain()).gso_size(1453).dropped(HostTooBig),
        case("TCP GSO: a segment fits", &ack).gso_size(1440).dropped(HostCannotEncapsulate),
        case("TCP GSO: a segment does not fit", &ack).gso_size(1441).dropped(HostTooBig),
    ]
}

/// The design's order.
fn faults() -> Vec<Fault> {
    vec![
        Fault::new(Dropped(HostNotIpv4), &[], |frame| frame.ether_type(0x86dd)),
        Fault::new(Dropped(HostBadHeader), &[], |frame| frame.edit(0, |ip| ip.version = 6)),
        Fault::new(Dropped(HostNoRoute), &["destination"], |frame| {
            frame.edit(0, |ip| ip.to = STRANGER)
        }),
        Fault::new(Dropped(HostNodeUnreachable), &["destination"], |frame| {
            frame.edit(0, |ip| ip.to = REMOTE_AWAY)
        }),
        Fault::new(Dropped(HostTtlExpired), &[], |frame| frame.edit(0, |ip| ip.ttl = 0)),
        Fault::new(Dropped(HostTooBig), &["size"], |frame| frame.payload(MTU as usize)),
        Fault {
            gso_size: 1000,
            ..Fault::new(Dropped(HostCannotEncapsulate), &["size"], |frame| frame)
        },
    ]
}
