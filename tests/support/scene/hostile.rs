//! Packets that node2 should not be fooled by, and whether it was.

use std::net::Ipv4Addr;

use tunless_lab::{
    capture::Capture,
    frame::Frame,
    inject,
    packet::{Ipv4, icmp_echo},
};

use super::{SOON, Scene};

/// The ICMP id of [`Attack::good`]; what else arrives in the pod was let through.
const GOOD: u16 = 0x600d;

/// node1 (or somebody who can write its address) sends to node2, whose pod
/// demo-hello-perf is watched.
pub struct Attack<'a> {
    scene: &'a Scene,
    pod: Capture,
}

impl<'a> Attack<'a> {
    /// Watches the pod from now on.
    pub fn new(scene: &'a Scene) -> Self {
        let pod = Capture::start(&scene.lab.perf().netns, "eth0").unwrap();
        Self { scene, pod }
    }

    /// An echo request to the pod.
    pub fn inner(&self, source: Ipv4Addr) -> Vec<u8> {
        self.wrong(source, |_| {})
    }

    /// An echo request to the pod with something wrong in its IP header.
    pub fn wrong(&self, source: Ipv4Addr, spoil: impl FnOnce(&mut Ipv4)) -> Vec<u8> {
        let mut ip = Ipv4::icmp(source, self.scene.lab.perf().ip);
        spoil(&mut ip);
        ip.packet(&icmp_echo(8, 0xbad, 1, b"hello"))
    }

    /// node1's outer header.
    pub fn outer(&self) -> Ipv4 {
        Ipv4::ipip(self.scene.lab.node1.ip, self.scene.lab.node2.ip)
    }

    /// Puts an IP packet on node2's wire, from the router.
    pub fn send(&self, packet: &[u8]) {
        let lab = &self.scene.lab;
        lab.node2.inject(&lab.router, packet).unwrap();
    }

    /// Puts a whole frame on node2's wire, from the router.
    pub fn send_frame(&self, frame: &[u8]) {
        let lab = &self.scene.lab;
        inject::inject(&lab.router, &lab.node2.router_port, frame).unwrap();
    }

    /// A packet that nothing is wrong with, in node1's name: the control.
    pub fn good(&self) -> Vec<u8> {
        let lab = &self.scene.lab;
        let inner = Ipv4::icmp(lab.sit().ip, lab.perf().ip);
        self.outer().packet(&inner.packet(&icmp_echo(8, GOOD, 1, b"hello")))
    }

    /// Waits until the pod gets a frame for which `wanted` says yes.
    pub fn wait_for_delivery(&self, wanted: impl Fn(&Frame) -> bool) {
        self.pod.wait_for(SOON, wanted).expect("it is delivered");
    }

    /// That the pod got nothing of what was sent: it gets the control, which
    /// was sent last, and nothing before it.
    pub fn assert_nothing_delivered(self) {
        self.send(&self.good());
        let pod = self.scene.lab.perf().ip;
        let echo_id = |frame: &Frame| {
            let (ip, icmp) = frame.outer()?;
            let id = icmp.get(4..6)?.first_chunk()?;
            (ip.destination == pod && icmp[0] == 8).then(|| u16::from_be_bytes(*id))
        };
        let arrived = self.pod.wait_for(SOON, |frame| echo_id(frame) == Some(GOOD));
        assert!(arrived.is_some(), "the control is delivered");
        let frames = self.pod.stop().unwrap();
        let to_pod = frames.iter().filter(|frame| {
            frame.outer().is_some_and(|(ip, _)| ip.destination == pod)
                && echo_id(frame) != Some(GOOD)
        });
        assert_eq!(to_pod.map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    }
}
