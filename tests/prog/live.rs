//! The programs where they belong, and real packets.

use std::net::Ipv4Addr;

use aya::programs::TcAttachType;
use dataplane_common::{
    Direction, IfIndex, LinkState,
    Reason::{
        self, DecapHandoverLost, DecapNotForHost, DecapNotIpip, DecapNotIpv4, DecapOuterTruncated,
        DecapToPod, DecapToStack, HostEncapsulated, HostTooBig, HostTruncated, PodEncapsulated,
        PodNotIpv4, PodTooBig, PodTruncated, XdpUnwrapped,
    },
    Settings,
};
use etherparse::Ipv4Header;
use tunless_tests::{
    case, decap, hex,
    live::{self, Exit, Hook, LiveCase},
    netns::ip,
    packet::{DF, Frame, flags},
    prog::{Loaded, Program},
    wire::{Shape, Wire},
    world::{
        DROP_IF, HANDOVER_MAC, HOST_MAC, JUMBO, MTU, NEXT_HOP_MAC, NIC_IF, NIC_MAC, NODE_UNKNOWN,
        NODE1, NODE2, NODE3, OTHER_MAC, POD, POD_MAC, PROVEN, REMOTE, REMOTE3, ROUTER_MAC, SECRET,
        STRANGER, TUNNEL_MAC, WIRE_IF, from_pod, from_stack, from_wire, node, route, settings,
    },
};

#[test]
fn table() {
    live::run("live", Settings::TRUSTED, &cases());
}

#[test]
fn table_with_the_fast_path_off() {
    live::run("live, fast path off", Settings::OFF, &cases_with_the_fast_path_off());
}

/// A raw socket cannot make a wrapped GSO packet, so one node has to do it for
/// the other: from our pod by way of our NIC to node 2's tunnel device.
#[test]
fn gso_from_node_to_node() {
    // 64 KiB and more wrap, and BIG TCP says 0: only the skb knows the length.
    let packet =
        from_pod().ipv4(POD, REMOTE).total_length(0).tcp(1000, 80, flags::ACK).payload(3000);
    let expected = packet.clone().macs(TUNNEL_MAC, NIC_MAC).edit(0, |ip| ip.ttl -= 1);
    let (came, counters) = live::attached(Settings::TRUSTED, false, |net, _| {
        let (node2, device) = net.outside(|| {
            let settings = Settings {
                node: NODE2.into(),
                tunnel_ifindex: IfIndex(DROP_IF),
                ..settings(Settings::OFF, Settings::SPOOF_DROP)
            };
            let entries = [route(POD, 32, NODE1, 0), node(NODE1, WIRE_IF, MTU)];
            let mut node2 = Loaded::with(settings, &entries);
            live::attach(&mut node2, Program::DecapTc, "wire", TcAttachType::Ingress);
            (node2, Wire::open("drop0"))
        });
        net.pod.send(&packet.bytes(), GSO);
        (device.receive(), live::settle(&node2, 1))
    });
    let came = came.expect("it comes out");
    assert_eq!(came.frame, expected.bytes(), "{}", hex::difference(&expected.bytes(), &came.frame));
    assert_eq!(came.gso_size, GSO.gso_size, "still whole");
    // All bytes of it, as the program got it; for the node, those of the inner packet.
    let wrong = case::difference(
        &counters,
        &[(Reason::DecapGsoToStack, 3060)],
        &[(NODE1, Direction::Decap, 3040)],
    );
    assert!(wrong.is_empty(), "{wrong}");
}

/// Where the NIC does not take GSO, the kernel cuts behind us: the pod's packet,
/// not the tunnel's, and wraps every piece.
#[test]
fn software_gso_wraps_every_segment() {
    let packet = from_pod().ipv4(POD, REMOTE).tcp(1000, 80, flags::ACK).payload(2500);
    let segments = live::attached(Settings::TRUSTED, false, |net, _| {
        ip("link set eth0 gso_max_size 2000\n");
        net.pod.send(&packet.bytes(), GSO);
        [(); 3].map(|()| net.wire.receive().expect("three segments").frame)
    });
    let headers = 14 + 20 + 20 + 20;
    let mut payload = Vec::new();
    for (segment, length) in segments.iter().zip([1000, 1000, 500]) {
        assert_eq!(segment.len(), headers + length, "{}", hex::describe(segment));
        let (outer, inner) = Ipv4Header::from_slice(&segment[14..]).expect("an outer header");
        let (inner, tcp) = Ipv4Header::from_slice(inner).expect("an inner header");
        for header in [&outer, &inner] {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        assert_eq!(usize::from(outer.total_len), 60 + length);
        assert_eq!(usize::from(inner.total_len), 40 + length);
        assert_eq!([outer.source, outer.destination], [NODE1.octets(), NODE2.octets()]);
        assert_eq!([inner.source, inner.destination], [POD.octets(), REMOTE.octets()]);
        assert_eq!([outer.time_to_live, inner.time_to_live], [63, 63]);
        assert!(outer.dont_fragment);
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        assert_eq!(sequence, 0x0102_0304 + payload.len() as u32);
        payload.extend(&tcp[20..]);
    }
    assert!(packet.bytes().ends_with(&payload), "no byte lost");
}

/// Every row.
pub fn cases() -> Vec<LiveCase> {
    [
        truncated(),
        tagged(),
        priority_tagged(),
        redirected(),
        segmented(),
        in_pages(),
        handed_over(),
        proven_and_lost(),
        vouched_for(),
    ]
    .concat()
}

/// Every row of the second table.
pub fn cases_with_the_fast_path_off() -> Vec<LiveCase> {
    let packet = decap::plain();
    vec![
        LiveCase::new(Hook::Nic, "into the tunnel device", &packet).counted(DecapToStack).sent(
            Exit::Tunnel,
            &stack(&packet),
            NODE2,
            INNER,
        ),
        LiveCase::new(Hook::NicXdp, "XDP, then into the tunnel device", &packet)
            .counted(XdpUnwrapped)
            .counted_bytes(DecapToStack, INNER)
            .sent(Exit::Tunnel, &stack(&packet).macs(TUNNEL_MAC, HANDOVER_MAC), NODE2, INNER),
    ]
}

/// Length of the packet inside [`decap::plain`].
const INNER: u64 = 20 + 8 + 64;

fn stack(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(TUNNEL_MAC, ROUTER_MAC)
}

fn pod(packet: &Frame) -> Frame {
    packet.clone().unwrapped().macs(POD_MAC, HOST_MAC).edit(0, |ip| ip.ttl -= 1)
}

/// On the wire, by way of the router.
fn wrapped(node: Ipv4Addr) -> Frame {
    from_wire().macs(ROUTER_MAC, NIC_MAC).ipv4(NODE1, node).id(0).fragment(DF).ttl(63)
}

/// A TCP GSO packet.
const GSO: Shape = Shape { gso_size: 1000, transport: 34, linear: 0 };

/// Shorter than an IPv4 header, which a test run refuses.
fn truncated() -> Vec<LiveCase> {
    let hooks = [
        (Hook::Pod, from_pod().ipv4(POD, REMOTE).udp(1, 2), PodTruncated),
        (Hook::Tunnel, from_stack().ipv4(POD, REMOTE).udp(1, 2), HostTruncated),
        (Hook::Nic, decap::plain(), DecapOuterTruncated),
    ];
    let mut cases = Vec::new();
    for (hook, packet, reason) in hooks {
        for length in 14..34 {
            let packet = packet.clone().cut(length);
            cases.push(
                LiveCase::new(hook, format!("cut to {length} bytes"), &packet).counted(reason),
            );
        }
    }
    cases
}

/// The kernel takes the tag out of the frame before TC sees it.
fn tagged() -> Vec<LiveCase> {
    let pod = from_pod().ipv4(POD, REMOTE).udp(1, 2).vlan(100);
    let wire = decap::plain().vlan(100);
    let untagged = |packet: &Frame| packet.bytes().len() as u64 - 18;
    vec![
        LiveCase::new(Hook::Pod, "a VLAN tag", &pod).counted_bytes(PodNotIpv4, untagged(&pod)),
        LiveCase::new(Hook::Nic, "a VLAN tag", &wire).counted_bytes(DecapNotIpv4, untagged(&wire)),
        LiveCase::new(Hook::NicXdp, "a VLAN tag", &wire)
            .counted_bytes(DecapNotIpv4, untagged(&wire)),
    ]
}

/// VLAN 0 is none: the tag carries a priority, for one hop. XDP leaves a frame with a tag in it to
/// TC, which sees it without.
fn priority_tagged() -> Vec<LiveCase> {
    const PRIORITY_5: u16 = 5 << 13;
    let from_pod = from_pod().ipv4(POD, REMOTE).udp(1000, 2000).payload(64);
    let out = wrapped(NODE2).ipv4(POD, REMOTE).ttl(63).udp(1000, 2000).payload(64);
    let wire = decap::plain();
    let length = |frame: &Frame| frame.bytes().len() as u64 - 14;
    let mut cases = Vec::new();
    for tag in [0, PRIORITY_5] {
        let what = |where_| format!("a tag of VLAN 0 ({tag:#06x}) {where_}");
        cases.push(
            LiveCase::new(Hook::Pod, what("from the pod"), &from_pod.clone().vlan(tag))
                .counted_bytes(PodEncapsulated, length(&from_pod))
                .sent(Exit::Wire, &out, NODE2, INNER),
        );
        for hook in [Hook::Nic, Hook::NicXdp] {
            cases.push(
                LiveCase::new(hook, what("into the pod"), &wire.clone().vlan(tag))
                    .counted_bytes(DecapToPod, length(&wire))
                    .sent(Exit::Pod, &pod(&wire), NODE2, INNER),
            );
            let elsewhere = wire.clone().edit(1, |ip| ip.to = STRANGER);
            cases.push(
                LiveCase::new(hook, what("to nobody here"), &elsewhere.clone().vlan(tag))
                    .counted_bytes(Reason::DecapNoEndpointToStack, length(&wire))
                    .sent(Exit::Tunnel, &stack(&elsewhere), NODE2, INNER),
            );
        }
    }
    cases
}

/// Where the redirects lead.
fn redirected() -> Vec<LiveCase> {
    let udp = |frame: Frame| frame.udp(1000, 2000).payload(64);
    let to = |frame: Frame, to| udp(frame.ipv4(POD, to));
    let out = |node, to| udp(wrapped(node).ipv4(POD, to).ttl(63));
    let cached = out(NODE3, REMOTE3).macs(NEXT_HOP_MAC, NIC_MAC);
    let lost_a_hop = |to_: Ipv4Addr| to(from_stack(), to_).edit(0, |ip| ip.ttl = 63);
    vec![
        LiveCase::new(Hook::Pod, "the kernel finds the next hop", &to(from_pod(), REMOTE))
            .counted(PodEncapsulated)
            .sent(Exit::Wire, &out(NODE2, REMOTE), NODE2, INNER),
        LiveCase::new(Hook::Pod, "the next hop is known", &to(from_pod(), REMOTE3))
            .counted(PodEncapsulated)
            .sent(Exit::Wire, &cached, NODE3, INNER),
        LiveCase::new(Hook::Tunnel, "the kernel finds the next hop", &lost_a_hop(REMOTE))
            .counted(HostEncapsulated)
            .sent(Exit::Wire, &out(NODE2, REMOTE), NODE2, INNER),
        LiveCase::new(Hook::Tunnel, "the next hop is known", &lost_a_hop(REMOTE3))
            .counted(HostEncapsulated)
            .sent(Exit::Wire, &cached, NODE3, INNER),
        LiveCase::new(Hook::Nic, "into the pod", &decap::plain()).counted(DecapToPod).sent(
            Exit::Pod,
            &pod(&decap::plain()),
            NODE2,
            INNER,
        ),
        LiveCase::new(Hook::Nic, "to nobody here", &decap::plain().edit(1, |ip| ip.to = STRANGER))
            .counted(Reason::DecapNoEndpointToStack)
            .sent(
                Exit::Tunnel,
                &stack(&decap::plain().edit(1, |ip| ip.to = STRANGER)),
                NODE2,
                INNER,
            ),
    ]
}

/// GSO packets stay whole, and the outer header speaks of the whole.
fn segmented() -> Vec<LiveCase> {
    let tcp = |frame: Frame| frame.tcp(1000, 80, flags::ACK).payload(3000);
    let to = |frame: Frame| tcp(frame.ipv4(POD, REMOTE));
    let out = tcp(wrapped(NODE2).ipv4(POD, REMOTE).ttl(63));
    let too_big = Shape { gso_size: 1441, transport: 34, linear: 0 };
    vec![
        LiveCase::new(Hook::Pod, "TCP GSO", &to(from_pod()))
            .shape(GSO)
            .counted(PodEncapsulated)
            .sent(Exit::Wire, &out, NODE2, 3040),
        LiveCase::new(Hook::Pod, "TCP GSO, a segment too big", &to(from_pod()))
            .shape(too_big)
            .counted(PodTooBig),
        LiveCase::new(Hook::Tunnel, "TCP GSO", &to(from_stack()).edit(0, |ip| ip.ttl = 63))
            .shape(GSO)
            .counted(HostEncapsulated)
            .sent(Exit::Wire, &out, NODE2, 3040),
        LiveCase::new(Hook::Tunnel, "TCP GSO, a segment too big", &to(from_stack()))
            .shape(too_big)
            .counted(HostTooBig),
    ]
}

/// A driver may leave the headers, or half of one, in a page.
fn in_pages() -> Vec<LiveCase> {
    // Of less than a page a packet socket makes a linear skb.
    const LENGTH: usize = 5000;
    let tcp = |frame: Frame| frame.tcp(1, 80, flags::ACK).payload(LENGTH);
    let with_options = |frame: Frame| tcp(frame.options(&[1; 40]));
    let to_jumbo = |case: LiveCase| {
        case.with(node(NODE_UNKNOWN, NIC_IF, JUMBO)).with(route(STRANGER, 32, NODE_UNKNOWN, 0))
    };
    let out = wrapped(NODE_UNKNOWN).ipv4(POD, STRANGER).ttl(63);
    let mut cases = Vec::new();
    for linear in [14, 20, 34, 40, 47, 53, 60, 80] {
        let shape = Shape { linear, ..Shape::default() };
        let what = format!("{linear} bytes linear");
        let pod_packet = tcp(from_pod().ipv4(POD, STRANGER));
        cases.push(
            to_jumbo(LiveCase::new(Hook::Pod, &what, &pod_packet))
                .shape(shape)
                .counted(PodEncapsulated)
                .sent(Exit::Wire, &tcp(out.clone()), NODE_UNKNOWN, 40 + LENGTH as u64),
        );
        let behind_options = with_options(from_stack().ipv4(POD, STRANGER).ttl(63));
        cases.push(
            to_jumbo(LiveCase::new(
                Hook::Tunnel,
                format!("{what}, TCP behind options"),
                &behind_options,
            ))
            .shape(shape)
            .counted(HostEncapsulated)
            .sent(
                Exit::Wire,
                &with_options(out.clone()),
                NODE_UNKNOWN,
                80 + LENGTH as u64,
            ),
        );
        let coming = tcp(decap::ip());
        cases.push(LiveCase::new(Hook::Nic, &what, &coming).shape(shape).counted(DecapToPod).sent(
            Exit::Pod,
            &pod(&coming),
            NODE2,
            40 + LENGTH as u64,
        ));
    }
    cases
}

/// What XDP has unwrapped, TC delivers without asking again.
fn handed_over() -> Vec<LiveCase> {
    let packet = decap::plain();
    let other = packet.clone().macs(OTHER_MAC, ROUTER_MAC);
    let many = packet.clone().macs([0x01, 0, 0x5e, 0, 0, 5], ROUTER_MAC);
    let stranger = packet.clone().edit(1, |ip| ip.to = STRANGER);
    let forged = packet.clone().edit(1, |ip| ip.from = REMOTE3);
    let unknown = packet.clone().edit(1, |ip| ip.from = STRANGER);
    vec![
        LiveCase::new(Hook::NicXdp, "into the pod", &packet)
            .counted(XdpUnwrapped)
            .counted_bytes(DecapToPod, INNER)
            .sent(Exit::Pod, &pod(&packet), NODE2, INNER),
        LiveCase::new(Hook::NicXdp, "to nobody here", &stranger)
            .counted(XdpUnwrapped)
            .counted_bytes(Reason::DecapNoEndpointToStack, INNER)
            .sent(Exit::Tunnel, &stack(&stranger).macs(TUNNEL_MAC, HANDOVER_MAC), NODE2, INNER),
        LiveCase::new(Hook::NicXdp, "for another machine", &other).counted(DecapNotForHost),
        LiveCase::new(Hook::NicXdp, "for many", &many).counted(DecapNotForHost),
        LiveCase::new(Hook::NicXdp, "a lie", &forged).counted(Reason::DecapForgedSource),
        LiveCase::new(Hook::NicXdp, "left to TC", &unknown).counted(Reason::DecapSourceUnknown),
        LiveCase::new(Hook::NicXdp, "plain, vouched for by nobody", &packet.unwrapped())
            .counted(DecapNotIpip),
    ]
}

/// A mark that arrives proves a link, and only then does XDP unwrap; what was unwrapped and lost its
/// metadata gives the link up.
fn proven_and_lost() -> Vec<LiveCase> {
    let testing = LinkState::new(IfIndex(NIC_IF));
    let (packet, plain) = (decap::plain(), decap::plain().unwrapped());
    let mark = [[0; 4], SECRET.to_ne_bytes()].concat();
    let after = |what: &str, packet: &Frame, metadata: &[u8]| {
        LiveCase::new(Hook::AfterXdp, what, packet).metadata(metadata)
    };
    let lost = plain.clone().macs(NIC_MAC, HANDOVER_MAC);
    let not_quite = [HANDOVER_MAC[..5].to_vec(), vec![HANDOVER_MAC[5] ^ 1]].concat();
    let not_quite = plain.clone().macs(NIC_MAC, not_quite.try_into().unwrap());
    let mut cases = vec![
        LiveCase::new(Hook::NicXdp, "marked, and unwrapped by TC", &packet)
            .link(testing, LinkState::PROVEN)
            .counted(Reason::XdpMarked)
            .counted(DecapToPod)
            .sent(Exit::Pod, &pod(&packet), NODE2, INNER),
        after("a mark is no handover", &plain, &mark)
            .link(testing, LinkState::PROVEN)
            .counted(DecapNotIpip),
        after("a mark, but the NIC took out a tag", &packet.clone().vlan(9), &mark)
            .link(testing, LinkState::TAGGED)
            .counted_bytes(Reason::DecapNotIpv4, INNER + 20),
        after("a mark, the NIC took out a tag of VLAN 0", &packet.clone().vlan(7 << 13), &mark)
            .link(testing, LinkState::PROVEN)
            .counted_bytes(DecapToPod, INNER + 20)
            .sent(Exit::Pod, &pod(&packet), NODE2, INNER),
        after("metadata is lost", &lost, &[])
            .link(PROVEN, LinkState::LOST)
            .counted(DecapHandoverLost),
        after("another's metadata", &lost, &[7; 8])
            .link(PROVEN, LinkState::LOST)
            .counted(DecapHandoverLost),
        after("another source", &not_quite, &[]).counted(DecapNotIpip),
    ];
    for phase in [LinkState::LOST, LinkState::SILENT, LinkState::TAGGED] {
        let given_up = LinkState { phase, ..testing };
        cases.push(
            LiveCase::new(Hook::NicXdp, format!("given up: {phase}"), &packet)
                .link(given_up, phase)
                .counted(DecapToPod)
                .sent(Exit::Pod, &pod(&packet), NODE2, INNER),
        );
    }
    for bit in 0..64 {
        let mut wrong = mark.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let case = after(&format!("bit {bit} of a mark wrong"), &plain, &wrong);
        cases.push(case.link(testing, LinkState::TESTING).counted(DecapNotIpip));
    }
    cases
}

/// Metadata is believed if it is ours, whole and of our making.
fn vouched_for() -> Vec<LiveCase> {
    let secret = SECRET.to_ne_bytes();
    let handover = [secret, NODE2.octets()].concat();
    let packet = decap::plain().unwrapped();
    let out = packet.clone().macs(POD_MAC, HOST_MAC).edit(0, |ip| ip.ttl -= 1);
    let after = |what: &str, metadata: &[u8]| {
        LiveCase::new(Hook::AfterXdp, what, &packet).metadata(metadata)
    };
    let delivered = |case: LiveCase| case.counted(DecapToPod).sent(Exit::Pod, &out, NODE2, INNER);
    let mut cases = vec![
        delivered(after("handover", &handover)),
        delivered(after("handover in front of more", &[handover.clone(), vec![9; 4]].concat())),
        after("handover behind more", &[vec![9; 4], handover.clone()].concat())
            .counted(DecapNotIpip),
        after("the secret alone", &secret).counted(DecapNotIpip),
        after("room, but no handover", &[0; 8]).counted(DecapNotIpip),
        after("none", &[]).counted(DecapNotIpip),
        LiveCase::new(
            Hook::AfterXdp,
            "handover, but the NIC took out a tag",
            &packet.clone().vlan(9),
        )
        .metadata(&handover)
        .link(PROVEN, LinkState::TAGGED)
        .counted_bytes(Reason::DecapHandoverStray, INNER),
        LiveCase::new(
            Hook::AfterXdp,
            "handover, the NIC took out a tag of VLAN 0",
            &packet.clone().vlan(7 << 13),
        )
        .metadata(&handover)
        .counted_bytes(DecapToPod, INNER)
        .sent(Exit::Pod, &out, NODE2, INNER),
        LiveCase::new(
            Hook::AfterXdp,
            "handover of another machine's",
            &packet.clone().macs(OTHER_MAC, ROUTER_MAC),
        )
        .metadata(&handover)
        .counted(Reason::DecapHandoverStray),
    ];
    for bit in 0..32 {
        let wrong = (SECRET ^ 1 << bit).to_ne_bytes();
        let wrong = [wrong, NODE2.octets()].concat();
        cases.push(after(&format!("bit {bit} of the secret wrong"), &wrong).counted(DecapNotIpip));
    }
    for length in 14..34 {
        let cut = packet.clone().cut(length);
        let case = LiveCase::new(Hook::AfterXdp, format!("handover, cut to {length} bytes"), &cut);
        cases.push(case.metadata(&handover).counted(Reason::DecapHandoverStray));
    }
    cases
}
