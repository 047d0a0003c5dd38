//! Nodes that are polled: what is heard of at once all the same, and what only the next list shows.

use std::time::{Duration, Instant};

use dataplane_user::config::sources::{Borrowed, CalicoApi, Nodes};
use serde_json::{Value, json};
use tunless_lab::kube_api::{
    KubeApi, NODES, V1_AFFINITIES, V1_BLOCKS, V1_POOLS,
    objects::{affinity, bare_node, block, node, tunnel_node},
};

use super::source::{ALL, SOON, Source, V1, cluster};

const D: &str = "10.65.3.0/26";
const OWN: &str = "/api/v1/nodes/node-a";
/// After this all that is polled was read again.
const A_POLL: Duration = Duration::from_secs(76 * 60);

/// [`cluster`], with the affinities of its blocks.
fn cluster_with_affinities() -> KubeApi {
    let server = cluster(V1);
    for ((cidr, _), host) in ALL.into_iter().zip(["node-a", "node-b", "node-c"]) {
        server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, cidr, host));
    }
    server
}

async fn start(server: &KubeApi, nodes: Nodes, borrowed: Borrowed) -> Source {
    let mut source = Source::start_with(&server.kubeconfig("secret"), |config| {
        config.api = CalicoApi::V1;
        config.nodes = nodes;
        config.borrowed = borrowed;
    });
    source.until_claims(&ALL).await;
    source
}

/// The lists of a path that are for all objects, and those by name.
fn lists(server: &KubeApi, path: &str) -> (usize, usize) {
    let asked = server.requests().into_iter();
    let lists = asked.filter(|it| it.split('?').next() == Some(path) && !it.contains("watch=true"));
    // Further pages belong to the first.
    let lists = lists.filter(|it| !it.contains("continue=") && !it.contains("limit=1&"));
    let (by_name, all): (Vec<_>, Vec<_>) = lists.partition(|it| it.contains("fieldSelector"));
    (all.len(), by_name.len())
}

/// Waits while the source runs on.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "not in {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets the source's clock go on.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Waits until these are not watched any more. The server only notices when it sends.
async fn until_left(server: &KubeApi, objects: &[(&str, Value)]) {
    until("the watches are left", || {
        for (path, object) in objects {
            server.set(if *path == OWN { NODES } else { path }, object.clone());
        }
        objects.iter().all(|(path, _)| server.watches(path) == 0)
    })
    .await;
}

fn with(more: &'static [(&str, &str)]) -> Vec<(&'static str, &'static str)> {
    ALL.into_iter().chain(more.iter().copied()).collect()
}

#[tokio::test]
async fn a_node_is_asked_for_by_name_when_it_gets_its_first_block() {
    for borrowed in [Borrowed::Polled, Borrowed::Off, Borrowed::Followed] {
        let server = cluster_with_affinities();
        let mut source = start(&server, Nodes::Polled, borrowed).await;
        let new_block = |cidr: &str, host: &str| match borrowed {
            Borrowed::Followed => server.set(V1_BLOCKS, block(V1_BLOCKS, cidr, host, &[])),
            _ => server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, cidr, host)),
        };
        let followed = if borrowed == Borrowed::Followed { V1_BLOCKS } else { V1_AFFINITIES };
        until("all is followed", || {
            [OWN, followed, V1_POOLS].iter().all(|path| server.watches(path) == 1)
        })
        .await;
        assert_eq!(server.watches(NODES), 0);
        let before = lists(&server, NODES);

        server.set(NODES, node("node-d", "172.17.9.8/24"));
        new_block(D, "node-d");
        source.until_claims(&with(&[(D, "172.17.9.8 ipip")])).await;
        // Another block of a node that is known is no question.
        new_block("10.65.4.0/26", "node-d");
        let two = with(&[(D, "172.17.9.8 ipip"), ("10.65.4.0/26", "172.17.9.8 ipip")]);
        source.until_claims(&two).await;
        assert_eq!(lists(&server, NODES), (before.0, before.1 + 1), "{borrowed:?}");
        assert_eq!(source.seen.downs, [""; 0]);
    }
}

/// An API server that lags behind has no Node yet, or one that Calico's agent has not annotated.
#[tokio::test]
async fn a_node_that_is_not_there_yet_is_asked_for_again() {
    let server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Polled, Borrowed::Polled).await;
    server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, D, "node-d"));
    source.until("it is missing", |seen| seen.problems.contains_key("Node/node-d")).await;
    let asked = || lists(&server, NODES).1;
    // The first of them was for the own node.
    until("it was asked for", || asked() >= 2).await;
    for (object, address) in [
        (bare_node("node-d", "172.17.9.9"), "172.17.9.9 ipip"),
        (node("node-d", "172.17.9.8/24"), "172.17.9.8 ipip"),
    ] {
        server.set(NODES, object);
        let expected: Vec<_> = ALL.into_iter().chain([(D, address)]).collect();
        let end = Instant::now() + SOON;
        while !source.seen.has(&expected) {
            assert!(Instant::now() < end, "{:#?}", source.seen);
            pass(Duration::from_secs(10)).await;
            source.listen_for(Duration::from_millis(200)).await;
        }
    }
    let times = asked();
    pass(Duration::from_secs(1000)).await;
    source.listen().await;
    assert_eq!(asked(), times, "what is known is not asked for");
    assert!(source.seen.problems.is_empty(), "{:?}", source.seen.problems);
    assert_eq!(lists(&server, NODES).0, 1, "nothing is listed twice");
}

/// A machine that is set up again has the same name and another address.
#[tokio::test]
async fn a_node_that_lost_all_blocks_is_asked_for_when_it_gets_one() {
    let server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Polled, Borrowed::Off).await;
    server.delete(V1_AFFINITIES, "node-c-10-65-2-0-26");
    source.until_claims(&ALL[..2]).await;
    server.set(NODES, node("node-c", "172.17.9.77/24"));
    server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, D, "node-c"));
    source.until_claims(&[ALL[0], ALL[1], (D, "172.17.9.77 ipip")]).await;
}

#[tokio::test]
async fn the_own_node_is_followed() {
    let server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Polled, Borrowed::Off).await;
    until("it is watched", || server.watches(OWN) == 1).await;
    let own = |seen: &super::source::Seen| {
        let record = seen.own.as_ref()?.record?;
        Some((record.address?.to_string(), record.tunnel_address?.to_string()))
    };
    server.set(NODES, tunnel_node("node-a", "172.17.0.55/24", "10.65.0.1".parse().unwrap()));
    let expected = Some(("172.17.0.55".to_owned(), "10.65.0.1".to_owned()));
    source.until("its address is another", |seen| own(seen) == expected).await;
    server.delete(NODES, "node-a");
    source
        .until("it is gone", |seen| seen.own.as_ref().is_some_and(|it| it.record.is_none()))
        .await;
    assert_eq!(lists(&server, NODES).0, 1);
}

/// The table of docs/scale.md: what is missed, and until when.
#[tokio::test]
async fn what_changes_on_a_node_that_stays_is_noticed_by_the_next_poll() {
    let server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Polled, Borrowed::Polled).await;
    until("it is followed", || server.watches(V1_AFFINITIES) == 1).await;
    server.set(NODES, node("node-b", "172.17.0.66/24"));
    server.delete(NODES, "node-c");
    source.listen().await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen.claims);
    assert_eq!((lists(&server, NODES).0, lists(&server, V1_BLOCKS).0), (1, 1));

    pass(A_POLL).await;
    source.until_claims(&[ALL[0], ("10.65.1.0/26", "172.17.0.66 ipip")]).await;
    assert_eq!(lists(&server, NODES).0, 2);
    source.until("node-c is gone", |seen| seen.problems.keys().eq(["Node/node-c"])).await;
    assert_eq!(source.seen.downs, [""; 0], "a poll is no outage");
}

/// A new node with the address of one that is gone shows that it is gone.
#[tokio::test]
async fn two_nodes_with_one_address_are_asked_for() {
    let server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Polled, Borrowed::Off).await;
    until("it is followed", || server.watches(V1_AFFINITIES) == 1).await;
    server.delete(NODES, "node-c");
    server.set(NODES, node("node-d", "172.17.9.7/24"));
    server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, D, "node-d"));
    source.until_claims(&[ALL[0], ALL[1], (D, "172.17.9.7 ipip")]).await;
    source
        .until("node-c is gone, and node-d is alone", |seen| {
            seen.problems.keys().eq(["Node/node-c"])
        })
        .await;
}

/// All claims are made at any time, and no resource is listed twice within ten minutes.
#[tokio::test]
async fn a_cluster_that_grows_and_shrinks_changes_over_without_a_gap() {
    let server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Auto, Borrowed::Auto).await;
    let all = |seen: &super::source::Seen| {
        assert!(seen.has(&ALL), "{:#?}", seen.claims);
        true
    };
    until("it is followed", || server.watches(NODES) == 1 && server.watches(V1_BLOCKS) == 1).await;
    assert_eq!((server.watches(V1_AFFINITIES), server.watches(OWN)), (0, 0));
    let reads = |source: &Source| source.seen.reads.map(|reads| reads.to_string());
    let followed = Some("nodes and borrowed addresses followed".to_owned());
    let polled = Some("nodes and borrowed addresses polled".to_owned());
    assert_eq!(reads(&source), followed);

    for number in 0..300 {
        let address = format!("172.18.{}.{}/16", number / 250, number % 250 + 1);
        server.set(NODES, node(&format!("more-{number}"), &address));
    }
    source
        .until("it is polled", |seen| {
            all(seen) && seen.reads.map(|reads| reads.to_string()) == polled
        })
        .await;
    until_left(
        &server,
        &[
            (NODES, node("more-7", "172.18.0.8/16")),
            (V1_BLOCKS, block(V1_BLOCKS, ALL[1].0, "node-c", &[])),
        ],
    )
    .await;
    until("and followed", || server.watches(V1_AFFINITIES) == 1 && server.watches(OWN) == 1).await;
    assert_eq!((lists(&server, NODES).0, lists(&server, V1_BLOCKS).0), (1, 1));
    assert_eq!(lists(&server, V1_AFFINITIES), (1, 0));
    // Affinities count now.
    server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, D, "node-c"));
    source.until_claims(&with(&[(D, "172.17.9.7 ipip")])).await;
    server.delete(V1_AFFINITIES, "node-c-10-65-3-0-26");
    source.until_claims(&ALL).await;

    server.set(V1_BLOCKS, block(V1_BLOCKS, ALL[1].0, "node-b", &[]));
    for number in 0..100 {
        server.delete(NODES, &format!("more-{number}"));
    }
    pass(A_POLL).await;
    source
        .until("it is followed", |seen| {
            all(seen) && seen.reads.map(|reads| reads.to_string()) == followed
        })
        .await;
    until("it is followed", || server.watches(NODES) == 1 && server.watches(V1_BLOCKS) == 1).await;
    until_left(
        &server,
        &[
            (OWN, node("node-a", "172.17.0.5/24")),
            (V1_AFFINITIES, affinity(V1_AFFINITIES, ALL[0].0, "node-c")),
        ],
    )
    .await;
    server.set(V1_BLOCKS, block(V1_BLOCKS, ALL[1].0, "node-b", &[(2, "node-c")]));
    source.until_claims(&with(&[("10.65.1.2/32", "172.17.9.7 ipip")])).await;
    assert_eq!(source.seen.downs, [""; 0]);
}

/// The rule for affinities is newer than the others: a large cluster that has the old ones goes on.
#[tokio::test]
async fn without_the_right_to_read_affinities_blocks_are_followed() {
    for (count, borrowed) in [(300, Borrowed::Auto), (0, Borrowed::Polled)] {
        let server = cluster_with_affinities();
        for number in 0..count {
            let address = format!("172.18.{}.{}/16", number / 250, number % 250 + 1);
            server.set(NODES, node(&format!("more-{number}"), &address));
        }
        server.forbid(&[("list", V1_AFFINITIES)]);
        let mut source = Source::start_with(&server.kubeconfig("secret"), |config| {
            config.borrowed = borrowed;
        });
        if borrowed == Borrowed::Polled {
            // The file wants them.
            source.until_down(&["403", "blockaffinities", "packaging/rbac.yaml"]).await;
            assert_eq!(source.seen.snapshots, 0);
            continue;
        }
        source.until_claims(&ALL).await;
        source.until("it is reported", |seen| seen.problems.contains_key("BlockAffinities")).await;
        until("blocks are followed", || server.watches(V1_BLOCKS) == 1).await;
        server.set(V1_BLOCKS, block(V1_BLOCKS, D, "node-c", &[]));
        source.until_claims(&with(&[(D, "172.17.9.7 ipip")])).await;
        let reads = source.seen.reads.map(|reads| reads.to_string());
        assert_eq!(reads.as_deref(), Some("nodes polled, borrowed addresses followed"));
        assert_eq!(source.seen.downs, [""; 0]);
    }
}

#[tokio::test]
async fn after_the_api_was_started_anew_nodes_are_not_listed() {
    let mut server = cluster_with_affinities();
    let mut source = start(&server, Nodes::Polled, Borrowed::Polled).await;
    let is_followed = |server: &KubeApi| {
        [OWN, V1_AFFINITIES, V1_POOLS].iter().all(|path| server.watches(path) == 1)
    };
    until("all is followed", || is_followed(&server)).await;
    server.down();
    server.compact();
    server.set(NODES, node("node-d", "172.17.9.8/24"));
    server.set(V1_AFFINITIES, affinity(V1_AFFINITIES, D, "node-d"));
    server.up().unwrap();
    source.until_claims(&with(&[(D, "172.17.9.8 ipip")])).await;
    until("all is followed", || is_followed(&server)).await;
    assert_eq!((lists(&server, NODES).0, lists(&server, V1_BLOCKS).0), (1, 1));
    assert_eq!(lists(&server, V1_AFFINITIES).0, 2);
}

/// Pod CIDRs are nowhere but in Nodes.
#[tokio::test]
async fn nodes_with_pod_cidrs_are_followed_whatever_the_file_says() {
    let server = KubeApi::start().unwrap();
    let with_pods = |name: &str, address: &str, cidr: &str| {
        let mut node = bare_node(name, address);
        node["spec"] = json!({"podCIDR": cidr});
        node
    };
    server.set(NODES, with_pods("node-b", "172.17.0.6", "10.244.1.0/24"));
    let mut source = Source::start_with(&server.kubeconfig("secret"), |config| {
        config.nodes = Nodes::Polled;
    });
    source.until_claims(&[("10.244.1.0/24", "172.17.0.6 unknown")]).await;
    server.set(NODES, with_pods("node-c", "172.17.0.7", "10.244.2.0/24"));
    let both = [("10.244.1.0/24", "172.17.0.6 unknown"), ("10.244.2.0/24", "172.17.0.7 unknown")];
    source.until_claims(&both).await;
}
