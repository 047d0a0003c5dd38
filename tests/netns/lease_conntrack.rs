//! What conntrack still knows of a connection that leases hide from it.
//!
//! Conntrack's timers are scaled: what is 300 s by default is [`SCALED`] here, as an operator may
//! set it. Rules accept what is established, drop what is invalid, and let only the client open.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tunless_lab::{
    Daemon, Lab, LabBuilder, Node, Pod, conntrack,
    felix::{Allow, Endpoint, enforce},
};
use tunless_tests::scene::{
    SOON, Scene, Setup,
    leased::{at_client, at_server, is_leased},
    until,
};

/// Of the servers here, and of those after it, one for each connection.
const PORT: u16 = 7000;
/// The sysctls whose timers end an established connection early, and what they are here.
const TIMERS: [&str; 2] =
    ["nf_conntrack_tcp_timeout_unacknowledged", "nf_conntrack_tcp_timeout_max_retrans"];
const SCALED: u32 = 3;
/// `nf_conntrack_tcp_timeout_established` by default: five days.
const ESTABLISHED: u32 = 432_000;

/// One connection, its two ends in one hand: each message arrives before the next is sent.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// Opens it from `client` to `server`.
    fn open(client: &Pod, server: &Pod, port: u16) -> Self {
        let listener = server
            .netns
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Into::into))
            .unwrap();
        let to = SocketAddrV4::new(server.ip, port);
        let client = client
            .netns
            .run(|| TcpStream::connect_timeout(&to.into(), SOON).map_err(Into::into))
            .unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
            end.set_read_timeout(Some(SOON)).unwrap();
        }
        Self { client, server }
    }

    fn client_says(&mut self, text: &[u8]) {
        say(&mut self.client, &mut self.server, text);
    }

    fn server_says(&mut self, text: &[u8]) {
        say(&mut self.server, &mut self.client, text);
    }

    /// Talks until both nodes have leased it both ways, and by those leases.
    fn talk_by_leases(&mut self, scene: &Scene) {
        let (client, server) = self.ends();
        let mut exchange = || {
            self.client_says(b"request");
            self.server_says(b"answer");
        };
        // Each look comes right after a packet each way: a silent connection's leases would end
        // while one looks, and nothing would renew them.
        for (daemon, flows) in [
            (&scene.daemon2, at_client(client, server)),
            (&scene.daemon1, at_server(client, server)),
        ] {
            until(&format!("leases for {flows:?}"), SOON, || {
                exchange();
                is_leased(daemon, &flows).then_some(())
            });
        }
        (0..20).for_each(|_| exchange());
    }

    /// The client's address and the server's.
    fn ends(&self) -> (SocketAddrV4, SocketAddrV4) {
        let [client, server] = [self.client.local_addr(), self.client.peer_addr()].map(|end| {
            let std::net::SocketAddr::V4(end) = end.unwrap() else { unreachable!("no IPv6 here") };
            end
        });
        (client, server)
    }
}

fn say(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.write_all(text).unwrap();
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).unwrap_or_else(|error| {
        panic!("`{}` did not arrive: {error}", String::from_utf8_lossy(text))
    });
    assert_eq!(heard, text);
}

fn scale(node: &Node) {
    for timer in TIMERS {
        node.netns.set_sysctl(&format!("netfilter/{timer}"), &SCALED.to_string()).unwrap();
    }
}

/// Checks that both nodes would remember a connection for days if it went silent now.
fn assert_remembered_for_days(scene: &Scene, connection: &Connection, what: &str) {
    let (client, _) = connection.ends();
    for node in scene.lab.nodes() {
        let entries = conntrack::list(&node.netns).unwrap();
        let entry = entries.into_iter().find(|entry| entry.source == client);
        let entry = entry.unwrap_or_else(|| panic!("{}: no entry of {what}", node.label));
        assert_eq!(entry.state.as_deref(), Some("ESTABLISHED"), "{}: {what}", node.label);
        assert!(entry.seconds > ESTABLISHED - 3600, "{}: {what}: {entry:?}", node.label);
    }
}

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// Only the client, demo-hello-perf, opens connections.
fn police(scene: &Scene) {
    let (perf, sit) = scene.pods();
    let allowed = (0..4).flat_map(|n| Allow::port(PORT + n)).collect();
    enforce(&scene.lab.node1.netns, &[Endpoint::allowing(sit, allowed)]).unwrap();
    enforce(&scene.lab.node2.netns, &[Endpoint::allowing(perf, Vec::new())]).unwrap();
}

/// Connections of each kind talk, go silent for longer than conntrack's short timers, and then
/// the server speaks first.
#[test]
fn a_silent_connection_is_remembered_for_days() {
    let short = "leases: {seconds: 1}\n";
    for setup in Setup::BOTH_VERIFIED {
        println!("{setup:?}");
        let lab = lab().build().unwrap();
        let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
        [&node1, &node2].into_iter().for_each(scale);
        let config = |setup: Setup, node: &Node, peer: &Node| setup.config(node, peer, short);
        let start =
            |node: &Node, peer: &Node| Daemon::start(node, &config(setup, node, peer)).unwrap();
        let (daemon1, daemon2) = (start(&node1, &node2), start(&node2, &node1));
        let scene = Scene { daemon1, daemon2, lab, setup };
        scene.case(|scene| {
            let (perf, sit) = (scene.lab.perf().clone(), scene.lab.sit().clone());
            let off = Setup { fastpath: "off", ..setup };
            let configure = |setup: Setup| {
                scene.daemon1.rewrite_config(&config(setup, &node1, &node2)).unwrap();
                scene.daemon2.rewrite_config(&config(setup, &node2, &node1)).unwrap();
                for daemon in [&scene.daemon1, &scene.daemon2] {
                    let is_set = |status: &serde_json::Value| status["fastpath"] == setup.fastpath;
                    daemon.wait_json(&["status"], SOON, is_set).unwrap();
                }
            };
            // Without rules that need it, conntrack has never seen this one: it picks it up in
            // the middle (`nf_conntrack_tcp_loose`).
            configure(off);
            let mut picked_up = Connection::open(&perf, &sit, PORT);
            picked_up.server_says(b"banner");
            configure(setup);
            picked_up.talk_by_leases(scene);
            police(scene);

            // Conntrack has seen these from their first packet, one of them before there were
            // leases.
            configure(off);
            let mut older = Connection::open(&perf, &sit, PORT + 1);
            older.client_says(b"hello");
            configure(setup);
            let mut server_first = Connection::open(&perf, &sit, PORT + 2);
            server_first.server_says(b"banner");
            let mut client_first = Connection::open(&perf, &sit, PORT + 3);
            client_first.client_says(b"hello");

            let mut all = [
                ("a connection picked up", picked_up),
                ("an older connection", older),
                ("a server-first one", server_first),
                ("a client-first one", client_first),
            ];
            for (_, connection) in &mut all {
                connection.talk_by_leases(scene);
            }
            // The next packets of each ask netfilter again.
            thread::sleep(Duration::from_millis(1100));
            for (_, connection) in &mut all {
                connection.talk_by_leases(scene);
            }
            for (what, connection) in &all {
                assert_remembered_for_days(scene, connection, what);
            }
            thread::sleep(Duration::from_secs(u64::from(SCALED) + 2));
            for (what, connection) in &mut all {
                println!("after the silence: {what}");
                connection.server_says(b"push");
                connection.client_says(b"thanks");
            }
            drop(all);
            scene.assert_nothing_plain();
        });
    }
}

/// A timer that already outlasts an established connection stays as it is, one that is lowered
/// below it is raised again, and `detach` restores what there was.
#[test]
fn timers_are_raised_only_where_they_are_short() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let set = |name: &str, value: &str| {
        node2.netns.set_sysctl(&format!("netfilter/{name}"), value).unwrap();
    };
    let get = |name: &str| node2.netns.sysctl(&format!("netfilter/{name}")).unwrap();
    let timers = || TIMERS.map(get);
    let established = "nf_conntrack_tcp_timeout_established";
    set(TIMERS[0], "77");
    set(TIMERS[1], "500000");
    // As kube-proxy has it.
    set(established, "86400");
    let config = Setup::VERIFIED.config(&node2, &node1, "");
    let mut daemon = Daemon::start_with(&node2, &config, &tunless_tests::scene::HASTY).unwrap();
    assert_eq!(timers(), ["86400", "500000"]);
    let status = daemon.cli_json(&["status"]).unwrap();
    assert_eq!(status["sysctls"][TIMERS[0]], 86400, "{status}");

    set(TIMERS[0], "300");
    until("it is raised", SOON, || (timers() == ["86400", "500000"]).then_some(()));
    assert!(daemon.log().contains(&format!("{} is 300, below", TIMERS[0])), "{}", daemon.log());
    set(established, "432000");
    until("it follows", SOON, || (timers() == ["432000", "500000"]).then_some(()));
    // Longer than necessary is no reason to write.
    set(established, "86400");

    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    assert_eq!(timers(), ["432000", "500000"]);
    daemon.terminate().unwrap();
    set(TIMERS[0], "300");
    let status = daemon.cli(&["status", "-o", "json"]).unwrap().stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let problems = status["problems"].as_array().unwrap();
    let found = problems.iter().find(|problem| problem["code"] == "sysctl").unwrap();
    assert_eq!(found["where"], TIMERS[0]);
    let remedy = found["remedy"].as_str().unwrap();
    assert!(remedy.contains(&format!("sysctl -w net.netfilter.{}=86400", TIMERS[0])), "{remedy}");

    daemon.restart().unwrap();
    daemon.finish().unwrap();
    assert_eq!(timers(), ["77", "500000"], "detached");
    assert_eq!(lab.problems(), Vec::<String>::new());
}
