//! `tunless explain`: what it says of packets, and that it touches nothing.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, net::SocketAddrV4, os::fd::AsFd as _};

use aya::{
    maps::{MapInfo, MapType},
    programs::loaded_programs,
};
use dataplane_user::bpf::{Pins, links, sys};
use serde_json::{Value, json};
use tunless_lab::{
    Daemon, Lab, LabBuilder, Node,
    felix::{Allow, Endpoint, enforce},
    service::{Protocol, Service, kube_proxy},
    traffic::conversation::Conversation,
};
use tunless_tests::scene::{
    SOON, Scene, Setup,
    leased::{wait_leased_at_client, wait_leased_by_service},
    until,
};

const PORT: u16 = 7000;
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 7), 53);

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// An answer as JSON, with its exit code.
struct Explained {
    status: Option<i32>,
    answer: Value,
}

impl Explained {
    fn of(daemon: &Daemon, args: &[&str]) -> Self {
        let output = daemon.cli(&[&["explain", "-o", "json"], args].concat()).unwrap();
        let answer = serde_json::from_str(&output.stdout);
        let answer = answer.unwrap_or_else(|error| panic!("{error}: {}", output.stderr));
        Self { status: output.status, answer }
    }

    fn between(daemon: &Daemon, from: Ipv4Addr, to: &str, more: &[&str]) -> Self {
        let from = from.to_string();
        Self::of(daemon, &[&["--from", &from, "--to", to], more].concat())
    }

    /// Program, outcome and reason of each step of a way.
    fn steps(&self, way: &str) -> Vec<(&str, &str, &str)> {
        let steps = self.answer[way]["steps"].as_array().map(Vec::as_slice).unwrap_or_default();

        steps
            .iter()
            .map(|step| {
                let [by, outcome, reason] =
                    ["by", "outcome", "reason"].map(|key| step[key].as_str().unwrap_or_default());
                (by, outcome, reason)
            })
            .collect()
    }

    fn verdict(&self) -> &str {
        self.answer["verdict"].as_str().unwrap()
    }
}

#[test]
fn a_flow_takes_the_stack_until_it_has_a_lease() {
    Scene::new(lab(), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let to = SocketAddrV4::new(sit.ip, PORT);
        let ask =
            |more: &[&str]| Explained::between(&scene.daemon2, perf.ip, &to.to_string(), more);
        for protocol in ["tcp", "udp"] {
            let before = ask(&["--protocol", protocol]);
            assert_eq!(
                before.steps("there"),
                [
                    ("encap_pod", "passed", "pod_no_lease"),
                    ("kernel", "passed", ""),
                    ("encap_host", "forwarded", "host_unmarked"),
                ]
            );
            assert_eq!(
                before.steps("back"),
                [
                    ("decap_tc", "forwarded", "decap_no_lease_to_stack"),
                    ("kernel", "passed", ""),
                    ("grant_decap", "passed", "grant_unmarked"),
                ]
            );
            let verdict = format!("reaches {}: by the stack there, by the stack back", sit.ip);
            assert_eq!((before.status, before.verdict()), (Some(0), verdict.as_str()));
            let leaves = before.answer["there"]["steps"][2]["leaves"].as_str().unwrap();
            let (us, peer) = (scene.lab.node2.ip, scene.lab.node1.ip);
            let headers = format!("{us} → {peer} ipip ttl 63, ");
            assert!(leaves.starts_with(&headers), "{leaves}");
            assert!(leaves.contains(&format!(" | {} → {} {protocol} ttl 63, ", perf.ip, sit.ip)));
        }
        let ping = ask(&["--protocol", "icmp"]);
        assert_eq!(ping.steps("there")[0], ("encap_pod", "passed", "pod_no_ports"));
        assert_eq!(ping.status, Some(0));

        let talk = Conversation::start(Protocol::Udp, &perf.netns, to, &sit.netns, PORT).unwrap();
        wait_leased_at_client(&scene.daemon2, talk.client, to);
        let verdict = format!("reaches {}: by the fast path there, by the fast path back", sit.ip);
        // Between the end of a lease and the next packet there is none.
        let leased = until("it is leased both ways", SOON, || {
            let answer = ask(&["--protocol", "udp"]);
            (answer.verdict() == verdict).then_some(answer)
        });
        assert_eq!(leased.steps("there"), [("encap_pod", "forwarded", "pod_encapsulated")]);
        assert_eq!(leased.steps("back"), [("decap_tc", "forwarded", "decap_to_pod")]);
        assert_eq!(leased.answer["there"]["packet"], format!("udp {} → {to}", talk.client));
        let facts = leased.answer["there"]["steps"][0]["facts"].to_string();
        assert!(facts.contains("lease: good for "), "{facts}");

        // From the other pod's side, on the same node.
        let node = scene.lab.node1.ip;
        let back = Explained::between(&scene.daemon2, sit.ip, &perf.ip.to_string(), &[]);
        assert_eq!(
            back.answer["there"]["packet"],
            format!("tcp {}:40000 → {}:80, from node {node}", sit.ip, perf.ip)
        );
        assert_eq!(back.steps("there")[0], ("decap_tc", "forwarded", "decap_no_lease_to_stack"));
        assert_eq!(back.steps("back")[0], ("encap_pod", "passed", "pod_no_lease"));
        assert_eq!(back.status, Some(0));
        let text = scene
            .daemon2
            .cli(&["explain", "--from", &sit.ip.to_string(), "--to", &perf.ip.to_string()])
            .unwrap();
        assert_eq!(text.stdout.lines().last(), Some(back.verdict()));
        assert!(
            text.stdout.lines().nth(1).unwrap().starts_with(" 1. decap_tc on "),
            "{}",
            text.stdout
        );
    });
}

#[test]
fn each_setup_shows_its_own_programs() {
    for (setup, there, back) in [
        (Setup::OFF, "kernel", "decap_tc"),
        (Setup::TRUSTED, "encap_pod", "decap_tc"),
        (Setup::TRUSTED_XDP, "encap_pod", "decap_xdp"),
    ] {
        Scene::new(lab(), setup).case(|scene| {
            scene.warm_up();
            let (perf, sit) = scene.pods();
            let answer = Explained::between(&scene.daemon2, perf.ip, &sit.ip.to_string(), &[]);
            let path = |by: &str| {
                if setup.is_fast() {
                    format!("by the fast path {by}")
                } else {
                    format!("by the stack {by}")
                }
            };
            assert_eq!(
                answer.verdict(),
                format!("reaches {}: {}, {}", sit.ip, path("there"), path("back"))
            );
            assert_eq!(answer.steps("there")[0].0, there);
            assert_eq!(answer.steps("back")[0].0, back);
            assert_ne!(answer.steps("back")[0].1, "unknown", "{:#}", answer.answer);
            assert_eq!(answer.status, Some(0));
            if setup == Setup::OFF {
                assert_eq!(
                    answer.steps("there")[1],
                    ("encap_host", "forwarded", "host_encapsulated")
                );
                assert_eq!(answer.steps("back")[0].2, "decap_to_stack");
            }
            if setup.is_trusted() {
                let source = sit.ip.to_string();
                let lie = Explained::of(
                    &scene.daemon2,
                    &["--from", &perf.cali, "--source", &source, "--to", &source],
                );
                assert_eq!(lie.steps("there")[0], ("encap_pod", "passed", "pod_forged_source"));
            }
        });
    }
}

#[test]
fn what_has_no_way_is_named() {
    let lab = lab().build().unwrap();
    let node = &lab.node2;
    node.netns.ip("route add unreachable 192.0.2.9/32").unwrap();
    let routes = [(lab.node1.block, lab.node1.ip), ("10.30.0.0/26", Ipv4Addr::new(192, 0, 2, 9))];
    let daemon = Daemon::start(node, &Setup::VERIFIED.config_with(node, &routes, "")).unwrap();
    let perf = lab.perf();
    tunless_tests::scene::endpoint_of(&daemon, perf);
    let lost = Explained::between(&daemon, perf.ip, "10.30.0.5:80", &[]);
    assert_eq!(lost.status, Some(3));
    assert_eq!(lost.steps("there")[0], ("encap_pod", "passed", "pod_no_lease"));
    let last = *lost.steps("there").last().unwrap();
    assert_eq!(last, ("encap_host", "dropped", "host_node_unreachable"), "{:#}", lost.answer);
    assert_eq!(lost.verdict(), "does not reach 10.30.0.5: dropped at encap_host on tunless0");
    assert_eq!(lost.answer["is_carried"], json!(false));

    let stranger = Explained::between(&daemon, perf.ip, "10.99.0.1:80", &[]);
    assert_eq!(stranger.steps("there")[0], ("encap_pod", "passed", "pod_no_lease"));
    let facts = stranger.answer["there"]["steps"][0]["facts"].to_string();
    assert!(facts.contains("route: none covers 10.99.0.1"), "{facts}");
    assert_eq!(stranger.answer["back"], Value::Null);
    daemon.finish().unwrap();
}

#[test]
fn a_service_is_translated_by_its_lease() {
    Scene::with(lab(), Setup::VERIFIED, "leases: {services: true}\n", &[]).case(|scene| {
        scene.warm_up();
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        let behind = SocketAddrV4::new(sit.ip, PORT);
        let name = "default/dns".to_owned();
        let service =
            Service { name, protocol: Protocol::Udp, address: ADDRESS, endpoints: vec![behind] };
        kube_proxy(&scene.lab.node2.netns, &[service]).unwrap();
        let ask = || {
            Explained::between(
                &scene.daemon2,
                perf.ip,
                &ADDRESS.to_string(),
                &["--protocol", "udp"],
            )
        };
        // Without a lease the rules say to which pod a new connection is led.
        let before = ask();
        assert_eq!(
            before.steps("there"),
            [
                ("encap_pod", "passed", "pod_no_lease"),
                ("kernel", "passed", ""),
                ("encap_host", "forwarded", "host_unmarked"),
            ]
        );
        let facts = before.answer["there"]["steps"][1]["facts"].to_string();
        assert!(facts.contains(&format!("netfilter leads it to {behind}")), "{facts}");
        let leaves = before.answer["there"]["steps"][2]["leaves"].as_str().unwrap();
        assert!(leaves.contains(&format!(" | {} → {} udp ", perf.ip, sit.ip)), "{leaves}");
        assert_eq!(before.steps("back")[0], ("decap_tc", "forwarded", "decap_no_lease_to_stack"));
        let talk =
            Conversation::start(Protocol::Udp, &perf.netns, ADDRESS, &sit.netns, PORT).unwrap();
        wait_leased_by_service(&scene.daemon2, talk.client, ADDRESS, behind);
        let leased = until("it is leased both ways", SOON, || {
            let answer = ask();
            (answer.steps("there")[0].1 == "forwarded"
                && answer.steps("back")[0].2 == "decap_service_to_pod")
                .then_some(answer)
        });
        assert_eq!(leased.steps("there"), [("encap_pod", "forwarded", "pod_service_encapsulated")]);
        let leaves = leased.answer["there"]["steps"][0]["leaves"].as_str().unwrap();
        assert!(leaves.contains(&format!(" | {} → {} udp ", perf.ip, sit.ip)), "{leaves}");
        assert_eq!(leased.status, Some(0));
    });
}

/// A NetworkPolicy drops it on this node, on the way out and on the way in: the rule is named. Nothing of the
/// host's rules changes, and no packet counts in them.
#[test]
fn the_rule_that_drops_it_is_named() {
    Scene::new(lab(), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let node2 = &scene.lab.node2;
        enforce(&node2.netns, &[Endpoint::allowing(perf, Allow::port(PORT))]).unwrap();
        let rules = || {
            let saved = node2.netns.exec("iptables-save", &["-c"]).unwrap();
            let listed = node2.netns.exec("nft", &["list", "ruleset"]).unwrap();
            let without_times = |text: String| -> Vec<String> {
                text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
            };
            (without_times(saved), without_times(listed))
        };
        let before = rules();
        let links = node2.netns.exec("ip", &["-o", "link"]).unwrap();
        let ask = |from: Ipv4Addr, to: Ipv4Addr, port: u16, protocol: &str| {
            let to = format!("{to}:{port}");
            Explained::between(&scene.daemon2, from, &to, &["--protocol", protocol])
        };
        for protocol in ["tcp", "udp"] {
            let open = ask(sit.ip, perf.ip, PORT, protocol);
            assert_eq!(open.status, Some(0), "{:#}", open.answer);
            let met = &open.answer["there"]["steps"][1]["rules"];
            let chains: Vec<&str> =
                met.as_array().unwrap().iter().filter_map(|rule| rule["chain"].as_str()).collect();
            assert!(chains.iter().any(|chain| chain.starts_with("cali-tw-")), "{chains:?}");

            let shut = ask(sit.ip, perf.ip, PORT + 1, protocol);
            assert_eq!(shut.status, Some(3), "{:#}", shut.answer);
            assert_eq!(
                shut.steps("there"),
                [("decap_tc", "forwarded", "decap_no_lease_to_stack"), ("kernel", "dropped", "")]
            );
            let step = &shut.answer["there"]["steps"][1];
            let last = step["rules"].as_array().unwrap().last().unwrap();
            assert_eq!(last["verdict"], "drop");
            assert_eq!(last["table"], "ip filter");
            let text = step["text"].as_str().unwrap();
            assert!(
                text.contains("drops the first packet of such a connection: ip filter"),
                "{text}"
            );
            assert!(text.contains(last["rule"].as_str().unwrap()), "{text}");
            let verdict = format!("does not reach {}: dropped at kernel on tunless0", perf.ip);
            assert_eq!(shut.verdict(), verdict);
        }
        // nft's own tables, with a set, and a rule that is about the interface by which it leaves.
        let table = "table inet mine {
            set closed {
                type inet_service
                elements = { 9999 }
            }
            chain forward {
                type filter hook forward priority 10
                oifname \"tunless0\" tcp dport @closed counter drop comment \"closed for a test\"
            }
        }
        ";
        node2.netns.exec_with_input("nft", &["-f", "-"], table).unwrap();
        let out = ask(perf.ip, sit.ip, 9999, "tcp");
        let last = out.answer["there"]["steps"][1]["rules"].as_array().unwrap().last().unwrap();
        assert_eq!(last["chain"], "forward");
        let rule = last["rule"].as_str().unwrap();
        assert!(rule.contains("@closed") && rule.contains("closed for a test"), "{rule}");
        assert_eq!(out.status, Some(3), "{:#}", out.answer);
        let other = ask(perf.ip, sit.ip, 9998, "tcp");
        assert_eq!(other.status, Some(0), "{:#}", other.answer);
        node2.netns.exec("nft", &["delete table inet mine"]).unwrap();
        assert_eq!(rules(), before, "no rule changed, no packet was counted");
        assert_eq!(node2.netns.exec("ip", &["-o", "link"]).unwrap(), links);
    });
}

/// Everything that packets could change: maps of the attached programs, byte by byte, and what interfaces
/// have counted.
fn look(node: &Node) -> BTreeMap<String, Vec<u8>> {
    let attached = links::list(&Pins::new(&node.bpffs)).unwrap();
    let mut found = BTreeMap::new();
    for program in loaded_programs().filter_map(Result::ok) {
        if attached.iter().all(|(_, link)| link.program_id != program.id()) {
            continue;
        }
        for id in program.map_ids().unwrap().unwrap() {
            let info = MapInfo::from_id(id).unwrap();
            // The daemon writes the time there.
            let name = info.name_as_str().unwrap().to_owned();
            if name == "KEPT_AT" || info.map_type().unwrap() == MapType::RingBuf {
                continue;
            }
            found.entry(format!("{name} {id}")).or_insert_with(|| dump(&info));
        }
    }
    for map in ["COUNTERS", "NODE_COUNTERS", "LEASES", "SEEN", "UNANSWERED"] {
        assert!(found.keys().any(|name| name.starts_with(map)), "{map} is in use");
    }
    let counted = node.netns.exec("ip", &["-s", "-o", "link"]).unwrap();
    found.insert("interfaces".to_owned(), counted.into_bytes());
    found
}

fn dump(info: &MapInfo) -> Vec<u8> {
    let map = info.fd().unwrap().as_fd().try_clone_to_owned().unwrap();
    let cpus = match info.map_type().unwrap() {
        MapType::PerCpuArray => aya::util::nr_cpus().unwrap(),
        _ => 1,
    };
    let mut value = vec![0; (info.value_size() as usize).next_multiple_of(8) * cpus];
    let (mut before, mut key) = (None, vec![0; info.key_size() as usize]);
    let mut all = BTreeMap::new();
    while sys::next_key(&map, before.as_deref(), &mut key).unwrap() {
        // Not as a program would: no entry becomes a younger one by it.
        if sys::lookup(&map, &key, &mut value).is_ok() && value.iter().any(|byte| *byte != 0) {
            all.insert(key.clone(), value.clone());
        }
        before = Some(key.clone());
    }
    all.into_iter().flat_map(|(key, value)| [key, value].concat()).collect()
}

/// With the daemon dead, too.
#[test]
fn nothing_is_touched() {
    Scene::with(lab(), Setup::VERIFIED, "leases: {services: true}\n", &[]).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let (perf, sit) = (perf.ip, sit.ip);
        let to = SocketAddrV4::new(sit, PORT);
        {
            let (perf, sit) = scene.pods();
            let talk =
                Conversation::start(Protocol::Udp, &perf.netns, to, &sit.netns, PORT).unwrap();
            wait_leased_at_client(&scene.daemon2, talk.client, to);
        }
        scene.daemon2.kill9().unwrap();
        let node = &scene.lab.node2;
        let mut last = BTreeMap::new();
        // Neighbours look for each other now and then; what explain changes it would change each time.
        until("explain changed nothing", SOON, || {
            let before = look(node);
            for protocol in ["tcp", "udp", "icmp"] {
                for (from, to) in [(perf, sit), (sit, perf)] {
                    let to = format!("{to}:{PORT}");
                    let more = ["--protocol", protocol];
                    let answer = Explained::between(&scene.daemon2, from, &to, &more);
                    assert_eq!(answer.status, Some(0), "{:#}", answer.answer);
                }
            }
            last = look(node);
            (before == last).then_some(())
        });
        assert!(!last.iter().any(|(name, bytes)| name.starts_with("COUNTERS") && bytes.is_empty()));
        let output = scene
            .daemon2
            .cli(&["explain", "--from", &perf.to_string(), "--to", &sit.to_string()])
            .unwrap();
        assert_eq!(output.stderr.trim(), "the daemon is not running; this is what it left");
        scene.daemon2.restart().unwrap();
    });
}

#[test]
fn what_cannot_be_explained_is_said_in_a_line() {
    Scene::new(lab(), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let (from, to) = (perf.ip.to_string(), sit.ip.to_string());
        let node = &scene.lab.node2;
        let before = links::list(&Pins::new(&node.bpffs)).unwrap();
        for (args, status, says) in [
            (&["--from", &from][..], 2, "--to"),
            (&["--from", &from, "--to", "nowhere"], 2, "neither an IPv4 address nor ADDRESS:PORT"),
            (&["--from", "default/web", "--to", &to], 2, "neither an IPv4 address nor the name"),
            (&["--from", &from, "--to", &to, "--protocol", "gre"], 2, "gre"),
            (&["--from", &from, "--to", &to, "--from-port", "70000"], 2, "70000"),
            (&["--from", "10.99.0.1", "--to", "10.99.0.2"], 1, "is a pod of this node"),
            (
                &["--from", "10.99.0.1", "--to", &from],
                1,
                "neither a pod of this node nor of another",
            ),
            (&["--from", "cali0nothere", "--to", &to], 1, "neither an address nor an interface"),
            (&["--from", "lo", "--to", &to], 1, "lo is not a pod's interface"),
            (&["--from", &to, "--source", &to, "--to", &from], 1, "--source goes with"),
            (
                &["--from", &from, "--to", &to, "--bpffs", "/sys/fs/bpf/nowhere"],
                1,
                "nothing is pinned",
            ),
        ] {
            let output = scene.daemon2.cli(&[&["explain"], args].concat()).unwrap();
            assert_eq!((output.status, output.stdout.as_str()), (Some(status), ""), "{args:?}");
            assert!(output.stderr.contains(says), "{args:?}: {}", output.stderr);
            if status == 1 {
                assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
            }
        }
        assert_eq!(links::list(&Pins::new(&node.bpffs)).unwrap(), before);
    });
    // Nothing attached, and a map that is another's.
    let lab = lab().build().unwrap();
    let node = &lab.node2;
    let config = Setup::VERIFIED.config(node, &lab.node1, "");
    let mut daemon = Daemon::start(node, &config).unwrap();
    tunless_tests::scene::endpoint_of(&daemon, lab.perf());
    daemon.kill9().unwrap();
    let (from, to) = (lab.perf().ip.to_string(), lab.sit().ip.to_string());
    let fails = |says: &str| {
        let output = daemon.cli(&["explain", "--from", &from, "--to", &to]).unwrap();
        assert_eq!(output.status, Some(1), "{}", output.stdout);
        assert!(output.stderr.contains(says), "{}", output.stderr);
    };
    let pins = Pins::new(&node.bpffs);
    for (_, pin) in links::pinned(&pins).unwrap() {
        fs::remove_file(pin).unwrap();
    }
    until("no program is attached", SOON, || links::list(&pins).unwrap().is_empty().then_some(()));
    fails("no program of tunless is attached on this node");
    let nodes = pins.map("NODES");
    fs::remove_file(&nodes).unwrap();
    fails("NODES");
    assert!(!nodes.exists(), "explain makes no pin");
    sys::pin(&sys::create_array("foreign", 8).unwrap(), &nodes).unwrap();
    fails("is not as this version lays it out");
    daemon.terminate_and_detach().ok();
}
