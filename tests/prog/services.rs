//! Leases of flows that netfilter translates for a Service: A:p → V:v becomes A:p → B:b on the way
//! out, and its answers B:b → A:p become V:v → A:p on the way in.

use dataplane_common::{
    Direction, Flow, Lease,
    Reason::{
        DecapLeaseExpiredToStack, DecapNoLeaseToStack, DecapServiceToPod, DecapTtlToStack,
        GrantConnectionControl, GrantLeased, GrantServiceGiven, GrantUnmarked, GrantUnproven,
        HostConnectionControl, HostLeaseGranted, HostLeased, HostServiceLeaseGranted, HostUnmarked,
        HostUnproven, PodConnectionControl, PodForgedSource, PodLeaseExpired, PodLeaseOutdated,
        PodNoLease, PodServiceEncapsulated, PodTooBig,
    },
};
use tunless_tests::{
    case::{self, Case},
    packet::{DF, Frame, flags},
    prog::Program,
    world::{
        self, EPOCH, Entry, HOST_MAC, MARK, MTU, NEIGHBOUR, NEIGHBOUR_IF, NIC_IF, NIC_MAC, NODE1,
        NODE2, NODE3, NOW, OVER, POD, POD_IF, POD_MAC, REMOTE, REMOTE3, SECRET, SERVICE,
        SERVICE_MARK, arrival, flow, from_pod, from_stack, lease, to_pod, translating,
        way_to_node2, way_to_node3, way_to_pod,
    },
};

#[test]
fn table() {
    case::run("services", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        noted(),
        encapsulated(),
        not_encapsulated(),
        granted_to_requests(),
        not_granted_to_requests(),
        ended_by_requests(),
        decapsulated(),
        not_decapsulated(),
        granted_to_answers(),
        not_granted_to_answers(),
        ended_by_answers(),
        switched_off(),
    ]
    .concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
/// The client's port, the Service's, and that of the pod behind it.
const CLIENT: u16 = 1000;
const ASKED: u16 = 53;
const BACKEND: u16 = 2000;
/// Length of an inner packet of UDP here.
const LENGTH: u64 = 20 + 8 + 64;
const REVOKED: u64 = 1 << 63;

/// As the pod sends it.
fn asked(protocol: u8) -> Flow {
    flow(Direction::Encap, protocol, (POD, CLIENT), (SERVICE, ASKED))
}

/// As it leaves the node.
fn sent(protocol: u8) -> Flow {
    flow(Direction::Encap, protocol, (POD, CLIENT), (REMOTE, BACKEND))
}

/// As the answer comes from the wire.
fn answered(protocol: u8) -> Flow {
    sent(protocol).reverse()
}

/// As the answer enters the pod.
fn heard(protocol: u8) -> Flow {
    asked(protocol).reverse()
}

fn request_lease(protocol: u8) -> Lease {
    translating(lease(&asked(protocol), NODE2, way_to_node2()), REMOTE, BACKEND)
}

fn answer_lease(protocol: u8) -> Lease {
    translating(lease(&answered(protocol), NODE2, way_to_pod()), SERVICE, ASKED)
}

fn first(lease: Lease) -> Lease {
    Lease { packets: 0, bytes: 0, ..lease }
}

/// Both leases of a flow to the Service.
fn both(case: Case, protocol: u8) -> Case {
    case.with(Entry::Lease(asked(protocol), request_lease(protocol)))
        .with(Entry::Lease(answered(protocol), answer_lease(protocol)))
}

fn both_end(case: Case, protocol: u8) -> Case {
    case.ends(asked(protocol)).ends(answered(protocol))
}

fn udp(frame: Frame, from: u16, to: u16) -> Frame {
    frame.udp(from, to).payload(64)
}

fn tcp(frame: Frame, from: u16, to: u16) -> Frame {
    frame.tcp(from, to, flags::ACK).payload(9)
}

fn pod_udp() -> Frame {
    udp(from_pod().ipv4(POD, SERVICE), CLIENT, ASKED)
}

fn pod_tcp() -> Frame {
    tcp(from_pod().ipv4(POD, SERVICE), CLIENT, ASKED)
}

fn at_pod(what: impl Into<String>, packet: &Frame) -> Case {
    Case::new(Program::EncapPod, what, packet).services()
}

/// On the wire to node 2, with the MACs the pod wrote: the kernel resolves the next hop.
fn wrapped() -> Frame {
    from_pod().ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(63).ipv4(POD, REMOTE).ttl(63)
}

fn noted() -> Vec<Case> {
    let by_pod = |flow: &Flow| arrival(flow, POD_IF);
    let row = |what: &str, packet: &Frame, flow: Flow| {
        at_pod(what, packet).leaves_tag(flow.tag(SECRET)).notes(by_pod(&flow))
    };
    let syn = |flags| from_pod().ipv4(POD, SERVICE).tcp(CLIENT, ASKED, flags);
    vec![
        row("a request without a lease", &pod_udp(), asked(UDP)).passed(PodNoLease),
        row("TCP, too", &pod_tcp(), asked(TCP)).passed(PodNoLease),
        row("a SYN", &syn(flags::SYN), asked(TCP)).passed(PodConnectionControl),
        row("a FIN", &syn(flags::FIN | flags::ACK), asked(TCP)).passed(PodConnectionControl),
        row("a RST", &syn(flags::RST), asked(TCP)).passed(PodConnectionControl),
        row("in the place of another", &pod_udp(), asked(UDP))
            .with(Entry::Seen(asked(UDP).tag(SECRET), arrival(&asked(TCP), NEIGHBOUR_IF)))
            .passed(PodNoLease),
        at_pod("by the interface it came by", &pod_udp().macs(NIC_MAC, POD_MAC))
            .on(NIC_IF)
            .leaves_tag(asked(UDP).tag(SECRET))
            .notes(arrival(&asked(UDP), NIC_IF))
            .passed(PodNoLease),
    ]
}

/// The checksum of UDP says: none.
fn without_checksum(case: fn(&str, Vec<u8>) -> Case, packet: &Frame, at: usize) -> Case {
    let mut bytes = packet.bytes();
    bytes[at..at + 2].fill(0);
    case("UDP without a checksum", bytes)
}

fn encapsulated() -> Vec<Case> {
    let leased = |what: &str, packet: &Frame, protocol| {
        at_pod(what, packet)
            .with(Entry::Lease(asked(protocol), request_lease(protocol)))
            .uses(asked(protocol), packet.bytes().len() as u64 - 14)
    };
    let same_port = translating(request_lease(UDP), REMOTE, ASKED);
    let mut cases = vec![
        leased("UDP to the Service", &pod_udp(), UDP)
            .sent(PodServiceEncapsulated, &udp(wrapped(), CLIENT, BACKEND)),
        leased("TCP to the Service", &pod_tcp(), TCP)
            .sent(PodServiceEncapsulated, &tcp(wrapped(), CLIENT, BACKEND)),
        at_pod("the Service has the pod's port", &pod_udp())
            .with(Entry::Lease(asked(UDP), same_port))
            .uses(asked(UDP), LENGTH)
            .sent(PodServiceEncapsulated, &udp(wrapped(), CLIENT, ASKED)),
    ];
    // Many addresses and ports: the checksum comes out right, 0xffff for 0 included.
    for port in 1..=200 {
        let lease = translating(request_lease(UDP), REMOTE, port);
        cases.push(
            at_pod(format!("to port {port}"), &pod_udp())
                .with(Entry::Lease(asked(UDP), lease))
                .uses(asked(UDP), LENGTH)
                .sent(PodServiceEncapsulated, &udp(wrapped(), CLIENT, port)),
        );
    }
    let mut out = udp(wrapped(), CLIENT, BACKEND).bytes();
    out[60..62].fill(0);
    let none = |what: &str, bytes| Case::of_bytes(Program::EncapPod, what, bytes).services();
    cases.push(
        without_checksum(none, &pod_udp(), 40)
            .with(Entry::Lease(asked(UDP), request_lease(UDP)))
            .uses(asked(UDP), LENGTH)
            .sent_bytes(PodServiceEncapsulated, out),
    );
    cases
}

fn not_encapsulated() -> Vec<Case> {
    let good = request_lease(UDP);
    let asks = |what: &str, lease| {
        at_pod(what, &pod_udp())
            .with(Entry::Lease(asked(UDP), lease))
            .leaves_tag(asked(UDP).tag(SECRET))
    };
    let big = udp(from_pod().ipv4(POD, SERVICE), CLIENT, ASKED).payload(MTU as usize - 47);
    vec![
        asks("a lease that is over", Lease { expires: OVER, ..good }).passed(PodLeaseExpired),
        asks("a lease of another epoch", Lease { epoch: EPOCH + 1, ..good })
            .passed(PodLeaseOutdated),
        asks("a revoked lease", Lease { expires: OVER | REVOKED, ..good }).passed(PodLeaseExpired),
        asks("a lease of another port's flow", Lease { flow: asked(TCP), ..good })
            .passed(PodNoLease),
        at_pod("another pod's lease", &pod_udp().macs(NIC_MAC, POD_MAC))
            .on(NIC_IF)
            .with(Entry::Lease(asked(UDP), good))
            .passed(PodForgedSource),
        at_pod("too big", &big).with(Entry::Lease(asked(UDP), good)).passed(PodTooBig),
    ]
}

fn from_host(protocol: u8) -> Frame {
    let ip = from_stack().ipv4(POD, REMOTE).ttl(63);
    if protocol == UDP { udp(ip, CLIENT, BACKEND) } else { tcp(ip, CLIENT, BACKEND) }
}

fn out(packet: &Frame) -> Frame {
    let bytes = packet.clone().padding(0).bytes();
    from_stack().ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(63).raw(4).bytes_payload(&bytes[14..])
}

/// A packet that netfilter has translated and marked, and that came as the pod sent it.
fn translated(what: impl Into<String>, protocol: u8) -> Case {
    let tag = asked(protocol).tag(SECRET);
    Case::new(Program::EncapHost, what, &from_host(protocol))
        .services()
        .mark(SERVICE_MARK)
        .leaves_mark(0)
        .tag(tag)
        .with(Entry::Seen(tag, arrival(&asked(protocol), POD_IF)))
}

fn granted_to_requests() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in [UDP, TCP] {
        let (flow, lease, out) =
            (asked(protocol), request_lease(protocol), out(&from_host(protocol)));
        cases.push(
            translated("the first lease", protocol)
                .grants(flow, first(lease))
                .sent(HostServiceLeaseGranted, &out),
        );
        for (what, old) in [
            ("over", Lease { expires: OVER, ..lease }),
            ("over this very tick", Lease { expires: NOW, ..lease }),
            ("of another epoch", Lease { epoch: EPOCH - 1, ..lease }),
            ("over, to another pod", translating(Lease { expires: OVER, ..lease }, REMOTE3, 9)),
            (
                "over, by another way",
                world::going(way_to_node3(), Lease { expires: OVER, ..lease }),
            ),
        ] {
            cases.push(
                translated(format!("a lease {what}"), protocol)
                    .with(Entry::Lease(flow, old))
                    .grants(flow, lease)
                    .sent(HostServiceLeaseGranted, &out),
            );
        }
        cases.push(
            both(translated("a good lease stays", protocol), protocol).sent(HostLeased, &out),
        );
    }
    let beside = lease(&sent(UDP), NODE2, way_to_node2());
    cases.push(
        translated("the pod behind the Service asked directly is another flow", UDP)
            .with(Entry::Lease(sent(UDP), beside))
            .grants(asked(UDP), first(request_lease(UDP)))
            .sent(HostServiceLeaseGranted, &out(&from_host(UDP))),
    );
    cases
}

fn not_granted_to_requests() -> Vec<Case> {
    let out = out(&from_host(UDP));
    let tag = asked(UDP).tag(SECRET);
    let with_seen = |what: &str, tag: u16, arrival| {
        Case::new(Program::EncapHost, what, &from_host(UDP))
            .services()
            .mark(SERVICE_MARK)
            .leaves_mark(0)
            .tag(tag)
            .with(Entry::Seen(tag, arrival))
            .sent(HostUnproven, &out)
    };
    let neighbours = Flow { source: NEIGHBOUR.into(), ..asked(UDP) };
    let other_port = Flow { source_port: 9, ..asked(UDP) };
    let unchanged = sent(UDP);
    let good = request_lease(UDP);
    let mut cases = vec![
        with_seen("not noted", tag, Default::default()),
        with_seen("another packet took its place", tag, arrival(&asked(TCP), POD_IF)),
        with_seen("noted at another pod's interface", tag, arrival(&asked(UDP), NEIGHBOUR_IF)),
        with_seen("another source", neighbours.tag(SECRET), arrival(&neighbours, POD_IF)),
        with_seen("another source port", other_port.tag(SECRET), arrival(&other_port, POD_IF)),
        with_seen("not translated at all", unchanged.tag(SECRET), arrival(&unchanged, POD_IF)),
        translated("without a tag", UDP).tag(0).sent(HostUnproven, &out),
        translated("from another interface", UDP).came_by(NEIGHBOUR_IF).sent(HostUnproven, &out),
        translated("revoked just now", UDP)
            .with(Entry::Lease(asked(UDP), Lease { expires: OVER | REVOKED, ..good }))
            .sent(HostUnproven, &out),
        translated("marked as one that nothing translates", UDP)
            .mark(MARK)
            .leaves_mark(0)
            .sent(HostUnproven, &out),
    ];
    let elsewhere = translating(good, REMOTE3, BACKEND);
    let twin = flow(Direction::Decap, UDP, (REMOTE3, BACKEND), (POD, CLIENT));
    let twins = translating(lease(&twin, NODE3, way_to_pod()), SERVICE, ASKED);
    cases.push(
        translated("the lease leads to another pod, whose answers' lease ends with it", UDP)
            .with(Entry::Lease(asked(UDP), elsewhere))
            .with(Entry::Lease(twin, twins))
            .ends(asked(UDP))
            .ends(twin)
            .sent(HostUnproven, &out),
    );
    cases
}

/// Leases end in both directions, by what the pod sent and by what left the node.
fn ended_by_requests() -> Vec<Case> {
    let direct = (sent(TCP), lease(&sent(TCP), NODE2, way_to_node2()));
    let mut cases = Vec::new();
    for (what, control) in
        [("SYN", flags::SYN), ("FIN", flags::FIN | flags::ACK), ("RST", flags::RST)]
    {
        let packet = from_stack().ipv4(POD, REMOTE).ttl(63).tcp(CLIENT, BACKEND, control);
        let tag = asked(TCP).tag(SECRET);
        let case = Case::new(Program::EncapHost, what, &packet)
            .services()
            .mark(SERVICE_MARK)
            .leaves_mark(0)
            .tag(tag)
            .with(Entry::Seen(tag, arrival(&asked(TCP), POD_IF)))
            .with(Entry::Lease(direct.0, direct.1))
            .revokes(direct.0);
        cases.push(both_end(both(case, TCP), TCP).sent(HostConnectionControl, &out(&packet)));
    }
    for protocol in [UDP, TCP] {
        let case = translated("not marked", protocol).mark(0);
        cases.push(
            both_end(both(case, protocol), protocol).sent(HostUnmarked, &out(&from_host(protocol))),
        );
    }
    // To another pod behind the Service than before: the answers of the old one show that by
    // nothing but their twin.
    let packet = from_stack().ipv4(POD, REMOTE3).ttl(63).tcp(CLIENT, 77, flags::SYN);
    let tag = asked(TCP).tag(SECRET);
    let wrapped = from_stack()
        .macs(world::NEXT_HOP_MAC, world::NIC_MAC)
        .ipv4(NODE1, NODE3)
        .id(0)
        .fragment(DF)
        .ttl(63)
        .raw(4)
        .bytes_payload(&packet.bytes()[14..]);
    let case = Case::new(Program::EncapHost, "a SYN to another pod", &packet)
        .services()
        .tag(tag)
        .with(Entry::Seen(tag, arrival(&asked(TCP), POD_IF)));
    cases.push(both_end(both(case, TCP), TCP).sent(HostConnectionControl, &wrapped));
    // The answers' lease names the request's.
    let case =
        Case::new(Program::EncapHost, "nothing noted, the lease of the answers", &from_host(UDP))
            .services()
            .tag(asked(UDP).tag(SECRET));
    cases.push(both_end(both(case, UDP), UDP).sent(HostUnmarked, &out(&from_host(UDP))));
    cases
}

fn wire(protocol: u8) -> Frame {
    let ip = world::from_wire().ipv4(NODE2, NODE1).ipv4(REMOTE, POD);
    if protocol == UDP { udp(ip, BACKEND, CLIENT) } else { tcp(ip, BACKEND, CLIENT) }
}

fn in_pod(protocol: u8, from: u16) -> Frame {
    let ip = to_pod().macs(POD_MAC, HOST_MAC).ipv4(SERVICE, POD).ttl(63);
    if protocol == UDP { udp(ip, from, CLIENT) } else { tcp(ip, from, CLIENT) }
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

/// Without Service leases the second bit is not ours, and nothing is noted.
fn switched_off() -> Vec<Case> {
    let tag = asked(UDP).tag(SECRET);
    vec![
        Case::new(Program::EncapPod, "switched off: not noted", &pod_udp())
            .verified()
            .leaves_tag(tag)
            .notes(Default::default())
            .passed(PodNoLease),
        // What was leased a moment ago is rewritten until its end, and ends in both directions.
        Case::new(Program::EncapPod, "switched off: a lease that is left", &pod_udp())
            .verified()
            .with(Entry::Lease(asked(UDP), request_lease(UDP)))
            .uses(asked(UDP), LENGTH)
            .sent(PodServiceEncapsulated, &udp(wrapped(), CLIENT, BACKEND)),
        Case::new(Program::DecapTc, "switched off: a lease of answers that is left", &wire(UDP))
            .verified()
            .with(Entry::Lease(answered(UDP), answer_lease(UDP)))
            .uses(answered(UDP), LENGTH)
            .sent(DecapServiceToPod, &in_pod(UDP, ASKED)),
        both_end(
            both(Case::new(Program::EncapHost, "switched off: not marked", &from_host(UDP)), UDP)
                .verified(),
            UDP,
        )
        .sent(HostUnmarked, &out(&from_host(UDP))),
        Case::new(Program::EncapHost, "switched off: another's bit stays", &from_host(UDP))
            .verified()
            .mark(SERVICE_MARK)
            .tag(tag)
            .with(Entry::Seen(tag, arrival(&asked(UDP), POD_IF)))
            .sent(HostUnmarked, &out(&from_host(UDP))),
        Case::new(Program::EncapHost, "what nothing translates is leased as ever", &from_host(UDP))
            .services()
            .mark(MARK | SERVICE_MARK)
            .leaves_mark(0)
            .tag(sent(UDP).tag(SECRET))
            .grants(sent(UDP), first(lease(&sent(UDP), NODE2, way_to_node2())))
            .sent(HostLeaseGranted, &out(&from_host(UDP))),
    ]
}
