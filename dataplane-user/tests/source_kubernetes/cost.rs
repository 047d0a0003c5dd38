//! What the source costs the API: which questions, how old the answers may be, how many bytes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use dataplane_user::{
    config::sources::{Borrowed, CalicoApi, Nodes},
    sources::reads::Pace,
};
use serde_json::{Value, json};
use tunless_lab::kube_api::{
    KubeApi, NODES, Traffic, V1_AFFINITIES, V1_BLOCKS, V1_POOLS,
    objects::{affinity, bare_node, block, node, pool},
};

use super::source::{ALL, SOON, Source, V1, V3, cluster};

const B: &str = "10.65.1.0/26";
/// This node alone.
const OWN: &str = "/api/v1/nodes/node-a";

/// The questions about a path that are no watches: their queries.
fn lists(server: &KubeApi, path: &str) -> Vec<String> {
    let asked = server.requests().into_iter();
    let lists = asked.filter(|it| it.split('?').next() == Some(path) && !it.contains("watch=true"));
    lists
        .map(|it| it.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default())
        .collect()
}

/// Waits until a path is watched, while the source runs on.
async fn until_watched(server: &KubeApi, path: &str) {
    let end = Instant::now() + SOON;
    while server.watches(path) != 1 {
        assert!(Instant::now() < end, "{path} is not watched: {:#?}", server.requests());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn started(server: &KubeApi, borrowed: Borrowed) -> Source {
    let mut source = Source::start_with(&server.kubeconfig("secret"), |config| {
        config.api = CalicoApi::V1;
        config.borrowed = borrowed;
    });
    source.until_synced().await;
    source
}

#[tokio::test]
async fn lists_are_answered_by_the_watch_cache_and_never_older_than_what_is_known() {
    let server = cluster(V1);
    server.pages_of(2);
    let mut source = started(&server, Borrowed::Followed).await;
    source.until_claims(&ALL).await;
    for path in [NODES, V1_BLOCKS, V1_POOLS] {
        until_watched(&server, path).await;
        for query in lists(&server, path) {
            let is_next = query.contains("continue=");
            assert_ne!(query.contains("resourceVersion=0&"), is_next, "{path}?{query}");
        }
    }
    source.listen().await;

    // The history is lost: what is listed is not older than the last event.
    server.set(V1_BLOCKS, block(V1_BLOCKS, B, "node-c", &[]));
    source.until_claims(&[ALL[0], (B, "172.17.9.7 ipip"), ALL[2]]).await;
    let before = lists(&server, V1_BLOCKS).len();
    server.compact();
    source.until("the blocks are listed", |_| lists(&server, V1_BLOCKS).len() > before).await;
    let query = lists(&server, V1_BLOCKS).swap_remove(before);
    assert!(!query.contains("resourceVersion=0&") && query.contains("NotOlderThan"), "{query}");
}

#[tokio::test]
async fn after_etcd_was_restored_the_list_is_what_etcd_has() {
    let server = cluster(V1);
    let mut source = started(&server, Borrowed::Followed).await;
    source.until_claims(&ALL).await;
    until_watched(&server, V1_BLOCKS).await;
    source.listen().await;
    server.restore();
    for path in [NODES, V1_BLOCKS, V1_POOLS] {
        server.trouble(path, tunless_lab::kube_api::Trouble::Close);
    }
    server.set(V1_BLOCKS, block(V1_BLOCKS, B, "node-c", &[]));
    source.until_claims(&[ALL[0], (B, "172.17.9.7 ipip"), ALL[2]]).await;
    let queries = lists(&server, V1_BLOCKS);
    assert!(queries.iter().any(|it| !it.contains("resourceVersion")), "{queries:?}");
}

#[tokio::test]
async fn of_nodes_only_metadata_is_read_but_of_those_without_the_annotation() {
    let server = cluster(V1);
    server.set(NODES, bare_node("node-b", "172.17.0.6"));
    let mut source = started(&server, Borrowed::Followed).await;
    source.until_claims(&ALL).await;
    until_watched(&server, NODES).await;
    let by_name = |name: &str| {
        let selector = format!("fieldSelector=metadata.name%3D{name}&");
        lists(&server, NODES).iter().filter(|it| it.contains(&selector)).count()
    };
    assert_eq!(["node-a", "node-b", "node-c"].map(by_name), [0, 1, 0]);
    assert_eq!(lists(&server, NODES).len(), 2, "{:?}", lists(&server, NODES));

    // Its InternalIP is followed, and the annotation once there is one.
    server.set(NODES, bare_node("node-b", "172.17.0.8"));
    source.until_claims(&[ALL[0], (B, "172.17.0.8 ipip"), ALL[2]]).await;
    server.set(NODES, node("node-b", "172.17.0.9/24"));
    source.until_claims(&[ALL[0], (B, "172.17.0.9 ipip"), ALL[2]]).await;
    assert_eq!(by_name("node-b"), 2);
    // One that cannot be understood is as good as none.
    server.set(NODES, {
        let mut odd = node("node-b", "autodetect");
        odd["status"]["addresses"][0]["address"] = json!("172.17.0.6");
        odd
    });
    source.until_claims(&ALL).await;
    assert_eq!(source.seen.downs, [""; 0]);
}

#[tokio::test]
async fn of_many_nodes_without_the_annotation_all_are_read_at_once() {
    let server = cluster(V1);
    for number in 0..60 {
        server.set(NODES, bare_node(&format!("more-{number}"), "172.17.1.1"));
    }
    let mut source = started(&server, Borrowed::Followed).await;
    source.until_claims(&ALL).await;
    until_watched(&server, NODES).await;
    // Their kubelets rewrite them, and they are not read again.
    for number in 0..60 {
        server.set(NODES, bare_node(&format!("more-{number}"), "172.17.1.1"));
    }
    source.listen().await;
    assert_eq!(lists(&server, NODES).len(), 2, "{:?}", lists(&server, NODES));
    // A new one is.
    server.set(NODES, bare_node("more-60", "172.17.1.1"));
    server.set(V1_BLOCKS, block(V1_BLOCKS, "10.65.3.0/26", "more-60", &[]));
    let more = ("10.65.3.0/26", "172.17.1.1 ipip");
    source.until_claims(&[ALL[0], ALL[1], ALL[2], more]).await;
}

/// Each node has its block by affinity, too, and `node-b` lends an address to `node-c`.
fn lent(server: &KubeApi, (blocks, _): (&str, &str)) {
    let affinities = blocks.replace("ipamblocks", "blockaffinities");
    for (cidr, host) in [("10.65.0.0/26", "node-a"), (B, "node-b"), ("10.65.2.0/26", "node-c")] {
        server.set(&affinities, affinity(&affinities, cidr, host));
    }
    server.set(blocks, block(blocks, B, "node-b", &[(2, "node-c")]));
}

#[tokio::test]
async fn affinities_make_the_routes_where_borrowed_addresses_are_not_followed() {
    for (group, api) in [(V1, CalicoApi::V1), (V3, CalicoApi::V3)] {
        for borrowed in [Borrowed::Off, Borrowed::Polled] {
            let server = cluster(group);
            lent(&server, group);
            let mut source = Source::start_with(&server.kubeconfig("secret"), |config| {
                config.api = api;
                config.borrowed = borrowed;
            });
            let mut expected = ALL.to_vec();
            if borrowed == Borrowed::Polled {
                expected.push(("10.65.1.2/32", "172.17.9.7 ipip"));
            }
            source.until_claims(&expected).await;
            assert_eq!(source.seen.problems, BTreeMap::new());
            let polled = usize::from(borrowed == Borrowed::Polled);
            assert_eq!((lists(&server, group.0).len(), server.watches(group.0)), (polled, 0));

            // Blocks count no more for whose they are; affinities do, and are followed.
            let affinities = group.0.replace("ipamblocks", "blockaffinities");
            server.set(group.0, block(group.0, B, "node-a", &[]));
            server.set(&affinities, affinity(&affinities, B, "node-c"));
            server.delete(&affinities, &format!("node-b-{}", B.replace(['.', '/'], "-")));
            expected[1] = (B, "172.17.9.7 ipip");
            source.until_claims(&expected).await;
            let mut pending = affinity(&affinities, "10.65.3.0/26", "node-a");
            pending["spec"]["state"] = json!("pending");
            server.set(&affinities, pending);
            server.delete(&affinities, "node-a-10-65-0-0-26");
            expected.remove(0);
            source.until_claims(&expected).await;
        }
    }
}

/// A node as kubelets write it: 5 KB of metadata, 25 KB of status.
fn heavy_node(number: usize, heartbeat: usize) -> Value {
    let (high, low) = (number / 250, number % 250 + 1);
    let mut node = node(&format!("node-{number}"), &format!("172.20.{high}.{low}/16"));
    node["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f": "x".repeat(4_000)});
    node["status"]["images"] = json!([{"names": ["x".repeat(24_000)], "sizeBytes": 1}]);
    node["status"]["conditions"][0]["lastHeartbeatTime"] = json!(heartbeat);
    node
}

/// A block with fifty pods in it.
fn heavy_block(number: usize, nodes: usize) -> Value {
    let cidr = format!("10.{}.{}.{}/26", 64 + number / 1024, number / 4 % 256, number % 4 * 64);
    let host = format!("node-{}", number % nodes);
    let pods: Vec<(usize, &str)> = (1..=50).map(|ordinal| (ordinal, host.as_str())).collect();
    let mut block = block(V1_BLOCKS, &cidr, &host, &pods);
    for attribute in block["spec"]["attributes"].as_array_mut().unwrap() {
        attribute["handle_id"] = json!(format!("k8s-pod-network.{}", "0".repeat(64)));
        attribute["secondary"]["timestamp"] = json!("2026-11-01 08:15:00.000000000 +0000 UTC");
    }
    block
}

fn bytes_and_requests(traffic: &BTreeMap<String, Traffic>) -> (usize, usize) {
    let all = traffic.values().filter(|it| it.requests + it.bytes > 0);
    all.fold((0, 0), |(bytes, requests), it| (bytes + it.bytes, requests + it.requests))
}

/// Between two lists of what is polled, minutes on average.
const POLL: f64 = 67.5;

/// One daemon's share in a cluster of `nodes` nodes, two blocks each: at its start, in a minute
/// without and with churn, and when the API server starts again. Each node's kubelet rewrites its
/// Node every five minutes; one pod in fifty nodes comes and goes each second (100 at 5,000). What is
/// polled counts by the minute; its share is returned, too.
async fn measure(nodes: usize, by: (Nodes, Borrowed)) -> ([(usize, usize); 4], usize) {
    let mut server = KubeApi::start().unwrap();
    server.serve_calico(V1_BLOCKS, V1_POOLS);
    server.set(V1_POOLS, pool("p", "10.64.0.0/10", "Always"));
    for number in 0..nodes {
        server.set(NODES, heavy_node(number, 0));
    }
    server.set(NODES, {
        let mut own = heavy_node(nodes, 0);
        own["metadata"]["name"] = json!("node-a");
        own
    });
    for number in 0..2 * nodes {
        let block = heavy_block(number, nodes);
        let (cidr, host) = (&block["spec"]["cidr"], number % nodes);
        let affinity = affinity(V1_AFFINITIES, cidr.as_str().unwrap(), &format!("node-{host}"));
        server.set(V1_AFFINITIES, affinity);
        server.set(V1_BLOCKS, block);
    }
    server.compact();
    let mut source = Source::start_with(&server.kubeconfig("secret"), |config| {
        config.api = CalicoApi::V1;
        (config.nodes, config.borrowed) = by;
    });
    // However long a debug build takes for a large cluster.
    for _ in 0..400 {
        if source.seen.snapshots == 0 && source.seen.downs.is_empty() {
            source.listen().await;
        }
    }
    assert_eq!(source.seen.snapshots, 1, "{:#?}", source.seen);
    let reads = source.seen.reads.unwrap();
    let is_polled = |pace| pace == Pace::Polled;
    let nodes_path = if is_polled(reads.nodes) { OWN } else { NODES };
    let follows_blocks = reads.borrowed == Some(Pace::Followed);
    let blocks_path = if follows_blocks { V1_BLOCKS } else { V1_AFFINITIES };
    let watched = [nodes_path, blocks_path, V1_POOLS];
    for path in watched {
        until_watched(&server, path).await;
    }
    source.listen().await;
    let traffic = server.take_traffic();
    let start = bytes_and_requests(&traffic);
    let polled = [(NODES, is_polled(reads.nodes)), (V1_BLOCKS, !follows_blocks)];
    let polled = polled.iter().filter(|(_, is_polled)| *is_polled);
    let polled = polled.map(|(path, _)| traffic.get(*path).map_or(0, |it| it.bytes) as f64 / POLL);
    let polled = polled.sum::<f64>() as usize;

    // A twentieth of a minute, times twenty.
    const PART: usize = 20;
    for number in 0..nodes / 5 / PART {
        server.set(NODES, heavy_node(number, 1));
    }
    source.listen().await;
    let (bytes, requests) = bytes_and_requests(&server.take_traffic());
    let idle = (bytes * PART + polled, requests * PART);
    for number in 0..nodes * 12 / 5 / PART {
        server.set(V1_BLOCKS, heavy_block(number, nodes));
    }
    source.listen().await;
    let (bytes, requests) = bytes_and_requests(&server.take_traffic());
    let churn = (bytes * PART + idle.0, requests * PART + idle.1);

    let mut restart = (0, 0);
    if nodes <= 200 {
        // A larger cluster's list would only come later.
        server.down();
        server.compact();
        server.up().unwrap();
        for path in watched {
            until_watched(&server, path).await;
        }
        source.listen().await;
        restart = bytes_and_requests(&server.take_traffic());
    }
    ([start, idle, churn, restart], polled)
}

/// What whole nodes and blocks cost: sizes of the same objects, as all were watched before.
fn before(nodes: usize) -> [usize; 3] {
    let size = |value: &Value| value.to_string().len() + 30;
    let (node, block) = (size(&heavy_node(7, 1)), size(&heavy_block(7, nodes)));
    let idle = nodes / 5 * node;
    [nodes * (node + 2 * block), idle, idle + nodes * 12 / 5 * block]
}

/// `TUNLESS_FLEETS=100,1000 cargo test -p dataplane-user --test source_kubernetes cost::a_fleet --
/// --nocapture` prints what docs/scale.md has.
#[tokio::test]
async fn a_fleet_costs_a_fraction_of_what_it_did() {
    let fleets = std::env::var("TUNLESS_FLEETS").unwrap_or_else(|_| "100".to_owned());
    let mut table = String::new();
    for nodes in fleets.split(',').map(|it| it.parse::<usize>().unwrap()) {
        let [start, idle, churn] = before(nodes);
        let mb = |bytes: usize| format!("{:.2}", bytes as f64 / 1e6);
        writeln!(table, "{nodes} before: {} {} {}", mb(start), mb(idle), mb(churn)).unwrap();
        for by in [
            (Nodes::Followed, Borrowed::Followed),
            (Nodes::Followed, Borrowed::Polled),
            (Nodes::Polled, Borrowed::Polled),
            (Nodes::Polled, Borrowed::Off),
            (Nodes::Auto, Borrowed::Auto),
        ] {
            let (now, polled) = measure(nodes, by).await;
            let shown = now.map(|(bytes, requests)| format!("{} ({requests})", mb(bytes)));
            writeln!(table, "{nodes} {by:?}: {shown:?}").unwrap();
            let [_, now_idle, now_churn, _] = now.map(|(bytes, _)| bytes);
            assert!((now_idle - polled) * 5 < idle, "{table}");
            match by {
                (Nodes::Polled, Borrowed::Polled | Borrowed::Off) => {
                    assert!(now_churn * 50 < churn, "{table}");
                }
                (Nodes::Followed, Borrowed::Polled) => {
                    assert!((now_churn - polled) * 25 < churn, "{table}");
                }
                _ => {}
            }
        }
    }
    println!("{table}");
}
