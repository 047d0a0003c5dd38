//! What stands against leases of Services on a host: they are withheld, the problem `services-withheld` names
//! it, and leases of pods go on.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Netns, Node, conntrack,
    felix::Allow,
    nfqueue::Queue,
    service::{Protocol, Service, kube_proxy},
    traffic::conversation::Conversation,
};
use tunless_tests::scene::{
    HASTY, SOON, Scene, Setup,
    leased::{leases, wait_leased_at_client, wait_leased_by_service},
    until,
};

const PORT: u16 = 7000;
const BOTH: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 7), 53);

/// With no word of Services in the file; both daemons look at the rules of their hosts often.
fn scene(more: &str) -> Scene {
    Scene::with(Lab::new().fabric_filter(true), Setup::VERIFIED, more, &HASTY)
}

/// Node 2 translates the Service to demo-hello-sit.
fn serve(scene: &Scene) {
    serve_by(scene, PORT);
}

fn serve_by(scene: &Scene, port: u16) {
    let services = BOTH.map(|protocol| Service {
        name: format!("default/{protocol:?}").to_lowercase(),
        protocol,
        address: ADDRESS,
        endpoints: vec![SocketAddrV4::new(scene.lab.sit().ip, port)],
    });
    let node2 = &scene.lab.node2.netns;
    kube_proxy(node2, &services).unwrap();
    // What a closed socket still sends would leave by the default route.
    node2.ip(&format!("route replace blackhole {}/32", ADDRESS.ip())).unwrap();
}

fn behind(scene: &Scene) -> SocketAddrV4 {
    SocketAddrV4::new(scene.lab.sit().ip, PORT)
}

fn talk(scene: &Scene, protocol: Protocol, address: SocketAddrV4) -> Conversation {
    let (perf, sit) = scene.pods();
    Conversation::start(protocol, &perf.netns, address, &sit.netns, PORT).unwrap()
}

fn withheld(daemon: &Daemon) -> Vec<String> {
    let status = daemon.cli_json(&["status"]).unwrap();
    let problems = status["problems"].as_array().unwrap().iter();
    let withheld = problems.filter(|problem| problem["code"] == "services-withheld");
    withheld.map(Value::to_string).collect()
}

/// Waits for the problem, which names all of this; then no Service has a lease, gets one, or stands still.
fn assert_withheld(scene: &Scene, named: &[&str]) {
    let problem = until("the problem", SOON, || {
        let mut problems = withheld(&scene.daemon2).into_iter();
        problems.find(|problem| named.iter().all(|part| problem.contains(part)))
    });
    assert!(problem.contains("leases.services: false"), "{problem}");
    let of_services = || {
        let leases = leases(&scene.daemon2).into_iter();
        leases.filter(|lease| lease.translated_to.is_some()).collect::<Vec<_>>()
    };
    until("no lease of a Service", SOON, || of_services().is_empty().then_some(()));
    for protocol in BOTH {
        let talk = talk(scene, protocol, ADDRESS);
        assert!(talk.wait_for(100, SOON), "{protocol:?}");
        assert_eq!(of_services(), []);
    }
}

/// Connections to the pod itself are leased all the same.
fn assert_pods_leased(scene: &Scene) {
    for protocol in BOTH {
        let talk = talk(scene, protocol, behind(scene));
        wait_leased_at_client(&scene.daemon2, talk.client, behind(scene));
        assert!(talk.wait_for(20, SOON));
    }
}

fn assert_services_leased(scene: &Scene) {
    until("no problem", SOON, || withheld(&scene.daemon2).is_empty().then_some(()));
    for protocol in BOTH {
        let talk = talk(scene, protocol, ADDRESS);
        wait_leased_by_service(&scene.daemon2, talk.client, ADDRESS, behind(scene));
        assert!(talk.wait_for(20, SOON));
    }
}

fn iptables(node: &Netns, rule: &str) {
    node.exec("iptables", &rule.split(' ').collect::<Vec<_>>()).unwrap();
}

/// The content of our nft table.
fn table(node: &Node) -> String {
    node.netns.exec("nft", &["list", "table", "ip", "tunless"]).unwrap()
}

/// The host of a user who has never heard of our second bit, and marks with it all packets that it forwards.
/// The daemon starts, leaves the bit alone, and takes it for no word of netfilter.
#[test]
fn a_mark_that_is_another_programs_is_left_alone() {
    scene("leases: {seconds: 1}\n").case(|scene| {
        scene.police(&[Allow::ALL]);
        serve(scene);
        assert_services_leased(scene);
        assert!(table(&scene.lab.node2).contains("0xffffe7ff"), "both bits are cleared");
        let node2 = scene.lab.node2.netns.clone();
        let iptables = |rule| iptables(&node2, rule);
        iptables("-t mangle -N user");
        iptables("-t mangle -A user -j MARK --set-xmark 0x800/0x800");
        iptables("-t mangle -A FORWARD -j user");
        for _ in 0..2 {
            assert_withheld(scene, &["the bit 0x800", "chain user (table mangle)", "service_mark"]);
            assert_pods_leased(scene);
            let table = until("a table that knows one bit", SOON, || {
                let table = table(&scene.lab.node2);
                table.contains("0xffffefff").then_some(table)
            });
            assert!(!table.contains("0x00000800"), "{table}");
            scene.daemon2.terminate().unwrap();
            scene.daemon2.restart().unwrap();
        }
        let configure = |scene: &mut Scene, leases: &str| {
            let Lab { node1, node2, .. } = &scene.lab;
            scene.daemon2.rewrite_config(&scene.setup.config(node2, node1, leases)).unwrap();
            scene.daemon2.reload().unwrap();
        };
        // The operator chooses another bit.
        configure(scene, "leases: {seconds: 1, service_mark: 0x400}\n");
        assert_services_leased(scene);
        iptables("-t mangle -F");
        iptables("-t mangle -X");
        configure(scene, "leases: {seconds: 1}\n");
        assert_services_leased(scene);
        scene.assert_nothing_plain();
    });
}

/// A policy of timers keeps a closed connection for as long as an open one, so its last packet would
/// look like one of an open connection; and an open one for as short as a closed one, so it would
/// look closed.
#[test]
fn timers_of_a_policy_withhold_leases_of_services() {
    const CLOSING: &str =
        "close: 6000, close_wait: 6000, fin_wait: 6000, last_ack: 6000, time_wait: 6000";
    scene("leases: {seconds: 5}\n").case(|scene| {
        scene.police(&[Allow::ALL]);
        serve(scene);
        for (what, policy) in [("long", CLOSING), ("short", "established: 60")] {
            let node2 = &scene.lab.node2.netns;
            let rules = format!(
                "table inet policies {{
                     ct timeout {what} {{
                         protocol tcp; l3proto ip
                         policy = {{ {policy} }}
                     }}
                     chain prerouting {{
                         type filter hook prerouting priority 0
                         meta l4proto tcp ct timeout set \"{what}\"
                     }}
                 }}"
            );
            node2.exec_with_input("nft", &["-f", "-"], &rules).unwrap();
            assert_withheld(scene, &["ct timeout", &format!("{what} (table policies)")]);
            assert_pods_leased(scene);
            assert_closed_is_not_leased(scene);
            node2.exec("nft", &["delete", "table", "inet", "policies"]).unwrap();
            conntrack::flush(node2).unwrap();
            assert_services_leased(scene);
        }
        scene.assert_nothing_plain();
    });
}

/// The ACK of the last FIN gets a connection to the Service no lease.
fn assert_closed_is_not_leased(scene: &Scene) {
    let talk = talk(scene, Protocol::Tcp, ADDRESS);
    assert!(talk.wait_for(20, SOON));
    let client = talk.client;
    talk.close().unwrap();
    until("the end of the connection", SOON, || {
        let entries = conntrack::list(&scene.lab.node2.netns).unwrap();
        let entry = entries.into_iter().find(|entry| entry.source == client)?;
        (entry.state.as_deref() == Some("TIME_WAIT")).then_some(())
    });
    std::thread::sleep(Duration::from_millis(100));
    let left = leases(&scene.daemon2).into_iter().find(|lease| lease.ends_at(client));
    assert_eq!(left, None);
}

/// A packet that waits in a queue has an answer of netfilter from before: its flow may have been forgotten
/// since, and be translated to another pod. Were it granted a lease, the next packets would follow it.
#[test]
fn packets_that_wait_in_a_queue_withhold_leases_of_services() {
    /// Bytes of the payload of what waits, and of the IP packet around it.
    const HELD: usize = 200;
    const RULE: &str = "FORWARD -p udp -m length --length 228 -j NFQUEUE --queue-num 7";
    scene("leases: {seconds: 1}\n").case(|scene| {
        scene.police(&[Allow::ALL]);
        serve(scene);
        assert_services_leased(scene);
        let node2 = &scene.lab.node2.netns;
        let queue = Queue::hold(node2, 7, Duration::from_millis(600)).unwrap();
        iptables(node2, &format!("-t mangle -A {RULE}"));
        assert_withheld(scene, &["NFQUEUE in the chain FORWARD (table mangle)"]);
        assert_withheld(scene, &["takes packets from NFQUEUE 7"]);
        assert_pods_leased(scene);
        let (perf, sit) = scene.pods();
        let client = socket(&perf.netns, 5555);
        let [first, second] = [PORT, PORT + 1].map(|port| socket(&sit.netns, port));
        let ask = |server: &UdpSocket, bytes: usize| {
            client.send_to(&vec![1; bytes], ADDRESS).unwrap();
            let (length, from) = server.recv_from(&mut [0; 300]).unwrap();
            assert_eq!(length, bytes);
            server.send_to(&[2; 8], from).unwrap();
            assert_eq!(client.recv_from(&mut [0; 300]).unwrap().1, ADDRESS.into());
        };
        until("a flow that conntrack believes in", SOON, || {
            ask(&first, 8);
            let entries = node2.exec("conntrack", &["-L", "-p", "udp"]).unwrap();
            let mut lines = entries.lines().filter(|line| line.contains("sport=5555"));
            lines.any(|line| line.contains("[ASSURED]")).then_some(())
        });
        // Past a lease, had it one.
        std::thread::sleep(Duration::from_millis(1100));
        let before = queue.seen();
        client.send_to(&[1; HELD], ADDRESS).unwrap();
        until("it waits", SOON, || (queue.seen() > before).then_some(()));
        serve_by(scene, PORT + 1);
        conntrack::delete(node2, "-p udp --orig-port-src 5555").unwrap();
        ask(&second, 8);
        assert_eq!(first.recv_from(&mut [0; 300]).unwrap().0, HELD, "it went on");
        for _ in 0..20 {
            ask(&second, 8);
        }
        drop(queue);
        iptables(node2, &format!("-t mangle -D {RULE}"));
        drop([client, first, second]);
        serve(scene);
        conntrack::flush(node2).unwrap();
        assert_services_leased(scene);
        scene.assert_nothing_plain();
    });
}

/// A UDP socket that waits for an answer, but not for ever.
fn socket(netns: &Netns, port: u16) -> UdpSocket {
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?);
    let socket = netns.run(bind).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}
