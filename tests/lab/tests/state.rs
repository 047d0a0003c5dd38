//! Services, policies, and what a snapshot notices.

use std::time::Duration;

use tunless_lab::{
    Lab, felix,
    service::{Protocol, Service, kube_proxy, masquerade, remove_rules},
    trace::Snapshot,
    traffic::{http, udp},
};

const TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn a_service_translates_for_pods_and_for_the_host() {
    let lab = Lab::new().build().unwrap();
    let (node, backend) = (&lab.node1, lab.sit());
    let client = node.add_pod("client", Lab::pod_ip(node, 9)).unwrap();
    let _server = http::Server::start(&backend.netns, 8080, "sit").unwrap();
    let service = Service::hello(backend.ip);
    kube_proxy(&node.netns, std::slice::from_ref(&service)).unwrap();
    let get = |from| http::get(from, service.address, TIMEOUT).map(|reply| *reply.client.ip());
    assert_eq!(get(&client.netns).unwrap(), client.ip, "a pod keeps its address");
    assert_eq!(get(&node.netns).unwrap(), node.ip, "the host is masqueraded");

    masquerade(&node.netns, client.ip).unwrap();
    let direct = std::net::SocketAddrV4::new(backend.ip, 8080);
    let reply = http::get(&client.netns, direct, TIMEOUT).unwrap();
    assert_eq!(*reply.client.ip(), node.ip);

    remove_rules(&node.netns).unwrap();
    assert!(get(&client.netns).is_err());
}

#[test]
fn services_can_be_many_and_change() {
    let lab = Lab::new().build().unwrap();
    let (node, backend) = (&lab.node1, lab.sit());
    let client = node.add_pod("client", Lab::pod_ip(node, 9)).unwrap();
    let dns = Service {
        name: "default/dns".to_owned(),
        protocol: Protocol::Udp,
        address: "10.10.48.10:53".parse().unwrap(),
        endpoints: vec![std::net::SocketAddrV4::new(backend.ip, 5353)],
    };
    kube_proxy(&node.netns, &[Service::hello(backend.ip), dns.clone()]).unwrap();
    kube_proxy(&node.netns, std::slice::from_ref(&dns)).unwrap();
    let options = udp::Options::default();
    let report = udp::exchange(&client.netns, dns.address, &backend.netns, 5353, &options).unwrap();
    assert_eq!(*report.seen.ip(), client.ip);
    assert_eq!(report.answered_by, dns.address, "the answer is translated back");
    let rules = node.netns.exec("iptables", &["-t", "nat", "-S", "PREROUTING"]).unwrap();
    assert_eq!(rules.matches("KUBE-SERVICES").count(), 1, "{rules}");
}

#[test]
fn felix_chains_are_there_and_let_traffic_pass() {
    let lab = Lab::new().build().unwrap();
    let (node, backend) = (&lab.node1, lab.sit());
    let client = node.add_pod("client", Lab::pod_ip(node, 9)).unwrap();
    felix::trace(&node.netns).unwrap();
    felix::trace(&node.netns).unwrap();
    let rules = node.netns.exec("iptables", &["-S", "FORWARD"]).unwrap();
    assert_eq!(rules.matches("cali-FORWARD").count(), 1, "{rules}");
    let address = std::net::SocketAddrV4::new(backend.ip, 7);
    udp::exchange(&client.netns, address, &backend.netns, 7, &udp::Options::default()).unwrap();
}

#[test]
fn a_snapshot_notices_every_kind_of_change() {
    let lab = Lab::new().build().unwrap();
    let netns = &lab.node1.netns;
    let before = Snapshot::take(netns).unwrap();
    assert_eq!(before.difference(&Snapshot::take(netns).unwrap()), Vec::<String>::new());

    let run = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        netns.exec(words[0], &words[1..]).unwrap();
    };
    for (made, undone, sign) in [
        ("ip link add t0 type veth peer name t1", "ip link del t0", "+ links: t0 "),
        ("ip addr add 10.20.42.0/32 dev lo", "ip addr del 10.20.42.0/32 dev lo", "+ ip -o addr: "),
        (
            "ip route add 10.20.105.192/26 dev eth0 table 77 proto 99",
            "ip route del 10.20.105.192/26 dev eth0 table 77",
            "+ ip route show table all: 10.20.105.192/26",
        ),
        ("tc qdisc add dev eth0 clsact", "tc qdisc del dev eth0 clsact", "+ tc qdisc show: "),
        ("nft add table ip tunless", "nft delete table ip tunless", "+ nft -s list ruleset: "),
    ] {
        run(made);
        let difference = before.difference(&Snapshot::take(netns).unwrap());
        assert!(difference.iter().any(|line| line.starts_with(sign)), "{made}: {difference:?}");
        run(undone);
        let difference = before.difference(&Snapshot::take(netns).unwrap());
        assert!(difference.is_empty(), "{undone}: {difference:?}");
    }
    let key = "ipv4/conf/eth0/rp_filter";
    netns.set_sysctl(key, "0").unwrap();
    let difference = before.difference(&Snapshot::take(netns).unwrap());
    let path = format!("/proc/sys/net/{key}");
    assert_eq!(difference, [format!("- sysctls: {path} = 1"), format!("+ sysctls: {path} = 0")]);
}
