//! Leases of flows that netfilter translates for a Service: A:p → V:v becomes A:p → B:b on the way
//! out, and its answers B:b → A:p become V:v → A:p on the way in.

mod answers;
mod epochs;
mod requests;

use dataplane_common::{
    Direction, Flow, Lease,
    Reason::{
        DecapServiceToPod, HostLeaseGranted, HostUnmarked, PodNoLease, PodServiceEncapsulated,
    },
};
use tunless_tests::{
    case::{self, Case},
    packet::{DF, Frame, flags},
    prog::Program,
    world::{
        self, Entry, HOST_MAC, MARK, NODE1, NODE2, POD, POD_IF, POD_MAC, REMOTE, SECRET, SERVICE,
        SERVICE_MARK, arrival, flow, from_pod, from_stack, lease, to_pod, translating,
        way_to_node2, way_to_pod,
    },
};

#[test]
fn table() {
    case::run("services", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [requests::cases(), answers::cases(), epochs::cases(), switched_off()].concat()
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

/// The checksum of UDP says: none.
fn without_checksum(case: fn(&str, Vec<u8>) -> Case, packet: &Frame, at: usize) -> Case {
    let mut bytes = packet.bytes();
    bytes[at..at + 2].fill(0);
    case("UDP without a checksum", bytes)
}

fn from_host(protocol: u8) -> Frame {
    let ip = from_stack().ipv4(POD, REMOTE).ttl(63);
    if protocol == UDP { udp(ip, CLIENT, BACKEND) } else { tcp(ip, CLIENT, BACKEND) }
}

fn out(packet: &Frame) -> Frame {
    let bytes = packet.clone().padding(0).bytes();
    from_stack().ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(63).raw(4).bytes_payload(&bytes[14..])
}

fn wire(protocol: u8) -> Frame {
    let ip = world::from_wire().ipv4(NODE2, NODE1).ipv4(REMOTE, POD);
    if protocol == UDP { udp(ip, BACKEND, CLIENT) } else { tcp(ip, BACKEND, CLIENT) }
}

fn in_pod(protocol: u8, from: u16) -> Frame {
    let ip = to_pod().macs(POD_MAC, HOST_MAC).ipv4(SERVICE, POD).ttl(63);
    if protocol == UDP { udp(ip, from, CLIENT) } else { tcp(ip, from, CLIENT) }
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
