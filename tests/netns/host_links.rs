//! Hosts with more than one link: by which packets leave, by which they arrive, and from which
//! address.

use std::net::Ipv4Addr;

use serde_json::Value;
use tunless_lab::{Daemon, Lab, Node, RpFilter};
use tunless_tests::scene::{SOON, Setup, answers, assert_answered, until};

/// The router's and node2's address on its first link, once that has an address of its own.
const FIRST: [&str; 2] = ["198.18.1.1", "198.18.1.2"];
/// The same on its second link.
const SECOND: [&str; 2] = ["198.18.2.1", "198.18.2.2"];

/// Two nodes; node2 has a second link to the router, `eth1`.
pub(crate) struct Hosts {
    pub lab: Lab,
    /// The router's end of the second link.
    second_port: String,
}

impl Hosts {
    pub fn new() -> Self {
        let lab = Lab::new().rp_filter(RpFilter::Loose).fabric_filter(true).build().unwrap();
        let second_port = format!("{}-b", lab.node2.router_port);
        lab.router
            .ip_batch(&format!(
                "link add {second_port} type veth peer name eth1 netns {}\n\
                 addr add {}/30 dev {second_port}\n\
                 link set {second_port} up\n",
                lab.node2.netns.name(),
                SECOND[0],
            ))
            .unwrap();
        let hosts = Self { lab, second_port };
        hosts.at_node2(&format!("addr add {}/30 dev eth1\nlink set eth1 up\n", SECOND[1]));
        hosts
    }

    pub fn node2(&self) -> &Node {
        &self.lab.node2
    }

    pub fn at_node2(&self, lines: &str) {
        self.node2().netns.ip_batch(lines).unwrap();
    }

    fn at_router(&self, lines: &str) {
        self.lab.router.ip_batch(lines).unwrap();
    }

    /// Moves node2's address to `lo`, as its two links get addresses of their own.
    pub fn move_address_to_lo(&self) {
        let Node { ip, gateway, router_port: port, .. } = self.node2();
        self.at_router(&format!(
            "addr del {gateway}/24 dev {port}\naddr add {}/30 dev {port}\n",
            FIRST[0]
        ));
        self.at_node2(&format!(
            "addr del {ip}/24 dev eth0\n\
             addr add {}/30 dev eth0\n\
             addr add {ip}/32 dev lo\n\
             route add default src {ip} nexthop via {} dev eth0 nexthop via {} dev eth1\n",
            FIRST[1], FIRST[0], SECOND[0],
        ));
        self.fabric_sends_by_second(false);
    }

    /// By which link the fabric sends to node2's address.
    pub fn fabric_sends_by_second(&self, is_second: bool) {
        let via = if is_second { SECOND[1] } else { FIRST[1] };
        self.at_router(&format!("route replace {}/32 via {via}\n", self.node2().ip));
    }

    /// By which link packets go both ways.
    pub fn go_by_second(&self, is_second: bool) {
        let (via, link) = if is_second { (SECOND[0], "eth1") } else { (FIRST[0], "eth0") };
        let ip = self.node2().ip;
        self.at_node2(&format!("route replace default via {via} dev {link} src {ip}\n"));
        self.fabric_sends_by_second(is_second);
    }

    /// Starts daemons; node1 knows node2 by `address`.
    fn start(&self, address: Ipv4Addr, more: &str) -> [Daemon; 2] {
        let (node1, node2) = (&self.lab.node1, self.node2());
        let config1 = Setup::OFF.config_with(node1, &[(node2.block, address)], "");
        let config2 =
            Setup::OFF.config(node2, node1, "").replace("node: {", &format!("node: {{{more}"));
        [Daemon::start(node1, &config1).unwrap(), Daemon::start(node2, &config2).unwrap()]
    }

    pub fn talk(&self) {
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        until("they talk", SOON, || answers(&perf.netns, sit.ip).then_some(()));
        assert_answered(&perf.netns, sit.ip);
        assert_answered(&sit.netns, perf.ip);
    }

    pub fn finish(self, daemons: [Daemon; 2]) {
        assert_eq!(self.lab.plain_packets_on_wire().unwrap(), 0);
        daemons.into_iter().for_each(|daemon| daemon.finish().unwrap());
        assert_eq!(self.lab.problems(), Vec::<String>::new());
    }
}

/// Interfaces that `decap_tc` is attached to.
fn decapsulates_on(daemon: &Daemon) -> Vec<String> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let attachments = status["attachments"].as_array().unwrap().iter();
    let decap = attachments.filter(|at| at["program"] == "decap_tc");
    let mut names: Vec<_> = decap.map(|at| at["interface"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Waits until the node is down, because its only peer is unreachable for the reason that `words`
/// are part of.
fn wait_unreachable(daemon: &Daemon, words: &str) {
    until(words, SOON, || {
        // It exits with 3 while the node is down.
        let status = daemon.cli(&["status", "-o", "json"]).unwrap().stdout;
        let status: Value = serde_json::from_str(&status).ok()?;
        let problems = status["problems"].as_array()?;
        let find = |code: &str| problems.iter().find(|problem| problem["code"] == code);
        let what = find("node-unreachable")?["what"].as_str()?;
        let is_down = status["ready"] == false && find("all-routes-unreachable").is_some();
        (is_down && what.contains(words)).then_some(())
    });
}

/// With one link hooked, all packets that come by the other were lost, and nothing counted them.
#[test]
fn packets_arrive_by_another_link_than_ours_leave_by() {
    let hosts = Hosts::new();
    hosts.move_address_to_lo();
    let ip = hosts.node2().ip;
    let mut daemons = hosts.start(ip, "");
    for is_restarted in [false, true] {
        println!("after a restart: {is_restarted}");
        if is_restarted {
            daemons[1].kill9().unwrap();
            daemons[1].restart().unwrap();
        }
        for is_second in [false, true] {
            hosts.fabric_sends_by_second(is_second);
            hosts.talk();
        }
        assert_eq!(decapsulates_on(&daemons[1]), ["eth0", "eth1"]);
        let status = daemons[1].cli_json(&["status"]).unwrap();
        assert_eq!(status["node"], ip.to_string());
        assert_eq!(status["problems"], Value::Array(Vec::new()), "{status}");
    }
    println!("the second link goes and comes back");
    hosts.at_router(&format!("link set {} down\n", hosts.second_port));
    hosts.fabric_sends_by_second(false);
    hosts.at_node2(&format!(
        "link set eth1 down\nroute replace default via {} dev eth0 src {ip}\n",
        FIRST[0]
    ));
    hosts.talk();
    hosts.at_router(&format!("link set {} up\n", hosts.second_port));
    hosts.at_node2(&format!(
        "link set eth1 up\n\
         route replace default src {ip} nexthop via {} dev eth0 nexthop via {} dev eth1\n",
        FIRST[0], SECOND[0],
    ));
    hosts.fabric_sends_by_second(true);
    hosts.talk();
    hosts.finish(daemons);
}

/// The file names one link, and the fabric sends by another: it is found by what is heard there.
#[test]
fn packets_on_a_link_that_the_file_leaves_out_are_named() {
    let hosts = Hosts::new();
    hosts.move_address_to_lo();
    let mut daemons = hosts.start(hosts.node2().ip, "");
    let text = |interfaces: &str| {
        let text = Setup::OFF.config(hosts.node2(), &hosts.lab.node1, "");
        text.replace("underlay: {", &format!("underlay: {{interfaces: [{interfaces}], "))
    };
    hosts.at_node2(&format!(
        "route replace default via {} dev eth0 src {}\n",
        FIRST[0],
        hosts.node2().ip
    ));
    daemons[1].replace_config(&text("eth0")).unwrap();
    daemons[1].reload().unwrap();
    hosts.talk();
    hosts.fabric_sends_by_second(true);
    let (perf, sit) = (hosts.lab.perf(), hosts.lab.sit());
    let wait_named = |daemon: &Daemon| {
        until("the link is named", SOON, || {
            assert!(!answers(&sit.netns, perf.ip));
            let status = daemon.cli_json(&["status"]).unwrap();
            let problems = status["problems"].as_array()?;
            let problem = problems.iter().find(|problem| problem["code"] == "ipip-elsewhere")?;
            assert_eq!(problem["where"], "eth1");
            let what = problem["what"].as_str()?;
            assert!(what.contains(&hosts.lab.node1.ip.to_string()), "{what}");
            Some(())
        });
    };
    wait_named(&daemons[1]);
    daemons[1].kill9().unwrap();
    daemons[1].restart().unwrap();
    wait_named(&daemons[1]);
    daemons[1].replace_config(&text("eth0, eth1")).unwrap();
    daemons[1].reload().unwrap();
    hosts.talk();
    let status = daemons[1].cli_json(&["status"]).unwrap();
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{status}");
    hosts.finish(daemons);
}

/// A provider drops what leaves by a link that has not its source, so rules choose the link by
/// the source.
#[test]
fn the_way_to_a_node_is_asked_from_our_address() {
    let hosts = Hosts::new();
    let second: Ipv4Addr = SECOND[1].parse().unwrap();
    let filter = format!(
        "table ip provider {{\n\
           chain wire {{\n\
             type filter hook prerouting priority -310; policy accept;\n\
             iifname {} ip saddr != {}/24 drop\n\
             iifname {} ip saddr != {second} drop\n\
           }}\n\
         }}\n",
        hosts.node2().router_port,
        hosts.node2().ip,
        hosts.second_port,
    );
    hosts.lab.router.exec_with_input("nft", &["-f", "-"], &filter).unwrap();
    let rule = format!("rule {{}} from {second} lookup 600\n");
    hosts.at_node2(&rule.replace("{}", "add"));
    hosts.at_node2(&format!("route add default via {} dev eth1 table 600\n", SECOND[0]));
    let mut daemons = hosts.start(second, &format!("address: {second}, "));
    for is_restarted in [false, true] {
        if is_restarted {
            daemons[1].kill9().unwrap();
            daemons[1].restart().unwrap();
        }
        hosts.talk();
    }
    println!("the rule goes and comes back");
    let leads_by = |name: &str| {
        until(name, SOON, || {
            let nodes = daemons[1].cli_json(&["nodes", "list"]).unwrap();
            (nodes["items"][0]["interface"] == name).then_some(())
        });
    };
    hosts.at_node2(&rule.replace("{}", "del"));
    leads_by("eth0");
    hosts.at_node2(&rule.replace("{}", "add"));
    leads_by("eth1");
    hosts.talk();
    println!("the route of the other table goes and comes back");
    hosts.at_node2("route del default table 600\n");
    leads_by("eth0");
    hosts.at_node2(&format!("route add default via {} dev eth1 table 600\n", SECOND[0]));
    leads_by("eth1");
    hosts.talk();
    hosts.finish(daemons);
}

/// The source that the kernel would choose towards the nodes may be the very one that rules let
/// nowhere: the daemon starts, and names the node.
#[test]
fn rules_let_nothing_out_from_our_address() {
    let hosts = Hosts::new();
    let (ours, node1) = (hosts.node2().ip, hosts.lab.node1.ip);
    let rule = format!("rule {{}} from {ours} to {node1} lookup 600\n");
    hosts.at_node2("route add unreachable default table 600\n");
    hosts.at_node2(&rule.replace("{}", "add"));
    let mut daemons = hosts.start(ours, "");
    for is_restarted in [false, true] {
        if is_restarted {
            daemons[1].kill9().unwrap();
            daemons[1].restart().unwrap();
        }
        wait_unreachable(&daemons[1], "the kernel has no route to it");
    }
    hosts.at_node2(&rule.replace("{}", "del"));
    hosts.talk();
    hosts.finish(daemons);
}

/// An address by a route of type `local`, which no interface has.
#[test]
fn an_address_that_no_interface_has() {
    let hosts = Hosts::new();
    let address = Ipv4Addr::new(192, 0, 2, 77);
    hosts.at_node2("route add local 192.0.2.76/30 dev lo\n");
    hosts.at_router(&format!("route add {address}/32 via {}\n", hosts.node2().ip));
    let mut daemons = hosts.start(address, &format!("address: {address}, "));
    hosts.talk();
    daemons[1].kill9().unwrap();
    daemons[1].restart().unwrap();
    hosts.talk();
    let status = daemons[1].cli_json(&["status"]).unwrap();
    assert_eq!(status["node"], address.to_string());
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{status}");
    hosts.finish(daemons);
}

/// Links that cannot be underlay are named, with why, before and while the daemon runs.
#[test]
fn links_that_cannot_be_underlay() {
    let hosts = Hosts::new();
    hosts.node2().netns.exec("ip", &["tuntap", "add", "mode", "tun", "name", "tun9"]).unwrap();
    hosts.at_node2("link set tun9 up\naddr add 198.18.9.1/30 dev tun9\n");
    let mut daemons = hosts.start(hosts.node2().ip, "");
    hosts.talk();
    let node1 = hosts.lab.node1.ip;

    println!("the way to the only node leads over a link without Ethernet header");
    hosts.at_node2(&format!("route add {node1}/32 dev tun9\n"));
    let words = "tun9, which has no Ethernet header";
    wait_unreachable(&daemons[1], words);
    daemons[1].kill9().unwrap();
    daemons[1].restart().unwrap();
    wait_unreachable(&daemons[1], words);
    hosts.at_node2(&format!("route del {node1}/32 dev tun9\n"));
    hosts.talk();

    println!("and over a pod's interface");
    hosts.at_node2(&format!("route add {node1}/32 dev {}\n", hosts.lab.perf().cali));
    let words = "which is a pod's interface";
    wait_unreachable(&daemons[1], words);
    hosts.at_node2(&format!("route del {node1}/32 dev {}\n", hosts.lab.perf().cali));
    hosts.talk();
    assert_eq!(decapsulates_on(&daemons[1]), ["eth0"]);

    println!("the file names such links");
    for (name, why) in [("tun9", "tun9 has no Ethernet header"), ("lo", "lo is a dummy device")] {
        let text = Setup::OFF
            .config(hosts.node2(), &hosts.lab.node1, "")
            .replace("underlay: {", &format!("underlay: {{interfaces: [{name}], "));
        daemons[1].replace_config(&text).unwrap();
        let output = daemons[1].cli(&["config", "validate", "--here"]).unwrap();
        assert_eq!(output.status, Some(1), "{}", output.stdout);
        assert!(output.stderr.contains(why), "{}", output.stderr);
    }
    hosts.talk();
    hosts.finish(daemons);
}
