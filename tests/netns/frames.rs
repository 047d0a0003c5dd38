//! Ethernet frames that are not quite usual: with a priority tag, or not for this host.

use std::net::SocketAddrV4;

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder,
    addr::CALI_MAC,
    capture::Capture,
    frame::Frame,
    inject::inject,
    packet::{IPV4, Ipv4, ethernet, udp},
    service::Protocol,
    traffic::conversation::Conversation,
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, hostile::Attack, leased::wait_leased_at_client, until,
};

const PORT: u16 = 7000;
const VLAN: u16 = 0x8100;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A UDP conversation from demo-hello-perf to demo-hello-sit, leased where leases are given.
fn talk(scene: &Scene) -> (Conversation, SocketAddrV4) {
    let (perf, sit) = scene.pods();
    let to = SocketAddrV4::new(sit.ip, PORT);
    let talk = Conversation::start(Protocol::Udp, &perf.netns, to, &sit.netns, PORT).unwrap();
    if scene.setup.fastpath == "verified" {
        wait_leased_at_client(&scene.daemon2, talk.client, to);
    }
    (talk, to)
}

/// An IP packet of that conversation.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let ip = Ipv4::udp(*from.ip(), *to.ip());
    ip.packet(&udp(&ip, from.port(), to.port(), payload))
}

/// The payload of a packet with the tag in front of it.
fn tagged(tag: u16, packet: &[u8]) -> Vec<u8> {
    [&tag.to_be_bytes(), &IPV4.to_be_bytes(), packet].concat()
}

fn carries(frame: &Frame, payload: &[u8]) -> bool {
    frame.bytes.ends_with(payload)
}

/// VLAN 0 is none: switches and hypervisors put a priority there, and the kernel takes the frame
/// for an untagged one. The outer packet of a pod's tagged frame has no tag.
#[test]
fn frames_with_a_priority_tag_pass_both_ways() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (talk, to) = talk(scene);
        let attack = Attack::new(scene);
        let wire = Capture::wire(&scene.lab.router, node2).unwrap();
        let at_sit = Capture::start(&sit.netns, "eth0").unwrap();
        for (number, tag) in [0_u16, 3 << 13, 7 << 13].into_iter().enumerate() {
            let answer = format!("tagged answer {number}");
            let inner = datagram(to, talk.client, answer.as_bytes());
            let outer = attack.outer().packet(&inner);
            attack.send_frame(&ethernet(node2.mac, node2.gateway_mac, VLAN, &tagged(tag, &outer)));
            attack.wait_for_delivery(|frame| carries(frame, answer.as_bytes()));

            let request = format!("tagged request {number}");
            let packet = datagram(talk.client, to, request.as_bytes());
            let frame = ethernet(CALI_MAC, perf.mac, VLAN, &tagged(tag, &packet));
            inject(&perf.netns, "eth0", &frame).unwrap();
            let ends = ((node2.ip, node1.ip), (perf.ip, sit.ip));
            let is_it =
                |frame: &Frame| frame.is_ipip(ends.0, ends.1) && carries(frame, request.as_bytes());
            assert!(wire.wait_for(SOON, is_it).is_some(), "{request} is encapsulated, untagged");
            let arrived = at_sit.wait_for(SOON, |frame| carries(frame, request.as_bytes()));
            assert!(arrived.is_some(), "{request} arrives");
        }
        drop(talk);
        scene.assert_nothing_plain();
    });
}

/// A router forwards what is sent to it: no broadcasts, no multicasts, nothing for other machines,
/// as a bridge in a pod may flood it (RFC 1812 §5.3.4).
#[test]
fn a_pods_frames_for_others_are_not_forwarded() {
    let setups: Vec<Setup> = Setup::ALL.into_iter().filter(|setup| setup.is_fast()).collect();
    Scene::each_of(&setups, &lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let (talk, to) = talk(scene);
        let at_sit = Capture::start(&sit.netns, "eth0").unwrap();
        let before = Counters::of(&scene.daemon2);
        let send = |mac, payload: &[u8]| {
            let packet = datagram(talk.client, to, payload);
            inject(&perf.netns, "eth0", &ethernet(mac, perf.mac, IPV4, &packet)).unwrap();
        };
        let others = [[0xff; 6], [0x01, 0x00, 0x5e, 0, 0, 1], [2, 0, 0, 0, 0, 0x99]];
        for mac in others {
            send(mac, b"for others");
        }
        until("each is counted", SOON, || {
            (before.moved(&scene.daemon2).get(&Reason::PodNotForHost) == Some(&3)).then_some(())
        });
        send(CALI_MAC, b"for the router");
        let control = at_sit.wait_for(SOON, |frame| carries(frame, b"for the router"));
        assert!(control.is_some(), "the control arrives");
        let arrived = at_sit.stop().unwrap();
        assert!(!arrived.iter().any(|frame| carries(frame, b"for others")), "none is forwarded");
        drop(talk);
        scene.assert_nothing_plain();
    });
}
