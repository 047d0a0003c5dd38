//! Hosts whose address, link or next hop is not the usual one. Those that need devices of other
//! kernels than this one are in the suite `hosts` of `cargo xtask vm test`.

use std::net::SocketAddrV4;

use tunless_lab::{
    Daemon, Lab, Node,
    addr::mac_text,
    capture::Capture,
    frame::{Direction, Frame},
    traffic::tcp,
};
use tunless_tests::scene::{Counters, SOON, Scene, Setup, answers, assert_answered, until};

use crate::traffic::{assert_outer_of, expected, is_request};

const PORT: u16 = 5401;
/// A bridge takes no XDP program.
const OFF_AUTO: Setup = Setup { fastpath: "off", decap: "auto" };

/// Runs [`carries`] in some setups, each fresh and after a restart, with a node2 of this shape.
fn each(setups: &[Setup], shape: impl Fn(&Lab), underlay: &str) {
    for setup in setups.iter().copied() {
        println!("{setup:?}");
        let lab = Lab::new().fabric_filter(true).build().unwrap();
        shape(&lab);
        let start = |node: &Node, peer| Daemon::start(node, &setup.config(node, peer, "")).unwrap();
        let daemon1 = start(&lab.node1, &lab.node2);
        let daemon2 = start(&lab.node2, &lab.node1);
        Scene { daemon1, daemon2, lab, setup }.case(|scene| carries(scene, underlay));
    }
}

/// Everything passes both ways; the outer packets are right in every byte, and each is counted.
fn carries(scene: &Scene, underlay: &str) {
    let (perf, sit) = scene.pods();
    until("they talk", SOON, || answers(&perf.netns, sit.ip).then_some(()));
    assert_answered(&sit.netns, perf.ip);

    let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
    let wire = Capture::wire(&scene.lab.router, &scene.lab.node2).unwrap();
    for (from, to) in [(perf, sit), (sit, perf)] {
        assert_eq!(assert_answered(&from.netns, to.ip).ttl(), Some(62));
    }
    let frames = wire.stop().unwrap();
    for (before, daemon) in before.iter().zip([&scene.daemon1, &scene.daemon2]) {
        before.assert_moved(daemon, &expected(scene.setup, 6));
    }
    let requests: Vec<&Frame> =
        frames.iter().filter(|frame| is_request(frame, perf.ip, sit.ip)).collect();
    assert_eq!(requests.len(), 3, "{frames:#?}");
    for request in requests {
        assert_eq!(request.direction, Direction::In);
        assert_outer_of(request, scene, 63, 0, 0);
    }

    for (client, server) in [(perf, sit), (sit, perf)] {
        let options = tcp::Options { mebibytes: 2, ..Default::default() };
        let to = SocketAddrV4::new(server.ip, PORT);
        let report = tcp::bulk(&client.netns, to, &server.netns, PORT, &options).unwrap();
        assert_eq!(*report.peer.ip(), client.ip);
    }
    before[1].assert_nothing_dropped(&scene.daemon2);

    let status = scene.daemon2.cli_json(&["status"]).unwrap();
    assert_eq!(status["problems"], serde_json::json!([]));
    let attachments = status["attachments"].as_array().unwrap().iter();
    let decap = attachments
        .filter(|at| at["program"].as_str().is_some_and(|program| program.starts_with("decap")));
    for at in decap {
        assert_eq!(at["interface"], underlay, "{at}");
    }
    scene.assert_nothing_plain();
}

/// The NIC is a port of a bridge, which has the address, as on hosts of virtual machines. Programs are
/// on the bridge alone.
#[test]
fn the_address_is_on_a_bridge() {
    let shape = |lab: &Lab| {
        let Node { ip, mac, gateway, netns, .. } = &lab.node2;
        let mac = mac_text(*mac);
        netns
            .ip_batch(&format!(
                "addr flush dev eth0\n\
                 link add br0 address {mac} type bridge\n\
                 link set eth0 master br0\n\
                 link set br0 up\n\
                 addr add {ip}/24 dev br0\n\
                 route add default via {gateway}\n"
            ))
            .unwrap();
    };
    each(&[OFF_AUTO, Setup::VERIFIED], shape, "br0");
}

/// As Google gives them: the address is alone in its network, and a link route leads to the gateway.
#[test]
fn the_gateway_is_reached_by_a_link_route() {
    let shape = |lab: &Lab| {
        let Node { ip, gateway, netns, .. } = &lab.node2;
        lab.set_underlay_mtu(&lab.node2, 1460).unwrap();
        netns
            .ip_batch(&format!(
                "addr flush dev eth0\n\
                 addr add {ip}/32 dev eth0\n\
                 route add {gateway} dev eth0 scope link\n\
                 route add default via {gateway} dev eth0\n"
            ))
            .unwrap();
    };
    each(&[Setup::OFF_XDP, Setup::VERIFIED], shape, "eth0");
}

/// As BGP unnumbered has it (RFC 8950): the next hop of IPv4 routes is an IPv6 neighbour.
#[test]
fn the_next_hop_is_of_ipv6() {
    let shape = |lab: &Lab| {
        let Node { ip, router_port: port, netns, .. } = &lab.node2;
        for (netns, link, address) in
            [(&lab.router, &**port, "fe80::1"), (netns, "eth0", "fe80::2")]
        {
            netns.set_sysctl(&format!("ipv6/conf/{link}/disable_ipv6"), "0").unwrap();
            netns.ip(&format!("addr add {address}/64 dev {link} nodad")).unwrap();
        }
        netns.ip_batch(&format!("addr del {ip}/24 dev eth0\naddr add {ip}/32 dev eth0\n")).unwrap();
        netns.ip("-4 route add default via inet6 fe80::1 dev eth0").unwrap();
    };
    each(&[Setup::OFF_XDP, Setup::VERIFIED], shape, "eth0");
}
