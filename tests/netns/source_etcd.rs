//! The source `etcd` with daemons and packets: real etcd, no route in any file.

use serde_json::{Value, json};
use tunless_lab::{
    Daemon, Etcd, Lab, LabBuilder, Node, RpFilter,
    calico::{affinity, block, block_key, node, pool},
};
use tunless_tests::scene::{
    SOON, Setup, answers, assert_answered, assert_lossless, restart_all, scraped::get,
    stream_between, until,
};

/// A block that is not there at first.
const MORE: &str = "10.20.50.0/26";

/// Three nodes in an etcd on their router; daemons on two.
struct Cluster {
    daemon1: Daemon,
    daemon2: Daemon,
    etcd: Etcd,
    lab: Lab,
}

fn set_pool(etcd: &Etcd, mode: &str) {
    etcd.store(&pool("default-ipv4-ippool", "10.20.0.0/16", mode)).unwrap();
}

fn set_node(etcd: &Etcd, one: &Node) {
    etcd.store(&node(one.name, &format!("{}/24", one.ip), one.tunnel)).unwrap();
}

impl Cluster {
    fn new(setup: Setup, lab: LabBuilder) -> Self {
        Self::with(setup, lab, "auto")
    }

    /// `borrowed`: how borrowed addresses are learnt.
    fn with(setup: Setup, lab: LabBuilder, borrowed: &str) -> Self {
        println!("{setup:?} {borrowed}");
        let lab = lab.third_node(true).build().unwrap();
        // The router's address toward node1, which is not node2's gateway.
        let etcd = Etcd::new().at(&lab.router, lab.node1.gateway).start().unwrap();
        set_pool(&etcd, "Always");
        for one in lab.nodes() {
            set_node(&etcd, one);
            etcd.store(&block(one.block, one.name, &[])).unwrap();
            etcd.store(&affinity(one.block, one.name)).unwrap();
        }
        let endpoints = etcd.endpoints();
        let start = |node: &Node| {
            let text = format!(
                "node: {{name: {}, tunnel_address: {}}}\nmode: replace\n\
                 underlay: {{decap: {}}}\nfastpath: {}\n\
                 sources: {{etcd: {{endpoints: {endpoints:?}, borrowed: {borrowed}}}}}\n",
                node.name, node.tunnel, setup.decap, setup.fastpath,
            );
            Daemon::start(node, &text).unwrap()
        };
        let (daemon1, daemon2) = (start(&lab.node1), start(&lab.node2));
        let cluster = Self { daemon1, daemon2, etcd, lab };
        let (perf, sit) = (cluster.lab.perf(), cluster.lab.sit());
        until("both nodes know each other", SOON, || answers(&perf.netns, sit.ip).then_some(()));
        cluster
    }

    fn node3(&self) -> Node {
        self.lab.node3.clone().unwrap()
    }

    fn restart(&mut self) {
        restart_all(&mut [&mut self.daemon1, &mut self.daemon2]);
    }

    fn set_block(&self, cidr: &str, host: &Node, lent: &[(usize, &str)]) {
        self.etcd.store(&block(cidr, host.name, lent)).unwrap();
    }

    fn finish(self) {
        let Self { daemon1, daemon2, etcd, lab } = self;
        daemon1.finish().unwrap();
        daemon2.finish().unwrap();
        drop(etcd);
        assert_eq!(lab.problems(), Vec::<String>::new());
    }
}

/// Until a node has exactly these routes from etcd.
fn wait_for_routes(daemon: &Daemon, encap: &str, expected: &[(&str, &Node)]) {
    let route = |(cidr, node): &(&str, &Node)| json!([cidr, node.ip, "etcd", encap]);
    let mut expected: Vec<Value> = expected.iter().map(route).collect();
    expected.sort_by_key(Value::to_string);
    until(&format!("the routes are {expected:?}"), SOON, || {
        let answer = daemon.cli_json(&["routes", "list"]).unwrap();
        let items = answer["items"].as_array().unwrap().iter();
        let mut routes: Vec<Value> = items
            .map(|item| json!([item["cidr"], item["node"], item["source"], item["encap"]]))
            .collect();
        routes.sort_by_key(Value::to_string);
        (routes == expected).then_some(())
    });
}

/// Until a node's source is so; what `status` says of it.
fn wait_for_state(daemon: &Daemon, state: &str) -> Value {
    until(&format!("the source is {state}"), SOON, || {
        let status = daemon.cli(&["status", "-o", "json"]).unwrap();
        let value: Value = serde_json::from_str(&status.stdout).unwrap();
        let sources = value["sources"].as_array().unwrap();
        let source = sources.iter().find(|it| it["source"] == "etcd").cloned();
        source.filter(|source| source["state"] == state)
    })
}

#[test]
fn pods_talk_by_what_etcd_says_and_go_on_without_it() {
    for setup in [Setup::OFF, Setup::VERIFIED] {
        let mut cluster = Cluster::new(setup, Lab::new().fabric_filter(true));
        talk_by_what_etcd_says(&mut cluster);
        cluster.restart();
        talk_by_what_etcd_says(&mut cluster);
        cluster.finish();
    }
}

/// What comes goes again.
fn talk_by_what_etcd_says(cluster: &mut Cluster) {
    let (node1, node3) = (cluster.lab.node1.clone(), cluster.node3());
    let (first, third) = ((node1.block, &node1), (node3.block, &node3));
    wait_for_routes(&cluster.daemon2, "ipip", &[first, third]);
    let (perf, sit) = (cluster.lab.perf().clone(), cluster.lab.sit().clone());
    until("lists call nodes as the datastore does", SOON, || {
        let nodes = cluster.daemon2.cli_json(&["nodes", "list"]).unwrap();
        let items = nodes["items"].as_array()?.iter();
        let mut named: Vec<_> =
            items.map(|item| (item["node"].clone(), item["name"].clone())).collect();
        let mut expected = [&node1, &node3].map(|node| (json!(node.ip), json!(node.name)));
        named.sort_by_key(|(node, _)| node.to_string());
        expected.sort_by_key(|(node, _)| node.to_string());
        (named == expected).then_some(())
    });
    let stream = stream_between(&perf, &sit, 5001);
    let back = stream_between(&sit, &perf, 5002);

    // Blocks come, move, and lend an address; the others stay.
    cluster.set_block(MORE, &node3, &[]);
    wait_for_routes(&cluster.daemon2, "ipip", &[first, third, (MORE, &node3)]);
    cluster.set_block(MORE, &node1, &[(5, node3.name)]);
    let lent = ("10.20.50.5/32", &node3);
    wait_for_routes(&cluster.daemon2, "ipip", &[first, third, (MORE, &node1), lent]);
    let diff = cluster.daemon2.cli(&["routes", "diff"]).unwrap();
    assert_eq!(diff.status, Some(0), "{}{}", diff.stdout, diff.stderr);

    // A value nobody understands is named, and takes nothing away.
    cluster.etcd.put(&block_key(MORE), "{").unwrap();
    until("the malformed value is told", SOON, || {
        let source = wait_for_state(&cluster.daemon2, "synced");
        let problems = source["problems"].to_string();
        problems.contains(&block_key(MORE)).then_some(())
    });
    wait_for_routes(&cluster.daemon2, "ipip", &[first, third, (MORE, &node1), lent]);
    cluster.set_block(MORE, &node1, &[(5, node3.name)]);

    // etcd is killed: nothing else goes, also not when tunless starts again.
    cluster.etcd.kill9(0).unwrap();
    let source = wait_for_state(&cluster.daemon2, "stale");
    assert!(source["stale_since"].is_u64(), "{source}");
    let figures = until("it is a figure", SOON, || {
        let figures = get(&cluster.lab.node2, "/metrics").figures();
        (figures[r#"tunless_source_synced{source="etcd"}"#] == 0.0).then_some(figures)
    });
    for name in ["stale_since", "last_report"] {
        let series = format!("tunless_source_{name}_timestamp_seconds{{source=\"etcd\"}}");
        assert!(figures[&series] > 1e9, "{series}");
    }
    let status = cluster.daemon2.cli(&["status", "--strict"]).unwrap();
    assert_eq!(status.status, Some(3));
    let is_listed = status.stdout.contains("degraded: etcd: ");
    assert!(is_listed && status.stdout.contains("stale since"), "{}", status.stdout);
    assert_answered(&perf.netns, sit.ip);
    cluster.daemon2.kill9().unwrap();
    cluster.daemon2.restart().unwrap();
    wait_for_state(&cluster.daemon2, "waiting");
    wait_for_routes(&cluster.daemon2, "ipip", &[first, third, (MORE, &node1), lent]);
    assert_answered(&perf.netns, sit.ip);

    // It is back, and what goes now goes.
    cluster.etcd.restart(0).unwrap();
    wait_for_state(&cluster.daemon2, "synced");
    cluster.etcd.delete(&block_key(MORE)).unwrap();
    wait_for_routes(&cluster.daemon2, "ipip", &[first, third]);
    assert_lossless(stream);
    assert_lossless(back);
}

/// As an administrator edits the pool: both nodes hear of it, each in its own time.
/// Affinities make the routes where blocks are not followed.
#[test]
fn pods_talk_by_affinities_where_blocks_are_not_followed() {
    for borrowed in ["polled", "off"] {
        let lab = Lab::new().fabric_filter(true);
        let mut cluster = Cluster::with(Setup::VERIFIED, lab, borrowed);
        for is_restarted in [false, true] {
            if is_restarted {
                cluster.restart();
            }
            let (node1, node3) = (cluster.lab.node1.clone(), cluster.node3());
            let (first, third) = ((node1.block, &node1), (node3.block, &node3));
            wait_for_routes(&cluster.daemon2, "ipip", &[first, third]);
            assert_answered(&cluster.lab.perf().netns, cluster.lab.sit().ip);
            let more = affinity(MORE, node3.name);
            cluster.etcd.store(&more).unwrap();
            wait_for_routes(&cluster.daemon2, "ipip", &[first, third, (MORE, &node3)]);
            cluster.etcd.delete(&more.key).unwrap();
            wait_for_routes(&cluster.daemon2, "ipip", &[first, third]);
            let source = wait_for_state(&cluster.daemon2, "synced");
            let expected = if borrowed == "off" { Value::Null } else { json!(borrowed) };
            assert_eq!(
                (&source["reads"]["borrowed"], &source["problems"]),
                (&expected, &json!([]))
            );
        }
        cluster.finish();
    }
}

#[test]
fn a_pool_changes_its_mind_under_traffic() {
    for setup in [Setup::OFF, Setup::VERIFIED] {
        let mut cluster = Cluster::new(setup, Lab::new().rp_filter(RpFilter::Loose));
        let lab = &cluster.lab;
        // The fabric knows the pods, as with plain BGP.
        for node in lab.nodes() {
            lab.router.ip(&format!("route add {} via {}", node.block, node.ip)).unwrap();
        }
        change_the_pool_under_traffic(&cluster);
        cluster.restart();
        change_the_pool_under_traffic(&cluster);
        cluster.finish();
    }
}

fn change_the_pool_under_traffic(cluster: &Cluster) {
    let lab = &cluster.lab;
    let (node1, node2, node3) = (lab.node1.clone(), lab.node2.clone(), cluster.node3());
    let there = stream_between(lab.perf(), lab.sit(), 5003);
    let back = stream_between(lab.sit(), lab.perf(), 5004);
    for (mode, encap) in
        [("Never", "direct"), ("Always", "ipip"), ("Never", "direct"), ("CrossSubnet", "ipip")]
    {
        set_pool(&cluster.etcd, mode);
        let third = (node3.block, &node3);
        wait_for_routes(&cluster.daemon2, encap, &[(node1.block, &node1), third]);
        wait_for_routes(&cluster.daemon1, encap, &[(node2.block, &node2), third]);
        // The router counts a hop of what travels plain.
        let ttl = if encap == "direct" { 61 } else { 62 };
        until(&format!("pings travel {encap}"), SOON, || {
            let report = assert_answered(&lab.perf().netns, lab.sit().ip);
            (report.ttl() == Some(ttl)).then_some(())
        });
    }
    assert_lossless(there);
    assert_lossless(back);
}
