//! Lists that are printed again, what drops, how fast, and which configuration and version are in use.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use dataplane_common::{Reason, Verdict};
use serde_json::{Deserializer, Value, json};
use tunless_lab::{
    Daemon, Lab, LabBuilder,
    daemon::Tunless,
    felix::Allow,
    schemas,
    traffic::{ping, udp},
};
use tunless_tests::scene::{Counters, SOON, Scene, Setup, until};

const PORT: u16 = 7000;

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A document each time; and the command ends with its reader, as one behind `| head` has to.
#[test]
fn a_list_is_printed_again_until_its_reader_has_gone() {
    Scene::new(lab(), Setup::OFF).case(|scene| {
        let tunless = Tunless::new(&scene.lab.node2, None);
        for noun in ["routes", "nodes", "endpoints", "leases", "counters"] {
            let args = [noun, "list", "--watch=10ms", "-o", "json"];
            let mut command = tunless.command(&args).unwrap();
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut documents =
                Deserializer::from_reader(child.stdout.take().unwrap()).into_iter::<Value>();
            for _ in 0..3 {
                let document = documents.next().expect("another one").unwrap();
                assert_eq!(document["apiVersion"], "tunless/v1", "{noun}");
                assert!(document["items"].is_array(), "{noun}");
                schemas::check(&args, &document.to_string());
            }
            drop(documents);
            assert!(child.wait().unwrap().success(), "{noun}");
        }
        // Not on a terminal: nothing but lines.
        let mut command = tunless.command(&["nodes", "list", "-w=10ms"]).unwrap();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let printed: Vec<String> = lines.by_ref().take(4).map(Result::unwrap).collect();
        assert!(printed[0].starts_with("NODE ") && printed[2].starts_with("NODE "), "{printed:?}");
        assert!(printed[1].starts_with("172.16.35.4 "), "{printed:?}");
        drop(lines);
        assert!(child.wait().unwrap().success());
        // What ends a list ends its watch.
        let nowhere = tunless.run(&["nodes", "list", "-w=10ms", "--bpffs", "/sys/fs/bpf/nowhere"]);
        let nowhere = nowhere.unwrap();
        assert_eq!(nowhere.status, Some(1));
        assert!(nowhere.stderr.contains("nothing is pinned at"), "{}", nowhere.stderr);
        let never = tunless.run(&["nodes", "list", "-w=0"]).unwrap();
        assert_eq!(never.status, Some(2), "{}", never.stderr);
    });
}

/// The host's end of a pod's veth pair never sees what the fast path puts into the pod.
#[test]
fn a_pods_traffic_has_what_skips_the_stack() {
    const PACKETS: u64 = 200;
    Scene::each_of(&[Setup::OFF, Setup::VERIFIED], &lab(), |scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let traffic = || {
            let listed = scene.daemon2.cli_json(&["endpoints", "list"]).unwrap();
            let figures = &listed["items"][0]["traffic"];
            ["from_pod_packets", "from_pod_bytes", "into_pod_packets", "into_pod_bytes"]
                .map(|key| figures[key].as_u64().unwrap())
        };
        let (before, counted) = (traffic(), Counters::of(&scene.daemon2));
        let server = udp::bind(&sit.netns, PORT, SOON).unwrap();
        let client = udp::bind(&perf.netns, 0, SOON).unwrap();
        client.connect((sit.ip, PORT)).unwrap();
        for _ in 0..PACKETS {
            client.send(&[1; 100]).unwrap();
            let (_, from) = server.recv_from(&mut [0; 200]).unwrap();
            server.send_to(&[2; 300], from).unwrap();
            client.recv(&mut [0; 400]).unwrap();
        }
        let moved: Vec<u64> = before.iter().zip(traffic()).map(|(old, new)| new - old).collect();
        // Ethernet, IPv4 and UDP headers are 42 bytes; ARP and neighbour discovery may come in between.
        for (at, least) in [PACKETS, PACKETS * 142, PACKETS, PACKETS * 342].into_iter().enumerate()
        {
            assert!(moved[at] >= least && moved[at] < least + least / 4, "{moved:?}");
        }
        let fast = counted.moved(&scene.daemon2).get(&Reason::DecapToPod).copied();
        let is_fast = scene.setup == Setup::VERIFIED;
        assert_eq!(fast.is_some_and(|packets| packets > PACKETS / 2), is_fast, "{fast:?}");
    });
}

#[test]
fn counters_show_what_drops_and_how_fast() {
    Scene::new(lab(), Setup::OFF).case(|scene| {
        scene.warm_up();
        let daemon = &scene.daemon2;
        let drops = daemon.cli_json(&["counters", "list", "--drops"]).unwrap();
        let dropping = Reason::ALL.iter().filter(|reason| reason.verdict() == Verdict::Dropped);
        let names = |items: &Value| -> Vec<String> {
            let items = items["items"].as_array().unwrap().iter();
            items.map(|item| item["reason"].as_str().unwrap().to_owned()).collect()
        };
        let expected: Vec<String> = dropping.map(ToString::to_string).collect();
        assert_eq!(names(&drops), expected);
        let nothing = daemon.cli(&["counters", "list", "--drops"]).unwrap();
        assert_eq!((nothing.status, nothing.stdout.as_str()), (Some(0), ""), "none was dropped");

        let rates = daemon.cli_json(&["counters", "list", "--rate=10ms"]).unwrap();
        let first = &rates["items"][0];
        assert_eq!(
            (&first["reason"], &first["packets_per_second"]),
            (&json!("pod_encapsulated"), &json!(0.0)),
            "the fast path is off"
        );
        let table = daemon.cli(&["counters", "list", "--rate=10ms"]).unwrap().stdout;
        let header = table.lines().next().unwrap();
        for column in ["HOOK", "PACKETS/S", "BYTES/S"] {
            assert!(header.contains(column), "{header}");
        }
        let plain = daemon.cli(&["counters", "list"]).unwrap().stdout;
        assert!(!plain.lines().next().unwrap().contains("/S"), "{plain}");
        assert!(plain.contains("tunnel device, tc egress"), "{plain}");
    });
}

/// A refused file is not what the daemon uses.
#[test]
fn the_active_configuration_is_shown() {
    Scene::new(lab(), Setup::OFF).case(|scene| {
        let daemon = &mut scene.daemon2;
        let show = |daemon: &tunless_lab::Daemon, args: &[&str]| {
            let output = daemon.cli(&[&["config", "show", "-o", "json"], args].concat()).unwrap();
            (output.status, serde_json::from_str::<Value>(&output.stdout).unwrap_or_default())
        };
        let (status, active) = show(daemon, &["--active"]);
        assert_eq!((status, &active["fastpath"]), (Some(0), &json!("off")));
        assert_eq!(show(daemon, &[]), (Some(0), active.clone()));
        let good = std::fs::read_to_string(daemon.config_path()).unwrap();
        daemon.rewrite_config(&format!("{good}colour: red\n")).unwrap();
        until("the file is refused", SOON, || {
            daemon.log().contains("unknown field `colour`").then_some(())
        });
        assert_eq!(show(daemon, &["--active"]), (Some(0), active));
        assert_eq!(show(daemon, &[]).0, Some(1), "the file itself is refused");
        daemon.rewrite_config(&good).unwrap();

        let version = daemon.cli_json(&["version"]).unwrap();
        assert_eq!(version["daemon"]["version"], version["version"]);
        assert_eq!(version["daemon"]["pid"], daemon.pid().unwrap());
        assert_eq!(version["daemon"]["abi"], version["abi"]);
        assert_eq!(version["serving"], version["abi"]);
    });
    let lab = lab().build().unwrap();
    let tunless = Tunless::new(&lab.node2, None);
    let never = tunless.run(&["config", "show", "--active"]).unwrap();
    assert_eq!(never.status, Some(1));
    assert!(never.stderr.contains("no daemon has accepted a configuration"), "{}", never.stderr);
    let version = tunless.json(&["version"]).unwrap();
    assert_eq!((&version["daemon"], &version["serving"]), (&Value::Null, &Value::Null));
}

/// Pings that pass, that a policy keeps from a pod, and that a rule keeps from the tunnel.
#[test]
fn the_summary_shows_what_the_kernel_kept() {
    Scene::new(lab(), Setup::BOTH_VERIFIED[0]).case(|scene| {
        let (perf, sit) = scene.pods();
        scene.police(&[Allow::ALL]);
        scene.warm_up();
        // Answers about MACs go into pods, too.
        for pod in [perf, sit] {
            let known =
                ["neigh", "change", &pod.ip.to_string(), "dev", &pod.cali, "nud", "permanent"];
            pod.node.exec("ip", &known).unwrap();
            let gateway = ["neigh", "change", "169.254.1.1", "dev", "eth0", "nud", "permanent"];
            pod.netns.exec("ip", &gateway).unwrap();
        }
        let daemons = [&scene.daemon1, &scene.daemon2];
        for daemon in daemons {
            assert!(daemon.cli(&["counters", "flush"]).unwrap().success());
        }
        let ping = |count| {
            let wait = Duration::from_millis(200);
            let options = ping::Options { count, wait, ..ping::Options::default() };
            ping::ping(&perf.netns, sit.ip, &options).unwrap().received
        };
        assert_eq!(ping(4), 4);
        scene.police(&[]);
        assert_eq!(ping(3), 0, "the policy of demo-hello-sit");
        let rule = ["FORWARD", "-s", &perf.ip.to_string(), "-p", "icmp", "-j", "DROP"];
        let node2 = &scene.lab.node2.netns;
        node2.exec("iptables", &[&["-I"][..], &rule].concat()).unwrap();
        assert_eq!(ping(2), 0, "the rule on node2");
        node2.exec("iptables", &[&["-D"][..], &rule].concat()).unwrap();

        let summary = |daemon: &Daemon| daemon.cli_json(&["counters", "summary"]).unwrap();
        let [node1, node2] = daemons.map(summary);
        let packets = |of: &Value, place: &str, outcome: &str| {
            let is_it = |item: &&Value| {
                item["place"] == place && item["outcome"].as_str().unwrap().contains(outcome)
            };
            of["items"].as_array().unwrap().iter().find(is_it).unwrap()["packets"].clone()
        };
        for (of, place, outcome, expected) in [
            (&node2, "from pods", "passed to the stack", 9),
            (&node2, "stack", "rp_filter", 2),
            (&node2, "tunnel device", "encapsulated", 7),
            (&node2, "from the wire", "passed to the stack", 4),
            (&node2, "stack", "for the host itself", 0),
            (&node2, "into pods", "from the stack", 4),
            (&node1, "from the wire", "passed to the stack", 7),
            (&node1, "stack", "for the host itself", 3),
            (&node1, "into pods", "from the stack", 4),
            (&node1, "from pods", "passed to the stack", 4),
            (&node1, "stack", "rp_filter", 0),
        ] {
            assert_eq!(packets(of, place, outcome), json!(expected), "{place}: {outcome}: {of}");
        }
        let table = scene.daemon1.cli(&["counters", "summary"]).unwrap().stdout;
        assert!(table.starts_with("WHERE "), "{table}");
        println!("{table}");
    });
}
