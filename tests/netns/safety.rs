//! Nothing plain leaves, nothing forged gets in, whoever pulls the plug.

use std::{fs, net::SocketAddrV4, path::PathBuf, process::Command};

use dataplane_common::Reason;
use tunless_lab::{
    Lab, LabBuilder, Pod,
    capture::Capture,
    cmd,
    packet::{Ipv4, icmp_echo},
    traffic::{ping, tcp},
};
use tunless_tests::scene::{
    Counters, HASTY, SOON, Scene, answers, assert_answered, endpoint_of, hostile::Attack, until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// The pin of the program at node2's tunnel device.
fn encap_host_pin(scene: &Scene) -> PathBuf {
    let links = scene.lab.node2.bpffs.join("links");
    let names = fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.to_string_lossy().contains("/encap_host_");
    names.into_iter().find(is_it).expect("encap_host is pinned")
}

/// Whoever needs the stack path on node2 gets nowhere, least of all in plain.
fn assert_cut_off(scene: &Scene) {
    let (perf, sit) = scene.pods();
    // The kernel frees a link some time after its last reference is gone.
    until("the host has no program to go by", SOON, || {
        (!answers(&scene.lab.node2.netns, sit.ip)).then_some(())
    });
    // The fast path needs no tunnel device.
    assert_eq!(answers(&perf.netns, sit.ip), scene.setup.is_trusted());
    let options =
        tcp::Options { timeout: std::time::Duration::from_millis(500), ..Default::default() };
    let to = SocketAddrV4::new(sit.ip, 5001);
    tcp::bulk(&perf.netns, to, &sit.netns, 5001, &options).expect_err("a SYN takes the stack path");
    scene.assert_nothing_plain();
}

fn assert_repaired(scene: &Scene) {
    let (perf, sit) = scene.pods();
    assert_answered(&scene.lab.node2.netns, sit.ip);
    assert_answered(&perf.netns, sit.ip);
    scene.assert_nothing_plain();
}

#[test]
fn without_its_pin_the_program_is_gone_and_nothing_leaves() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        scene.daemon2.kill9().unwrap();
        fs::remove_file(encap_host_pin(scene)).unwrap();
        let status = scene.daemon2.cli(&["status"]).unwrap();
        assert_eq!(status.status, Some(3), "{}", status.stdout);
        assert_cut_off(scene);
        scene.daemon2.restart().unwrap();
        assert_repaired(scene);
    });
}

#[test]
fn a_detached_program_is_attached_again() {
    Scene::each_by(
        |setup| Scene::with(lab(), setup, "", &HASTY),
        |scene| {
            scene.warm_up();
            scene.daemon2.kill9().unwrap();
            let pin = encap_host_pin(scene);
            let detach = || {
                let mut command = Command::new("bpftool");
                cmd::check(command.args(["link", "detach", "pinned"]).arg(&pin), b"").unwrap();
            };
            detach();
            let status = scene.daemon2.cli(&["status"]).unwrap();
            assert_eq!(status.status, Some(3), "{}", status.stdout);
            assert!(status.stdout.contains("encap_host is no longer attached to tunless0"));
            assert_cut_off(scene);
            scene.daemon2.restart().unwrap();
            assert_repaired(scene);

            // A daemon that runs notices by itself, at the latest when it compares
            // everything again.
            detach();
            until("the host is heard again", SOON, || {
                answers(&scene.lab.node2.netns, scene.lab.sit().ip).then_some(())
            });
            assert_repaired(scene);
        },
    );
}

/// `rp_filter` judges it as it would with tunl0: the way back leads into the
/// tunnel device, not to the NIC.
#[test]
fn a_plain_packet_from_a_remote_pods_address_is_not_delivered() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let sit = scene.lab.sit().ip;
        let attack = Attack::new(scene);
        let plain = attack.inner(sit);
        for _ in 0..3 {
            attack.send(&plain);
        }
        attack.assert_nothing_delivered();
        // The very same packet in its tunnel is.
        let attack = Attack::new(scene);
        attack.send(&attack.outer().packet(&plain));
        attack.wait_for_delivery(|frame| frame.is_plain(sit, scene.lab.perf().ip));
    });
}

/// The fast path skips `rp_filter`, so it must not take the packet.
#[test]
fn a_pod_that_sends_with_its_neighbours_address_gets_nowhere() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let node2 = &scene.lab.node2;
        let forger = node2.add_pod("forger", Lab::pod_ip(node2, 40)).unwrap();
        endpoint_of(&scene.daemon2, &forger);
        assert_answered(&forger.netns, sit.ip);
        forger.netns.ip(&format!("addr add {}/32 dev eth0", perf.ip)).unwrap();

        let wire = Capture::wire(&scene.lab.router, node2).unwrap();
        let before = Counters::of(&scene.daemon2);
        let options = ping::Options {
            source: Some(perf.ip),
            wait: std::time::Duration::from_millis(200),
            ..Default::default()
        };
        assert_eq!(ping::ping(&forger.netns, sit.ip, &options).unwrap().received, 0);
        match scene.setup.fastpath {
            "trusted" => before.assert_moved(&scene.daemon2, &[(Reason::PodForgedSource, 3)]),
            // No ping is leased, whoever sends it.
            "verified" => before.assert_moved(&scene.daemon2, &[(Reason::PodNoPorts, 3)]),
            _ => before.assert_moved(&scene.daemon2, &[]),
        }
        // A good packet goes the same way last: what was under way is there.
        assert_answered(&forger.netns, sit.ip);
        let nodes = (node2.ip, scene.lab.node1.ip);
        let frames = wire.stop().unwrap();
        assert!(frames.iter().any(|frame| frame.is_ipip(nodes, (forger.ip, sit.ip))));
        let forged = frames.iter().find(|frame| frame.is_ipip(nodes, (perf.ip, sit.ip)));
        assert_eq!(forged, None);
        scene.assert_nothing_plain();
        node2.remove_pod(&forger).unwrap();
    });
}

/// A pod's VXLAN packet has its checksum pending for the hardware; the kernel
/// lets nobody wrap such a packet once more. There is no tunl0 to fall back to:
/// it is dropped and counted as what it is.
#[test]
fn a_pod_running_vxlan_is_counted_and_never_plain() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let vxlan = |pod: &Pod, remote: &Pod, address: &str| {
            pod.netns
                .ip_batch(&format!(
                    "link add vx0 mtu 1400 type vxlan id 42 dstport 4789 \
                     local {} remote {} dev eth0\n\
                     addr add {address}/24 dev vx0\n\
                     link set vx0 up\n",
                    pod.ip, remote.ip
                ))
                .unwrap();
        };
        vxlan(perf, sit, "192.168.77.1");
        vxlan(sit, perf, "192.168.77.2");
        let before = Counters::of(&scene.daemon2);
        let options =
            tcp::Options { timeout: std::time::Duration::from_secs(2), ..Default::default() };
        let to = "192.168.77.2:5001".parse().unwrap();
        tcp::bulk(&perf.netns, to, &sit.netns, 5001, &options).expect_err("TCP needs offloads");
        let moved = before.moved(&scene.daemon2);
        assert!(moved.contains_key(&Reason::HostAlreadyEncapsulated), "{moved:?}");
        if scene.setup.is_trusted() {
            assert!(moved.contains_key(&Reason::PodAlreadyEncapsulated), "{moved:?}");
        }
        scene.assert_nothing_plain();
        // The pods themselves are as well as before.
        assert_answered(&perf.netns, sit.ip);
        for pod in [perf, sit] {
            pod.netns.ip("link del vx0").unwrap();
        }
    });
}

/// With nobody for protocol 4 the kernel answers "protocol unreachable" to
/// whoever forged the packet. The daemon keeps a socket against that.
#[test]
fn a_stranger_gets_no_answer() {
    Scene::each(&lab(), |scene| {
        let Lab { node2, router, .. } = &scene.lab;
        let stranger = std::net::Ipv4Addr::new(172, 16, 35, 99);
        let inner = Ipv4::icmp(scene.lab.sit().ip, scene.lab.perf().ip);
        let forged =
            Ipv4::ipip(stranger, node2.ip).packet(&inner.packet(&icmp_echo(8, 1, 1, b"hello")));
        let before = Counters::of(&scene.daemon2);
        let wire = Capture::wire(router, node2).unwrap();
        let attack = Attack::new(scene);
        attack.send(&forged);
        before.wait_for_only(&scene.daemon2, Reason::DecapUnknownNode, 1, SOON);
        attack.assert_nothing_delivered();
        let answer = |frame: &tunless_lab::frame::Frame| frame.is_plain(node2.ip, stranger);
        assert!(!wire.stop().unwrap().iter().any(answer), "node2 kept silent");

        // The control: without the daemon's socket there is an answer.
        scene.daemon2.terminate().unwrap();
        let wire = Capture::wire(&scene.lab.router, &scene.lab.node2).unwrap();
        Attack::new(scene).send(&forged);
        wire.wait_for(SOON, answer).expect("protocol unreachable");
    });
}
