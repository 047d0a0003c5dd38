//! To the pod: leased by way of the requests, rewritten, ended.

use dataplane_common::{
    Direction, Lease,
    Reason::{
        DecapLeaseExpiredToStack, DecapNoLeaseToStack, DecapServiceToPod, DecapTtlToStack,
        GrantConnectionControl, GrantLeased, GrantServiceGiven, GrantUnmarked, GrantUnproven,
    },
};
use tunless_tests::{
    case::Case,
    packet::{Frame, flags},
    prog::Program,
    world::{
        self, EPOCH, Entry, MARK, NODE2, NODE3, OVER, POD, POD_IF, REMOTE, SECRET, SERVICE,
        SERVICE_MARK, flow, lease, to_pod, translating, way_to_node2, way_to_pod,
    },
};

use super::{
    ASKED, BACKEND, CLIENT, LENGTH, REVOKED, TCP, UDP, answer_lease, answered, asked, both,
    both_end, first, heard, in_pod, request_lease, udp, wire, without_checksum,
};

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        decapsulated(),
        not_decapsulated(),
        granted_to_answers(),
        not_granted_to_answers(),
        ended_by_answers(),
    ]
    .concat()
}

fn at_nic(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::DecapTc, what, packet).services()
}

fn decapsulated() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in [UDP, TCP] {
        let bytes = wire(protocol).bytes().len() as u64 - 34;
        cases.push(
            at_nic("an answer of the Service", &wire(protocol))
                .with(Entry::Lease(answered(protocol), answer_lease(protocol)))
                .uses(answered(protocol), bytes)
                .sent(DecapServiceToPod, &in_pod(protocol, ASKED)),
        );
    }
    for port in 1..=200 {
        cases.push(
            at_nic(format!("from port {port}"), &wire(UDP))
                .with(Entry::Lease(answered(UDP), translating(answer_lease(UDP), SERVICE, port)))
                .uses(answered(UDP), LENGTH)
                .sent(DecapServiceToPod, &in_pod(UDP, port)),
        );
    }
    let mut into = in_pod(UDP, ASKED).bytes();
    into[40..42].fill(0);
    let none = |what: &str, bytes| Case::of_bytes(Program::DecapTc, what, bytes).services();
    cases.push(
        without_checksum(none, &wire(UDP), 60)
            .with(Entry::Lease(answered(UDP), answer_lease(UDP)))
            .uses(answered(UDP), LENGTH)
            .sent_bytes(DecapServiceToPod, into),
    );
    cases
}

fn not_decapsulated() -> Vec<Case> {
    let good = answer_lease(UDP);
    let tag = answered(UDP).tag(SECRET);
    let stack =
        |packet: &Frame| packet.clone().unwrapped().macs(world::TUNNEL_MAC, world::ROUTER_MAC);
    let with = |what: &str, lease| {
        at_nic(what, &wire(UDP)).with(Entry::Lease(answered(UDP), lease)).leaves_tag(tag)
    };
    let ttl1 = wire(UDP).edit(1, |ip| ip.ttl = 1);
    let plain = stack(&wire(UDP));
    vec![
        // A sender there may look for a port with the tag of another flow.
        at_nic("what comes from the wire is not noted", &wire(UDP))
            .leaves_tag(tag)
            .notes(Default::default())
            .sent(DecapNoLeaseToStack, &plain),
        with("a revoked lease", Lease { expires: OVER | REVOKED, ..good })
            .sent(DecapLeaseExpiredToStack, &plain),
        with("another node's lease", Lease { node: NODE3.into(), ..good })
            .sent(DecapNoLeaseToStack, &plain),
        with("the lease of another flow", Lease { flow: heard(UDP), ..good })
            .sent(DecapNoLeaseToStack, &plain),
        at_nic("TTL 1: as it came", &ttl1)
            .with(Entry::Lease(answered(UDP), good))
            .sent(DecapTtlToStack, &stack(&ttl1)),
    ]
}

/// An answer that netfilter has translated back and marked.
fn back(what: impl Into<String>, protocol: u8) -> Case {
    Case::new(Program::GrantDecap, what, &in_pod(protocol, ASKED))
        .services()
        .mark(SERVICE_MARK)
        .leaves_mark(0)
        .tag(answered(protocol).tag(SECRET))
}

fn granted_to_answers() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in [UDP, TCP] {
        let (flow, lease) = (answered(protocol), answer_lease(protocol));
        let asks = request_lease(protocol);
        for (what, asks) in [
            ("good", asks),
            ("over", Lease { expires: OVER, ..asks }),
            ("of another epoch", Lease { epoch: EPOCH - 1, ..asks }),
        ] {
            cases.push(
                back(format!("the lease of the requests is {what}"), protocol)
                    .with(Entry::Lease(asked(protocol), asks))
                    .grants(flow, first(lease))
                    .passed(GrantServiceGiven),
            );
        }
        cases.push(
            back("a lease that is over", protocol)
                .with(Entry::Lease(asked(protocol), asks))
                .with(Entry::Lease(flow, Lease { expires: OVER, ..lease }))
                .grants(flow, lease)
                .passed(GrantServiceGiven),
        );
        cases.push(both(back("a good lease stays", protocol), protocol).passed(GrantLeased));
    }
    cases
}

fn not_granted_to_answers() -> Vec<Case> {
    let asks = request_lease(UDP);
    let plain = lease(&asked(UDP), NODE2, way_to_node2());
    let with = |what: &str, asks| back(what, UDP).with(Entry::Lease(asked(UDP), asks));
    let other = flow(Direction::Decap, UDP, (REMOTE, 7), (POD, CLIENT));
    let mut cases = vec![
        back("the requests have no lease", UDP).passed(GrantUnproven),
        with("the lease of the requests was revoked", Lease { expires: OVER | REVOKED, ..asks })
            .passed(GrantUnproven),
        with("the lease of the requests does not translate", plain).passed(GrantUnproven),
        with("not from the wire", asks).came_by(POD_IF).passed(GrantUnproven),
        with("without a tag", asks).tag(0).passed(GrantUnproven),
        with("the answers' lease was revoked just now", asks)
            .with(Entry::Lease(
                answered(UDP),
                Lease { expires: OVER | REVOKED, ..answer_lease(UDP) },
            ))
            .passed(GrantUnproven),
    ];
    cases.push(
        both_end(
            both(back("it came from another pod or port", UDP).tag(other.tag(SECRET)), UDP),
            UDP,
        )
        .passed(GrantUnproven),
    );
    cases.push(
        // What was a flow of its own, without translation, is one no more.
        back("a plain lease under the same tuple", UDP)
            .with(Entry::Lease(asked(UDP), asks))
            .with(Entry::Lease(answered(UDP), lease(&answered(UDP), NODE2, way_to_pod())))
            .revokes(answered(UDP))
            .passed(GrantUnproven),
    );
    cases
}

fn ended_by_answers() -> Vec<Case> {
    let mut cases = Vec::new();
    for control in [flags::SYN | flags::ACK, flags::FIN | flags::ACK, flags::RST] {
        let packet = to_pod().ipv4(SERVICE, POD).ttl(63).tcp(ASKED, CLIENT, control);
        let case = Case::new(Program::GrantDecap, format!("flags {control:#x}"), &packet)
            .services()
            .mark(SERVICE_MARK)
            .leaves_mark(0);
        cases.push(both_end(both(case, TCP), TCP).passed(GrantConnectionControl));
    }
    let case = back("not marked", UDP).mark(0);
    cases.push(both_end(both(case, UDP), UDP).passed(GrantUnmarked));
    // The pod behind the Service speaks for itself: its tuple is the answers'.
    let plain = udp(to_pod().ipv4(REMOTE, POD).ttl(63), BACKEND, CLIENT);
    let case =
        Case::new(Program::GrantDecap, "the pod behind the Service speaks for itself", &plain)
            .services()
            .tag(answered(UDP).tag(SECRET));
    cases.push(both_end(both(case, UDP), UDP).passed(GrantUnmarked));
    let case = Case::new(Program::GrantDecap, "that, with netfilter's consent", &plain)
        .services()
        .mark(MARK)
        .leaves_mark(0)
        .tag(answered(UDP).tag(SECRET));
    cases.push(both_end(both(case, UDP), UDP).passed(GrantUnproven));
    cases
}
