//! `mode: shadow`: each packet of tunl0 has one finding, and stays as it is.

use dataplane_common::{Reason, Settings, shadow::Finding};
use dataplane_user::bpf::shadow::ShadowMaps;
use tunless_tests::{
    netns::in_namespace,
    packet::{Frame, eth},
    prog::{Action, Context, Loaded, Program},
    world::{
        MTU, NEXT_HOP_MAC, NIC_MAC, NODE_AWAY, NODE_UNKNOWN, NODE1, NODE2, NODE3, POD, REMOTE,
        REMOTE_AWAY, REMOTE_UNKNOWN, REMOTE3, STRANGER, TUNNEL_IF, from_wire, settings, to_wire,
    },
};

/// DF, as it lies in the header's third half word.
const DF: u16 = 0x4000;
const CE: u8 = 0b11;
const ECT_0: u8 = 0b10;

/// What tunl0 sends: `inner` with what it inherits.
fn tunnelled(from: std::net::Ipv4Addr, to: std::net::Ipv4Addr) -> Frame {
    to_wire().ipv4(from, to).fragment(DF).id(7)
}

/// A datagram from our pod to a pod of node2, as tunl0 wraps it.
fn sent() -> Frame {
    tunnelled(NODE1, NODE2).ipv4(POD, REMOTE).fragment(DF).udp(1000, 2000).payload(50)
}

/// A datagram of a pod of node2, on the wire to us, over one router.
fn received() -> Frame {
    from_wire()
        .ipv4(NODE2, NODE1)
        .fragment(DF)
        .edit(0, |outer| outer.ttl = 62)
        .ipv4(REMOTE, POD)
        .ttl(63)
        .udp(2000, 1000)
        .payload(50)
}

struct Shadow {
    loaded: Loaded,
    maps: ShadowMaps,
}

impl Shadow {
    /// Beside tunl0, in front of a world whose next hops are unknown but for node3's.
    fn new() -> Self {
        let settings =
            Settings { tunnel_header: 0, ..settings(Settings::VERIFIED, Settings::SPOOF_DROP) };
        let mut loaded = Loaded::new(settings);
        let maps = loaded.shadow();
        Self { loaded, maps }
    }

    /// Runs the program, sees that the packet passes unchanged, and returns what was found and what
    /// a program that serves would have named.
    fn run(&mut self, program: Program, frame: &Frame, context: &Context) -> Found {
        let (findings, would) = (self.maps.findings().unwrap(), self.maps.would().unwrap());
        let packet = frame.bytes();
        let before = self.loaded.counters();
        let ran = self.loaded.run(program, &packet, context).expect("the kernel takes the frame");
        assert_eq!(ran.action, Action::Pass);
        assert_eq!(ran.packet, packet, "changed");
        assert_eq!(ran.mark, context.mark, "marked");
        assert_eq!(self.loaded.counters(), before, "counted as if it had served");
        assert_eq!(self.loaded.leases(), [], "leased");
        let new =
            |before: &std::collections::BTreeMap<&'static str, _>,
             now: std::collections::BTreeMap<&'static str, dataplane_common::Counter>| {
                let is_new = |(name, counter): &(&'static str, dataplane_common::Counter)| {
                    before.get(name) != Some(counter)
                };
                let names = now.into_iter().filter(is_new).map(|(name, _)| name);
                names.filter(|name| !name.starts_with("sample_")).collect::<Vec<_>>()
            };
        let findings = new(&findings, self.maps.findings().unwrap());
        let would = new(&would, self.maps.would().unwrap());
        assert!(findings.len() == 1 && would.len() <= 1, "{findings:?} {would:?}");
        Found { finding: findings[0], would: would.first().copied() }
    }

    fn check(&mut self, program: Program, rows: &[(&str, Frame, Finding, Option<Reason>)]) {
        for (what, frame, finding, reason) in rows {
            let found = self.run(program, frame, &Context::new(program));
            let expected = Found { finding: finding.as_str(), would: reason.map(Reason::as_str) };
            assert_eq!(found, expected, "{what}");
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Found {
    finding: &'static str,
    would: Option<&'static str>,
}

#[test]
fn what_tunl0_sends_is_compared_field_by_field() {
    in_namespace(|_| {
        use Finding::{
            OutAside, OutDontFragment, OutKnown, OutLeft, OutLength, OutLink, OutNextHop, OutNode,
            OutSame, OutShape, OutTos, OutTtl,
        };
        let taken = Some(Reason::HostEncapsulated);
        let outer = |change: fn(Frame) -> Frame| {
            change(to_wire().ipv4(NODE1, NODE2).fragment(DF).id(7))
                .ipv4(POD, REMOTE)
                .fragment(DF)
                .udp(1000, 2000)
                .payload(50)
        };
        let to =
            |node, pod| tunnelled(NODE1, node).ipv4(POD, pod).fragment(DF).udp(1, 2).payload(9);
        let large = |length| tunnelled(NODE1, NODE2).ipv4(POD, REMOTE).udp(1, 2).payload(length);
        let room = MTU as usize - 20 - 20 - 8;
        let known_ce = to_wire()
            .ipv4(NODE1, NODE2)
            .fragment(DF)
            .tos(ECT_0)
            .ipv4(POD, REMOTE)
            .fragment(DF)
            .tos(CE)
            .udp(1, 2)
            .payload(9);
        let rows = [
            ("as ours", sent(), OutSame, taken),
            ("another identification", outer(|it| it.id(9)), OutSame, taken),
            ("another TTL", outer(|it| it.ttl(32)), OutTtl, taken),
            ("a DSCP", outer(|it| it.tos(0x28)), OutTos, taken),
            ("no DF around DF", outer(|it| it.fragment(0)), OutDontFragment, taken),
            (
                "no DF around none",
                to_wire().ipv4(NODE1, NODE2).ipv4(POD, REMOTE).udp(1, 2).payload(9),
                OutKnown,
                taken,
            ),
            ("ECT(0) around CE", known_ce, OutKnown, taken),
            ("a fragment", outer(|it| it.fragment(0x2000)), OutShape, None),
            ("options", outer(|it| it.options(&[1, 1, 1, 1])), OutShape, None),
            ("another length", outer(|it| it.total_length(60)), OutLength, taken),
            ("another node", to(NODE3, REMOTE), OutNode, taken),
            ("the whole MTU", large(room), OutSame, taken),
            ("more than the MTU", large(room + 1), OutLeft, Some(Reason::Tunl0TooBig)),
            ("no route", to(NODE2, STRANGER), OutLeft, Some(Reason::Tunl0NoRoute)),
            (
                "to a node that has no path",
                to(NODE_AWAY, REMOTE_AWAY),
                OutLeft,
                Some(Reason::Tunl0NodeUnreachable),
            ),
            (
                "to a node that is not known",
                to(NODE_UNKNOWN, REMOTE_UNKNOWN),
                OutLeft,
                Some(Reason::Tunl0NodeUnreachable),
            ),
            ("of another sender", outer(|it| it).edit(0, |ip| ip.from = NODE3), OutAside, None),
            ("plain", to_wire().ipv4(POD, REMOTE).udp(1, 2).payload(9), OutAside, None),
            ("ARP", eth().ether_type(0x0806).payload(46), OutAside, None),
            ("IPv6", eth().ether_type(0x86dd).payload(46), OutAside, None),
            ("cut off inside", sent().cut(44), OutLeft, Some(Reason::Tunl0Truncated)),
        ];
        let mut shadow = Shadow::new();
        shadow.check(Program::ShadowOut, &rows);
        let (_, last) = shadow.maps.last(OutTtl).unwrap().expect("it was kept");
        let report = dataplane_user::shadow::report::Packet::new(0, String::new(), &last);
        assert_eq!((report.outer.ttl, report.ours.map(|ours| ours.ttl)), (32, Some(64)));
        assert_eq!((report.from, report.to), (POD, REMOTE));
        assert!(shadow.maps.last(OutSame).unwrap().is_none(), "nothing to keep");
        // The MAC of node3's next hop is known.
        let away = tunnelled(NODE1, NODE3).ipv4(POD, REMOTE3).fragment(DF).udp(1, 2).payload(9);
        let right = away.clone().macs(NEXT_HOP_MAC, NIC_MAC);
        let usual = Context::new(Program::ShadowOut);
        let elsewhere = Context { ifindex: TUNNEL_IF, ..usual.clone() };
        for (frame, context, finding) in
            [(&right, &usual, OutSame), (&away, &usual, OutNextHop), (&right, &elsewhere, OutLink)]
        {
            assert_eq!(shadow.run(Program::ShadowOut, frame, context).finding, finding.as_str());
        }
    });
}

#[test]
fn what_arrives_is_judged_as_decapsulation_would() {
    in_namespace(|_| {
        use Finding::{InAside, InDropped, InLeft, InSame, InTtl};
        let taken = Some(Reason::DecapToStack);
        let from = |source| {
            from_wire().ipv4(NODE2, NODE1).ttl(62).ipv4(source, POD).ttl(63).udp(1, 2).payload(9)
        };
        let ttl = |outer, inner| {
            from_wire()
                .ipv4(NODE2, NODE1)
                .ttl(outer)
                .ipv4(REMOTE, POD)
                .ttl(inner)
                .udp(1, 2)
                .payload(9)
        };
        let rows = [
            ("as tunl0 writes it", received(), InSame, taken),
            ("over as many hops", ttl(31, 32), InSame, taken),
            ("a forged source", from(REMOTE3), InDropped, Some(Reason::DecapForgedSource)),
            ("our own source", from(POD), InDropped, Some(Reason::DecapOwnSource)),
            ("an unknown source", from(STRANGER), InLeft, Some(Reason::DecapSourceUnknown)),
            ("a TTL of its own", ttl(64, 63), InTtl, taken),
            ("a low TTL of its own", ttl(32, 63), InTtl, taken),
            ("one hop more", ttl(61, 63), InTtl, taken),
            ("from now on that many", ttl(50, 52), InSame, taken),
            (
                "an unknown node",
                from_wire().ipv4(NODE_UNKNOWN, NODE1).ipv4(REMOTE, POD).udp(1, 2).payload(9),
                InLeft,
                Some(Reason::DecapUnknownNode),
            ),
            (
                "for another address",
                from_wire().ipv4(NODE2, NODE3).ipv4(REMOTE, POD).udp(1, 2).payload(9),
                InLeft,
                Some(Reason::DecapOtherDestination),
            ),
            ("plain", from_wire().ipv4(REMOTE, POD).udp(1, 2).payload(9), InAside, None),
            ("ARP", eth().ether_type(0x0806).payload(46), InAside, None),
            ("cut off inside", received().cut(44), InLeft, Some(Reason::DecapOuterBadLength)),
        ];
        let mut shadow = Shadow::new();
        shadow.check(Program::ShadowIn, &rows);
        let (_, last) = shadow.maps.last(InDropped).unwrap().expect("it was kept");
        let report = dataplane_user::shadow::report::Packet::new(0, String::new(), &last);
        assert_eq!((report.from, report.to, report.ours), (POD, POD, None));
    });
}

/// One packet in 16, so that of 16,000 some 1,000 are sampled: less than a tenth or more than a third would be
/// a chance of less than one in a million millions.
#[test]
fn flows_are_sampled_and_taken_out() {
    in_namespace(|_| {
        let mut shadow = Shadow::new();
        let context = Context { repeat: 16_000, ..Context::new(Program::ShadowOut) };
        let _ = shadow.loaded.run(Program::ShadowOut, &sent().bytes(), &context).expect("it runs");
        let found = shadow.maps.findings().unwrap();
        let sampled = found[Finding::SampleFlow.as_str()].packets;
        assert!((600..1_600).contains(&sampled), "{sampled}");
        let samples = shadow.maps.take_samples().unwrap();
        let [(flow, counter)] = &samples[..] else { panic!("{samples:?}") };
        assert_eq!((*flow.ends().0.ip(), flow.ends().1.port()), (POD, 2000));
        assert_eq!(counter.packets, sampled);
        assert_eq!(counter.bytes, sampled * 78);
        assert_eq!(shadow.maps.take_samples().unwrap(), [], "taken out");
    });
}
