//! Rules of the host about encapsulated packets, which tunless takes in and sends past them.

use std::collections::BTreeSet;

use serde_json::Value;
use tunless_lab::{Daemon, Lab, felix};
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
        follow_chains_and_sets(scene);
        follow_felix(scene);
        let node = &scene.lab.node2.netns;
        let rule = ["-t", "raw", "-A", "PREROUTING", "-p", "4", "-j", "DROP"];
        node.exec("iptables-nft", &rule).unwrap();
        wait_named(&scene.daemon2, &["raw PREROUTING"]);
        node.exec("iptables-nft", &["-t", "raw", "-F"]).unwrap();
        wait_named(&scene.daemon2, &[]);
        // The kernel announces no change of these; they are looked at every ten seconds.
        node.exec("iptables-legacy", &rule).unwrap();
        wait_named(&scene.daemon2, &["iptables-legacy raw PREROUTING"]);
        node.exec("iptables-legacy", &["-t", "raw", "-F"]).unwrap();
        wait_named(&scene.daemon2, &[]);
    });
}

/// Felix's chains for a host endpoint as it makes them in nftables, and a firewall with sets.
fn follow_chains_and_sets(scene: &mut Scene) {
    let (node, peer) = (scene.lab.node2.netns.clone(), scene.lab.node1.ip);
    let table = format!(
        "table ip calico {{\n\
         set cali40all-hosts-net {{ type ipv4_addr; flags interval; elements = {{ {peer}, 198.51.100.0/24 }}; }}\n\
         set cali40blocked {{ type ipv4_addr; flags interval; elements = {{ {peer}/31 }}; }}\n\
         map dispatch {{ type ifname : verdict; }}\n\
         chain raw-cali-pi {{ ip saddr @cali40blocked counter drop; }}\n\
         chain raw-cali-fh-eth0 {{ jump raw-cali-pi; meta mark & 0x10000 == 0x10000 notrack; }}\n\
         chain raw-cali-fh-other {{ ip protocol 4 drop; }}\n\
         chain raw {{ type filter hook prerouting priority -300; iifname vmap @dispatch; }}\n\
         chain filter-cali-wl-to-host {{ ip protocol 4 drop; }}\n\
         chain filter-cali-INPUT {{\n\
         ip protocol 4 ip saddr @cali40all-hosts-net fib daddr type local counter accept;\n\
         ip protocol 4 counter drop; iifname \"cali*\" goto filter-cali-wl-to-host; }}\n\
         chain input {{ type filter hook input priority 0; jump filter-cali-INPUT; }}\n\
         }}\n\
         add element ip calico dispatch {{ \"eth0\" : goto raw-cali-fh-eth0, \"eth9\" : goto raw-cali-fh-other }}\n\
         table inet fw {{\n\
         chain banned {{ ip protocol != 4 return; reject; }}\n\
         chain out {{ type filter hook output priority 0;\n\
         ip daddr {{ 192.0.2.0/24, {peer} }} goto banned; ip daddr . ip protocol {{ 192.0.2.7 . 4 }} drop; }}\n\
         }}\n"
    );
    node.exec_with_input("nft", &["-f", "-"], &table).unwrap();
    let felix = "calico raw-cali-pi";
    wait_named(&scene.daemon2, &[felix, "fw banned"]);
    scene.daemon2.kill9().unwrap();
    scene.daemon2.restart().unwrap();
    wait_named(&scene.daemon2, &[felix, "fw banned"]);
    node.exec("nft", &["delete", "table", "inet", "fw"]).unwrap();
    // Other hosts are blocked.
    node.exec("nft", &["flush", "set", "ip", "calico", "cali40blocked"]).unwrap();
    node.exec("nft", &["add", "element", "ip", "calico", "cali40blocked", "{ 192.0.2.0/24 }"])
        .unwrap();
    wait_named(&scene.daemon2, &[]);
    // Felix does not know this node any more, and would drop what comes from it.
    node.exec("nft", &["flush", "set", "ip", "calico", "cali40all-hosts-net"]).unwrap();
    wait_named(&scene.daemon2, &["calico filter-cali-INPUT"]);
    node.exec("nft", &["delete", "table", "ip", "calico"]).unwrap();
    wait_named(&scene.daemon2, &[]);
}

/// Felix's chains as iptables makes them: those of pods, which drop IPIP, are for pods only.
fn follow_felix(scene: &mut Scene) {
    let (node, peer) = (scene.lab.node2.netns.clone(), scene.lab.node1.ip);
    felix::enforce(&node, &[felix::Endpoint::open(scene.lab.sit())]).unwrap();
    let peer = format!("{peer}/32");
    let iptables = |rule: &str| {
        let rule = rule.replace("PEER", &peer);
        let words: Vec<&str> = rule.split(' ').collect();
        node.exec("iptables-nft", &words).unwrap();
    };
    for rule in [
        "-N cali-INPUT",
        "-N cali-wl-to-host",
        "-A cali-INPUT -p 4 -s PEER -m addrtype --dst-type LOCAL -j ACCEPT",
        "-A cali-INPUT -p 4 -m comment --comment x -j DROP",
        "-A cali-INPUT -i cali+ -g cali-wl-to-host",
        "-A cali-wl-to-host -j cali-from-wl-dispatch",
        "-A INPUT -j cali-INPUT",
        "-t raw -N cali-fh-eth0",
        "-t raw -A cali-fh-eth0 -s 198.51.100.7 -j DROP",
        "-t raw -A cali-PREROUTING -i eth0 -g cali-fh-eth0",
    ] {
        iptables(rule);
    }
    // Each change is looked at.
    iptables("-t raw -A cali-fh-eth0 -s PEER -j DROP");
    wait_named(&scene.daemon2, &["raw cali-fh-eth0"]);
    iptables("-t raw -D cali-fh-eth0 -s PEER -j DROP");
    wait_named(&scene.daemon2, &[]);
    for table in ["raw", "filter"] {
        for how in ["-F", "-X"] {
            node.exec("iptables-nft", &["-t", table, how]).unwrap();
        }
    }
}
