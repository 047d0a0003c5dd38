//! `encap_pod`: what a pod sends, straight to the wire or left to the stack.

use std::net::Ipv4Addr;

use dataplane_common::Reason::{
    PodAlreadyEncapsulated, PodBadHeader, PodCannotEncapsulate, PodConnectionControl,
    PodEncapsulated, PodForgedSource, PodFragment, PodNoRoute, PodNodeUnreachable, PodNotIpv4,
    PodOptions, PodTooBig, PodTtlExpired, PodTruncated,
};
use tunless_tests::{
    case::{self, Case},
    packet::{DF, EVIL, Frame, MF, flags},
    prog::{Action, Program},
    world::{
        BORROWED, EXTRA_SOURCE, HOST_MAC, MTU, NEIGHBOUR, NEXT_HOP_MAC, NIC_IF, NIC_MAC, NODE1,
        NODE2, NODE3, POD, POD_IF, POD_MAC, REMOTE, REMOTE_AWAY, REMOTE_UNKNOWN, REMOTE3,
        SMALL_MTU, STRANGER, TUNNEL_ADDRESS, endpoint, from_pod, node, route,
    },
};

#[test]
fn table() {
    case::run("encap_pod", &cases());
}

fn case(what: &str, packet: &Frame) -> Case {
    Case::new(Program::EncapPod, what, packet)
}

/// A small UDP packet of our pod to the pod of node 2.
fn plain() -> Frame {
    from_pod().ipv4(POD, REMOTE).udp(1000, 2000).payload(64)
}

/// The outer header towards `node`, on a frame whose MACs stay as they were.
fn wrapped(node: Ipv4Addr) -> Frame {
    from_pod().ipv4(NODE1, node).id(0).fragment(DF).ttl(63)
}

/// A TCP segment with `control` flags.
fn tcp(control: u8) -> Frame {
    from_pod().ipv4(POD, REMOTE).tcp(1000, 80, control).payload(32)
}

/// Every row.
pub fn cases() -> Vec<Case> {
    let mut cases = sent();
    cases.extend(left_to_the_stack());
    cases
}

fn sent() -> Vec<Case> {
    let out = wrapped(NODE2).ipv4(POD, REMOTE).ttl(63).udp(1000, 2000).payload(64);
    vec![
        case("a datagram is wrapped; the kernel finds the next hop's MAC", &plain())
            .sent(PodEncapsulated, &out),
    ]
}

fn left_to_the_stack() -> Vec<Case> {
    vec![case("no route", &from_pod().ipv4(POD, STRANGER).udp(1, 2)).passed(PodNoRoute)]
}
