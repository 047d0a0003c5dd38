//! XDP hands packets over to TC by metadata, and something between the two loses it, as some drivers
//! do: a TC program ahead of ours.

use std::{fs, path::PathBuf};

use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Netns,
    bpf::{
        self, instruction,
        opcode::{ADD, COPY, EXIT, IF_EQUAL, IF_GREATER, LOAD_WORD, MOVE, STORE_NUMBER},
    },
    capture::Capture,
    traffic::ping,
};
use tunless_tests::scene::{Counters, SOON, Scene, Setup, answers, assert_answered, until};

use crate::host_links::Hosts;

/// Programs of ours stand behind those of others then.
const CLSACT: &str = "attach: clsact\n";

/// What a program does to packets with XDP metadata.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// It erases the metadata: so `mlx4` behaves, which has room for it and does not pass it on.
    Erase,
    /// It drops packets whose metadata vouches for a node, and no others: as if the driver ignored
    /// that the frame begins later now.
    DropVouchedFor,
}

/// A TC program on an interface's ingress, ahead of ours.
struct Ahead {
    netns: Netns,
    interface: &'static str,
    pin: PathBuf,
}

impl Ahead {
    fn attach(netns: &Netns, interface: &'static str, harm: Harm) -> Self {
        let pin = PathBuf::from(format!("/sys/fs/bpf/{}-{interface}", netns.name()));
        bpf::pin(&bpf::load_classifier(&program(harm)).unwrap(), &pin).unwrap();
        // It is there already where the daemon attaches filters.
        drop(netns.exec("tc", &["qdisc", "add", "dev", interface, "clsact"]));
        let filter = format!("filter add dev {interface} ingress pref 1 bpf da object-pinned");
        let mut args: Vec<&str> = filter.split(' ').collect();
        args.push(pin.to_str().unwrap());
        netns.exec("tc", &args).unwrap();
        Self { netns: netns.clone(), interface, pin }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let args = ["filter", "del", "dev", self.interface, "ingress", "pref", "1"];
        drop(self.netns.exec("tc", &args));
        drop(fs::remove_file(&self.pin));
    }
}

fn program(harm: Harm) -> Vec<u64> {
    // `struct __sk_buff` (include/uapi/linux/bpf.h).
    const DATA: i16 = 76;
    const DATA_META: i16 = 140;
    // TC_ACT_SHOT
    const DROP: i32 = 2;
    let pass = [instruction(MOVE, 0, 0, 0, -1), instruction(EXIT, 0, 0, 0, 0)];
    let act = match harm {
        Harm::Erase => {
            vec![instruction(STORE_NUMBER, 2, 0, 0, 0), instruction(STORE_NUMBER, 2, 0, 4, 0)]
        }
        // The secret comes first; of a mark it is zero.
        Harm::DropVouchedFor => vec![
            instruction(LOAD_WORD, 5, 2, 0, 0),
            instruction(IF_EQUAL, 5, 0, 2, 0),
            instruction(MOVE, 0, 0, 0, DROP),
            instruction(EXIT, 0, 0, 0, 0),
        ],
    };
    let head = [
        instruction(LOAD_WORD, 2, 1, DATA_META, 0),
        instruction(LOAD_WORD, 3, 1, DATA, 0),
        instruction(COPY, 4, 2, 0, 0),
        instruction(ADD, 4, 0, 0, 8),
        instruction(IF_GREATER, 4, 3, i16::try_from(act.len()).unwrap(), 0),
    ];
    [&head[..], &act, &pass].concat()
}

/// A problem of this kind about a link.
fn problem_of(daemon: &Daemon, link: &str) -> Option<Value> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let problems = status["problems"].as_array()?;
    let is_it = |problem: &&Value| problem["code"] == "xdp-handover" && problem["where"] == link;
    problems.iter().find(is_it).cloned()
}

/// Interfaces whose XDP hook has our program.
fn xdp_on(daemon: &Daemon) -> Vec<String> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let attachments = status["attachments"].as_array().unwrap().iter();
    let xdp = attachments.filter(|at| at["program"] == "decap_xdp" && at["live"] == true);
    xdp.map(|at| at["interface"].as_str().unwrap().to_owned()).collect()
}

/// Waits until XDP is off a link, and the problem says why. What is asked for does not matter.
fn wait_left(daemon: &Daemon, link: &str, why: &str) {
    until(&format!("XDP is off {link}"), SOON, || {
        let problem = problem_of(daemon, link)?;
        assert_eq!(problem["level"], "degraded");
        let what = problem["what"].as_str().unwrap();
        assert!(what.contains(why), "{what}");
        assert!(problem["remedy"].as_str().unwrap().contains(link), "{problem}");
        (!xdp_on(daemon).contains(&link.to_owned())).then_some(())
    });
}

fn many() -> ping::Options {
    ping::Options { count: 60, ..ping::Options::default() }
}

fn xdp_unwraps(daemon: &Daemon, from: &Netns, to: std::net::Ipv4Addr) -> bool {
    let before = Counters::of(daemon);
    assert_answered(from, to);
    before.moved(daemon).contains_key(&Reason::XdpUnwrapped)
}

/// From the first packet on: none is lost, because packets are only marked until a mark arrives. A link
/// beside it that does not lose them is not concerned.
#[test]
fn metadata_that_never_arrives_costs_no_packet() {
    let hosts = Hosts::new();
    hosts.move_address_to_lo();
    hosts.go_by_second(false);
    let (node1, node2) = (&hosts.lab.node1, hosts.node2());
    let ahead = Ahead::attach(&node2.netns, "eth0", Harm::Erase);
    let config1 = Setup::OFF.config_with(node1, &[(node2.block, node2.ip)], "");
    let both = "underlay: {interfaces: [eth0, eth1], ";
    let config2 = Setup::OFF_XDP.config(node2, node1, CLSACT).replace("underlay: {", both);
    let daemon1 = Daemon::start(node1, &config1).unwrap();
    let mut daemon2 = Daemon::start(node2, &config2).unwrap();
    assert_eq!(xdp_on(&daemon2), ["eth0", "eth1"]);
    let (perf, sit) = (hosts.lab.perf(), hosts.lab.sit());
    until("they talk", SOON, || answers(&perf.netns, sit.ip).then_some(()));

    let before = Counters::of(&daemon2);
    let report = ping::ping(&perf.netns, sit.ip, &many()).unwrap();
    assert!(report.all_answered(), "{}", report.text);
    wait_left(&daemon2, "eth0", "no packet arrives at decap_tc");
    let moved = before.moved(&daemon2);
    assert!(!moved.contains_key(&Reason::XdpUnwrapped), "{moved:?}");
    assert!(!moved.contains_key(&Reason::DecapHandoverLost), "{moved:?}");
    hosts.go_by_second(true);
    until("by the other link", SOON, || xdp_unwraps(&daemon2, &sit.netns, perf.ip).then_some(()));
    assert_eq!(xdp_on(&daemon2), ["eth1"]);

    // The verdict is remembered, though what gave rise to it is gone.
    drop(ahead);
    daemon2.kill9().unwrap();
    daemon2.restart().unwrap();
    assert_eq!(xdp_on(&daemon2), ["eth1"]);
    assert!(problem_of(&daemon2, "eth0").is_some());
    assert!(xdp_unwraps(&daemon2, &sit.netns, perf.ip));
    hosts.go_by_second(false);
    until("by the first link again", SOON, || {
        (!xdp_unwraps(&daemon2, &sit.netns, perf.ip)).then_some(())
    });
    let log = daemon2.log();
    // Once for each of the two daemons.
    assert_eq!(log.matches("on eth0 no packet arrives").count(), 2, "{log}");

    // Another card in its place is another link.
    hosts.at_node2("link set eth0 address 02:00:00:00:77:01\n");
    until("XDP is tried on another card", SOON, || {
        (problem_of(&daemon2, "eth0").is_none() && xdp_on(&daemon2).len() == 2).then_some(())
    });
    until("the router knows it", SOON, || answers(&sit.netns, perf.ip).then_some(()));
    until("which passes metadata on", SOON, || {
        xdp_unwraps(&daemon2, &sit.netns, perf.ip).then_some(())
    });
    hosts.finish([daemon1, daemon2]);
}

/// A packet socket without a ring gets a clone of each packet, and Linux 6.18 gives up the metadata of a
/// cloned packet when a program may write to it (`net/core/skbuff.c`, `pskb_expand_head`;
/// `net/core/filter.c`, `bpf_unclone_prologue`).
#[test]
fn a_packet_socket_on_the_nic_costs_a_few_packets() {
    let mut scene = Scene::new(Lab::new(), Setup::VERIFIED_XDP);
    scene.warm_up();
    let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
    assert!(xdp_unwraps(&scene.daemon2, &perf.netns, sit.ip));
    let before = Counters::of(&scene.daemon2);
    let socket = Capture::start(&scene.lab.node2.netns, "eth0").unwrap();
    let report = ping::ping(&perf.netns, sit.ip, &many()).unwrap();
    let lost = u64::from(report.sent - report.received);
    let moved = before.moved(&scene.daemon2);
    assert_eq!(moved.get(&Reason::DecapHandoverLost).copied().unwrap_or_default(), lost);
    assert!(lost <= 3, "{}", report.text);
    if lost > 0 {
        wait_left(&scene.daemon2, "eth0", "without the XDP metadata");
    }
    drop(socket);
    for _ in 0..2 {
        assert_eq!(problem_of(&scene.daemon2, "eth0").is_some(), lost > 0);
        assert_answered(&perf.netns, sit.ip);
        println!("{lost} lost");
        scene.daemon2.kill9().unwrap();
        scene.daemon2.restart().unwrap();
    }
    scene.finish();
}

/// A driver may refuse the program, as veth does where a frame is longer than its buffers. That is
/// listed, and tried again; TC decapsulates, and flows are leased.
#[test]
fn a_driver_that_refuses_xdp_withholds_no_lease() {
    let lab = Lab::new().fabric_filter(true).underlay_mtu(9000).pod_mtu(8980);
    Scene::new(lab, Setup::VERIFIED_XDP).case(|scene| {
        scene.warm_up();
        let talks = scene.talks();
        scene.assert_leased(&talks);
        drop(talks);
        assert_eq!(xdp_on(&scene.daemon2), [""; 0]);
        let status = scene.daemon2.cli_json(&["status"]).unwrap();
        let problems = status["problems"].as_array().unwrap();
        for (code, words) in [("apply-failed", "attaching decap_xdp to eth0"), ("xdp-missing", "")]
        {
            let is_it = |it: &&Value| it["code"] == code;
            let problem = problems.iter().find(is_it).unwrap_or_else(|| panic!("{code}: {status}"));
            assert!(problem["what"].as_str().unwrap().contains(words), "{problem}");
        }
        scene.assert_nothing_plain();
    });
}

/// A pod that may load programs in its own namespace finds nothing of ours in the metadata, which stays
/// with packets of the fast path.
#[test]
fn what_programs_tell_each_other_does_not_reach_a_pod() {
    Scene::new(Lab::new(), Setup::TRUSTED_XDP).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let ahead = Ahead::attach(&perf.netns, "eth0", Harm::DropVouchedFor);
        assert!(xdp_unwraps(&scene.daemon2, &perf.netns, sit.ip));
        drop(ahead);
        perf.netns.exec("tc", &["qdisc", "del", "dev", "eth0", "clsact"]).unwrap();
    });
}

/// Later on: what is between the two programs at that moment is lost, and not passed up by the NIC.
#[test]
fn metadata_that_no_longer_arrives_costs_a_few_packets() {
    let mut scene = Scene::with(Lab::new().fabric_filter(true), Setup::OFF_XDP, CLSACT, &[]);
    scene.warm_up();
    let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
    assert!(xdp_unwraps(&scene.daemon1, &perf.netns, sit.ip));
    assert!(xdp_unwraps(&scene.daemon2, &perf.netns, sit.ip));

    println!("decap_tc is missing, and no daemon puts it back: that is no failure of the link");
    scene.daemon2.kill9().unwrap();
    let args = ["filter", "del", "dev", "eth0", "ingress", "pref", "49000"];
    scene.lab.node2.netns.exec("tc", &args).unwrap();
    drop(ping::ping(&perf.netns, sit.ip, &many()).unwrap());
    scene.daemon2.restart().unwrap();
    until("XDP unwraps again", SOON, || {
        xdp_unwraps(&scene.daemon2, &perf.netns, sit.ip).then_some(())
    });
    assert_eq!(problem_of(&scene.daemon2, "eth0"), None);

    println!("metadata is lost");
    let before = Counters::of(&scene.daemon1);
    let ahead = Ahead::attach(&scene.lab.node1.netns, "eth0", Harm::Erase);
    let report = ping::ping(&perf.netns, sit.ip, &many()).unwrap();
    let lost = u64::from(report.sent - report.received);
    assert_eq!(before.moved(&scene.daemon1).get(&Reason::DecapHandoverLost), Some(&lost));
    assert!(lost <= 3, "{}", report.text);
    wait_left(&scene.daemon1, "eth0", "without the XDP metadata");
    assert_answered(&perf.netns, sit.ip);
    drop(ahead);

    println!("what was vouched for does not arrive");
    let ahead = Ahead::attach(&scene.lab.node2.netns, "eth0", Harm::DropVouchedFor);
    let report = ping::ping(&perf.netns, sit.ip, &many()).unwrap();
    assert!(report.received > 0 && !report.all_answered(), "{}", report.text);
    wait_left(&scene.daemon2, "eth0", "no packet arrives at decap_tc");
    let report = ping::ping(&perf.netns, sit.ip, &ping::Options::default()).unwrap();
    assert!(report.all_answered(), "{}", report.text);

    println!("after a restart");
    for (daemon, why) in [
        (&mut scene.daemon1, "without the XDP metadata"),
        (&mut scene.daemon2, "no packet arrives at decap_tc"),
    ] {
        daemon.kill9().unwrap();
        daemon.restart().unwrap();
        wait_left(daemon, "eth0", why);
        assert_eq!(daemon.cli_json(&["status"]).unwrap()["ready"], true);
    }
    assert_answered(&perf.netns, sit.ip);
    scene.assert_nothing_plain();
    drop(ahead);
    scene.finish();
}
