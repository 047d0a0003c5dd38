//! `tunless doctor`: what is wrong on a node, each found by one command, with the row that names it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use dataplane_user::bpf::sys;
use tunless_lab::{
    Daemon, Lab, LabBuilder, cmd,
    daemon::Tunless,
    felix::{Allow, Endpoint, deny_first, enforce},
    traffic::ping,
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup, answers, examined::Rows, hostile::Attack, until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

#[test]
fn a_healthy_node_passes_each_check() {
    for setup in [Setup::OFF, Setup::VERIFIED] {
        let scene = Scene::new(lab(), setup);
        scene.warm_up();
        let rows = Rows::of(&scene.daemon2, &[]);
        assert_eq!(rows.status, Some(0));
        let checks: BTreeSet<&str> =
            rows.items.iter().map(|row| row["check"].as_str().unwrap()).collect();
        for check in [
            "kernel",
            "capabilities",
            "pins",
            "programs",
            "hooks",
            "daemon",
            "configuration",
            "node",
            "tunnel",
            "sources",
            "routes",
            "forwarding",
            "rp-filter",
            "mtu",
            "leases",
            "xdp",
            "cpus",
            "maps",
            "ipsec",
            "wireguard",
            "spoofs",
            "peers",
        ] {
            assert!(checks.contains(check), "no {check} in {checks:?}");
        }
        for row in &rows.items {
            assert_eq!(row["verdict"], "PASS", "{row:#}");
            let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["check", "remedy", "verdict", "what", "where"]);
        }
        rows.one("mtu", "PASS", &["tunless0 1480, underlay 1500, pods 1480"]);
        rows.one("peers", "PASS", &["1 of 1 node heard"]);
        let text = scene.daemon2.cli(&["doctor"]).unwrap();
        let last = text.stdout.lines().last().unwrap();
        assert!(
            last.contains(" rows: 0 failed, 0 warnings, in ") && last.ends_with(" s"),
            "{last}"
        );
        let wide = scene.daemon2.cli(&["doctor", "-o", "wide"]).unwrap();
        assert!(wide.stdout.starts_with("CHECK"), "{}", wide.stdout);
        scene.finish();
    }
}

/// The route names a node that is not there: nothing ever comes back.
#[test]
fn a_node_that_was_never_heard_is_named() {
    let lab = lab().build().unwrap();
    let node2 = &lab.node2;
    let wrong = "172.16.35.99";
    let config =
        Setup::VERIFIED.config_with(node2, &[(lab.node1.block, wrong.parse().unwrap())], "");
    let daemon = Daemon::start(node2, &config).unwrap();
    let options = ping::Options { count: 10, ..Default::default() };
    until("ten packets are sent", SOON, || {
        ping::ping(&lab.perf().netns, lab.sit().ip, &options).unwrap();
        let nodes = daemon.cli_json(&["nodes", "list"]).unwrap();
        (nodes["items"][0]["encap_packets"].as_u64()? >= 10).then_some(())
    });
    let rows = Rows::of(&daemon, &[]);
    rows.assert_only(&["peers"]);
    let row = rows.one("peers", "FAIL", &["never heard it", "the route names the wrong node"]);
    assert_eq!(row["where"], wrong);
    assert_eq!(row["remedy"], format!("run `tunless doctor --peer {wrong}`"));
    daemon.finish().unwrap();
}

#[test]
fn what_the_kernel_keeps_from_pods_is_counted() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (perf, sit) = scene.pods();
    enforce(&scene.lab.node2.netns, &[Endpoint::allowing(perf, Allow::port(9))]).unwrap();
    deny_first(perf, sit.ip).unwrap();
    let before = Counters::of(&scene.daemon2);
    let _ = sit.netns.exec(
        "timeout",
        &[
            "3",
            "bash",
            "-c",
            &format!("for n in 1 2 3 4 5 6 7; do (echo > /dev/tcp/{}/80) & done; wait", perf.ip),
        ],
    );
    until("seven packets were decapsulated", SOON, || {
        let moved = before.moved(&scene.daemon2);
        (moved.get(&dataplane_common::Reason::DecapControlToStack).copied()? >= 7).then_some(())
    });
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    let row = rows.one("delivery", "WARN", &["the kernel kept", "policy, rp_filter or forwarding"]);
    assert!(row["remedy"].as_str().unwrap().contains("tunless explain --from"), "{row:#}");
    // What it advises names the rule.
    let (from, to) = (sit.ip.to_string(), format!("{}:80", perf.ip));
    let explained = scene.daemon2.cli(&["explain", "--from", &from, "--to", &to]).unwrap();
    assert_eq!(explained.status, Some(3), "{}", explained.stdout);
    let says =
        "a rule of netfilter drops the first packet of such a connection: ip filter cali-tw-";
    assert!(explained.stdout.contains(says), "{}", explained.stdout);
    scene.finish();
}

/// Strict `rp_filter`, and a route of another program inside ours.
#[test]
fn a_strict_rp_filter_with_a_foreign_route_is_named() {
    // Where the mode is named, `rp_filter` of the tunnel device stays as the host has it.
    let scene = Scene::with(lab(), Setup::VERIFIED, "mode: replace\n", &[]);
    scene.warm_up();
    let node2 = &scene.lab.node2;
    let longer = "10.20.42.0/27";
    node2.netns.ip(&format!("route add {longer} via {}", node2.gateway)).unwrap();
    assert!(!answers(&scene.lab.sit().netns, scene.lab.perf().ip), "it is as bad as reported");
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&["routes", "rp-filter"]);
    let leads = format!("leads via {} dev eth0", node2.gateway);
    let row = rows.one("rp-filter", "FAIL", &["rp_filter is 1", longer, &leads, "tunless0"]);
    assert_eq!(row["where"], format!("tunless0 {longer}"));
    assert!(row["remedy"].as_str().unwrap().contains("rp_filter=2"), "{row:#}");
    rows.one("routes", "FAIL", &[longer]);
    // Loose, it is the route alone that is wrong.
    for name in ["all", "tunless0"] {
        node2.netns.set_sysctl(&format!("ipv4/conf/{name}/rp_filter"), "2").unwrap();
    }
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&["routes"]);
    node2.netns.ip(&format!("route del {longer}")).unwrap();
    scene.finish();
}

#[test]
fn a_kernel_that_does_not_forward_fails() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    scene.lab.node2.netns.set_sysctl("ipv4/ip_forward", "0").unwrap();
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&["forwarding"]);
    let row = rows.one("forwarding", "FAIL", &["net.ipv4.conf.tunless0.forwarding is 0"]);
    assert!(row["remedy"].as_str().unwrap().contains("net.ipv4.ip_forward=1"), "{row:#}");
    scene.lab.node2.netns.set_sysctl("ipv4/ip_forward", "1").unwrap();
    scene.finish();
}

/// A pod that sends from another address: `rp_filter` drops that on its own node.
#[test]
fn a_pod_that_spoofs_is_seen_on_its_node() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (perf, sit) = scene.pods();
    perf.netns.ip("addr add 10.20.105.250/32 dev eth0").unwrap();
    let to = sit.ip.to_string();
    let mut spoofing = perf.netns.command("ping");
    spoofing.args(["-q", "-i", "0.1", "-I", "10.20.105.250", &to]);
    let mut spoofing = spoofing.stdout(Stdio::null()).spawn().unwrap();
    let rows = until("it is seen", SOON, || {
        let rows = Rows::of(&scene.daemon2, &[]);
        (!rows.all("rp-filter", "WARN").is_empty()).then_some(rows)
    });
    spoofing.kill().unwrap();
    spoofing.wait().unwrap();
    rows.assert_only(&[]);
    rows.one("rp-filter", "WARN", &["from pods with a source that is not theirs"]);
    scene.finish();
}

/// Where `rp_filter` is off there, the other node drops it.
#[test]
fn a_spoofed_source_is_seen_on_the_other_node() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let attack = Attack::new(&scene);
    let before = Counters::of(&scene.daemon2);
    for source in [scene.lab.perf().ip, scene.lab.node2.tunnel] {
        attack.send(&attack.outer().packet(&attack.inner(source)));
    }
    before.wait_for_only(&scene.daemon2, dataplane_common::Reason::DecapOwnSource, 2, SOON);
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    let row = rows.one("spoofs", "WARN", &["other nodes", "decap_own_source 2 (dropped)"]);
    assert!(row["remedy"].as_str().unwrap().contains("log_spoofs"), "{row:#}");
    attack.assert_nothing_delivered();
    scene.finish();
}

/// With the daemon dead nothing is repaired: the nft table, and a program.
#[test]
fn what_was_removed_is_named_without_a_daemon() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    scene.daemon2.kill9().unwrap();
    let node2 = scene.lab.node2.clone();
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    rows.one("daemon", "WARN", &["not running"]);
    rows.one("netfilter", "PASS", &[]);
    node2.netns.exec("nft", &["delete", "table", "ip", "tunless"]).unwrap();
    let links = fs::read_dir(node2.bpffs.join("links")).unwrap();
    let mut pins = links.map(|entry| entry.unwrap().path());
    let pin = pins.find(|path| path.to_string_lossy().contains("decap_tc_")).unwrap();
    cmd::check(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&pin), b"").unwrap();
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&["programs"]);
    rows.one("programs", "FAIL", &["decap_tc is no longer attached to eth0"]);
    rows.one("netfilter", "WARN", &["the nft table `ip tunless` is missing"]);
    // No second truth: each problem of `status` is a row, in the same words.
    let status = scene.daemon2.cli(&["status", "-o", "json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let problems = status["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    for problem in problems {
        let is_it = |row: &serde_json::Value| {
            ["where", "what", "remedy"].iter().all(|key| row[key] == problem[key])
        };
        assert!(rows.items.iter().any(is_it), "{problem:#}");
    }
    // The peer's answers arrive, and nothing takes their outer header off.
    let rows = Rows::of(&scene.daemon2, &["--peer", &scene.lab.node1.ip.to_string()]);
    rows.assert_only(&["programs", "peer-tunnel"]);
    rows.one("peer-tunnel", "FAIL", &["no program decapsulates them"]);
    scene.daemon2.restart().unwrap();
    scene.finish();
}

#[test]
fn pods_that_are_wider_than_the_tunnel_are_a_warning() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let cali = &scene.lab.perf().cali;
    scene.lab.node2.netns.ip(&format!("link set {cali} mtu 1500")).unwrap();
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    let row = rows.one("mtu", "WARN", &["1 pod interface", "above the tunnel's 1480"]);
    assert_eq!(row["where"], *cali);
    scene.finish();
}

/// Before the first start it shows what would be wrong, and changes nothing.
#[test]
fn where_tunless_was_never_started_the_file_is_checked() {
    let lab = lab().build().unwrap();
    let node = &lab.node2;
    let path = lab.dir().join("doctor.yaml");
    let before = node.netns.ip("-o link").unwrap();
    let run = |text: Option<&str>, arguments: &[&str]| {
        let _ = fs::remove_file(&path);
        text.iter().for_each(|text| fs::write(&path, text).unwrap());
        let tunless = Tunless::new(node, Some(path.clone()));
        let output = tunless.run(&[&["doctor", "-o", "json"], arguments].concat()).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(output.status, Some(3), "{answer:#}");
        Rows { status: output.status, items: answer["items"].as_array().unwrap().clone() }
    };
    let good = Setup::VERIFIED.config(node, &lab.node1, "");
    let rows = run(Some(&good), &["--peer", "172.16.35.4"]);
    rows.assert_only(&["pins"]);
    rows.one("pins", "FAIL", &["tunless is not attached here"]);
    rows.one("node", "PASS", &["172.16.36.10"]);
    rows.one("configuration", "PASS", &["1 route"]);
    rows.one("peer-tunnel", "SKIP", &["no routes here"]);
    node.netns.set_sysctl("ipv4/ip_forward", "0").unwrap();
    let rows = run(Some(&good), &[]);
    rows.assert_only(&["pins", "forwarding"]);
    let rows = run(Some(&format!("{good}colour: red\n")), &[]);
    rows.assert_only(&["pins", "configuration"]);
    rows.one("configuration", "FAIL", &["colour"]);
    assert_eq!(node.netns.ip("-o link").unwrap(), before);
    assert!(!node.bpffs.exists());
}

/// A map of another kind in the place of ours.
#[test]
fn pins_that_cannot_be_read_are_named() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    scene.daemon2.kill9().unwrap();
    let versions = fs::read_dir(&scene.lab.node2.bpffs).unwrap();
    let mut pins = versions.map(|entry| entry.unwrap().path().join("ROUTES"));
    let pin = pins.find(|pin| pin.exists()).unwrap();
    let kept = pin.with_file_name("KEPT");
    fs::rename(&pin, &kept).unwrap();
    sys::pin(&sys::create_array("foreign", 8).unwrap(), &pin).unwrap();
    let rows = Rows::of(&scene.daemon2, &["--peer", &scene.lab.node1.ip.to_string()]);
    rows.assert_only(&["pins"]);
    rows.one("pins", "FAIL", &["/ROUTES is not as this version lays it out"]);
    rows.one("peer-tunnel", "SKIP", &["not tested"]);
    assert!(answers(&scene.lab.perf().netns, scene.lab.sit().ip), "packets pass all the same");
    fs::remove_file(&pin).unwrap();
    fs::rename(&kept, &pin).unwrap();
    scene.daemon2.restart().unwrap();
    scene.finish();
}

#[test]
fn bad_input_is_one_line_and_changes_nothing() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    for (arguments, status) in [
        (&["doctor", "--peer"][..], 2),
        (&["doctor", "--pear", "x"], 2),
        (&["doctor", "172.16.35.4"], 2),
        (&["doctor", "-o", "xml"], 2),
        (&["doctor", "--config", "/nonexistent/tunless.yaml", "--bpffs", "/tmp"], 3),
    ] {
        let output = scene.daemon2.cli(arguments).unwrap();
        assert_eq!(
            output.status,
            Some(status),
            "{arguments:?}: {}{}",
            output.stdout,
            output.stderr
        );
    }
    // A directory of pins that is on no bpffs.
    let output = scene.daemon2.cli(&["doctor", "--bpffs", "/tmp"]).unwrap();
    assert!(output.stdout.contains("FAIL pins"), "{}", output.stdout);
    assert!(output.stdout.contains("not on a bpffs"), "{}", output.stdout);
    // Not root.
    let tunless = tunless_lab::daemon::tunless_binary().unwrap();
    let mut command = Command::new(tunless);
    command.arg("doctor").uid(65_534).gid(65_534);
    let output = cmd::run(&mut command, b"", cmd::DEADLINE).unwrap();
    assert_eq!(output.status, Some(1), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("run as root"), "{}", output.stderr);
    Rows::of(&scene.daemon2, &[]).assert_only(&[]);
    assert!(answers(&scene.lab.perf().netns, scene.lab.sit().ip));
    scene.finish();
}
