//! What pods hear of errors that the underlay has with our outer packets
//! (RFC 2003 §4), and what they do not.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use etherparse::Ipv4HeaderSlice;
use serde_json::json;
use tunless_lab::{
    Lab, LabBuilder, Netns, Pod,
    addr::CALI_MAC,
    capture::Capture,
    frame::{Direction, Frame, Ip, protocol},
    packet::{IPV4, Ipv4, ethernet, icmp_error, udp},
    service::{Protocol, Service, kube_proxy},
    traffic::{
        ping::{self, Trouble},
        udp as datagrams,
    },
};
use tunless_tests::scene::{SOON, Scene, Setup, answers, assert_answered, endpoint_of, until};

/// The daemon is the same in all; what wraps the packet is not.
const SOME: [Setup; 2] = [Setup::OFF, Setup::VERIFIED_XDP];
/// The UDP port of what is to be heard of last.
const CONTROL: u16 = 9999;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Lets the scene's router report every error. What remains is the kernel's limit for "no
/// route" (`ip_error`): five to one sender at once, one a second after that. A rate of 0 would
/// take the five away, too, because both limits spend the same tokens.
fn talkative(scene: &Scene) {
    scene.warm_up();
    scene.lab.router.set_sysctl("ipv4/icmp_ratemask", "0").unwrap();
}

fn ping_once(from: &Netns, to: Ipv4Addr, ttl: Option<u8>) -> ping::Report {
    let wait = Duration::from_millis(500);
    let options = ping::Options { count: 1, ttl, wait, ..Default::default() };
    ping::ping(from, to, &options).unwrap()
}

/// An ICMP error's type and code.
fn error_of(frame: &Frame) -> Option<(u8, u8)> {
    let (ip, icmp) = frame.outer()?;
    let is_error = ip.protocol == protocol::ICMP && matches!(icmp[0], 3..=5 | 11 | 12);
    is_error.then_some((icmp[0], icmp[1]))
}

/// The frame that tells the pod of an error about `inner`, to the last byte;
/// see [`heard`].
fn told(scene: &Scene, pod: &Pod, code: u8, inner: &[u8]) -> Vec<u8> {
    let ip = Ipv4 { tos: 0xc0, ..Ipv4::icmp(scene.lab.node2.ip, pod.ip) };
    let quoted = &inner[..inner.len().min(576 - 28)];
    let packet = ip.packet(&icmp_error(3, code, [0; 4], quoted));
    ethernet(pod.mac, CALI_MAC, IPV4, &packet)
}

/// A frame without the identification that the kernel has chosen.
fn heard(frame: &Frame) -> Vec<u8> {
    let header = Ipv4HeaderSlice::from_slice(&frame.bytes[14..]).unwrap();
    let end = 14 + header.slice().len();
    let mut header = header.to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "{frame}");
    header.identification = 0;
    header.header_checksum = header.calc_header_checksum();
    [&frame.bytes[..14], header.to_bytes().as_slice(), &frame.bytes[end..]].concat()
}

/// A packet one hop on.
fn forwarded(packet: &[u8]) -> Vec<u8> {
    let header = Ipv4HeaderSlice::from_slice(packet).unwrap();
    let length = header.slice().len();
    let mut header = header.to_header();
    header.time_to_live -= 1;
    header.header_checksum = header.calc_header_checksum();
    [header.to_bytes().as_slice(), &packet[length..]].concat()
}

/// Real errors, of a real router.
#[test]
fn a_pod_hears_that_there_is_no_way_to_the_other() {
    Scene::each(&lab(), |scene| {
        talkative(scene);
        let Lab { router, node1, .. } = &scene.lab;
        let (perf, sit) = scene.pods();
        for (what, ttl, code) in [
            // "Host unreachable" stays what it is.
            (Some("unreachable"), None, 1),
            // As does "network unreachable".
            (Some("throw"), None, 0),
            // The outer TTL is the inner one's, and the router uses it up: 11/0.
            (None, Some(2), 1),
        ] {
            println!("{what:?}");
            let route = |verb: &str| {
                what.map(|kind| router.ip(&format!("route {verb} {kind} {}/32", node1.ip)))
            };
            route("add").transpose().unwrap();
            let pod = Capture::start(&perf.netns, "eth0").unwrap();
            let report = ping_once(&perf.netns, sit.ip, ttl);
            assert_eq!(report.received, 0, "{}", report.text);
            let error = pod
                .wait_for(SOON, |frame| error_of(frame).is_some())
                .unwrap_or_else(|| panic!("nothing is heard: {}", report.text));
            let is_sent =
                |frame: &Frame| frame.direction == Direction::Out && frame.outer().is_some();
            let sent = pod.frames().into_iter().find(is_sent);
            let inner = forwarded(&sent.expect("the request").bytes[14..]);
            assert_eq!(heard(&error), told(scene, perf, code, &inner), "{error}");
            route("del").transpose().unwrap();
        }
        assert_answered(&perf.netns, sit.ip);
        scene.assert_nothing_plain();
    });
}

/// What a person sees, in a pod and on the node, and in the list of nodes.
#[test]
fn ping_says_so() {
    Scene::each_of(&SOME, &lab(), |scene| {
        talkative(scene);
        let Lab { router, node1, node2, .. } = &scene.lab;
        let (perf, sit) = scene.pods();
        router.ip(&format!("route add unreachable {}/32", node1.ip)).unwrap();
        for netns in [&perf.netns, &node2.netns] {
            let said = |trouble: &Trouble| matches!(trouble, Trouble::Other { text, .. } if text == "Destination Host Unreachable");
            until("ping says it", SOON, || {
                let report = ping_once(netns, sit.ip, None);
                println!("{}", report.text);
                report.troubles.iter().any(said).then_some(())
            });
        }
        let from = json!(node2.gateway);
        let answer = scene.daemon2.wait_json(&["nodes", "list"], SOON, |answer| {
            let error = &answer["items"][0]["last_error"];
            error["what"] == "host unreachable" && error["from"] == from
        });
        let nodes = answer.unwrap();
        assert_eq!(nodes["items"][0]["prefixes"], json!([node1.block]));
        router.ip(&format!("route del unreachable {}/32", node1.ip)).unwrap();
    });
}

/// A node that has no tunnel (any more) refuses protocol 4. Its pods cannot be
/// reached, whatever the protocol.
#[test]
fn a_node_without_a_tunnel_is_no_way_either() {
    Scene::each_of(&SOME, &lab(), |scene| {
        assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);
        scene.daemon1.terminate_and_detach().unwrap();
        let (perf, sit) = scene.pods();
        let heard = Capture::start(&perf.netns, "eth0").unwrap();
        until("the pod hears of it", SOON, || {
            assert!(!answers(&perf.netns, sit.ip));
            heard.frames().iter().find_map(error_of)
        });
        let errors: Vec<_> = heard.stop().unwrap().iter().filter_map(error_of).collect();
        assert!(errors.iter().all(|error| *error == (3, 0)), "{errors:?}");
    });
}

/// A pod knows the service it talks to, not the pod behind it.
#[test]
fn an_error_is_translated_back_like_an_answer() {
    Scene::each_of(&SOME, &lab(), |scene| {
        talkative(scene);
        let Lab { router, node1, node2, .. } = &scene.lab;
        let (perf, sit) = scene.pods();
        let service = Service {
            name: "default/echo".to_owned(),
            protocol: Protocol::Udp,
            address: "10.10.48.7:53".parse().unwrap(),
            endpoints: vec![SocketAddrV4::new(sit.ip, 5353)],
        };
        kube_proxy(&node2.netns, std::slice::from_ref(&service)).unwrap();
        let exchange = |timeout| {
            let options = datagrams::Options { timeout, ..Default::default() };
            datagrams::exchange(&perf.netns, service.address, &sit.netns, 5353, &options)
        };
        exchange(SOON).unwrap();
        router.ip(&format!("route add unreachable {}/32", node1.ip)).unwrap();
        let pod = Capture::start(&perf.netns, "eth0").unwrap();
        exchange(Duration::from_millis(500)).unwrap_err();
        let error = pod.wait_for(SOON, |frame| error_of(frame).is_some()).expect("an error");
        let (ip, icmp) = error.outer().unwrap();
        let (quoted, datagram) = Ip::decode(&icmp[8..]).unwrap();
        let port = u16::from_be_bytes([datagram[2], datagram[3]]);
        // As if the service itself had said it.
        assert_eq!((ip.source, ip.destination), (*service.address.ip(), perf.ip));
        assert_eq!(error_of(&error), Some((3, 1)));
        assert_eq!((quoted.source, quoted.destination), (perf.ip, *service.address.ip()));
        assert_eq!(port, service.address.port());
        router.ip(&format!("route del unreachable {}/32", node1.ip)).unwrap();
    });
}

/// Hand-made errors on node2's wire, and what its pod demo-hello-perf hears.
struct Errors<'a> {
    scene: &'a Scene,
    heard: Capture,
}

impl<'a> Errors<'a> {
    fn new(scene: &'a Scene) -> Self {
        let heard = Capture::start(&scene.lab.perf().netns, "eth0").unwrap();
        Self { scene, heard }
    }

    /// A datagram of the pod's, as it was wrapped.
    fn inner(&self, port: u16) -> Vec<u8> {
        let (perf, sit) = self.scene.pods();
        self.inner_of(&Ipv4::udp(perf.ip, sit.ip), port)
    }

    fn inner_of(&self, ip: &Ipv4, port: u16) -> Vec<u8> {
        Ipv4 { ttl: 63, ..ip.clone() }.packet(&udp(ip, 40_000, port, &[7; 700]))
    }

    /// What node2 would have sent to node1.
    fn outer(&self) -> Ipv4 {
        Ipv4::ipip(self.scene.lab.node2.ip, self.scene.lab.node1.ip)
    }

    /// A link on the way to node1 takes no more than `mtu` bytes, and so not a packet with this
    /// inner header.
    fn too_big(&self, inner: &Ipv4, mtu: u16) {
        let Lab { router, node2, .. } = &self.scene.lab;
        let [high, low] = mtu.to_be_bytes();
        let outer = self.outer().packet(&inner.packet(&udp(inner, 40_000, 1, &[7; 1400])));
        let message = icmp_error(3, 4, [0, 0, high, low], &outer[..548]);
        node2.inject(router, &Ipv4::icmp(node2.gateway, node2.ip).packet(&message)).unwrap();
    }

    /// An error by `from` about an outer packet.
    fn send_as(&self, from: Ipv4Addr, (kind, code): (u8, u8), quoted: &[u8]) {
        let Lab { router, node2, .. } = &self.scene.lab;
        let message = icmp_error(kind, code, [0; 4], &quoted[..quoted.len().min(548)]);
        node2.inject(router, &Ipv4::icmp(from, node2.ip).packet(&message)).unwrap();
    }

    fn send(&self, error: (u8, u8), quoted: &[u8]) {
        self.send_as(self.scene.lab.node2.gateway, error, quoted);
    }

    /// That the pod was told exactly this of what was sent: a control is sent
    /// last, and heard last.
    fn assert_told(self, expected: &[Vec<u8>]) {
        let perf = self.scene.lab.perf();
        let inner = self.inner(CONTROL);
        self.send((3, 1), &self.outer().packet(&inner));
        // Outer header and all, 548 bytes were quoted.
        let control = told(self.scene, perf, 1, &inner[..528]);
        let is_control = |frame: &Frame| error_of(frame).is_some() && heard(frame) == control;
        self.heard.wait_for(SOON, is_control).expect("the control is heard");
        let frames = self.heard.stop().unwrap();
        let mut errors = frames.iter().filter(|frame| error_of(frame).is_some());
        for bytes in expected.iter().chain([&control]) {
            assert_eq!(errors.next().map(heard).as_ref(), Some(bytes));
        }
        assert_eq!(errors.next(), None);
    }
}

/// The kinds that the lab's router would not make of itself.
#[test]
fn errors_of_other_kinds_are_not_for_pods() {
    Scene::each_of(&SOME, &lab(), |scene| {
        scene.warm_up();
        let errors = Errors::new(scene);
        let inner = errors.inner(1);
        let outer = errors.outer().packet(&inner);
        for code in (3..=15).filter(|code| *code != 4) {
            errors.send((3, code), &outer);
        }
        for other in [(4, 0), (5, 0), (5, 1), (11, 1), (12, 0), (12, 1)] {
            errors.send(other, &outer);
        }
        // "Too big" goes by the kernel, which does not believe an MTU of 0.
        errors.send((3, 4), &outer);
        errors.send((3, 2), &outer);
        errors.assert_told(&[told(scene, scene.lab.perf(), 0, &inner[..528])]);
    });
}

#[test]
fn forged_errors_change_nothing() {
    Scene::each_of(&SOME, &lab(), |scene| {
        scene.warm_up();
        let Lab { node1, node2, .. } = &scene.lab;
        let (perf, sit) = scene.pods();
        let errors = Errors::new(scene);
        let good = errors.inner(1);
        let stranger = Ipv4Addr::new(172, 16, 34, 7);
        let nobody = Lab::pod_ip(node2, 40);
        let wrapped = |ip: Ipv4| errors.outer().packet(&errors.inner_of(&ip, 1));
        let icmp = Ipv4::icmp(perf.ip, sit.ip);
        let about_an_error = icmp.packet(&icmp_error(3, 1, [0; 4], &good[..100]));
        for (what, quoted) in [
            ("an unknown node", Ipv4::ipip(node2.ip, stranger).packet(&good)),
            ("another's packet", Ipv4::ipip(stranger, node1.ip).packet(&good)),
            ("what came to us", Ipv4::ipip(node1.ip, node2.ip).packet(&good)),
            ("no tunnel packet", good.clone()),
            ("protocol 41", Ipv4::new(node2.ip, node1.ip, 41).packet(&good)),
            ("nobody's inner packet", wrapped(Ipv4::udp(nobody, sit.ip))),
            ("a remote pod's", wrapped(Ipv4::udp(sit.ip, perf.ip))),
            (
                "one to another node's pod",
                wrapped(Ipv4::udp(perf.ip, Ipv4Addr::new(10, 20, 7, 70))),
            ),
            ("an error", errors.outer().packet(&about_an_error)),
            (
                "a later fragment",
                wrapped(Ipv4 { fragment_offset: 3, df: false, ..Ipv4::udp(perf.ip, sit.ip) }),
            ),
            ("too little", errors.outer().packet(&good)[..47].to_vec()),
        ] {
            println!("{what}");
            for error in [(3, 0), (3, 1), (3, 2), (11, 0)] {
                errors.send(error, &quoted);
            }
        }
        // Right in all but who says it.
        for pod in [perf.ip, sit.ip] {
            errors.send_as(pod, (3, 1), &errors.outer().packet(&good));
        }
        errors.assert_told(&[]);
        assert_answered(&perf.netns, sit.ip);
    });
}

/// A forged "too big" is worth little. About a packet that we would not send it changes nothing,
/// whatever the kernel makes of it; about one that we may have sent, nothing below the floor.
#[test]
fn a_forged_path_mtu_changes_little() {
    Scene::each_of(&SOME, &lab(), |scene| {
        scene.warm_up();
        let node1 = scene.lab.node1.ip;
        // To an address that no route leads to.
        let errors = Errors::new(scene);
        let nowhere = Ipv4::udp(scene.lab.perf().ip, Ipv4Addr::new(198, 51, 100, 7));
        errors.too_big(&nowhere, 68);
        let node2 = &scene.lab.node2.netns;
        let kernels = || node2.ip(&format!("route get {node1}")).unwrap();
        until("the kernel believes it", SOON, || kernels().contains("552").then_some(()));
        drop(errors);
        scene.daemon2.reload().unwrap();
        let mtu_is = |bytes: u32| {
            let is = move |nodes: &serde_json::Value| nodes["items"][0]["mtu"] == bytes;
            scene.daemon2.wait_json(&["nodes", "list"], SOON, is).unwrap();
        };
        let status = || scene.daemon2.cli(&["status"]).unwrap().stdout;
        mtu_is(1500);
        // What a router says about a packet of ours does not make the other message true.
        let errors = Errors::new(scene);
        let (perf, sit) = scene.pods();
        let sent = Ipv4::udp(perf.ip, sit.ip);
        errors.too_big(&sent, 1400);
        mtu_is(1400);
        assert!(!status().contains("min_path_mtu"), "{}", status());
        errors.too_big(&sent, 68);
        mtu_is(1280);
        until("status lists it", SOON, || status().contains("min_path_mtu").then_some(()));
    });
}

#[test]
fn a_pod_is_not_flooded_and_does_not_take_from_another() {
    Scene::each_of(&SOME, &lab(), |scene| {
        scene.warm_up();
        let other = Lab::pod_ip(&scene.lab.node2, 40);
        let other = scene.lab.node2.add_pod("demo-other", other).unwrap();
        endpoint_of(&scene.daemon2, &other);
        scene.daemon2.cli_json(&["status", "--wait=15s"]).unwrap();
        let errors = Errors::new(scene);
        let other_hears = Capture::start(&other.netns, "eth0").unwrap();
        let quoted = errors.outer().packet(&errors.inner(1));
        let start = Instant::now();
        for _ in 0..200 {
            errors.send((3, 1), &quoted);
        }
        // What comes last is heard when all before it is through; it may be lost
        // in the flood itself, or come before the daemon knows of the pod.
        let inner = errors.inner_of(&Ipv4::udp(other.ip, scene.lab.sit().ip), 1);
        let last = told(scene, &other, 1, &inner[..528]);
        let is_last = |frame: &Frame| error_of(frame).is_some() && heard(frame) == last;
        until("the other pod hears", SOON, || {
            errors.send((3, 1), &errors.outer().packet(&inner));
            other_hears.wait_for(Duration::from_millis(300), is_last)
        });
        let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
        let heard = errors.heard.stop().unwrap();
        let heard = heard.iter().filter(|frame| error_of(frame).is_some()).count();
        assert!((6..=6 + seconds + 1).contains(&heard), "{heard} in {seconds} s");
        scene.lab.node2.remove_pod(&other).unwrap();
    });
}
