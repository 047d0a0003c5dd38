//! Programs as clsact filters, as on kernels without TCX links.

use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Lab, Netns,
    trace::Snapshot,
    traffic::{ping, tcp},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, assert_answered, assert_lossless, stream_between, until,
};

const CLSACT: &str = "attach: clsact\n";
const TCX: &str = "attach: tcx\n";

/// The filters of ours on an interface's side, as `tc` shows them.
fn filters(node: &Netns, interface: &str, side: &str) -> usize {
    let text = node.exec("tc", &["-j", "filter", "show", "dev", interface, side]).unwrap();
    let filters: Value = serde_json::from_str(&text).unwrap();
    let is_ours = |filter: &&Value| filter["pref"] == 49000 && filter["options"]["handle"] == "0x1";
    filters.as_array().unwrap().iter().filter(is_ours).count()
}

#[test]
fn filters_do_what_links_do() {
    for setup in [Setup::OFF, Setup::TRUSTED, Setup::VERIFIED] {
        Scene::with(Lab::new().fabric_filter(true), setup, CLSACT, &[]).case(|scene| {
            scene.warm_up();
            let (perf, sit) = scene.pods();
            let node2 = &scene.lab.node2.netns;
            let pod_side = usize::from(setup != Setup::OFF);
            assert_eq!(filters(node2, "eth0", "ingress"), 1);
            assert_eq!(filters(node2, "tunless0", "egress"), 1);
            assert_eq!(filters(node2, &perf.cali, "ingress"), pod_side);
            let granting = usize::from(setup == Setup::VERIFIED);
            assert_eq!(filters(node2, &perf.cali, "egress"), granting);

            let report = ping::ping(&perf.netns, sit.ip, &ping::Options::default()).unwrap();
            assert!(report.text.contains("ttl=62"), "{}", report.text);
            let before = Counters::of(&scene.daemon2);
            let to = std::net::SocketAddrV4::new(sit.ip, 8080);
            tcp::bulk(&perf.netns, to, &sit.netns, 8080, &Default::default()).unwrap();
            let moved = before.moved(&scene.daemon2);
            assert_eq!(
                moved.contains_key(&Reason::PodEncapsulated),
                setup != Setup::OFF,
                "{moved:?}"
            );
            let status = scene.daemon2.cli_json(&["status"]).unwrap();
            assert_eq!(status["ready"], true, "{status}");
            scene.assert_nothing_plain();
            // Detach leaves neither filter nor qdisc: the lab compares.
        });
    }
}

#[test]
fn a_restart_takes_filters_over_and_a_detached_one_comes_back() {
    Scene::with(Lab::new(), Setup::VERIFIED, CLSACT, &[]).case(|scene| {
        scene.warm_up();
        let stream = stream_between(scene.lab.perf(), scene.lab.sit(), 5004);
        for _ in 0..3 {
            scene.daemon2.kill9().unwrap();
            scene.daemon2.restart().unwrap();
        }
        assert_eq!(filters(&scene.lab.node2.netns, "eth0", "ingress"), 1);
        assert_lossless(stream);

        let node2 = scene.lab.node2.netns.clone();
        node2.exec("tc", &["filter", "del", "dev", "eth0", "ingress", "pref", "49000"]).unwrap();
        until("the filter is back", SOON, || {
            (filters(&node2, "eth0", "ingress") == 1).then_some(())
        });
        let (perf, sit) = scene.pods();
        assert_answered(&perf.netns, sit.ip);
        // As Felix's start-up clean-up does: the whole qdisc.
        node2.exec("tc", &["qdisc", "del", "dev", &perf.cali, "clsact"]).unwrap();
        until("both filters are back", SOON, || {
            let back =
                filters(&node2, &perf.cali, "ingress") + filters(&node2, &perf.cali, "egress");
            (back == 2).then_some(())
        });
        assert_answered(&perf.netns, sit.ip);
    });
}

#[test]
fn links_and_filters_are_exchanged_without_a_loss() {
    Scene::with(Lab::new(), Setup::VERIFIED, CLSACT, &[]).case(|scene| {
        scene.warm_up();
        let stream = stream_between(scene.lab.perf(), scene.lab.sit(), 5004);
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        for (attach, expected) in [(TCX, 0), (CLSACT, 1), (TCX, 0)] {
            scene.daemon2.rewrite_config(&scene.setup.config(node2, node1, attach)).unwrap();
            until("programs are attached the other way", SOON, || {
                (filters(&node2.netns, "eth0", "ingress") == expected
                    && filters(&node2.netns, &scene.lab.perf().cali, "egress") == expected)
                    .then_some(())
            });
            scene.daemon2.wait_json(&["status"], SOON, |status| status["ready"] == true).unwrap();
        }
        assert_lossless(stream);
    });
}

/// Somebody else's qdisc and filter stay.
#[test]
fn detach_leaves_what_others_put_there() {
    let lab = Lab::new().build().unwrap();
    let netns = lab.node2.netns.clone();
    netns.exec("tc", &["qdisc", "add", "dev", "eth0", "clsact"]).unwrap();
    let theirs = "filter add dev eth0 ingress pref 7 protocol ip u32 match u32 0 0";
    netns.exec("tc", &theirs.split(' ').collect::<Vec<_>>()).unwrap();
    let before = Snapshot::take(&netns).unwrap();
    let config = Setup::OFF.config(&lab.node2, &lab.node1, CLSACT);
    let daemon = tunless_lab::Daemon::start(&lab.node2, &config).unwrap();
    assert_eq!(filters(&netns, "eth0", "ingress"), 1);
    daemon.finish().unwrap();
    assert_eq!(before.difference(&Snapshot::take(&netns).unwrap()), Vec::<String>::new());
}
