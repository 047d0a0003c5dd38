//! How large a packet may be: as the underlay's interfaces say, and as the
//! kernel learns from routers on the way.

use std::{net::SocketAddrV4, time::Duration};

use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Node, Pod,
    capture::Capture,
    traffic::{ping, tcp, udp},
};
use tunless_tests::scene::{Counters, HASTY, SOON, Scene, Setup, until};

/// Where TC unwraps: on a veth XDP takes no packet longer than a page.
const LARGE: [Setup; 3] = [Setup::OFF, Setup::TRUSTED, Setup::VERIFIED];
/// What the log has of a path MTU that was asked for because of an ICMP error,
/// and not because ten seconds had passed.
const AT_ONCE: &str = "after an error of the underlay";

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// What comes of a packet of `size` bytes.
fn ping_of(from: &Pod, to: &Pod, size: u32, df: bool) -> ping::Report {
    let wait = Duration::from_millis(500);
    let options = ping::Options { count: 1, size: size - 28, df, wait, ..Default::default() };
    ping::ping(&from.netns, to.ip, &options).unwrap()
}

/// The MTU that a pod is told for a packet of `size` bytes with DF.
fn told_mtu(from: &Pod, to: &Pod, size: u32) -> Option<u32> {
    ping_of(from, to, size, true).mtu()
}

/// Lets a pod send packets of `size` bytes until it is told to send no more
/// than `mtu`. Those before the last are lost: the first one's ICMP error
/// comes from inside the tunnel.
fn learn(scene: &Scene, size: u32, mtu: u32) {
    let (perf, sit) = scene.pods();
    until("the pod is told", SOON, || (told_mtu(perf, sit, size) == Some(mtu)).then_some(()));
}

/// Forgets the path MTUs that a pod was told.
fn forget(pod: &Pod) {
    pod.netns.ip("route flush cache").unwrap();
}

fn node_mtu(daemon: &Daemon) -> Value {
    daemon.cli_json(&["nodes", "list"]).unwrap()["items"][0]["mtu"].clone()
}

/// How many paths were asked for at once.
fn asked_at_once(daemon: &Daemon) -> usize {
    daemon.log().matches(AT_ONCE).count()
}

/// The kernel's route to the other node's pods.
fn tunnel_route(node: &Node, peer: &Node) -> String {
    node.netns.ip(&format!("route show {} dev tunless0", peer.block)).unwrap()
}

#[test]
fn a_narrow_path_is_learnt_at_once() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let mut size = 1480;
        let asked = [&scene.daemon1, &scene.daemon2].map(asked_at_once);
        for path in [1400, 1300, 1280] {
            scene.lab.set_path_mtu(&scene.lab.node1, path).unwrap();
            learn(scene, size, path - 20);
            size = path - 20;
            assert_eq!(node_mtu(&scene.daemon2), path);
            let fits = ping_of(perf, sit, size, true);
            assert!(fits.all_answered(), "{}", fits.text);
        }
        // Ten seconds may pass in a test, though not at each of three times
        // just between an error and the question.
        assert!(asked_at_once(&scene.daemon2) >= asked[1] + 2, "{}", scene.daemon2.log());
        // Nobody told node1 anything.
        assert_eq!(node_mtu(&scene.daemon1), 1500);
        assert_eq!(asked_at_once(&scene.daemon1), asked[0]);
        scene.assert_nothing_plain();
    });
}

#[test]
fn without_df_packets_are_cut_before_they_are_wrapped() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        scene.lab.set_path_mtu(&scene.lab.node1, 1300).unwrap();
        learn(scene, 1480, 1280);
        forget(perf);
        let before = Counters::of(&scene.daemon2);
        let wire = Capture::wire(&scene.lab.router, &scene.lab.node1).unwrap();
        let report = ping_of(perf, sit, 1480, false);
        assert!(report.all_answered(), "{}", report.text);
        let moved = before.moved(&scene.daemon2);
        assert_eq!(moved.get(&Reason::HostEncapsulated), Some(&2), "{moved:?}");
        assert_eq!(moved.get(&Reason::PodTooBig).copied().unwrap_or(0), too_big(scene, 1));
        before.assert_nothing_dropped(&scene.daemon2);
        let frames = wire.stop().unwrap();
        let pieces = frames.iter().filter_map(|frame| {
            let (outer, (inner, _)) = (frame.outer()?.0, frame.inner()?);
            (inner.destination == sit.ip).then_some((outer.total_len, outer.mf, inner.mf))
        });
        // Fragments hold multiples of 8 bytes; the outer packets are whole.
        let expected = [(1296, false, true), (20 + 20 + 1460 - 1256, false, false)];
        assert_eq!(pieces.collect::<Vec<_>>(), expected);
        scene.assert_nothing_plain();
    });
}

/// How often the fast path declines, where ICMP takes it at all.
fn too_big(scene: &Scene, packets: u64) -> u64 {
    if scene.setup.is_trusted() { packets } else { 0 }
}

#[test]
fn tcp_finds_its_way_through_a_narrow_path() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        scene.lab.set_path_mtu(&scene.lab.node1, 1300).unwrap();
        let (perf, sit) = scene.pods();
        // It starts with segments as large as the pods' interfaces take, in
        // super-packets, and has to learn.
        for (client, server) in [(perf, sit), (sit, perf)] {
            for server_sends in [false, true] {
                let options = tcp::Options { mebibytes: 4, server_sends, ..Default::default() };
                let to = SocketAddrV4::new(server.ip, 5001);
                tcp::bulk(&client.netns, to, &server.netns, 5001, &options).unwrap();
            }
        }
        assert_eq!(node_mtu(&scene.daemon2), 1300);
        let route = perf.netns.ip(&format!("route get {}", sit.ip)).unwrap();
        assert!(route.contains("mtu 1280"), "{route}");
        scene.assert_nothing_plain();
    });
}

/// A super-packet is as large as its segments will be.
#[test]
fn each_segment_of_a_train_has_to_fit() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        scene.lab.set_path_mtu(&scene.lab.node1, 1300).unwrap();
        learn(scene, 1480, 1280);
        forget(perf);
        let to = SocketAddrV4::new(sit.ip, 5003);
        let wrapped = || {
            let nodes = scene.daemon2.cli_json(&["nodes", "list"]).unwrap();
            nodes["items"][0]["encap_packets"].as_u64().unwrap()
        };
        // As large as fits: it stays one packet. A byte more, and each is cut
        // in two (a train of UDP has no DF).
        for (segment, packets) in [(1280 - 28, 1), (1280 - 27, 20)] {
            let (before, wrapped_before) = (Counters::of(&scene.daemon2), wrapped());
            udp::gso(&perf.netns, to, &sit.netns, 5003, (segment, 10), SOON).unwrap();
            assert_eq!(wrapped() - wrapped_before, packets, "{segment}");
            before.assert_nothing_dropped(&scene.daemon2);
        }
        scene.assert_nothing_plain();
    });
}

/// The kernel forgets a path MTU after `mtu_expires`, in the field ten minutes.
#[test]
fn a_path_that_widens_is_found_when_the_kernel_forgets() {
    Scene::each_by(
        |setup| Scene::with(lab(), setup, "", &HASTY),
        |scene| {
            scene.warm_up();
            let Lab { router, node1, node2, .. } = &scene.lab;
            node2.netns.set_sysctl("ipv4/route/mtu_expires", "3").unwrap();
            scene.lab.set_path_mtu(node1, 1300).unwrap();
            let (perf, sit) = scene.pods();
            until("node2 learns", SOON, || {
                forget(perf);
                ping_of(perf, sit, 1480, true);
                tunnel_route(node2, node1).contains("mtu 1280").then_some(())
            });
            router.ip(&format!("route del {}/32 dev {}", node1.ip, node1.router_port)).unwrap();
            let wide = |nodes: &Value| nodes["items"][0]["mtu"] == 1500;
            scene.daemon2.wait_json(&["nodes", "list"], SOON, wide).unwrap();
            until("the route follows", SOON, || {
                (!tunnel_route(node2, node1).contains("mtu")).then_some(())
            });
            forget(perf);
            let report = ping_of(perf, sit, 1480, true);
            assert!(report.all_answered(), "{}", report.text);
            scene.assert_nothing_plain();
        },
    );
}

/// `pmtu_ipv4_ipv4_exception` of the kernel's own `pmtu.sh`: a tunnel of 5000
/// over a path of 4000 leaves 3980.
#[test]
fn as_the_kernels_own_test_expects() {
    Scene::each_of(&LARGE, &lab().underlay_mtu(5020).pod_mtu(5000), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let Lab { node1, node2, .. } = &scene.lab;
        assert!(ping_of(perf, sit, 5000, true).all_answered());
        let asked = asked_at_once(&scene.daemon2);
        scene.lab.set_path_mtu(node1, 4000).unwrap();
        learn(scene, 4500, 3980);
        let exception = perf.netns.ip(&format!("route get {}", sit.ip)).unwrap();
        assert!(exception.contains("mtu 3980"), "{exception}");
        let route = tunnel_route(node2, node1);
        assert!(route.contains("mtu 3980"), "{route}");
        let underlay = node2.netns.ip(&format!("route get {}", node1.ip)).unwrap();
        assert!(underlay.contains("mtu 4000"), "{underlay}");
        let fits = ping_of(perf, sit, 3980, true);
        assert!(fits.all_answered(), "{}", fits.text);
        assert!(asked_at_once(&scene.daemon2) > asked, "{}", scene.daemon2.log());
        scene.assert_nothing_plain();
    });
}

#[test]
fn jumbo_frames_are_used_to_the_last_byte() {
    Scene::each_of(&LARGE, &lab().underlay_mtu(9000).pod_mtu(8980), |scene| {
        scene.warm_up();
        let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
        assert_eq!(scene.daemon2.cli_json(&["status"]).unwrap()["tunnel"]["mtu"], 8980);
        let (perf, sit) = scene.pods();
        for (from, to) in [(perf, sit), (sit, perf)] {
            let fits = ping_of(from, to, 8980, true);
            assert!(fits.all_answered(), "{}", fits.text);
            let larger = ping_of(from, to, 8981, false);
            assert!(larger.all_answered(), "{}", larger.text);
            let address = SocketAddrV4::new(to.ip, 5002);
            for size in [8980 - 28, 8980 - 27, 65_507] {
                let options = udp::Options { size, ..Default::default() };
                udp::exchange(&from.netns, address, &to.netns, 5002, &options).unwrap();
            }
            udp::gso(&from.netns, address, &to.netns, 5002, (8980 - 28, 7), SOON).unwrap();
            let options = tcp::Options { mebibytes: 8, ..Default::default() };
            tcp::bulk(&from.netns, address, &to.netns, 5002, &options).unwrap();
        }
        // A pod that thinks the tunnel costs nothing.
        perf.netns.ip("link set eth0 mtu 9000").unwrap();
        assert_eq!(told_mtu(perf, sit, 8981), Some(8980));
        perf.netns.ip("link set eth0 mtu 8980").unwrap();
        before[0].assert_nothing_dropped(&scene.daemon1);
        before[1].assert_nothing_dropped(&scene.daemon2);
        scene.assert_nothing_plain();
    });
}
