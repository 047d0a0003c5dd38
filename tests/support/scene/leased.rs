//! Who has a lease, and policies that decide it.

use std::net::{Ipv4Addr, SocketAddrV4};

use tunless_lab::{
    Daemon, Lab, Node, Pod,
    felix::{Allow, Endpoint, enforce},
    service::Protocol,
    traffic::conversation::Conversation,
};

use super::{SOON, Scene, until};

/// Where [`Scene::talks`] go.
pub const PORT: u16 = 7000;

/// A lease as `tunless leases list` shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Lease {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The flow's source.
    pub source: SocketAddrV4,
    /// The flow's destination.
    pub destination: SocketAddrV4,
    /// What its remote end becomes, if it is translated for a Service.
    pub translated_to: Option<SocketAddrV4>,
    /// `encap` or `decap`.
    pub direction: String,
    /// The other node.
    pub node: Ipv4Addr,
    /// Seconds to go.
    pub expires_in: f64,
    /// Packets that went by it.
    pub packets: u64,
}

impl Lease {
    /// Whether it is for this flow.
    pub fn is(&self, from: SocketAddrV4, to: SocketAddrV4) -> bool {
        (self.source, self.destination) == (from, to)
    }

    /// Whether this is one of its ends.
    pub fn ends_at(&self, end: SocketAddrV4) -> bool {
        self.source == end || self.destination == end
    }

    /// Whether this address is at one of its ends.
    pub fn touches(&self, address: Ipv4Addr) -> bool {
        *self.source.ip() == address || *self.destination.ip() == address
    }
}

/// All good leases of a node.
pub fn leases(daemon: &Daemon) -> Vec<Lease> {
    let answer = daemon.cli_json(&["leases", "list"]).unwrap();
    let lease = |item: &serde_json::Value| {
        let text = |key: &str| item[key].as_str().expect("a text").to_owned();
        Lease {
            protocol: text("protocol"),
            source: text("source").parse().unwrap(),
            destination: text("destination").parse().unwrap(),
            translated_to: item["translated_to"].as_str().map(|end| end.parse().unwrap()),
            direction: text("direction"),
            node: text("node").parse().unwrap(),
            expires_in: item["expires_in_seconds"].as_f64().expect("a number"),
            packets: item["packets"].as_u64().expect("a number"),
        }
    };
    answer["items"].as_array().expect("a list").iter().map(lease).collect()
}

/// Waits until the node with the client has leased a conversation both ways.
pub fn wait_leased_at_client(daemon: &Daemon, client: SocketAddrV4, server: SocketAddrV4) {
    wait_leased(daemon, at_client(client, server));
}

/// Waits until the node of the client has leased a conversation with a Service both ways, translation
/// included; `server` is the pod behind it.
pub fn wait_leased_by_service(
    daemon: &Daemon,
    client: SocketAddrV4,
    service: SocketAddrV4,
    server: SocketAddrV4,
) {
    let expected = [(client, service, "encap", server), (server, client, "decap", service)];
    until(&format!("leases for {expected:?}"), SOON, || {
        let leases = leases(daemon);
        let is_leased = |(from, to, direction, becomes): &(_, _, &str, SocketAddrV4)| {
            leases.iter().any(|lease| {
                lease.is(*from, *to)
                    && lease.direction == *direction
                    && lease.translated_to == Some(*becomes)
            })
        };
        expected.iter().all(is_leased).then_some(())
    });
}

/// Waits until the node with the server has leased a conversation both ways.
pub fn wait_leased_at_server(daemon: &Daemon, client: SocketAddrV4, server: SocketAddrV4) {
    wait_leased(daemon, at_server(client, server));
}

/// A conversation's two ways on one node: source, destination and direction of each.
pub type BothWays = [(SocketAddrV4, SocketAddrV4, &'static str); 2];

/// Both ways of a conversation on the node with the client.
pub fn at_client(client: SocketAddrV4, server: SocketAddrV4) -> BothWays {
    [(client, server, "encap"), (server, client, "decap")]
}

/// Both ways of a conversation on the node with the server.
pub fn at_server(client: SocketAddrV4, server: SocketAddrV4) -> BothWays {
    [(client, server, "decap"), (server, client, "encap")]
}

/// Whether the node has leased a conversation both ways at this moment.
pub fn is_leased(daemon: &Daemon, flows: &BothWays) -> bool {
    let leases = leases(daemon);
    let is_leased = |(from, to, direction): &(SocketAddrV4, SocketAddrV4, &str)| {
        leases.iter().any(|lease| lease.is(*from, *to) && lease.direction == *direction)
    };
    flows.iter().all(is_leased)
}

fn wait_leased(daemon: &Daemon, flows: BothWays) {
    until(&format!("leases for {flows:?}"), SOON, || is_leased(daemon, &flows).then_some(()));
}

/// Waits until this lease of a node is over, and asserts that nothing extends it until then.
pub fn wait_lapsed(daemon: &Daemon, is_it: impl Fn(&Lease) -> bool) {
    let mut left = f64::MAX;
    until("the end of the lease", SOON, || {
        let lease = leases(daemon).into_iter().find(&is_it);
        let Some(lease) = lease else { return Some(()) };
        assert!(lease.expires_in <= left, "extended, after {left} s to go: {lease:?}");
        left = lease.expires_in;
        None
    });
}

/// That none of a node's leases touches the address.
pub fn assert_unleased(daemon: &Daemon, address: Ipv4Addr) {
    let mut found = leases(daemon);
    found.retain(|lease| lease.touches(address));
    assert_eq!(found, Vec::new());
}

/// A client and its node, which translates for Services, and the pod behind one on the other node.
pub struct Side<'a> {
    /// Who asks, its node, and the daemon there.
    pub client: (&'a Pod, &'a Node, &'a Daemon),
    /// Who answers, and the daemon of its node.
    pub backend: (&'a Pod, &'a Daemon),
}

impl<'a> Side<'a> {
    /// Each pod as the client.
    pub fn both(scene: &'a Scene) -> [Self; 2] {
        let (perf, sit) = scene.pods();
        let Lab { node1, node2, .. } = &scene.lab;
        [
            Self { client: (perf, node2, &scene.daemon2), backend: (sit, &scene.daemon1) },
            Self { client: (sit, node1, &scene.daemon1), backend: (perf, &scene.daemon2) },
        ]
    }
}

impl Scene {
    /// Puts Felix's rules on both nodes: demo-hello-sit (node1) may be sent only
    /// this, and everything else is free.
    pub fn police(&self, to_sit: &[Allow]) {
        let (perf, sit) = self.pods();
        enforce(&self.lab.node1.netns, &[Endpoint::allowing(sit, to_sit.to_vec())]).unwrap();
        enforce(&self.lab.node2.netns, &[Endpoint::open(perf)]).unwrap();
    }

    /// Conversations from demo-hello-perf (node2) to demo-hello-sit, by UDP and by TCP.
    pub fn talks(&self) -> [Conversation; 2] {
        let (perf, sit) = self.pods();
        let to = SocketAddrV4::new(sit.ip, PORT);
        [Protocol::Udp, Protocol::Tcp].map(|protocol| {
            Conversation::start(protocol, &perf.netns, to, &sit.netns, PORT).unwrap()
        })
    }

    /// Waits until node2 has leased them.
    pub fn assert_leased(&self, talks: &[Conversation]) {
        let to = SocketAddrV4::new(self.lab.sit().ip, PORT);
        for talk in talks {
            wait_leased_at_client(&self.daemon2, talk.client, to);
        }
    }
}

/// Waits until each has had a hundred answers more.
pub fn assert_all_answer(talks: &[Conversation]) {
    assert!(talks.iter().all(|talk| talk.wait_for(100, SOON)), "somebody gets no answer");
}
