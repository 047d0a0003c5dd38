//! Rules of the host about encapsulated packets, which tunless takes in and sends past them.

use std::collections::BTreeSet;

use serde_json::Value;
use tunless_lab::{Daemon, Lab};
use tunless_tests::scene::{SOON, Scene, Setup, assert_answered, until};

/// The chains that `status` names.
fn named(daemon: &Daemon) -> BTreeSet<String> {
    let status = daemon.cli(&["status", "-o", "json"]).unwrap().stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    let problems = status["problems"].as_array().unwrap().iter();
    let rules = problems.filter(|problem| problem["code"] == "outer-rules");
    rules.map(|problem| problem["where"].as_str().unwrap().to_owned()).collect()
}

fn wait_named(daemon: &Daemon, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    let mut found = BTreeSet::new();
    until(&format!("{expected:?} are named"), SOON, || {
        found = named(daemon);
        (found == expected).then_some(())
    });
}

#[test]
fn rules_about_encapsulated_packets_are_listed() {
    Scene::new(Lab::new(), Setup::VERIFIED).case(|scene| {
        let (node, peer) = (&scene.lab.node2.netns, scene.lab.node1.ip);
        wait_named(&scene.daemon2, &[]);
        // Each chain has a rule that counts, but for the last: about other packets, or without effect.
        let table = format!(
            "table ip host {{\n\
             chain raw {{ type filter hook prerouting priority -300; ip saddr {peer} ip protocol 4 drop; }}\n\
             chain out {{ type filter hook output priority 0; ip daddr {peer} counter reject; }}\n\
             chain quiet {{ type filter hook input priority 0;\n\
             ip saddr {peer} tcp dport 9 drop; ip protocol 4 accept; ip protocol 4 counter;\n\
             ip saddr 198.51.100.7 drop; }}\n\
             chain through {{ type filter hook forward priority 0; ip protocol 4 drop; }}\n\
             }}\n\
             table inet both {{\n\
             chain in {{ type filter hook input priority 0; meta l4proto 4 limit rate 1/second accept; }}\n\
             }}\n"
        );
        node.exec_with_input("nft", &["-f", "-"], &table)
            .unwrap();
        let (perf, sit) = scene.pods();
        wait_named(&scene.daemon2, &["both in", "host out", "host raw"]);
        // As they say: the packets do not pass there.
        assert_answered(&perf.netns, sit.ip);
        node.exec("nft", &["delete", "table", "ip", "host"]).unwrap();
        node.exec("nft", &["delete", "table", "inet", "both"]).unwrap();
        wait_named(&scene.daemon2, &[]);
        let rule = ["-t", "raw", "-A", "PREROUTING", "-p", "4", "-j", "DROP"];
        node.exec("iptables-nft", &rule).unwrap();
        wait_named(&scene.daemon2, &["raw PREROUTING"]);
        node.exec("iptables-nft", &["-t", "raw", "-F"]).unwrap();
        wait_named(&scene.daemon2, &[]);
    });
}
