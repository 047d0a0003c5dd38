//! Services, and who may skip netfilter.

use std::net::SocketAddrV4;

use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Netns,
    capture::Capture,
    daemon::expect_failure,
    felix,
    service::{Protocol, Service, kube_proxy, masquerade, remove_rules},
    traffic::{http, tcp, udp},
};
use tunless_tests::scene::{
    Counters, HASTY, SOON, Scene, Setup, assert_answered, assert_lossless, stream_between, until,
    while_the_kernel_is_busy,
};

/// A cluster IP needs netfilter, so it is for `off` alone.
const OFF: [Setup; 2] = [Setup::OFF, Setup::OFF_XDP];

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn echo(backend: std::net::Ipv4Addr) -> Service {
    Service {
        name: "default/echo".to_owned(),
        protocol: Protocol::Udp,
        address: "10.10.48.7:53".parse().unwrap(),
        endpoints: vec![SocketAddrV4::new(backend, 5353)],
    }
}

#[test]
fn a_pod_reaches_a_remote_pod_by_its_cluster_ip() {
    Scene::each_of(&OFF, &lab(), |scene| {
        let (perf, sit) = scene.pods();
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (hello, echo) = (Service::hello(sit.ip), echo(sit.ip));
        kube_proxy(&node2.netns, &[hello.clone(), echo.clone()]).unwrap();
        let wire = Capture::wire(&scene.lab.router, node2).unwrap();

        let server = http::Server::start(&sit.netns, 8080, "demo-hello-sit").unwrap();
        for address in [hello.address, SocketAddrV4::new(sit.ip, 8080)] {
            let reply = http::get(&perf.netns, address, SOON).unwrap();
            assert_eq!((reply.status, *reply.client.ip()), (200, perf.ip), "{}", reply.body);
        }
        drop(server);
        let bulk = tcp::bulk(&perf.netns, hello.address, &sit.netns, 8080, &Default::default());
        assert_eq!(*bulk.unwrap().peer.ip(), perf.ip);

        let options = udp::Options::default();
        let report = udp::exchange(&perf.netns, echo.address, &sit.netns, 5353, &options).unwrap();
        assert_eq!(*report.seen.ip(), perf.ip);
        assert_eq!(report.answered_by, echo.address, "translated back");

        // On the wire there are nodes outside, pods inside, and no service.
        for frame in wire.stop().unwrap().iter().filter(|frame| frame.outer().is_some()) {
            let there = frame.is_ipip((node2.ip, node1.ip), (perf.ip, sit.ip));
            let back = frame.is_ipip((node1.ip, node2.ip), (sit.ip, perf.ip));
            assert!(there || back, "{frame}");
        }
        scene.assert_nothing_plain();
    });
}

/// MASQUERADE takes the address of the device that the route names. With the
/// node's address the answer would come back plain, where only a fabric that
/// routes pods would carry it.
#[test]
fn masqueraded_traffic_has_the_tunnel_address() {
    Scene::each_of(&OFF, &lab(), |scene| {
        let (perf, sit) = scene.pods();
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (hello, echo) = (Service::hello(sit.ip), echo(sit.ip));
        kube_proxy(&node2.netns, &[hello.clone(), echo.clone()]).unwrap();
        let _server = http::Server::start(&sit.netns, 8080, "demo-hello-sit").unwrap();
        let wire = Capture::wire(&scene.lab.router, node2).unwrap();

        // The host itself, by ClusterIP.
        let reply = http::get(&node2.netns, hello.address, SOON).unwrap();
        assert_eq!(*reply.client.ip(), node2.tunnel);
        let report =
            udp::exchange(&node2.netns, echo.address, &sit.netns, 5353, &Default::default());
        let report = report.unwrap();
        assert_eq!((*report.seen.ip(), report.answered_by), (node2.tunnel, echo.address));

        // A pod that is masqueraded.
        masquerade(&node2.netns, perf.ip).unwrap();
        let straight = SocketAddrV4::new(sit.ip, 8080);
        let reply = http::get(&perf.netns, straight, SOON).unwrap();
        assert_eq!(*reply.client.ip(), node2.tunnel);

        let frames = wire.stop().unwrap();
        let frames: Vec<_> = frames.iter().filter(|frame| frame.outer().is_some()).collect();
        assert!(!frames.is_empty());
        for frame in frames {
            let there = frame.is_ipip((node2.ip, node1.ip), (node2.tunnel, sit.ip));
            let back = frame.is_ipip((node1.ip, node2.ip), (sit.ip, node2.tunnel));
            assert!(there || back, "{frame}");
        }
        scene.assert_nothing_plain();
    });
}

#[test]
fn trusted_is_refused_where_others_judge() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let refused = |found: &str| {
        for setup in [Setup::TRUSTED, Setup::TRUSTED_XDP] {
            let config = setup.config(node2, node1, "");
            let (code, stderr) = expect_failure(node2, &config).unwrap();
            assert_eq!(code, 1, "{stderr}");
            for said in [found, "fastpath", "`fastpath: off`", "`i_accept_no_network_policy: true`"]
            {
                assert!(stderr.contains(said), "no {said} in {stderr}");
            }
            assert!(!node2.bpffs.exists(), "refused before anything was made");
        }
    };
    kube_proxy(&node2.netns, &[Service::hello(lab.sit().ip)]).unwrap();
    refused("kube-proxy's chain KUBE-");
    remove_rules(&node2.netns).unwrap();
    felix::trace(&node2.netns).unwrap();
    refused("Felix's chain cali-");

    // `off` skips nobody.
    Daemon::start(node2, &Setup::OFF.config(node2, node1, "")).unwrap().finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// Fresh alone. Once MACs are known, a SYN goes past the far node's conntrack, and Felix's chain
/// drops the SYN-ACK behind it as INVALID: a known fault, which a restart does not cause.
#[test]
fn trusted_carries_pods_where_the_operator_insists() {
    let more = "i_accept_no_network_policy: true\n";
    for setup in [Setup::TRUSTED, Setup::TRUSTED_XDP] {
        let scene = Scene::with(lab(), setup, more, &HASTY);
        for node in scene.lab.nodes() {
            kube_proxy(&node.netns, &[Service::hello(scene.lab.sit().ip)]).unwrap();
            felix::trace(&node.netns).unwrap();
        }
        let (perf, sit) = scene.pods();
        let to = SocketAddrV4::new(sit.ip, 8080);
        tcp::bulk(&perf.netns, to, &sit.netns, 8080, &Default::default()).unwrap();
        udp::exchange(&perf.netns, to, &sit.netns, 8080, &Default::default()).unwrap();
        scene.warm_up();
        let before = Counters::of(&scene.daemon2);
        assert_answered(&perf.netns, sit.ip);
        assert_eq!(before.moved(&scene.daemon2)[&Reason::PodEncapsulated], 3);
        scene.assert_nothing_plain();
        scene.finish();
    }
}

/// At boot tunless comes before Felix and kube-proxy: their rules appear later.
/// They are looked for every 30 s, so both setups wait at the same time; and
/// however much happens on the node meanwhile.
#[test]
fn trusted_is_withheld_while_there_are_rules() {
    std::thread::scope(|scope| {
        scope.spawn(|| withheld_while(Setup::TRUSTED, kube_proxy_appears));
        scope.spawn(|| withheld_while(Setup::TRUSTED_XDP, |_, node| felix::trace(node).unwrap()));
    });
}

fn kube_proxy_appears(scene: &Scene, node: &Netns) {
    kube_proxy(node, &[Service::hello(scene.lab.sit().ip)]).unwrap();
}

fn withheld_while(setup: Setup, appear: impl Fn(&Scene, &Netns)) {
    // A resync every 3 s: between two events there is less. Once only: what is looked for every
    // 30 s takes a minute.
    let scene = Scene::with(lab(), setup, "", &[("WATCHDOG_USEC", "6000000")]);
    scene.warm_up();
    while_the_kernel_is_busy(&scene, || appear_and_vanish(&scene, &appear));
    scene.assert_nothing_plain();
    scene.finish();
}

fn appear_and_vanish(scene: &Scene, appear: &impl Fn(&Scene, &Netns)) {
    let (perf, sit) = scene.pods();
    let (node, daemon) = (&scene.lab.node2.netns, &scene.daemon2);
    let stream = stream_between(perf, sit, 5004);
    let log = daemon.log().len();
    appear(scene, node);
    let status = wait_for_status(daemon, 3, "off");
    assert_eq!(status["ready"], true, "degraded is ready");
    let problems = status["problems"].to_string();
    assert!(problems.contains("withheld"), "{problems}");
    let attached = status["attachments"].to_string();
    assert!(!attached.contains("encap_pod"), "{attached}");
    let before = Counters::of(daemon);
    assert_answered(&perf.netns, sit.ip);
    let moved = before.moved(daemon);
    assert!(moved[&Reason::HostEncapsulated] >= 3, "{moved:?}");
    assert!(!moved.contains_key(&Reason::PodEncapsulated), "{moved:?}");

    remove_rules(node).unwrap();
    let status = wait_for_status(daemon, 0, "trusted");
    assert!(status["attachments"].to_string().contains("encap_pod"));
    assert_lossless(stream);
    for said in ["the fast path is withheld", "resolved: the fast path is withheld"] {
        assert!(daemon.log()[log..].contains(said), "{}", daemon.log());
    }
}

/// `tunless status`, once it ends with this code and names this fast path. In the middle of a
/// change it may end so for another reason.
fn wait_for_status(daemon: &Daemon, code: i32, fastpath: &str) -> Value {
    until("status", 3 * SOON, || {
        let output = daemon.cli(&["status", "--strict", "-o", "json"]).unwrap();
        let status: Value = serde_json::from_str(&output.stdout).unwrap();
        (output.status == Some(code) && status["fastpath"] == fastpath).then_some(status)
    })
}
