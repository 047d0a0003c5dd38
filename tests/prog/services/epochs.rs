//! What ends leases, and what leaves them alone: plain ones and those of Services, in both directions.

use dataplane_common::{
    Flow, Lease,
    Reason::{
        DecapLeaseOutdatedToStack, DecapServiceToPod, DecapToPod, GrantGiven, GrantLeased,
        GrantServiceGiven, HostLeaseGranted, HostLeased, HostServiceLeaseGranted, PodEncapsulated,
        PodLeaseOutdated, PodServiceEncapsulated,
    },
};
use tunless_tests::{
    case::Case,
    packet::Frame,
    prog::Program,
    world::{
        self, ENDS, EPOCH, Entry, LEAVES, MARK, POD, POD_IF, REMOTE, SECRET, SERVICE, SERVICE_MARK,
        arrival, from_pod, lease, to_pod, way_to_node2, way_to_pod,
    },
};

use super::{
    ASKED, BACKEND, CLIENT, LENGTH, NODE2, UDP, answer_lease, answered, asked, from_host, in_pod,
    out, pod_udp, request_lease, sent, udp, wire, wrapped,
};

/// Every row.
pub fn cases() -> Vec<Case> {
    [used(), granted()].concat()
}

/// Its remote end is the pod behind it: nothing that is looked up is the Service's.
const OF_SERVICE: (&str, Entry) =
    ("whose Service's epoch was raised", Entry::RaisedRemote(SERVICE));

/// A lease, a packet of its flow with what that becomes where it is good, and where it is not.
fn used() -> Vec<Case> {
    let from_pod = |what: &str, packet: &Frame, flow: Flow| {
        Case::new(Program::EncapPod, what, packet).services().leaves_tag(flow.tag(SECRET))
    };
    let from_wire = |what: &str, flow: Flow| {
        Case::new(Program::DecapTc, what, &wire(UDP)).services().leaves_tag(flow.tag(SECRET))
    };
    let plain = udp(from_pod_to_remote(), CLIENT, BACKEND);
    let stack = wire(UDP).unwrapped().macs(world::TUNNEL_MAC, world::ROUTER_MAC);
    let into = udp(to_pod().ipv4(REMOTE, POD).ttl(63), BACKEND, CLIENT);
    let wrapped = udp(wrapped(), CLIENT, BACKEND);
    let (to_node, to_service) = (sent(UDP), asked(UDP));
    let (plain_request, plain_answer) =
        (lease(&to_node, NODE2, way_to_node2()), lease(&answered(UDP), NODE2, way_to_pod()));
    let mut cases = Vec::new();
    for (what, entry) in ENDS {
        for (packet, flow, lease) in
            [(&plain, to_node, plain_request), (&pod_udp(), to_service, request_lease(UDP))]
        {
            let case = from_pod(&format!("a lease {what}"), packet, flow);
            let case = case.with(entry).with(Entry::Lease(flow, lease));
            cases.push(case.passed(PodLeaseOutdated));
        }
        for lease in [plain_answer, answer_lease(UDP)] {
            let case = from_wire(&format!("a lease {what}"), answered(UDP));
            let case = case.with(entry).with(Entry::Lease(answered(UDP), lease));
            cases.push(case.sent(DecapLeaseOutdatedToStack, &stack));
        }
    }
    for (what, entry) in LEAVES.into_iter().chain([OF_SERVICE]) {
        for (packet, flow, lease, reason) in [
            (&plain, to_node, plain_request, PodEncapsulated),
            (&pod_udp(), to_service, request_lease(UDP), PodServiceEncapsulated),
        ] {
            let case = from_pod(&format!("a lease {what}"), packet, flow).leaves_tag(0);
            let case = case.with(entry).with(Entry::Lease(flow, lease));
            cases.push(case.uses(flow, LENGTH).sent(reason, &wrapped));
        }
        for (lease, reason, packet) in [
            (plain_answer, DecapToPod, &into),
            (answer_lease(UDP), DecapServiceToPod, &in_pod(UDP, ASKED)),
        ] {
            let case = from_wire(&format!("a lease {what}"), answered(UDP)).leaves_tag(0);
            let case = case.with(entry).with(Entry::Lease(answered(UDP), lease));
            cases.push(case.uses(answered(UDP), LENGTH).sent(reason, packet));
        }
    }
    cases
}

fn from_pod_to_remote() -> Frame {
    from_pod().ipv4(POD, REMOTE)
}

/// A packet behind netfilter renews a lease that ended, with what the epochs are now, and no other.
fn granted() -> Vec<Case> {
    let mut cases = Vec::new();
    for is_over in [true, false] {
        let entries: Vec<_> =
            if is_over { ENDS.into() } else { LEAVES.into_iter().chain([OF_SERVICE]).collect() };
        for (what, entry) in entries {
            for case in renewals(what) {
                let Renewal { case, flow, lease, granted, leased, packet } = case;
                let case = case.with(entry).with(Entry::Lease(flow, lease));
                let (case, reason) = match is_over {
                    true => (case.grants(flow, Lease { epoch: EPOCH + 1, ..lease }), granted),
                    false => (case, leased),
                };
                cases.push(match &packet {
                    Some(packet) => case.sent(reason, packet),
                    None => case.passed(reason),
                });
            }
        }
    }
    cases
}

/// A packet that netfilter approves, whose flow has a lease of the epochs before.
struct Renewal {
    case: Case,
    flow: Flow,
    lease: Lease,
    granted: dataplane_common::Reason,
    leased: dataplane_common::Reason,
    packet: Option<Frame>,
}

fn renewals(what: &str) -> [Renewal; 4] {
    let marked = |program, packet: &Frame, mark, tag| {
        let case = Case::new(program, format!("a lease {what}"), packet).services();
        case.mark(mark).leaves_mark(0).tag(tag)
    };
    let (request, answer) = (sent(UDP), answered(UDP));
    let service_tag = asked(UDP).tag(SECRET);
    let into = udp(to_pod().ipv4(REMOTE, POD).ttl(63), BACKEND, CLIENT);
    let out = Some(out(&from_host(UDP)));
    [
        Renewal {
            case: marked(Program::EncapHost, &from_host(UDP), MARK, request.tag(SECRET)),
            flow: request,
            lease: lease(&request, NODE2, way_to_node2()),
            granted: HostLeaseGranted,
            leased: HostLeased,
            packet: out.clone(),
        },
        Renewal {
            case: marked(Program::EncapHost, &from_host(UDP), SERVICE_MARK, service_tag)
                .with(Entry::Seen(service_tag, arrival(&asked(UDP), POD_IF))),
            flow: asked(UDP),
            lease: request_lease(UDP),
            granted: HostServiceLeaseGranted,
            leased: HostLeased,
            packet: out,
        },
        Renewal {
            case: marked(Program::GrantDecap, &into, MARK, answer.tag(SECRET)),
            flow: answer,
            lease: lease(&answer, NODE2, way_to_pod()),
            granted: GrantGiven,
            leased: GrantLeased,
            packet: None,
        },
        Renewal {
            case: marked(
                Program::GrantDecap,
                &in_pod(UDP, ASKED),
                SERVICE_MARK,
                answer.tag(SECRET),
            )
            .with(Entry::Lease(asked(UDP), request_lease(UDP))),
            flow: answer,
            lease: answer_lease(UDP),
            granted: GrantServiceGiven,
            leased: GrantLeased,
            packet: None,
        },
    ]
}
