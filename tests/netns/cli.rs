//! The command line: what it prints, in which shape, and how it ends.

use std::{collections::BTreeSet, fs};

use dataplane_common::Reason;
use serde_json::{Value, json};
use tunless_lab::{Lab, LabBuilder, addr::mac_text, daemon::Tunless};
use tunless_tests::scene::{Scene, Setup};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("a mapping").keys().map(String::as_str).collect()
}

/// The age of a route, which is taken out: it grows while we look.
fn take_age(route: &mut Value) -> u64 {
    let age = route.as_object_mut().and_then(|route| route.remove("age_seconds"));
    age.and_then(|age| age.as_u64()).expect("routes have an age")
}

/// Takes out every age there is.
fn take_ages(answer: &mut Value) {
    match answer {
        Value::Object(fields) => {
            fields.remove("age_seconds");
            fields.values_mut().for_each(take_ages);
        }
        Value::Array(items) => items.iter_mut().for_each(take_ages),
        _ => {}
    }
}

#[test]
fn lists_have_the_documented_shape() {
    Scene::each(&lab(), |scene| {
        scene.warm_up();
        let (daemon, perf) = (&scene.daemon2, scene.lab.perf());
        let list = |noun| {
            let answer = daemon.cli_json(&[noun, "list"]).unwrap();
            assert_eq!(keys(&answer), BTreeSet::from(["apiVersion", "items"]));
            assert_eq!(answer["apiVersion"], "tunless/v1");
            answer["items"].as_array().expect("a list").clone()
        };
        let route = json!({
            "cidr": "10.20.42.0/26",
            "node": "172.16.35.4",
            "encap": "ipip",
            "source": "file",
            "state": "active",
        });
        let mut routes = list("routes");
        assert!(take_age(&mut routes[0]) < 600);
        assert_eq!(routes, [route]);

        let index: Value =
            serde_json::from_str(&perf.node.ip(&format!("-j link show {}", perf.cali)).unwrap())
                .unwrap();
        let endpoint = json!({
            "ip": "10.20.105.215",
            "interface": perf.cali,
            "ifindex": index[0]["ifindex"],
            "mac": mac_text(perf.mac),
        });
        let mut endpoints = list("endpoints");
        let traffic = endpoints[0].as_object_mut().unwrap().remove("traffic").unwrap();
        assert!(traffic["from_pod_packets"].as_u64() > Some(0), "{traffic}");
        assert_eq!(endpoints, [endpoint]);

        let nodes = list("nodes");
        assert_eq!(nodes.len(), 1);
        for (key, value) in [
            ("node", json!("172.16.35.4")),
            ("interface", json!("eth0")),
            ("mtu", json!(1500)),
            ("next_hop_mac", json!(mac_text(scene.lab.node2.gateway_mac))),
        ] {
            assert_eq!(nodes[0][key], value, "{key}");
        }
        assert!(nodes[0]["last_seen_seconds"].as_f64().unwrap() < 60.0);

        let counters = list("counters");
        assert_eq!(counters.len(), Reason::COUNT);
        for (item, reason) in counters.iter().zip(Reason::ALL) {
            let expected =
                ["reason", "program", "hook", "direction", "verdict", "packets", "bytes"];
            assert_eq!(keys(item), BTreeSet::from(expected));
            assert_eq!(item["reason"], reason.as_str());
            assert_eq!(item["program"], reason.program().as_str());
            assert_eq!(item["hook"], reason.program().hook());
            assert_eq!(item["direction"], reason.direction().as_str());
            assert_eq!(item["verdict"], reason.verdict().as_str());
            assert!(item["packets"].is_u64() && item["bytes"].is_u64());
        }
    });
}

#[test]
fn status_says_what_is_where() {
    Scene::each(&lab(), |scene| {
        let mut status = scene.daemon2.cli_json(&["status"]).unwrap();
        let ifindex = status["tunnel"].as_object_mut().unwrap().remove("ifindex");
        assert!(ifindex.is_some_and(|ifindex| ifindex.is_u64()));
        for (key, value) in [
            ("apiVersion", json!("tunless/v1")),
            ("ready", json!(true)),
            ("problems", json!([])),
            ("mode", json!("replace")),
            ("fastpath", json!(scene.setup.fastpath)),
            ("spoof", json!("drop")),
            ("node", json!("172.16.36.10")),
            ("tunnel", json!({"interface": "tunless0", "address": "10.20.105.192", "mtu": 1480})),
            ("routes", json!(1)),
            ("endpoints", json!(1)),
            ("nodes", json!(1)),
        ] {
            assert_eq!(status[key], value, "{key}");
        }
        assert_eq!(status["daemon"]["running"], true);
        assert_eq!(status["daemon"]["pid"], scene.daemon2.pid().unwrap());
        let attachments = status["attachments"].as_array().unwrap().iter().map(|at| {
            assert_eq!(at["live"], true);
            assert!(at["ifindex"].is_u64());
            ["program", "hook", "interface"].map(|key| at[key].as_str().unwrap().to_owned())
        });
        let mut expected = BTreeSet::from([
            ["decap_tc", "tc ingress", "eth0"].map(str::to_owned),
            ["encap_host", "tc egress", "tunless0"].map(str::to_owned),
        ]);
        if scene.setup.is_xdp() {
            expected.insert(["decap_xdp", "xdp", "eth0"].map(str::to_owned));
        }
        let cali = scene.lab.perf().cali.as_str();
        if scene.setup.is_fast() {
            expected.insert(["encap_pod", "tc ingress", cali].map(str::to_owned));
        }
        if scene.setup.fastpath == "verified" {
            expected.insert(["grant_decap", "tc egress", cali].map(str::to_owned));
        }
        assert_eq!(attachments.collect::<BTreeSet<_>>(), expected);
    });
}

#[test]
fn routes_get_answers_for_one_address() {
    Scene::new(lab(), Setup::OFF).case(|scene| {
        scene.warm_up();
        let daemon = &scene.daemon2;
        let mut answer = daemon.cli_json(&["routes", "get", "10.20.42.31"]).unwrap();
        assert!(take_age(&mut answer) < 600);
        let expected = json!({
            "apiVersion": "tunless/v1",
            "ip": "10.20.42.31",
            "found": true,
            "cidr": "10.20.42.0/26",
            "node": "172.16.35.4",
            "encap": "ipip",
            "source": "file",
            "state": "active",
            "interface": "eth0",
            "mtu": 1480,
            "next_hop_mac": mac_text(scene.lab.node2.gateway_mac),
            "foreign_route": null,
        });
        assert_eq!(answer, expected);
        let own = daemon.cli_json(&["routes", "get", "10.20.105.215"]).unwrap();
        assert_eq!((&own["encap"], &own["cidr"]), (&"local".into(), &"10.20.105.215/32".into()));
        assert_eq!(own["interface"], scene.lab.perf().cali.as_str());

        for unknown in ["10.20.43.1", "8.8.8.8", "172.16.35.4"] {
            let output = daemon.cli(&["routes", "get", unknown]).unwrap();
            assert_eq!((output.status, output.stdout.as_str()), (Some(3), ""), "{unknown}");
            assert!(
                output.stderr.contains(&format!("no route covers {unknown}")),
                "{}",
                output.stderr
            );
            let output = daemon.cli(&["routes", "get", unknown, "-o", "json"]).unwrap();
            assert_eq!((output.status, output.stderr.as_str()), (Some(3), ""), "{unknown}");
            let answer: Value = serde_json::from_str(&output.stdout).unwrap();
            let expected = json!({"apiVersion": "tunless/v1", "ip": unknown, "found": false});
            assert_eq!(answer, expected);
        }
    });
}

/// Data on stdout, in three formats; notes on stderr.
#[test]
fn every_format_says_the_same() {
    Scene::new(lab(), Setup::TRUSTED_XDP).case(|scene| {
        scene.warm_up();
        let daemon = &scene.daemon2;
        for command in [
            ["routes", "list"].as_slice(),
            &["routes", "get", "10.20.42.31"],
            &["endpoints", "list"],
            &["counters", "list"],
            &["version"],
        ] {
            let run = |format| {
                let output = daemon.cli(&[command, &["-o", format]].concat()).unwrap();
                assert_eq!((output.status, output.stderr.as_str()), (Some(0), ""), "{command:?}");
                output.stdout
            };
            let mut json: Value = serde_json::from_str(&run("json")).unwrap();
            let mut yaml: Value = serde_yaml::from_str(&run("yaml")).unwrap();
            // A second may pass between the two.
            for answer in [&mut json, &mut yaml] {
                take_ages(answer);
            }
            assert_eq!(json["apiVersion"], "tunless/v1", "{command:?}");
            // A second of ARP between the two counts as the host's own traffic.
            if command != ["counters", "list"] {
                assert_eq!(json, yaml, "{command:?}");
            }
            assert_eq!(yaml["apiVersion"], "tunless/v1");
            assert!(!run("table").contains("apiVersion"));
        }
        let table = daemon.cli(&["routes", "list"]).unwrap().stdout;
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        let age = rows[1][5];
        assert!(age.ends_with('s') && age[..age.len() - 1].parse::<u64>().is_ok(), "{age}");
        assert_eq!(
            rows,
            [
                ["CIDR", "NODE", "ENCAP", "SOURCE", "STATE", "AGE"],
                ["10.20.42.0/26", "172.16.35.4", "ipip", "file", "active", age]
            ]
        );
        let status = daemon.cli(&["status"]).unwrap().stdout;
        for said in ["ready:      yes", "running (pid ", "fast path trusted", "encap_pod", "xdp"] {
            assert!(status.contains(said), "no `{said}` in {status}");
        }
    });
}

#[test]
fn counters_are_flushed() {
    Scene::new(lab(), Setup::OFF).case(|scene| {
        scene.warm_up();
        let sum = || -> u64 {
            let answer = scene.daemon2.cli_json(&["counters", "list"]).unwrap();
            let items = answer["items"].as_array().unwrap();
            items
                .iter()
                .filter(|item| item["verdict"] == "forwarded")
                .map(|item| item["packets"].as_u64().unwrap() + item["bytes"].as_u64().unwrap())
                .sum()
        };
        let last_seen = || {
            let nodes = scene.daemon2.cli_json(&["nodes", "list"]).unwrap();
            nodes["items"][0]["last_seen_seconds"].as_f64()
        };
        assert!(sum() > 0);
        let seen = last_seen().expect("the other node answered");
        assert_eq!(scene.daemon2.cli(&["counters", "flush"]).unwrap().status, Some(0));
        assert_eq!(sum(), 0);
        // Not a counter: the node has been heard, however often we count anew.
        assert!(last_seen().expect("still known") >= seen);
        let nodes = scene.daemon2.cli_json(&["nodes", "list"]).unwrap();
        assert_eq!(
            (&nodes["items"][0]["encap_packets"], &nodes["items"][0]["decap_packets"]),
            (&0.into(), &0.into())
        );
    });
}

/// Without any daemon, ever.
#[test]
fn without_pins_the_answer_is_no() {
    let lab = lab().build().unwrap();
    let tunless = Tunless::new(&lab.node2, None);
    let status = tunless.run(&["status"]).unwrap();
    assert_eq!(status.status, Some(3), "{}", status.stderr);
    assert!(status.stdout.contains("NO"), "{}", status.stdout);
    let waited = tunless.run(&["status", "--wait=1s", "-o", "json"]).unwrap();
    assert_eq!(waited.status, Some(3));
    let waited: Value = serde_json::from_str(&waited.stdout).unwrap();
    assert_eq!(waited["ready"], false);
    // What is not known is not invented.
    for key in ["mode", "fastpath", "spoof", "node", "tunnel", "routes", "leased_flows"] {
        assert_eq!(waited[key], Value::Null, "{key}");
    }
    assert!(!status.stdout.contains("mode:"), "{}", status.stdout);
    for noun in ["routes", "nodes", "endpoints", "counters"] {
        let output = tunless.run(&[noun, "list"]).unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{noun}");
        assert!(output.stderr.contains("nothing is pinned at"), "{}", output.stderr);
    }
    let detach = tunless.run(&["detach"]).unwrap();
    assert_eq!(detach.status, Some(0), "{}", detach.stderr);
}

/// As between the upgrade of the package and the restart of the daemon.
#[test]
fn maps_of_another_version_are_named() {
    let mut scene = Scene::new(lab(), Setup::OFF);
    let bpffs = scene.lab.node2.bpffs.clone();
    scene.daemon2.terminate().unwrap();
    let abi = scene.daemon2.cli_json(&["version"]).unwrap()["abi"].as_str().unwrap().to_owned();
    let (ours, other) = (bpffs.join(format!("v{abi}")), bpffs.join("vdeadbeef"));
    fs::rename(&ours, &other).unwrap();
    for noun in ["routes", "nodes", "endpoints", "leases", "counters"] {
        let output = scene.daemon2.cli(&[noun, "list"]).unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{noun}");
        for said in ["vdeadbeef are of another version", &abi, "systemctl restart tunless"] {
            assert!(output.stderr.contains(said), "no {said} in {}", output.stderr);
        }
    }
    fs::rename(&other, &ours).unwrap();
    scene.finish();
}

#[test]
fn usage_errors_end_with_two() {
    let lab = lab().build().unwrap();
    let tunless = Tunless::new(&lab.node2, None);
    for arguments in [
        ["nonsense"].as_slice(),
        &["routes"],
        &["routes", "get", "10.20.42"],
        &["status", "--wait=soon"],
        &["status", "-o", "xml"],
        &["completions", "tcsh"],
        &["run", "--what"],
    ] {
        let output = tunless.run(arguments).unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(
            output.stderr.contains("Usage") || output.stderr.contains("--help"),
            "{arguments:?}"
        );
    }
}

#[test]
fn commands_that_need_nothing() {
    let lab = lab().build().unwrap();
    let tunless = Tunless::new(&lab.node2, None);
    let run = |arguments: &[&str]| {
        let output = tunless.run(arguments).unwrap();
        assert_eq!(output.status, Some(0), "{arguments:?}: {}", output.stderr);
        output
    };
    let version = run(&["version"]).stdout;
    assert!(version.starts_with(&format!("tunless {}", env!("CARGO_PKG_VERSION"))), "{version}");
    let version: Value = serde_json::from_str(&run(&["version", "-o", "json"]).stdout).unwrap();
    let expected = ["apiVersion", "version", "abi", "daemon", "serving"];
    assert_eq!(keys(&version), BTreeSet::from(expected));
    assert!(run(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).stdout;
        assert!(script.contains("endpoints") && script.contains("detach"), "{shell}");
    }

    // The example is a file that is accepted, and shown whole.
    let path = lab.dir().join("example.yaml");
    fs::write(&path, run(&["config", "example"]).stdout).unwrap();
    let path = path.display().to_string();
    let valid = run(&["config", "validate", &path]);
    assert!(valid.stderr.contains("fine"), "{}", valid.stderr);
    let shown = run(&["config", "show", "--config", &path]).stdout;
    // The example has no datastore; one that does leaves something to the size of the cluster.
    let sized = lab.dir().join("sized.yaml");
    fs::write(&sized, "sources: {kubernetes: {}}\n").unwrap();
    let sized = sized.display().to_string();
    let validated = run(&["config", "validate", &sized]).stderr;
    for text in [validated, run(&["config", "show", "--config", &sized]).stdout] {
        assert!(text.contains("auto: nodes and borrowed addresses are followed"), "{text}");
    }
    let shown: Value = serde_yaml::from_str(&shown).unwrap();
    for (key, value) in
        [("mode", "auto"), ("spoof", "drop"), ("fastpath", "verified"), ("mtu", "auto")]
    {
        assert_eq!(shown[key], value);
    }
    let json = run(&["config", "show", "--config", &path, "-o", "json"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["apiVersion"], &json["routes"]), (&"tunless/v1".into(), &shown["routes"]));

    let bad = lab.dir().join("bad.yaml");
    fs::write(&bad, "fastpath: off\nspoof: maybe\n").unwrap();
    let output = tunless.run(&["config", "validate", &bad.display().to_string()]).unwrap();
    assert_eq!(output.status, Some(1));
    assert!(output.stderr.contains(&format!("{}:2: ", bad.display())), "{}", output.stderr);
    let directory = tunless.run(&["config", "validate", &lab.dir().display().to_string()]).unwrap();
    assert_eq!(directory.status, Some(1));
    assert!(directory.stderr.contains("this is a directory"), "{}", directory.stderr);
    assert!(!directory.stderr.contains("os error"), "{}", directory.stderr);
}
