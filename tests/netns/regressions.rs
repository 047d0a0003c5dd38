//! What once was wrong, or would be if nobody looked: one test each.

use std::{fs, path::Path};

use aya::programs::links::PinnedLink;
use tunless_lab::{Daemon, Lab, felix};
use tunless_tests::scene::{
    HASTY, SOON, Scene, Setup, answers, assert_lossless, stream_between, until,
};

/// The kernel removes routes together with the address that is their `src`: the
/// old address may only go once the routes name the new one.
#[test]
fn a_new_tunnel_address_loses_nothing() {
    for setup in [Setup::OFF, Setup::TRUSTED] {
        Scene::new(Lab::new().fabric_filter(true), setup).case(|scene| {
            scene.warm_up();
            let (perf, sit) = scene.pods();
            let stream = stream_between(perf, sit, 5005);
            let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
            let old = format!("tunnel_address: {}", node2.tunnel);
            let config =
                setup.config(node2, node1, "").replace(&old, "tunnel_address: 10.20.105.193");
            scene.daemon2.replace_config(&config).unwrap();
            let is_there = |address| {
                let shown = node2.netns.ip("addr show dev tunless0").unwrap();
                shown.contains(&format!("inet {address}/32"))
            };
            until("the new address alone", SOON, || {
                (is_there("10.20.105.193".to_owned()) && !is_there(node2.tunnel.to_string()))
                    .then_some(())
            });
            let routes = node2.netns.ip("route show dev tunless0").unwrap();
            assert!(routes.contains("src 10.20.105.193"), "{routes}");
            assert_lossless(stream);
            scene.assert_nothing_plain();
        });
    }
}

/// `trusted` programs stay at work when their daemon dies. If Felix has come
/// meanwhile, the next daemon must end that, not refuse to start.
#[test]
fn a_restart_does_not_leave_trusted_programs_under_felix() {
    Scene::with(Lab::new(), Setup::TRUSTED, "", &HASTY).case(|scene| {
        scene.warm_up();
        scene.daemon2.kill9().unwrap();
        let log = scene.daemon2.log().len();
        felix::trace(&scene.lab.node2.netns).unwrap();
        scene.daemon2.restart().unwrap();
        let output = scene.daemon2.cli(&["status", "--strict", "-o", "json"]).unwrap();
        assert_eq!(output.status, Some(3), "{}", output.stdout);
        let status: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(status["fastpath"], "off", "{status}");
        assert!(!status["attachments"].to_string().contains("encap_pod"), "{status}");
        assert!(scene.daemon2.log()[log..].contains("the fast path is withheld"));
    });
}

/// Made, but not named yet: what `kill -9` may leave in between.
#[test]
fn a_device_left_half_made_is_finished() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    node.netns.ip("link add tunless0 type veth peer name tunless0-peer").unwrap();
    let daemon = Daemon::start(node, &Setup::OFF.config(node, &lab.node1, "")).unwrap();
    let shown = node.netns.ip("-d link show tunless0").unwrap();
    assert!(shown.contains("alias tunless ") && shown.contains("NOARP"), "{shown}");
    assert_eq!(daemon.cli_json(&["status"]).unwrap()["ready"], true);
    daemon.finish().unwrap();
    assert!(!node.netns.ip("link show").unwrap().contains("tunless0"));
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// Others may keep pins beside ours.
#[test]
fn detach_leaves_the_pins_of_others() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let mut daemon = Daemon::start(node, &Setup::OFF.config(node, &lab.node1, "")).unwrap();
    // Named so that only a careless look takes it for ours.
    let others = Path::new(&node.bpffs).join("vlan");
    fs::create_dir(&others).unwrap();
    daemon.terminate().unwrap();
    let output = daemon.cli(&["detach"]).unwrap();
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    assert!(others.is_dir(), "{}", output.stderr);
    assert!(!Path::new(&node.bpffs).join("links").exists());
    fs::remove_dir(&others).unwrap();
    fs::remove_dir(&node.bpffs).unwrap();
    drop(daemon);
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// Commands that do something say so in JSON, too.
#[test]
fn what_was_done_is_said_in_json() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let mut daemon = Daemon::start(node, &Setup::OFF.config(node, &lab.node1, "")).unwrap();
    let flushed = daemon.cli_json(&["counters", "flush"]).unwrap();
    assert_eq!(flushed, serde_json::json!({"apiVersion": "tunless/v1", "flushed": true}));
    let mut validated = daemon.cli_json(&["config", "validate", "--here"]).unwrap();
    let here = validated.as_object_mut().unwrap().remove("here").expect("the host was looked at");
    assert_eq!((&here["routes"], &here["problems"]), (&1.into(), &serde_json::json!([])));
    assert_eq!(
        validated,
        serde_json::json!({"apiVersion": "tunless/v1", "valid": true, "routes": 1, "nodes": 1})
    );
    daemon.terminate().unwrap();
    let detached = daemon.cli_json(&["detach"]).unwrap();
    assert!(detached["removed"].to_string().contains("the device tunless0"), "{detached}");
    drop(daemon);
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// The bpffs itself is everybody's.
#[test]
fn the_bpffs_itself_is_refused() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let config = Setup::OFF.config(node, &lab.node1, "bpffs: /sys/fs/bpf\n");
    let (code, stderr) = tunless_lab::daemon::expect_failure(node, &config).unwrap();
    assert_eq!(code, 1);
    assert!(stderr.contains("is the bpffs itself"), "{stderr}");
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// A file refused for its mode is taken once the mode is mended: its text is
/// the same.
#[test]
fn a_mended_mode_is_noticed() {
    use std::os::unix::fs::PermissionsExt as _;

    Scene::new(Lab::new().third_node(true), Setup::OFF).case(|scene| {
        let (node2, node3) = (&scene.lab.node2, scene.lab.node3.as_ref().unwrap());
        let more = format!("    - {{cidr: {}, node: {}}}\n", node3.block, node3.ip);
        let config = Setup::OFF.config(node2, &scene.lab.node1, &more);
        let path = scene.daemon2.config_path();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o666);
        let log = scene.daemon2.log().len();
        scene.daemon2.rewrite_config(&config).unwrap();
        // Writing may have put the mode right; then it is the second time that counts.
        mode(0o666);
        let routes = |scene: &Scene| {
            let list = scene.daemon2.cli(&["routes", "list", "-o", "json"]).unwrap();
            list.stdout.matches("\"cidr\"").count()
        };
        until("it is refused or taken", SOON, || {
            let is_refused = scene.daemon2.log()[log..].contains("chmod o-w");
            (is_refused || routes(scene) == 2).then_some(())
        });
        mode(0o600);
        until("the new route", SOON, || (routes(scene) == 2).then_some(()));
    });
}

/// The kernel takes a device's routes with the device. With nobody there to mend
/// it, pods' packets must not take the default route instead.
#[test]
fn without_the_device_nothing_leaves_plain() {
    for setup in [Setup::OFF, Setup::TRUSTED] {
        Scene::new(Lab::new().fabric_filter(true), setup).case(|scene| {
            scene.warm_up();
            scene.daemon2.kill9().unwrap();
            let node = &scene.lab.node2.netns;
            node.ip("link del tunless0").unwrap();
            let (perf, sit) = scene.pods();
            let way = format!("route get {} from {} iif {}", sit.ip, perf.ip, perf.cali);
            node.ip(&way).expect_err("the stack has no way");
            answers(&perf.netns, sit.ip);
            scene.assert_nothing_plain();
            scene.daemon2.restart().unwrap();
            scene.warm_up();
            scene.assert_nothing_plain();
        });
    }
}

/// Pods of a node that detached are not reached by what is left.
#[test]
fn nothing_forwards_after_detach() {
    Scene::each(&Lab::new(), |scene| {
        scene.warm_up();
        scene.daemon2.terminate_and_detach().unwrap();
        let (perf, sit) = scene.pods();
        assert!(!answers(&perf.netns, sit.ip));
    });
}

/// A link lives as long as a descriptor of it, however briefly `status` or `bpftool` holds one;
/// and even without one the kernel ends it some time after its last pin has gone.
#[test]
fn nothing_forwards_after_detach_while_links_are_read() {
    Scene::each(&Lab::new(), |scene| {
        scene.warm_up();
        let pins = fs::read_dir(scene.lab.node2.bpffs.join("links")).unwrap();
        let links: Vec<PinnedLink> =
            pins.map(|pin| PinnedLink::from_pin(pin.unwrap().path()).unwrap()).collect();
        assert!(links.len() >= 2, "{}", links.len());
        scene.daemon2.terminate_and_detach().unwrap();
        let (perf, sit) = scene.pods();
        assert!(!answers(&perf.netns, sit.ip));
        drop(links);
    });
}

/// The daemon takes programs away while somebody reads their pins: a name that
/// leads nowhere is no failure.
#[test]
fn a_pin_that_vanishes_meanwhile_does_not_break_status() {
    Scene::new(Lab::new(), Setup::VERIFIED).case(|scene| {
        let vanished = scene.lab.node2.bpffs.join("links/encap_pod_4711");
        std::os::unix::fs::symlink("nowhere", &vanished).unwrap();
        let status = scene.daemon2.cli_json(&["status"]).unwrap();
        assert!(!status["attachments"].to_string().contains("4711"), "{status}");
        fs::remove_file(vanished).unwrap();
    });
}
