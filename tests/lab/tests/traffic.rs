//! Traffic that needs no tunnel: between nodes, on one node, across proxy ARP.

use std::{net::SocketAddrV4, time::Duration};

use tunless_lab::{
    Lab, Node,
    addr::POD_GATEWAY,
    capture::Capture,
    frame::Frame,
    traffic::{http, ping, stream, tcp, udp},
};

fn lab() -> Lab {
    Lab::new().build().unwrap()
}

fn at(node: &Node, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(node.ip, port)
}

#[test]
fn nodes_ping_each_other_across_the_router() {
    let lab = Lab::new().third_node(true).build().unwrap();
    for from in lab.nodes() {
        for to in lab.nodes().into_iter().filter(|to| to.ip != from.ip) {
            let report = ping::ping(&from.netns, to.ip, &ping::Options::default()).unwrap();
            assert!(report.all_answered(), "{}", report.text);
            assert_eq!(report.ttl(), Some(63), "one router between");
        }
    }
}

#[test]
fn a_pod_reaches_its_node_and_its_neighbour_by_proxy_arp() {
    let lab = lab();
    let other = lab.node2.add_pod("other", Lab::pod_ip(&lab.node2, 9)).unwrap();
    for (to, ttl) in [(lab.node2.ip, 64), (other.ip, 63)] {
        let report = ping::ping(&lab.perf().netns, to, &ping::Options::default()).unwrap();
        assert!(report.all_answered(), "{}", report.text);
        assert_eq!(report.ttl(), Some(ttl));
    }
    let neighbours = lab.perf().netns.ip("neigh show").unwrap();
    let line = neighbours.lines().find(|line| line.starts_with(&POD_GATEWAY.to_string()));
    assert!(line.unwrap().contains("ee:ee:ee:ee:ee:ee"), "{neighbours}");
}

#[test]
fn ping_reports_what_went_wrong() {
    let lab = lab();
    let node = &lab.node2;
    lab.set_path_mtu(&lab.node1, 1400).unwrap();
    let big = ping::Options { size: 1450, df: true, count: 2, ..Default::default() };
    let report = ping::ping(&node.netns, lab.node1.ip, &big).unwrap();
    assert_eq!(report.received, 0);
    assert_eq!(report.mtu(), Some(1400), "{}", report.text);
    let short = ping::Options { ttl: Some(1), count: 1, ..Default::default() };
    let report = ping::ping(&node.netns, lab.node1.ip, &short).unwrap();
    assert_eq!(report.troubles, [ping::Trouble::TimeExceeded { from: node.gateway }]);
    let fragmented = ping::Options { size: 4000, ..Default::default() };
    assert!(ping::ping(&node.netns, lab.node1.ip, &fragmented).unwrap().all_answered());
}

#[test]
fn tcp_carries_a_bulk_both_ways() {
    let lab = lab();
    for server_sends in [false, true] {
        let options = tcp::Options { server_sends, ..Default::default() };
        let (client, server) = (&lab.node2, &lab.node1);
        let report =
            tcp::bulk(&client.netns, at(server, 5001), &server.netns, 5001, &options).unwrap();
        assert_eq!(report.bytes, 8 << 20);
        assert_eq!(*report.peer.ip(), client.ip);
        assert!(report.mbit_per_s() > 0.0);
    }
    let options = tcp::Options { timeout: Duration::from_millis(300), ..Default::default() };
    let nobody = SocketAddrV4::new("172.16.35.99".parse().unwrap(), 1);
    let (node1, node2) = (&lab.node1.netns, &lab.node2.netns);
    let error = tcp::bulk(node2, nobody, node1, 5002, &options).unwrap_err();
    assert!(format!("{error:#}").contains("cannot connect to 172.16.35.99:1"), "{error:#}");
}

#[test]
fn udp_goes_there_and_back() {
    let lab = lab();
    let (client, server) = (&lab.node1, &lab.node2);
    for size in [0, 1, 1400, 9000] {
        let options = udp::Options { size, source_port: 7000, ..Default::default() };
        let report =
            udp::exchange(&client.netns, at(server, 5003), &server.netns, 5003, &options).unwrap();
        assert_eq!(report.seen, at(client, 7000));
        assert_eq!(report.answered_by, at(server, 5003));
    }
    let options = udp::Options { size: 9000, df: true, ..Default::default() };
    let error = udp::exchange(&client.netns, at(server, 5003), &server.netns, 5003, &options);
    assert!(format!("{:#}", error.unwrap_err()).contains("cannot send 9000 bytes"));
}

#[test]
fn udp_gso_arrives_whole() {
    let lab = lab();
    let (client, server) = (&lab.node1, &lab.node2);
    let timeout = Duration::from_secs(5);
    let seen = udp::gso(&client.netns, at(server, 5004), &server.netns, 5004, (1400, 40), timeout);
    assert_eq!(*seen.unwrap().ip(), client.ip);
}

#[test]
fn a_stream_loses_nothing_and_tells_what_it_lost() {
    let lab = lab();
    let (client, server) = (&lab.node1, &lab.node2);
    let start = || {
        let options = stream::Options::default();
        stream::Stream::start(&client.netns, at(server, 5005), &server.netns, 5005, &options)
    };
    let stream = start().unwrap();
    assert!(stream.wait_for(200, Duration::from_secs(20)));
    let report = stream.stop().unwrap();
    assert!(report.sent >= 200);
    assert_eq!((report.lost, report.duplicates, report.send_error), (vec![], 0, None));

    let stream = start().unwrap();
    assert!(stream.wait_for(50, Duration::from_secs(20)));
    lab.router.ip("link set to-node2 down").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    lab.router.ip("link set to-node2 up").unwrap();
    assert!(stream.wait_for(50, Duration::from_secs(20)));
    let report = stream.stop().unwrap();
    assert!(!report.lost.is_empty());
    assert_eq!(report.received + report.lost.len() as u64, report.sent);
}

#[test]
fn an_answered_stream_goes_both_ways() {
    let lab = lab();
    let (client, server) = (&lab.node1, &lab.node2);
    let answers = {
        let from = server.ip;
        move |frame: &Frame| frame.outer().is_some_and(|(ip, _)| ip.source == from)
    };
    let wire = Capture::start_filtered(&lab.router, &client.router_port, answers).unwrap();
    let options = stream::Options { answered: true, ..Default::default() };
    let (from, to) = (&client.netns, &server.netns);
    let stream = stream::Stream::start(from, at(server, 5005), to, 5005, &options).unwrap();
    let timeout = Duration::from_secs(20);
    assert!(stream.wait_for(10, timeout) && wire.wait_for(timeout, |_| true).is_some());
    assert_eq!(stream.stop().unwrap().lost, Vec::<u64>::new());
}

#[test]
fn http_names_the_client_it_saw() {
    let lab = lab();
    let server = http::Server::start(&lab.node1.netns, 8080, "node1").unwrap();
    let timeout = Duration::from_secs(5);
    let reply = http::get(&lab.node2.netns, at(&lab.node1, 8080), timeout).unwrap();
    assert_eq!((reply.status, *reply.client.ip()), (200, lab.node2.ip));
    assert!(reply.body.starts_with("hello from node1, client 172.16.36.10:"));
    drop(server);
    assert!(http::get(&lab.node2.netns, at(&lab.node1, 8080), timeout).is_err());
}
