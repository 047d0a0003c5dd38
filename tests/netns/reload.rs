//! The configuration changes while packets flow.

use std::{collections::BTreeSet, fs, net::Ipv4Addr};

use aya::maps::{Map, MapData};
use dataplane_user::bpf::masks::Masks;
use serde_json::{Value, json};
use tunless_lab::{Daemon, Lab, LabBuilder, Node, Pod};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, assert_answered, assert_lossless, stream_between, until,
    while_the_kernel_is_busy,
};

/// Which prefixes the programs of a node look for.
fn lengths(node: &Node) -> BTreeSet<u8> {
    let masks = fs::read_dir(&node.bpffs)
        .unwrap()
        .map(|version| version.unwrap().path().join("MASKS"))
        .find(|pin| pin.exists())
        .unwrap();
    let map = Map::Array(MapData::from_pin(masks).unwrap());
    Masks::new(map).unwrap().lengths().unwrap()
}

#[test]
fn prefixes_of_another_length_come_and_go() {
    let lab = Lab::new().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let known = (node1.block, node1.ip);
    let config = |routes: &[(&str, Ipv4Addr)]| Setup::OFF.config_with(node2, routes, "");
    let mut daemon = Daemon::start(node2, &config(&[known])).unwrap();
    // Blocks, and what is our own.
    assert_eq!(lengths(node2), BTreeSet::from([26, 32]));
    let further = [("10.99.0.0/20", node1.ip), ("10.99.4.0/24", node1.ip)];
    for (routes, expected, cidr) in [
        (&[known, further[0]][..], &[20, 26, 32][..], Some("10.99.0.0/20")),
        (&[known, further[0], further[1]], &[20, 24, 26, 32], Some("10.99.4.0/24")),
        (&[known, further[1]], &[24, 26, 32], Some("10.99.4.0/24")),
        (&[known], &[26, 32], None),
    ] {
        daemon.replace_config(&config(routes)).unwrap();
        daemon.reload().unwrap();
        let expected: BTreeSet<u8> = expected.iter().copied().collect();
        until("the lengths there are", SOON, || (lengths(node2) == expected).then_some(()));
        let got = daemon.cli(&["routes", "get", "10.99.4.7", "-o", "json"]).unwrap();
        let got: Value = serde_json::from_str(&got.stdout).unwrap();
        assert_eq!(got["cidr"].as_str(), cidr);
        assert_eq!(got["found"], cidr.is_some());
    }
    daemon.finish().unwrap();
}

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true).third_node(true)
}

/// node1 and node2 know each other, node3 knows both; on node3 there is a pod.
struct Three {
    scene: Scene,
    daemon3: Daemon,
    pod3: Pod,
}

impl Three {
    fn new(setup: Setup, start2: impl Fn(&tunless_lab::Node, &str) -> Daemon) -> Self {
        println!("{setup:?}");
        let lab = lab().build().unwrap();
        let node3 = lab.node3.as_ref().unwrap();
        let pod3 = node3.add_pod("third", Lab::pod_ip(node3, 9)).unwrap();
        let (node1, node2) = (&lab.node1, &lab.node2);
        let daemon1 = Daemon::start(node1, &setup.config(node1, node2, "")).unwrap();
        let daemon2 = start2(node2, &setup.config(node2, node1, ""));
        let both = [(node1.block, node1.ip), (node2.block, node2.ip)];
        let daemon3 = Daemon::start(node3, &setup.config_with(node3, &both, "")).unwrap();
        let scene = Scene { daemon1, daemon2, lab, setup };
        Self { scene, daemon3, pod3 }
    }

    /// Runs a test as [`Scene::each`] does; node3's daemon goes on.
    fn run(self, test: impl Fn(&mut Scene, &Pod)) {
        let Self { mut scene, daemon3, pod3 } = self;
        if scene.setup.is_repeated() {
            scene.twice(|scene| test(scene, &pod3));
        } else {
            test(&mut scene, &pod3);
        }
        daemon3.finish().unwrap();
        scene.finish();
    }
}

/// What node2 is configured with: node1's block, and these besides.
fn config(scene: &Scene, more: &[(&str, Ipv4Addr)]) -> String {
    let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
    let routes = [&[(node1.block, node1.ip)], more].concat();
    scene.setup.config_with(node2, &routes, "")
}

/// Adds, changes and removes a route by `apply`, under a stream to node1
/// that loses nothing.
fn routes_change_by(scene: &mut Scene, pod3: &Pod, apply: impl Fn(&mut Daemon, &str)) {
    let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
    let stream = stream_between(&perf, &sit, 5007);
    let back = stream_between(&sit, &perf, 5008);
    let (node1, node3) = (scene.lab.node1.ip, scene.lab.node3.as_ref().unwrap());
    let (block, node3) = (node3.block, node3.ip);
    let borrowed = format!("{}/32", pod3.ip);

    let steps: [&[(&str, Ipv4Addr)]; 4] = [
        &[(block, node3)],
        // The block moves; then one address of it stays behind.
        &[(block, node1)],
        &[(block, node1), (&borrowed, node3)],
        &[],
    ];
    for routes in steps {
        let text = config(scene, routes);
        apply(&mut scene.daemon2, &text);
        let expected = routes.iter().map(|(cidr, node)| json!([cidr, node.to_string()]));
        let expected: Vec<Value> = expected.collect();
        let listed = |answer: &Value| {
            let others = answer["items"].as_array().unwrap().iter();
            let others = others.filter(|item| item["cidr"] != "10.20.42.0/26");
            others.map(|item| json!([item["cidr"], item["node"]])).collect::<Vec<_>>()
        };
        let same = |answer: &Value| {
            let listed = listed(answer);
            listed.len() == expected.len() && expected.iter().all(|e| listed.contains(e))
        };
        scene.daemon2.wait_json(&["routes", "list"], SOON, same).unwrap();
        scene.daemon2.cli_json(&["status", "--wait=15s"]).unwrap();
        // They follow the maps that `routes list` reads.
        until(&format!("the kernel's routes are as in {routes:?}"), SOON, || {
            let kernel = scene.lab.node2.netns.ip("route show dev tunless0").unwrap();
            let follows = |cidr: &str| {
                let wanted = routes.iter().any(|(it, _)| it.trim_end_matches("/32") == cidr);
                kernel.lines().any(|line| line.starts_with(cidr)) == wanted
            };
            [block, &pod3.ip.to_string()].into_iter().all(follows).then_some(())
        });
        // As the longest prefix says.
        let address = pod3.ip.to_string();
        let got = scene.daemon2.cli(&["routes", "get", &address, "-o", "json"]).unwrap();
        match routes.last() {
            None => assert_eq!(got.status, Some(3), "{}", got.stdout),
            Some((_, node)) => {
                let got: Value = serde_json::from_str(&got.stdout).unwrap();
                assert_eq!(got["node"], node.to_string());
                if *node == node3 {
                    assert_answered(&perf.netns, pod3.ip);
                }
            }
        }
    }
    assert_lossless(stream);
    assert_lossless(back);
    scene.assert_nothing_plain();
}

#[test]
fn routes_change_with_a_plain_file() {
    for setup in Setup::ALL {
        let three = Three::new(setup, |node, yaml| Daemon::start(node, yaml).unwrap());
        // In place, by rename, and by a signal.
        three.run(|scene, pod3| {
            routes_change_by(scene, pod3, |daemon, yaml| daemon.rewrite_config(yaml).unwrap());
            routes_change_by(scene, pod3, |daemon, yaml| daemon.replace_config(yaml).unwrap());
            routes_change_by(scene, pod3, |daemon, yaml| {
                daemon.rewrite_config(yaml).unwrap();
                daemon.reload().unwrap();
            });
        });
    }
}

#[test]
fn routes_change_with_a_config_map() {
    for setup in Setup::ALL {
        let three = Three::new(setup, |node, yaml| Daemon::start_mounted(node, yaml).unwrap());
        three.run(|scene, pod3| {
            routes_change_by(scene, pod3, |daemon, yaml| daemon.swap_config(yaml).unwrap());
        });
    }
}

#[test]
fn a_bad_file_changes_nothing() {
    Scene::each(&Lab::new().fabric_filter(true), |scene| {
        scene.warm_up();
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
        let (out, back) = (stream_between(perf, sit, 5009), stream_between(sit, perf, 5010));
        let good = scene.setup.config(node2, node1, "");
        let routes = |daemon: &Daemon| {
            let answer = daemon.cli_json(&["routes", "list"]).unwrap();
            let items = answer["items"].as_array().unwrap().iter();
            items.map(|item| json!([item["cidr"], item["node"]])).collect::<Vec<_>>()
        };
        let before = routes(&scene.daemon2);
        let path = scene.daemon2.config_path();
        let bad = [
            // Line 7 comes after the six of the good one.
            (format!("{good}colour: red\n"), ":7: unknown field `colour`"),
            (good.replace("10.20.42.0/26", "10.20.42.1/26"), ":6: routes.static[0].cidr: "),
            (
                good.replace(&node1.ip.to_string(), &node2.ip.to_string()),
                ":6: routes.static[0].node: ",
            ),
            (good.replace("routes:", "routes: {"), ":6: did not find expected node content"),
            (
                good.replace("underlay: {", "underlay: {interfaces: [eth7], "),
                ":2: underlay.interfaces[0]: ",
            ),
            (format!("{good}bpffs: /sys/fs/bpf/elsewhere\n"), ": bpffs: "),
        ];
        for (text, why) in &bad {
            scene.daemon2.rewrite_config(text).unwrap();
            let said = format!("{}{why}", path.display());
            // The last word: a reader that comes between emptying and writing refuses that, too.
            until(&format!("the last refusal says {said}"), SOON, || {
                let log = scene.daemon2.log();
                let last = log.rsplit_once("the file on disk is refused")?.1;
                last.contains(&said).then_some(())
            });
            assert_eq!(routes(&scene.daemon2), before);
            let status = scene.daemon2.cli(&["status"]).unwrap();
            assert_eq!(status.status, Some(0), "{}", status.stdout);
        }
        // Emptied, as by an editor that is about to write it anew.
        let log = scene.daemon2.log().len();
        std::fs::write(&path, "").unwrap();
        until("it is refused", SOON, || {
            scene.daemon2.log()[log..].contains("the file is empty").then_some(())
        });
        assert_eq!(routes(&scene.daemon2), before);
        // By signal it is the same.
        scene.daemon2.rewrite_config("colour: red\n").unwrap();
        scene.daemon2.reload().unwrap();
        assert_eq!(routes(&scene.daemon2), before);
        // And a good one is taken again.
        let counters = Counters::of(&scene.daemon2);
        scene.daemon2.rewrite_config(&good.replace("routes:", "spoof: stack\nroutes:")).unwrap();
        let stack = |status: &Value| status["spoof"] == "stack";
        scene.daemon2.wait_json(&["status"], SOON, stack).unwrap();
        assert_lossless(out);
        assert_lossless(back);
        counters.assert_nothing_dropped(&scene.daemon2);
        scene.assert_nothing_plain();
    });
}

/// A change of the file must not be forgotten because the kernel, too, has
/// something to say at that very moment.
#[test]
fn a_change_is_seen_while_the_kernel_is_busy() {
    Scene::each_of(&[Setup::OFF], &Lab::new(), |scene| {
        while_the_kernel_is_busy(scene, || {
            for spoof in ["stack", "drop", "stack", "drop"] {
                let more = format!("spoof: {spoof}\n");
                let text = scene.setup.config(&scene.lab.node2, &scene.lab.node1, &more);
                scene.daemon2.rewrite_config(&text).unwrap();
                let seen = |status: &Value| status["spoof"] == spoof;
                scene.daemon2.wait_json(&["status"], SOON, seen).unwrap();
            }
        });
    });
}
