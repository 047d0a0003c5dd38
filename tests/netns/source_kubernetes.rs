//! The source `kubernetes` with daemons and packets: no route in any file.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4},
    path::Path,
};

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tunless_lab::{
    Daemon, Lab, Node,
    kube_api::{
        ENDPOINT_SLICES, KubeApi, NODES, V1_AFFINITIES, V1_BLOCKS,
        objects::{affinity, block, block_name, endpoint_slice, tunnel_node},
    },
    service::{Service, kube_proxy},
};
use tunless_tests::scene::{
    SOON, Setup, answers, assert_answered, assert_lossless, restart_all, stream_between, until,
};

/// A block that is not there at first.
const MORE: &str = "10.20.50.0/26";

/// Three nodes in an API on their router; daemons on two.
struct Cluster {
    daemon1: Daemon,
    daemon2: Daemon,
    api: KubeApi,
    lab: Lab,
}

impl Cluster {
    fn new(setup: Setup) -> Self {
        Self::with(setup, "borrowed: followed")
    }

    /// `reads`: how closely the API is followed.
    fn with(setup: Setup, reads: &str) -> Self {
        println!("{setup:?} {reads}");
        let lab = Lab::new().fabric_filter(true).third_node(true).build().unwrap();
        // The router's address toward node1, which is not node2's gateway.
        let address = SocketAddr::from((lab.node1.gateway, 6443));
        let api = KubeApi::start_in(&lab.router, address).unwrap();
        api.want_token("secret");
        api.serve_lab(&lab);
        let path = lab.dir().join("kubeconfig");
        fs::write(&path, api.kubeconfig("secret")).unwrap();
        let start = |node| Daemon::start(node, &config(setup, node, &path, reads)).unwrap();
        let (daemon1, daemon2) = (start(&lab.node1), start(&lab.node2));
        Self { daemon1, daemon2, api, lab }
    }

    fn restart(&mut self) {
        restart_all(&mut [&mut self.daemon1, &mut self.daemon2]);
    }

    fn node3(&self) -> &Node {
        self.lab.node3.as_ref().unwrap()
    }

    /// Until node2 has exactly these routes.
    fn wait_for_routes(&self, expected: &[(&str, &Node)]) {
        let mut expected: Vec<Value> = expected
            .iter()
            .map(|(cidr, node)| json!([cidr, node.ip, "kubernetes", "ipip"]))
            .collect();
        expected.sort_by_key(Value::to_string);
        until(&format!("the routes are {expected:?}"), SOON, || {
            let answer = self.daemon2.cli_json(&["routes", "list"]).unwrap();
            let items = answer["items"].as_array().unwrap().iter();
            let mut routes: Vec<Value> = items
                .map(|item| json!([item["cidr"], item["node"], item["source"], item["encap"]]))
                .collect();
            routes.sort_by_key(Value::to_string);
            (routes == expected).then_some(())
        });
    }

    /// Until node2's source is so; what `status` says of it.
    fn wait_for_state(&self, state: &str) -> Value {
        until(&format!("the source is {state}"), SOON, || {
            let status = self.daemon2.cli(&["status", "-o", "json"]).unwrap();
            let value: Value = serde_json::from_str(&status.stdout).unwrap();
            let sources = value["sources"].as_array().unwrap();
            let source = sources.iter().find(|it| it["source"] == "kubernetes").cloned();
            source.filter(|source| source["state"] == state)
        })
    }
}

fn config(setup: Setup, node: &Node, kubeconfig: &Path, reads: &str) -> String {
    format!(
        "node: {{name: {}, tunnel_address: {}}}\nmode: replace\n\
         underlay: {{decap: {}}}\nfastpath: {}\n\
         sources: {{kubernetes: {{kubeconfig: {}, {reads}}}}}\n",
        node.name,
        node.tunnel,
        setup.decap,
        setup.fastpath,
        kubeconfig.display(),
    )
}

#[test]
fn pods_talk_by_what_the_api_says_and_go_on_without_it() {
    for setup in [Setup::OFF, Setup::VERIFIED] {
        let mut cluster = Cluster::new(setup);
        talk_by_what_the_api_says(&mut cluster);
        cluster.restart();
        talk_by_what_the_api_says(&mut cluster);
        let Cluster { daemon1, daemon2, api, lab } = cluster;
        daemon1.finish().unwrap();
        daemon2.finish().unwrap();
        drop(api);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// What comes goes again, and the other way round.
fn talk_by_what_the_api_says(cluster: &mut Cluster) {
    let (node1, node3) = (cluster.lab.node1.clone(), cluster.node3().clone());
    let (first, third) = ((node1.block, &node1), (node3.block, &node3));
    cluster.wait_for_routes(&[first, third]);
    let (perf, sit) = (cluster.lab.perf().clone(), cluster.lab.sit().clone());
    until("both nodes know each other", SOON, || answers(&perf.netns, sit.ip).then_some(()));
    let stream = stream_between(&perf, &sit, 5001);
    let back = stream_between(&sit, &perf, 5002);

    // Blocks come, move, and lend an address; the others stay.
    let set = |cluster: &Cluster, cidr: &str, host: &str, lent: &[(usize, &str)]| {
        cluster.api.set(V1_BLOCKS, block(V1_BLOCKS, cidr, host, lent));
    };
    set(cluster, MORE, node3.name, &[]);
    cluster.wait_for_routes(&[first, third, (MORE, &node3)]);
    set(cluster, MORE, node1.name, &[(5, node3.name)]);
    cluster.wait_for_routes(&[first, third, (MORE, &node1), ("10.20.50.5/32", &node3)]);
    assert_eq!(cluster.wait_for_state("synced")["problems"], json!([]));

    // The API goes away: nothing else does, also not when tunless starts again.
    cluster.api.down();
    // Connections that were open break first.
    let source = until("it is told that nobody answers", SOON, || {
        let source = cluster.wait_for_state("stale");
        let refused = source["reason"].as_str().unwrap().to_lowercase();
        (refused.contains("connection refused") && refused.contains(":6443")).then_some(source)
    });
    assert!(source["stale_since"].is_u64(), "{source}");
    let status = cluster.daemon2.cli(&["status", "--strict"]).unwrap();
    assert_eq!(status.status, Some(3));
    let text = format!("{}{}", status.stdout, status.stderr);
    assert!(text.contains("kubernetes") && text.contains("stale since"), "{text}");
    assert_answered(&perf.netns, sit.ip);
    cluster.daemon2.kill9().unwrap();
    cluster.daemon2.restart().unwrap();
    cluster.wait_for_state("waiting");
    cluster.wait_for_routes(&[first, third, (MORE, &node1), ("10.20.50.5/32", &node3)]);
    assert_answered(&perf.netns, sit.ip);

    // What went meanwhile is gone when it is back, and only that.
    cluster.api.delete(V1_BLOCKS, &block_name(MORE));
    cluster.api.delete(NODES, node3.name);
    cluster.api.compact();
    cluster.api.up().unwrap();
    cluster.wait_for_routes(&[first]);
    assert_lossless(stream);
    assert_lossless(back);

    let cidr = format!("{}/24", node3.ip);
    cluster.api.set(NODES, tunnel_node(node3.name, &cidr, node3.tunnel));
    cluster.wait_for_routes(&[first, third]);
}

/// Affinities make the routes, also where a pod of the own node borrowed an address: the block is
/// the other node's all the same.
#[test]
fn pods_talk_by_affinities_where_borrowed_addresses_are_not_followed() {
    for (reads, shown) in [
        ("nodes: followed, borrowed: polled", "nodes followed, borrowed addresses polled"),
        ("nodes: polled, borrowed: polled", "nodes and borrowed addresses polled"),
        ("nodes: polled, borrowed: off", "nodes polled, borrowed addresses off"),
    ] {
        let mut cluster = Cluster::with(Setup::VERIFIED, reads);
        cluster.lab.node2.add_pod("borrower", "10.20.7.70".parse().unwrap()).unwrap();
        talk_by_affinities(&cluster);
        cluster.restart();
        talk_by_affinities(&cluster);
        let status = cluster.daemon2.cli(&["status"]).unwrap().stdout;
        assert!(status.contains(&format!("; {shown}")), "{status}");
        // A node that the daemon has not listed, with its first block.
        let node3 = cluster.node3().clone();
        cluster.api.set(NODES, tunnel_node("new", &format!("{}/24", node3.ip), node3.tunnel));
        cluster.api.delete(V1_AFFINITIES, &format!("{}-{}", node3.name, block_name(node3.block)));
        cluster.api.set(V1_AFFINITIES, affinity(V1_AFFINITIES, MORE, "new"));
        let node1 = cluster.lab.node1.clone();
        cluster.wait_for_routes(&[(node1.block, &node1), (MORE, &node3)]);
        cluster.daemon1.finish().unwrap();
        cluster.daemon2.finish().unwrap();
    }
}

fn talk_by_affinities(cluster: &Cluster) {
    let (node1, node3) = (&cluster.lab.node1, cluster.node3());
    let (first, third) = ((node1.block, node1), (node3.block, node3));
    cluster.wait_for_routes(&[first, third]);
    let (perf, sit) = (cluster.lab.perf(), cluster.lab.sit());
    until("both nodes know each other", SOON, || answers(&perf.netns, sit.ip).then_some(()));
    assert_answered(&sit.netns, perf.ip);
    cluster.api.set(V1_AFFINITIES, affinity(V1_AFFINITIES, MORE, node3.name));
    cluster.wait_for_routes(&[first, third, (MORE, node3)]);
    cluster.api.delete(V1_AFFINITIES, &format!("{}-{}", node3.name, block_name(MORE)));
    cluster.wait_for_routes(&[first, third]);
    assert_eq!(cluster.wait_for_state("synced")["problems"], json!([]));
    assert_eq!(cluster.api.watches(V1_BLOCKS), 0);
}

#[test]
fn a_token_without_rights_is_told_by_status() {
    let mut cluster = Cluster::new(Setup::OFF);
    take_rights_and_give_them(&cluster);
    claim_the_api(&mut cluster);
    cluster.restart();
    take_rights_and_give_them(&cluster);
    claim_the_api(&mut cluster);
    cluster.daemon1.finish().unwrap();
    cluster.daemon2.finish().unwrap();
}

/// The API by a ClusterIP, as a pod has it in `KUBERNETES_SERVICE_HOST`: the server behind is known by
/// the endpoints of `default/kubernetes`, and by memory once those may not be read.
#[test]
fn an_api_behind_a_service_is_reached_outside_of_the_tunnel() {
    let mut cluster = Cluster::new(Setup::OFF);
    let server = SocketAddrV4::new(cluster.lab.node1.gateway, 6443);
    cluster.api.serve(ENDPOINT_SLICES, "EndpointSlice");
    let slice = endpoint_slice("default", "kubernetes", &[&server.ip().to_string()]);
    cluster.api.set(ENDPOINT_SLICES, slice);
    for node in [&cluster.lab.node1, &cluster.lab.node2] {
        kube_proxy(&node.netns, &[Service::kubernetes(server)]).unwrap();
    }
    let service = Service::kubernetes(server).address;
    let kubeconfig =
        cluster.api.kubeconfig("secret").replace(&server.to_string(), &service.to_string());
    fs::write(cluster.lab.dir().join("kubeconfig"), kubeconfig).unwrap();
    cluster.restart();
    cluster.wait_for_state("synced");
    claim_the_api(&mut cluster);

    cluster.api.forbid(&[("list", ENDPOINT_SLICES)]);
    cluster.restart();
    let source = cluster.wait_for_state("synced");
    assert!(source["problems"].to_string().contains("default/kubernetes"), "{source}");
    claim_the_api(&mut cluster);
    cluster.daemon1.finish().unwrap();
    cluster.daemon2.finish().unwrap();
}

/// A block around the API server, which is not node2's router, makes no route: this host could not
/// reach the API any more.
fn claim_the_api(cluster: &mut Cluster) {
    let server = cluster.lab.node1.gateway;
    let around = Ipv4Net::new(server, 31).unwrap().trunc();
    assert!(!around.contains(&cluster.lab.node1.ip), "it is refused for the server alone");
    let around = around.to_string();
    let host = cluster.node3().name;
    cluster.api.set(V1_BLOCKS, block(V1_BLOCKS, &around, host, &[]));
    cluster.api.set(V1_BLOCKS, block(V1_BLOCKS, MORE, host, &[]));
    for is_restarted in [false, true] {
        if is_restarted {
            cluster.daemon2.kill9().unwrap();
            cluster.daemon2.restart().unwrap();
            cluster.wait_for_state("synced");
        }
        let (node1, node3) = (&cluster.lab.node1, cluster.node3());
        let others = [(node1.block, node1), (node3.block, node3), (MORE, node3)];
        cluster.wait_for_routes(&others);
        let is_named = |status: &Value| {
            let problems = status["problems"].as_array().unwrap().iter();
            let mut claims = problems.filter(|problem| problem["code"] == "claim");
            claims.any(|problem| {
                let what = problem["what"].as_str().unwrap();
                problem["where"] == around && what.contains(&format!("{server} lies inside it"))
            })
        };
        cluster.daemon2.wait_json(&["status"], SOON, is_named).unwrap();
        let path = cluster.lab.node2.netns.ip(&format!("route get {server}")).unwrap();
        assert!(!path.contains("tunless0"), "{path}");
    }
    cluster.api.delete(V1_BLOCKS, &block_name(&around));
    cluster.api.delete(V1_BLOCKS, &block_name(MORE));
    let (node1, node3) = (&cluster.lab.node1, cluster.node3());
    cluster.wait_for_routes(&[(node1.block, node1), (node3.block, node3)]);
}

fn take_rights_and_give_them(cluster: &Cluster) {
    cluster.wait_for_routes(&[
        (cluster.lab.node1.block, &cluster.lab.node1),
        (cluster.node3().block, cluster.node3()),
    ]);
    // Routes are there from before a restart, too. A source that has not reported since then has
    // nothing that could be stale.
    cluster.wait_for_state("synced");
    cluster.api.forbid(&[("list", V1_BLOCKS), ("watch", V1_BLOCKS)]);
    cluster.api.trouble(V1_BLOCKS, tunless_lab::kube_api::Trouble::Close);
    // The connection that was open breaks first.
    until("it is told what is forbidden", SOON, || {
        let source = cluster.wait_for_state("stale");
        let reason = source["reason"].as_str().unwrap();
        reason.contains("may not watch ipamblocks.crd.projectcalico.org").then_some(())
    });
    cluster.api.forbid(&[]);
    cluster.wait_for_state("synced");
    assert_answered(&cluster.lab.perf().netns, cluster.lab.sit().ip);
}
