//! The source `bird` with daemons and packets: four nodes in three subnets behind a
//! router that knows no pod, real BIRDs, no route in any file.

use serde_json::{Value, json};
use tunless_lab::{
    Daemon, Lab, Node, Pod,
    bird::{Bird, Sessions},
};
use tunless_tests::{
    bird::PATIENCE,
    scene::{
        Setup, answers, assert_answered, assert_lossless, endpoint_of, restart_all, stream_between,
        until,
    },
};

/// A block that is not there at first.
const MORE: &str = "10.20.50.0/26";

/// Daemons go before BIRDs, and both before the lab.
struct Cluster {
    daemons: Vec<Daemon>,
    birds: Vec<Bird>,
    pods: Vec<Pod>,
    lab: Lab,
}

impl Cluster {
    fn new(sessions: Sessions) -> Self {
        println!("{sessions:?}");
        let lab = Lab::new().fabric_filter(true).third_node(true).fourth_node(true);
        let lab = lab.default_pods(false).build().unwrap();
        let nodes = lab.nodes();
        let birds = Bird::start_all(&nodes, sessions).unwrap();
        let pod = |node: &&Node| {
            node.add_pod(&format!("pod-{}", node.label), Lab::pod_ip(node, 9)).unwrap()
        };
        let pods: Vec<Pod> = nodes.iter().map(pod).collect();
        let start = |(bird, node): (&Bird, &&Node)| {
            let setup = Setup::VERIFIED;
            let text = format!(
                "node: {{name: {}, tunnel_address: {}}}\nmode: replace\n\
                 underlay: {{decap: {}}}\nfastpath: {}\n\
                 sources: {{bird: {{socket: {}, poll_milliseconds: 100}}}}\n",
                node.name,
                node.tunnel,
                setup.decap,
                setup.fastpath,
                bird.socket().display(),
            );
            Daemon::start(node, &text).unwrap()
        };
        let daemons = birds.iter().zip(&nodes).map(start).collect();
        let cluster = Self { daemons, birds, pods, lab };
        for daemon in 0..4 {
            cluster.wait_for_routes(daemon, &cluster.blocks_but(daemon));
        }
        cluster
    }

    /// The blocks of the nodes but one.
    fn blocks_but(&self, node: usize) -> Vec<(&'static str, usize)> {
        let nodes = self.lab.nodes();
        (0..nodes.len()).filter(|n| *n != node).map(|n| (nodes[n].block, n)).collect()
    }

    /// Until a node has exactly these routes from BIRD, and the kernel, which gets them last, all
    /// of them.
    fn wait_for_routes(&self, daemon: usize, expected: &[(&str, usize)]) {
        let nodes = self.lab.nodes();
        let route = |(cidr, node): &(&str, usize)| json!([cidr, nodes[*node].ip, "bird"]);
        let mut expected: Vec<Value> = expected.iter().map(route).collect();
        expected.sort_by_key(Value::to_string);
        until(&format!("the routes of node {daemon} are {expected:?}"), PATIENCE, || {
            let answer = self.daemons[daemon].cli_json(&["routes", "list"]).unwrap();
            let items = answer["items"].as_array().unwrap().iter();
            let mut routes: Vec<Value> =
                items.map(|item| json!([item["cidr"], item["node"], item["source"]])).collect();
            routes.sort_by_key(Value::to_string);
            let kernel = nodes[daemon].netns.ip("route show dev tunless0").unwrap();
            let is_there = |route: &Value| kernel.contains(route[0].as_str().unwrap());
            (routes == expected && routes.iter().all(is_there)).then_some(())
        });
    }

    fn assert_all_talk(&self) {
        for from in &self.pods {
            for to in self.pods.iter().filter(|to| to.ip != from.ip) {
                assert_eq!(assert_answered(&from.netns, to.ip).ttl(), Some(62));
            }
        }
    }

    fn finish(self) {
        assert_eq!(self.lab.plain_packets_on_wire().unwrap(), 0);
        self.daemons.into_iter().for_each(|daemon| daemon.finish().unwrap());
        drop(self.birds);
        assert_eq!(self.lab.problems(), Vec::<String>::new());
    }
}

#[test]
fn four_nodes_of_a_mesh_talk_by_what_bird_says() {
    run(Sessions::Mesh);
}

#[test]
fn four_nodes_behind_a_reflector_talk_by_what_bird_says() {
    run(Sessions::Reflector);
}

fn run(sessions: Sessions) {
    let is_mesh = matches!(sessions, Sessions::Mesh);
    let mut cluster = Cluster::new(sessions);
    talk_by_what_bird_says(&mut cluster, is_mesh);
    restart_all(&mut cluster.daemons.iter_mut().collect::<Vec<_>>());
    talk_by_what_bird_says(&mut cluster, is_mesh);
    cluster.finish();
}

/// What comes goes again, and the other way round.
fn talk_by_what_bird_says(cluster: &mut Cluster, is_mesh: bool) {
    cluster.assert_all_talk();
    until("lists call nodes as BIRD calls its sessions", PATIENCE, || {
        let listed = cluster.daemons[1].cli_json(&["nodes", "list"]).unwrap();
        let named = listed["items"].as_array()?.iter().filter(|item| {
            let nodes = cluster.lab.nodes();
            let node = nodes.into_iter().find(|node| item["node"] == json!(node.ip));
            node.is_some_and(|node| item["name"] == node.label)
        });
        // Behind a reflector there is one session.
        let expected = if is_mesh { 3 } else { 1 };
        (named.count() == expected).then_some(())
    });
    let stream = stream_between(&cluster.pods[1], &cluster.pods[2], 5001);
    let back = stream_between(&cluster.pods[2], &cluster.pods[1], 5002);

    // A block comes with a pod in it, and goes.
    let nodes: Vec<Node> = cluster.lab.nodes().into_iter().cloned().collect();
    let guest = nodes[3].add_pod("guest", "10.20.50.7".parse().unwrap()).unwrap();
    let got = cluster.daemons[1].cli(&["routes", "get", &guest.ip.to_string()]).unwrap();
    assert_eq!(got.status, Some(3), "{}", got.stdout);
    cluster.birds[3].announce(&[nodes[3].block, MORE]).unwrap();
    let mut more = cluster.blocks_but(1);
    more.push((MORE, 3));
    cluster.wait_for_routes(1, &more);
    endpoint_of(&cluster.daemons[3], &guest);
    assert_answered(&cluster.pods[1].netns, guest.ip);
    cluster.birds[3].announce(&[nodes[3].block]).unwrap();
    cluster.wait_for_routes(1, &cluster.blocks_but(1));

    // BIRDs die and come back, ours and the others': nothing is lost.
    for bird in [1, 2, 0] {
        cluster.birds[bird].kill9().unwrap();
        cluster.birds[bird].restart().unwrap();
        until("its sessions are up again", PATIENCE, || {
            cluster.birds[bird].is_established().unwrap().then_some(())
        });
    }
    cluster.birds[3].announce(&[nodes[3].block, MORE]).unwrap();
    cluster.wait_for_routes(1, &more);
    assert_lossless(stream);
    assert_lossless(back);
    cluster.assert_all_talk();

    // A node is lost; the others go on.
    let router = cluster.lab.router.clone();
    router.ip(&format!("link set {} down", nodes[2].router_port)).unwrap();
    let left: Vec<_> = more.iter().copied().filter(|(_, node)| *node != 2).collect();
    cluster.wait_for_routes(1, &left);
    assert_answered(&cluster.pods[1].netns, cluster.pods[0].ip);
    assert_answered(&cluster.pods[1].netns, guest.ip);
    router.ip(&format!("link set {} up", nodes[2].router_port)).unwrap();
    cluster.wait_for_routes(1, &more);
    until("the node that was lost talks again", PATIENCE, || {
        answers(&cluster.pods[1].netns, cluster.pods[2].ip).then_some(())
    });

    cluster.birds[3].announce(&[nodes[3].block]).unwrap();
    nodes[3].remove_pod(&guest).unwrap();
    for daemon in 0..4 {
        cluster.wait_for_routes(daemon, &cluster.blocks_but(daemon));
    }
}
