//! `encap_host` on tunl0, which has no link header: a "no" leaves the packet to
//! tunl0, as it is.
//!
//! A test run takes its 14 first bytes for an Ethernet header, wherever the
//! program begins to read: so `8.0.0.0/16`, an IPv4 source, is at the same time
//! the ether type of IPv4. What is sent has to be seen in a real kernel, beside a
//! real tunl0 (`cargo xtask vm test`).

use std::net::Ipv4Addr;

use dataplane_common::Reason::{
    Tunl0BadHeader, Tunl0CannotEncapsulate, Tunl0NoRoute, Tunl0NodeUnreachable, Tunl0NotIpv4,
    Tunl0TooBig, Tunl0Truncated, Tunl0TtlExpired,
};
use tunless_tests::{
    case::{self, Case},
    packet::{ETHERNET, Frame, eth},
    prog::Program,
    world::{MTU, REMOTE, REMOTE_AWAY, REMOTE_PROTECTED, STRANGER},
};

/// Reads as IPv4 where an ether type would be.
const SOURCE: Ipv4Addr = Ipv4Addr::new(8, 0, 1, 2);

#[test]
fn table() {
    case::run("encap_tunl0", &cases());
}

fn case(what: &str, packet: &Frame) -> Case {
    let bytes = packet.bytes().split_off(ETHERNET);
    Case::of_bytes(Program::EncapHost, what, bytes).on_tunl0()
}

fn ip(to: Ipv4Addr) -> Frame {
    eth().ipv4(SOURCE, to).ttl(63)
}

/// Every row.
pub fn cases() -> Vec<Case> {
    let plain = |to| ip(to).udp(1000, 2000).payload(64);
    let mut cases = vec![
        case("to an address outside the cluster", &plain(STRANGER)).passed(Tunl0NoRoute),
        case("to a node without a way there", &plain(REMOTE_AWAY)).passed(Tunl0NodeUnreachable),
        case("to a protected node's pod", &plain(REMOTE_PROTECTED)).passed(Tunl0NodeUnreachable),
        case("TTL 0", &plain(REMOTE).edit(0, |ip| ip.ttl = 0)).passed(Tunl0TtlExpired),
        case("a byte too large", &ip(REMOTE).raw(253).payload(MTU as usize - 39))
            .passed(Tunl0TooBig),
        case("a version that cannot be", &plain(REMOTE).edit(0, |ip| ip.version = 6))
            .passed(Tunl0BadHeader),
        case("more than there is", &plain(REMOTE).edit(0, |ip| ip.total_length = Some(200)))
            .passed(Tunl0BadHeader),
        case("too little TCP for its segments", &ip(REMOTE).options(&[1; 4]).raw(6).payload(13))
            .gso_size(1000)
            .passed(Tunl0Truncated),
        case("GSO of no known type", &plain(REMOTE)).gso_size(1000).passed(Tunl0CannotEncapsulate),
        case("not IPv4", &eth().ipv4(STRANGER, REMOTE).udp(1, 2).payload(64)).passed(Tunl0NotIpv4),
    ];
    // With leases the mark is taken off all the same.
    let verified: Vec<Case> = cases.iter().cloned().map(Case::verified).collect();
    cases.extend(verified);
    cases
}
