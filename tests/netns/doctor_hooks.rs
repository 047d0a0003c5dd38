//! `tunless doctor` where others have programs on the hooks of ours, and where Calico's WireGuard is.

use std::{fs, os::fd::OwnedFd};

use nix::net::if_::if_nametoindex;
use tunless_lab::{
    Daemon, Lab, LabBuilder,
    bpf::{
        Hook, attach_tcx, id_of, instruction, judge_by_length, load_named_classifier, load_xdp,
        opcode::{EXIT, MOVE},
        pin,
    },
};
use tunless_tests::scene::{SOON, Scene, Setup, answers, assert_answered, examined::Rows, until};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A TC program that passes every packet on, which can be proven.
fn passing(name: &str) -> OwnedFd {
    let program = [instruction(MOVE, 0, 0, 0, -1), instruction(EXIT, 0, 0, 0, 0)];
    load_named_classifier(name, &program).unwrap()
}

/// Attaches it behind what is on node2's underlay, arriving packets first.
fn attach(scene: &Scene, program: &OwnedFd) -> OwnedFd {
    let node2 = &scene.lab.node2;
    node2.netns.run(|| Ok(attach_tcx(program, if_nametoindex("eth0")?, Hook::Ingress)?)).unwrap()
}

/// Has our programs attached anew, behind the others.
fn attach_anew(daemon: &mut Daemon) {
    daemon.terminate_and_detach().unwrap();
    daemon.restart().unwrap();
}

#[test]
fn programs_of_others_on_our_hooks_are_named() {
    let mut scene = Scene::new(lab(), Setup::OFF);
    scene.warm_up();
    Rows::of(&scene.daemon2, &[]).one("hooks", "PASS", &["no program of others on 3 hooks"]);

    // Behind ours.
    let dropping = judge_by_length().unwrap();
    let id = id_of(&dropping).unwrap();
    let link = attach(&scene, &dropping);
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    let named = format!("`judge_by_length` ({id}) on eth0 (TC ingress)");
    rows.one("hooks", "PASS", &[&named, "comes behind ours"]);

    // Before ours.
    attach_anew(&mut scene.daemon2);
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&[]);
    let row = rows.one("hooks", "WARN", &[&named, "comes before decap_tc and may take packets"]);
    assert_eq!(row["where"], "eth0");
    drop(link);

    // Before ours, and proven to take nothing.
    let passing_program = passing("watch_packets");
    let link = attach(&scene, &passing_program);
    attach_anew(&mut scene.daemon2);
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.one("hooks", "PASS", &["`watch_packets`", "passes every packet on"]);
    drop(link);

    // XDP, which no kernel shows in the list of TC programs.
    const PASS: i32 = 2;
    let xdp = [instruction(MOVE, 0, 0, 0, PASS), instruction(EXIT, 0, 0, 0, 0)];
    let xdp = load_xdp(&xdp).unwrap();
    let path = scene.lab.node2.bpffs.join("xdp_of_others");
    pin(&xdp, &path).unwrap();
    let node2 = &scene.lab.node2.netns;
    node2.ip(&format!("link set dev eth0 xdpgeneric pinned {}", path.display())).unwrap();
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.one("hooks", "WARN", &[&format!("program {}", id_of(&xdp).unwrap()), "on eth0 (XDP)"]);
    node2.ip("link set dev eth0 xdpgeneric off").unwrap();
    fs::remove_file(&path).unwrap();

    Rows::of(&scene.daemon2, &[]).one("hooks", "PASS", &["no program of others"]);
    until("they talk", SOON, || answers(&scene.lab.perf().netns, scene.lab.sit().ip).then_some(()));
    scene.finish();
}

/// One of another instance, or one that was attached by hand.
#[test]
fn a_second_program_of_ours_fails() {
    let scene = Scene::new(lab(), Setup::OFF);
    scene.warm_up();
    let twin = passing("decap_tc");
    let link = attach(&scene, &twin);
    let rows = Rows::of(&scene.daemon2, &[]);
    rows.assert_only(&["hooks"]);
    let named =
        format!("`decap_tc` ({}) on eth0 (TC ingress) is one of tunless", id_of(&twin).unwrap());
    let row = rows.one("hooks", "FAIL", &[&named]);
    assert!(row["remedy"].as_str().unwrap().contains("bpftool net show dev eth0"), "{row:#}");
    drop(link);
    Rows::of(&scene.daemon2, &[]).assert_only(&[]);
    scene.finish();
}

/// Filters come behind TCX, and before a filter of ours if their priority is lower.
#[test]
fn filters_of_others_are_named_where_ours_are_filters() {
    let scene = Scene::with(lab(), Setup::OFF, "attach: clsact\n", &[]);
    scene.warm_up();
    let tc = |words: &str| {
        let arguments: Vec<&str> = words.split(' ').collect();
        scene.lab.node2.netns.exec("tc", &arguments).unwrap();
    };
    Rows::of(&scene.daemon2, &[]).one("hooks", "PASS", &["no program of others"]);
    for (priority, verdict, part) in
        [("100", "WARN", "comes before decap_tc"), ("50000", "PASS", "comes behind ours")]
    {
        let place = format!("dev eth0 ingress pref {priority}");
        tc(&format!("filter add {place} protocol ip u32 match ip protocol 253 0xff"));
        let rows = Rows::of(&scene.daemon2, &[]);
        rows.assert_only(&[]);
        rows.one("hooks", verdict, &["a filter of the kind `u32` on eth0 (TC ingress)", part]);
        tc(&format!("filter del {place}"));
    }
    scene.finish();
}

/// This kernel needs no WireGuard for it: what counts is the name, the rule and the table.
#[test]
fn calicos_wireguard_is_named() {
    let scene = Scene::new(lab(), Setup::OFF);
    scene.warm_up();
    let node2 = &scene.lab.node2.netns;
    let row = |verdict: &str, parts: &[&str]| {
        let rows = Rows::of(&scene.daemon2, &[]);
        rows.assert_only(&[]);
        rows.one("wireguard", verdict, parts)["where"].as_str().unwrap().to_owned()
    };
    row("PASS", &["no device wireguard.cali"]);
    node2.ip("link add wireguard.cali type veth peer name wg-peer").unwrap();
    node2.ip("link set wireguard.cali up").unwrap();
    let where_ = row("WARN", &["no routing rule leads packets to it", "in clear text"]);
    assert_eq!(where_, "wireguard.cali");
    node2.ip("route add 10.20.99.0/26 dev wireguard.cali table 1").unwrap();
    node2.ip("rule add not fwmark 0x100000/0x100000 priority 99 table 1").unwrap();
    row("WARN", &["priority 99 chooses table 1, of which 1 route leads over wireguard.cali"]);
    node2.ip("link del wireguard.cali").unwrap();
    assert_eq!(row("WARN", &["no device wireguard.cali"]), "rule 99");
    node2.ip("rule del priority 99").unwrap();
    row("PASS", &["no device wireguard.cali"]);
    assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);
    scene.finish();
}
