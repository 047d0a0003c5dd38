//! `encap_pod`: what a pod sends, straight to the wire or left to the stack.

use std::net::Ipv4Addr;

use dataplane_common::Reason::{
    PodAlreadyEncapsulated, PodBadChecksum, PodBadHeader, PodCannotEncapsulate,
    PodConnectionControl, PodDirect, PodEncapsulated, PodForgedSource, PodFragment, PodNoRoute,
    PodNodeUnreachable, PodNotForHost, PodNotIpv4, PodOptions, PodTooBig, PodTruncated,
    PodTtlExpired,
};
use tunless_tests::{
    case::{self, Case},
    faults::{
        Fails::{self, Passed},
        Fault, fragments, impossible_headers, impossible_lengths, in_order, not_for_host, not_ipv4,
        options,
    },
    packet::{DF, EVIL, Frame, MF, flags},
    prog::{Action, Program},
    world::{
        BORROWED, EXTRA_SOURCE, MTU, NEIGHBOUR, NEXT_HOP_MAC, NIC_IF, NIC_MAC, NODE1, NODE2, NODE3,
        OTHER_MAC, POD, POD_IF, POD_MAC, REMOTE, REMOTE_AWAY, REMOTE_DIRECT, REMOTE_PROTECTED,
        REMOTE_UNKNOWN, REMOTE3, SMALL_MTU, STRANGER, TUNNEL_ADDRESS, endpoint, from_pod, route,
    },
};

#[test]
fn table() {
    case::run("encap_pod", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        sent(),
        sent_whatever_the_tos(),
        not_ours(),
        unfit(),
        bad_input(),
        truncated(),
        no_room(),
        in_order(Program::EncapPod, &plain(), &faults(), Fails::at_tc),
    ]
    .concat()
}

fn case(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::EncapPod, what, packet)
}

/// A packet of our pod to a pod of node 2, IP header only.
fn ip() -> Frame {
    from_pod().ipv4(POD, REMOTE)
}

fn plain() -> Frame {
    ip().udp(1000, 2000).payload(64)
}

/// The outer header towards `node`; the MACs are still those of the pod's side.
fn wrapped(node: Ipv4Addr) -> Frame {
    from_pod().ipv4(NODE1, node).id(0).fragment(DF).ttl(63)
}

/// That, and the packet of [`ip`] in it.
fn wrapped_ip() -> Frame {
    wrapped(NODE2).ipv4(POD, REMOTE).ttl(63)
}

fn sent() -> Vec<Case> {
    let to_node3 = |to: Ipv4Addr| {
        wrapped(NODE3).macs(NEXT_HOP_MAC, NIC_MAC).ipv4(POD, to).ttl(63).udp(1, 2).payload(9)
    };
    let from_pod3 = |to: Ipv4Addr| from_pod().ipv4(POD, to).udp(1, 2).payload(9);
    let mut cases = vec![
        case("a datagram; the kernel finds the next hop", &plain())
            .sent(PodEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case("the fast path of decapsulation is another matter", &plain())
            .stack_path()
            .sent(PodEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case("neither mark nor tc_index is ours without leases", &plain())
            .mark(0xffff_ffff)
            .tag(0x5a5a)
            .sent(PodEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64)),
        case("the next hop's MAC is known", &from_pod3(REMOTE3))
            .sent(PodEncapsulated, &to_node3(REMOTE3)),
        case("an address of node 2's block that node 3 borrowed", &from_pod3(BORROWED))
            .sent(PodEncapsulated, &to_node3(BORROWED)),
        case("an IP header and nothing else", &ip().raw(253))
            .sent(PodEncapsulated, &wrapped_ip().raw(253)),
        case("a protocol nobody knows", &ip().raw(253).payload(11))
            .sent(PodEncapsulated, &wrapped_ip().raw(253).payload(11)),
        case("a tunnel of the pod's own", &ip().ipv4(STRANGER, NODE1).udp(1, 2))
            .sent(PodEncapsulated, &wrapped_ip().ipv4(STRANGER, NODE1).udp(1, 2)),
        case("Ethernet padding does not travel", &ip().udp(1, 2).payload(3).padding(15))
            .sent(PodEncapsulated, &wrapped_ip().udp(1, 2).payload(3)),
        case(
            "DF and identification stay inside",
            &plain().edit(0, |ip| (ip.fragment, ip.id) = (DF, 7)),
        )
        .sent(PodEncapsulated, &wrapped_ip().fragment(DF).id(7).udp(1000, 2000).payload(64)),
        case("the reserved bit is no fragment's", &ip().fragment(EVIL).udp(1, 2))
            .sent(PodEncapsulated, &wrapped_ip().fragment(EVIL).udp(1, 2)),
        case("as large as the path to node 2 takes", &ip().raw(253).payload(MTU as usize - 40))
            .sent(PodEncapsulated, &wrapped_ip().raw(253).payload(MTU as usize - 40)),
        case(
            "as large as the path to node 3 takes",
            &from_pod().ipv4(POD, REMOTE3).raw(253).payload(SMALL_MTU as usize - 40),
        )
        .sent(PodEncapsulated, &to_node3(REMOTE3).raw(253).payload(SMALL_MTU as usize - 40)),
    ];
    for ttl in [2, 3, 64, 128, 255] {
        let out = wrapped(NODE2).ttl(ttl - 1).ipv4(POD, REMOTE).ttl(ttl - 1).udp(1, 2);
        let packet = ip().ttl(ttl).udp(1, 2);
        cases.push(
            case(format!("TTL {ttl} less one, inside and outside"), &packet)
                .sent(PodEncapsulated, &out),
        );
    }
    for control in [flags::ACK, flags::ACK | flags::PSH, flags::ACK | flags::URG, 0] {
        let out = wrapped_ip().tcp(1000, 80, control).payload(32);
        let packet = ip().tcp(1000, 80, control).payload(32);
        cases.push(
            case(format!("TCP with flags {control:#04x}"), &packet).sent(PodEncapsulated, &out),
        );
    }
    cases
}

/// DSCP 0 outside, ECN copied (RFC 6040 §4.1), the inner byte as it was.
fn sent_whatever_the_tos() -> Vec<Case> {
    [0x00, 0x01, 0x02, 0x03, 0xb8, 0xb9, 0xba, 0xbb, 0xfc, 0xff]
        .into_iter()
        .map(|tos| {
            let out = wrapped(NODE2).tos(tos & 3).ipv4(POD, REMOTE).ttl(63).tos(tos).udp(1, 2);
            case(format!("TOS {tos:#04x}"), &ip().tos(tos).udp(1, 2)).sent(PodEncapsulated, &out)
        })
        .collect()
}

fn not_ours() -> Vec<Case> {
    let from = |source| from_pod().ipv4(source, REMOTE).udp(1, 2);
    let to = |destination| from_pod().ipv4(POD, destination).udp(1, 2);
    let broadcast = Ipv4Addr::BROADCAST;
    let multicast = Ipv4Addr::new(224, 0, 0, 5);
    vec![
        case("the neighbour's address", &from(NEIGHBOUR)).passed(PodForgedSource),
        case("the right address on another interface", &plain().macs(NIC_MAC, POD_MAC))
            .on(NIC_IF)
            .passed(PodForgedSource),
        case("a remote pod's address", &from(REMOTE3)).passed(PodForgedSource),
        case("our node's address", &from(NODE1)).passed(PodForgedSource),
        case("nobody's address", &from(STRANGER)).passed(PodForgedSource),
        case("no address", &from(Ipv4Addr::UNSPECIFIED)).passed(PodForgedSource),
        case("to an address outside the cluster", &to(STRANGER)).passed(PodNoRoute),
        case("to the pod next door", &to(NEIGHBOUR)).passed(PodNoRoute),
        case("to our node", &to(NODE1)).passed(PodNoRoute),
        case("to our tunnel device", &to(TUNNEL_ADDRESS)).passed(PodNoRoute),
        case("to an address that is only ever a source", &to(EXTRA_SOURCE)).passed(PodNoRoute),
        case("to a pod whose packets travel plain", &to(REMOTE_DIRECT)).passed(PodDirect),
        case("likewise, of a protected node", &to(REMOTE_PROTECTED)).passed(PodDirect),
        case("to all", &to(broadcast)).passed(PodNoRoute),
        case("to many", &to(multicast)).passed(PodNoRoute),
        case("to a node without a way there", &to(REMOTE_AWAY)).passed(PodNodeUnreachable),
        case("to a node that is not in NODES", &to(REMOTE_UNKNOWN)).passed(PodNodeUnreachable),
    ]
}

fn unfit() -> Vec<Case> {
    let small =
        |to: Ipv4Addr, payload: u32| from_pod().ipv4(POD, to).raw(253).payload(payload as usize);
    let mut cases = vec![
        case("TTL 0", &ip().ttl(0).udp(1, 2)).passed(PodTtlExpired),
        case("TTL 1", &ip().ttl(1).udp(1, 2)).passed(PodTtlExpired),
        case("a byte too large for node 2", &small(REMOTE, MTU - 39)).passed(PodTooBig),
        case("a byte too large for node 3", &small(REMOTE3, SMALL_MTU - 39)).passed(PodTooBig),
        case("a fragment that begins with a SYN", &ip().fragment(MF).tcp(1, 2, flags::SYN))
            .passed(PodFragment),
    ];
    let last = ip().fragment(185).raw(6).payload(3);
    cases.push(case("the last three bytes of a TCP segment", &last).passed(PodFragment));
    for (what, packet) in options(&plain(), 0) {
        cases.push(case(what, &packet).passed(PodOptions));
    }
    for (what, packet) in fragments(&plain(), 0) {
        cases.push(case(what, &packet).passed(PodFragment));
    }
    for control in [flags::SYN, flags::SYN | flags::ACK, flags::FIN | flags::ACK, flags::RST, 0xff]
    {
        let packet = ip().tcp(1000, 80, control);
        cases.push(
            case(format!("TCP with flags {control:#04x}"), &packet).passed(PodConnectionControl),
        );
    }
    // Options move the flags: they have to be looked for behind them.
    let packet = ip().options(&[1; 8]).tcp(1000, 80, flags::SYN);
    cases.push(case("a SYN behind options", &packet).passed(PodOptions));
    cases
}

fn bad_input() -> Vec<Case> {
    let plain = plain();
    let room = 20 + 8 + 64;
    let mut cases = Vec::new();
    for (what, packet) in not_ipv4(&plain) {
        cases.push(case(what, &packet).passed(PodNotIpv4));
    }
    for (what, packet) in impossible_headers(&plain, 0) {
        cases.push(case(what, &packet).passed(PodBadHeader));
    }
    for (what, packet) in impossible_lengths(&plain, 0, room) {
        cases.push(case(what, &packet).passed(PodBadHeader));
    }
    for (what, mac) in not_for_host() {
        cases.push(case(what, &plain.clone().macs(mac, POD_MAC)).passed(PodNotForHost));
    }
    cases.push(case("a wrong checksum", &plain.clone().wrong_checksum()).passed(PodBadChecksum));
    let short = plain.clone().edit(0, |ip| (ip.options, ip.total_length) = (vec![1; 40], Some(59)));
    cases.push(case("a header longer than the whole", &short).passed(PodBadHeader));
    cases
}

/// Cut at every byte a test run takes; the rest is in `live.rs`.
fn truncated() -> Vec<Case> {
    let whole = plain().bytes().len();
    let mut cases: Vec<_> = (34..whole)
        .map(|length| {
            case(format!("cut to {length} of {whole} bytes"), &plain().cut(length))
                .passed(PodBadHeader)
        })
        .collect();
    // The packet says how short it is; TCP's flags end 14 bytes into its header.
    for length in 0..14 {
        let packet = ip().raw(6).payload(length);
        cases.push(case(format!("{length} bytes of TCP"), &packet).passed(PodTruncated));
        let padded = packet.padding(20);
        cases.push(
            case(format!("{length} bytes of TCP, then padding"), &padded).passed(PodTruncated),
        );
    }
    cases.push(
        case("14 bytes of TCP, a SYN", &ip().raw(6).payload(14)).passed(PodConnectionControl),
    );
    cases
}

/// The kernel refuses room: the packet has to be as it was, TTL included.
fn no_room() -> Vec<Case> {
    let ack = ip().tcp(1, 2, flags::ACK).payload(99);
    let other = ip().raw(253).payload(99);
    vec![
        case("already a tunnel packet", &plain())
            .with(endpoint(NODE1, POD_IF, POD_MAC))
            .with(route(NODE2, 32, NODE3, 0))
            .sent(PodEncapsulated, &wrapped_ip().udp(1000, 2000).payload(64))
            .again(PodAlreadyEncapsulated, Action::Pass),
        case("GSO of no known type", &plain()).gso_size(1000).passed(PodCannotEncapsulate),
        case("UDP GSO: a segment fits", &plain()).gso_size(1452).passed(PodCannotEncapsulate),
        case("UDP GSO: a segment does not fit", &plain()).gso_size(1453).passed(PodTooBig),
        case("TCP GSO: a segment fits", &ack).gso_size(1440).passed(PodCannotEncapsulate),
        case("TCP GSO: a segment does not fit", &ack).gso_size(1441).passed(PodTooBig),
        case("other GSO: a segment fits", &other).gso_size(1460).passed(PodCannotEncapsulate),
        case("other GSO: a segment does not fit", &other).gso_size(1461).passed(PodTooBig),
        case("SCTP GSO, whose segments have sizes of their own", &other)
            .gso_size(0xffff)
            .passed(PodTooBig),
        case(
            "GSO: the length field says nothing",
            &plain().edit(0, |ip| ip.total_length = Some(0)),
        )
        .gso_size(1000)
        .passed(PodCannotEncapsulate),
    ]
}

/// The design's order.
fn faults() -> Vec<Fault> {
    vec![
        Fault::new(Passed(PodNotIpv4), &[], |frame| frame.ether_type(0x86dd)),
        Fault::new(Passed(PodBadHeader), &[], |frame| frame.edit(0, |ip| ip.version = 6)),
        Fault::new(Passed(PodNotForHost), &[], |frame| frame.macs(OTHER_MAC, POD_MAC)),
        Fault::new(Passed(PodForgedSource), &[], |frame| frame.edit(0, |ip| ip.from = NEIGHBOUR)),
        Fault::new(Passed(PodNoRoute), &["destination"], |frame| {
            frame.edit(0, |ip| ip.to = STRANGER)
        }),
        Fault::new(Passed(PodNodeUnreachable), &["destination"], |frame| {
            frame.edit(0, |ip| ip.to = REMOTE_AWAY)
        }),
        Fault::new(Passed(PodTtlExpired), &[], |frame| frame.edit(0, |ip| ip.ttl = 1)),
        Fault::new(Passed(PodTooBig), &["size"], |frame| frame.payload(MTU as usize)),
        Fault::new(Passed(PodOptions), &[], |frame| frame.edit(0, |ip| ip.options = vec![1; 4])),
        // Nothing says which protocol's header a fragment holds: no flags to see.
        Fault::new(Passed(PodFragment), &[], |frame| frame.edit(0, |ip| ip.fragment = MF)),
        Fault::new(Passed(PodBadChecksum), &[], |frame| {
            frame.edit(0, |ip| ip.wrong_checksum = true)
        }),
        Fault::new(Passed(PodConnectionControl), &[], |frame| frame.tcp(1, 2, flags::SYN)),
        Fault {
            gso_size: 1000,
            ..Fault::new(Passed(PodCannotEncapsulate), &["size"], |frame| frame)
        },
    ]
}
