//! From the pod: noted, leased, rewritten, ended.

use dataplane_common::{
    Direction, Flow, Lease,
    Reason::{
        HostConnectionControl, HostLeased, HostServiceLeaseGranted, HostUnmarked, HostUnproven,
        PodConnectionControl, PodForgedSource, PodLeaseExpired, PodLeaseOutdated, PodNoLease,
        PodServiceEncapsulated, PodTooBig,
    },
};
use tunless_tests::{
    case::Case,
    packet::{DF, Frame, flags},
    prog::Program,
    world::{
        self, EPOCH, Entry, MARK, MTU, NEIGHBOUR, NEIGHBOUR_IF, NIC_IF, NIC_MAC, NODE1, NODE2,
        NODE3, NOW, OVER, POD, POD_IF, POD_MAC, REMOTE, REMOTE3, SECRET, SERVICE, SERVICE_MARK,
        arrival, flow, from_pod, from_stack, lease, translating, way_to_node2, way_to_node3,
        way_to_pod,
    },
};

use super::{
    ASKED, BACKEND, CLIENT, LENGTH, REVOKED, TCP, UDP, asked, at_pod, both, both_end, first,
    from_host, out, pod_tcp, pod_udp, request_lease, sent, tcp, udp, without_checksum, wrapped,
};

/// Every row.
pub fn cases() -> Vec<Case> {
    [
        noted(),
        encapsulated(),
        not_encapsulated(),
        granted_to_requests(),
        not_granted_to_requests(),
        ended_by_requests(),
    ]
    .concat()
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
