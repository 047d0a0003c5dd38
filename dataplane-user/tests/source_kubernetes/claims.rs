//! What is claimed, and how that follows the cluster.

use dataplane_user::{
    config::sources::CalicoApi,
    sources::{NodeRecord, OwnNode},
};
use serde_json::{Value, json};
use tunless_lab::kube_api::{
    KubeApi, NODES,
    objects::{bare_node, block, block_name, host_local_node, node, pool, tunnel_node},
};

use super::source::{ALL, Seen, Source, V1, V3, cluster, fill};

const B: &str = "10.65.1.0/26";

#[tokio::test]
async fn both_groups_of_calicos_resources_give_the_same_claims() {
    for (group, api) in [(V1, CalicoApi::V1), (V3, CalicoApi::V3)] {
        for api in [api, CalicoApi::Auto] {
            let server = cluster(group);
            let mut source = Source::start(&server, api);
            source.until_claims(&ALL).await;
            assert_eq!(source.seen.snapshots, 1);
            assert_eq!(source.seen.problems, [].into());
            let origin = format!("{B} by IPAMBlock/10-65-1-0-26");
            assert!(source.seen.claims.contains_key(&origin), "{:#?}", source.seen);
        }
    }
}

#[tokio::test]
async fn a_block_that_moves_lends_and_goes_is_followed() {
    for group in [V1, V3] {
        let server = cluster(group);
        let (blocks, _) = group;
        let mut source = Source::start(&server, CalicoApi::Auto);
        source.until_claims(&ALL).await;

        server.set(blocks, block(blocks, B, "node-c", &[]));
        source.until_claims(&[ALL[0], (B, "172.17.9.7 ipip"), ALL[2]]).await;

        server.set(blocks, block(blocks, B, "node-b", &[(2, "node-c"), (3, "node-b")]));
        source.until_claims(&[ALL[0], ALL[1], ALL[2], ("10.65.1.2/32", "172.17.9.7 ipip")]).await;

        server.delete(blocks, &block_name(B));
        source.until_claims(&[ALL[0], ALL[2]]).await;
        // Neither did the others blink: what went and came was that block alone.
        assert_eq!((source.seen.snapshots, &source.seen.downs[..]), (1, &[][..]));
        assert_eq!(source.seen.changes, 1 + 2 + 2, "{:#?}", source.seen);
    }
}

#[tokio::test]
async fn what_the_api_has_about_this_node_is_followed() {
    let server = cluster(V1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    let own = |address: &str, tunnel: Option<&str>| {
        let tunnel_address = tunnel.map(|it| it.parse().unwrap());
        let record = NodeRecord { address: Some(address.parse().unwrap()), tunnel_address };
        OwnNode { object: "Node/node-a".into(), record: Some(record) }
    };
    let (address, tunnel) = ("172.17.0.5", "10.65.0.1");
    assert_eq!(source.seen.own, Some(own(address, None)));
    let called = |seen: &Seen, address: &str| seen.names.get(&address.parse().unwrap()).cloned();
    assert_eq!(called(&source.seen, address).as_deref(), Some("node-a"));
    assert_eq!(called(&source.seen, "172.17.0.6").as_deref(), Some("node-b"));
    let cidr = format!("{address}/24");
    server.set(NODES, tunnel_node("node-a", &cidr, tunnel.parse().unwrap()));
    let with_tunnel = Some(own(address, Some(tunnel)));
    source.until("a tunnel address", |seen| seen.own == with_tunnel).await;
    // Of other nodes, and what is malformed, nothing is taken.
    server.set(NODES, tunnel_node("node-b", "172.17.0.6/24", "10.65.1.0".parse().unwrap()));
    server.set(NODES, bare_node("node-a", "172.17.0.8"));
    let internal = Some(own("172.17.0.8", None));
    source.until("the InternalIP", |seen| seen.own == internal).await;
    server.delete(NODES, "node-a");
    let none = Some(OwnNode { object: "Node/node-a".into(), record: None });
    source.until("no Node", |seen| seen.own == none).await;
    assert_eq!(source.seen.snapshots, 1);
}

#[tokio::test]
async fn a_block_that_is_marked_as_deleted_is_gone_in_either_spelling() {
    for group in [V1, V3] {
        let server = cluster(group);
        let (blocks, _) = group;
        let mut source = Source::start(&server, CalicoApi::Auto);
        source.until_claims(&ALL).await;
        for deleted in [json!(true), json!("true")] {
            let marked = |deleted: &Value| {
                let mut block = block(blocks, B, "node-b", &[]);
                block["spec"]["deleted"] = deleted.clone();
                block
            };
            server.set(blocks, marked(&deleted));
            source.until_claims(&[ALL[0], ALL[2]]).await;
            let not = if deleted.is_string() { json!("false") } else { json!(false) };
            server.set(blocks, marked(&not));
            source.until_claims(&ALL).await;
        }
    }
}

#[tokio::test]
async fn the_pool_says_how_packets_travel_and_may_change_its_mind() {
    let server = cluster(V1);
    let (_, pools) = V1;
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    let name = "default-ipv4-ippool";
    server.set(pools, pool(name, "10.65.0.0/16", "CrossSubnet"));
    let cross = [
        ("10.65.0.0/26", "172.17.0.5 direct"),
        ("10.65.1.0/26", "172.17.0.6 direct"),
        ("10.65.2.0/26", "172.17.9.7 ipip"),
    ];
    source.until_claims(&cross).await;
    // Our own subnet is another one now.
    server.set(NODES, node("node-a", "172.17.0.5/16"));
    let wide = [cross[0], cross[1], ("10.65.2.0/26", "172.17.9.7 direct")];
    source.until_claims(&wide).await;
    server.set(pools, pool(name, "10.65.0.0/16", "Never"));
    source.until_claims(&wide).await;
    let mut disabled = pool(name, "10.65.0.0/16", "Always");
    disabled["spec"]["disabled"] = json!(true);
    server.set(pools, disabled);
    source.until_claims(&ALL).await;

    let mut vxlan = pool(name, "10.65.0.0/16", "Never");
    vxlan["spec"]["vxlanMode"] = json!("Always");
    server.set(pools, vxlan);
    source.until_claims(&[]).await;
    let problem = "IPPool/default-ipv4-ippool";
    source.until("VXLAN is told", |seen| seen.problems.contains_key(problem)).await;
    assert!(source.seen.problems[problem].contains("VXLAN"), "{:#?}", source.seen);

    server.delete(pools, name);
    source.until("gone is the pool", |seen| seen.problems.is_empty()).await;
    let unknown = ALL.map(|(cidr, claim)| (cidr, claim.replace("ipip", "unknown")));
    let unknown: Vec<_> = unknown.iter().map(|(cidr, claim)| (*cidr, claim.as_str())).collect();
    source.until_claims(&unknown).await;
}

#[tokio::test]
async fn a_node_gets_another_address_loses_it_and_goes() {
    let server = cluster(V1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    server.set(NODES, node("node-b", "172.17.0.66/24"));
    source.until_claims(&[ALL[0], ("10.65.1.0/26", "172.17.0.66 ipip"), ALL[2]]).await;
    // Calico's agent is gone: what the kubelet says counts.
    server.set(NODES, bare_node("node-b", "192.168.3.6"));
    source.until_claims(&[ALL[0], ("10.65.1.0/26", "192.168.3.6 ipip"), ALL[2]]).await;

    let mut nowhere = bare_node("node-b", "192.168.3.6");
    nowhere["status"]["addresses"] = json!([{"type": "Hostname", "address": "node-b"}]);
    server.set(NODES, nowhere);
    source.until_claims(&[ALL[0], ALL[2]]).await;
    source.until("it is told", |seen| seen.problems.contains_key("Node/node-b")).await;
    server.delete(NODES, "node-b");
    server.delete(NODES, "node-c");
    source.until_claims(&[ALL[0]]).await;
    server.set(NODES, node("node-b", "172.17.0.6/24"));
    server.set(NODES, node("node-c", "172.17.9.7/24"));
    source.until_claims(&ALL).await;
    source.until("no problem is left", |seen| seen.problems.is_empty()).await;
}

#[tokio::test]
async fn objects_that_make_no_sense_are_named_and_leave_what_was() {
    let server = cluster(V1);
    let (blocks, pools) = V1;
    let mut unreadable = block(blocks, "10.65.9.0/26", "node-b", &[]);
    unreadable["spec"] = json!({"cidr": "10.65.9.0"});
    server.set(blocks, unreadable);
    let mut ipv6 = block(blocks, "10.65.8.0/26", "node-b", &[]);
    ipv6["metadata"]["name"] = json!("fd00-65----122");
    ipv6["spec"]["cidr"] = json!("fd00:65::/122");
    server.set(blocks, ipv6);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    assert_eq!(source.seen.problems.len(), 1, "{:#?}", source.seen);
    let problem = &source.seen.problems["IPAMBlock/10-65-9-0-26"];
    assert!(problem.contains("skipped"), "{problem}");

    // The same with objects that once made sense.
    let mut broken = block(blocks, B, "node-b", &[]);
    broken["spec"]["allocations"] = json!("none");
    server.set(blocks, broken);
    let mut broken = pool("default-ipv4-ippool", "10.65.0.0/16", "Always");
    broken["spec"]["ipipMode"] = json!("Sometimes");
    server.set(pools, broken);
    let mut odd = node("node-b", "172.17.0.6");
    odd["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = json!("autodetect");
    server.set(NODES, odd);
    source.until("all are told", |seen| seen.problems.len() == 4).await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);
    for (origin, said) in [
        ("IPAMBlock/10-65-1-0-26", "skipped"),
        ("IPPool/default-ipv4-ippool", "ipipMode `Sometimes` is unknown; skipped"),
        ("Node/node-b", "`autodetect`"),
    ] {
        let problem = source.seen.problems.get(origin).map_or("", String::as_str);
        assert!(problem.contains(said), "{origin}: {problem}");
    }

    // Also when all is listed anew, they are still there.
    server.compact();
    server.trouble(blocks, tunless_lab::kube_api::Trouble::Error(410));
    source.listen().await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);

    server.set(blocks, block(blocks, B, "node-b", &[]));
    server.delete(blocks, &block_name("10.65.9.0/26"));
    server.set(pools, pool("default-ipv4-ippool", "10.65.0.0/16", "Always"));
    server.set(NODES, node("node-b", "172.17.0.6/24"));
    source.until("all make sense again", |seen| seen.problems.is_empty()).await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);
}

#[tokio::test]
async fn a_name_that_is_not_ours_in_the_cluster_is_told() {
    let server = cluster(V1);
    server.delete(NODES, "node-a");
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_synced().await;
    let problem = &source.seen.problems["Node/node-a"];
    assert!(problem.contains("no Node") || problem.contains("node.name"), "{problem}");
    server.set(NODES, node("node-a", "172.17.0.5/24"));
    source.until("we are there", |seen| seen.problems.is_empty()).await;
}

#[tokio::test]
async fn without_calicos_ipam_the_nodes_pod_cidrs_count() {
    for api in [CalicoApi::Auto, CalicoApi::None] {
        let server = KubeApi::start().unwrap();
        if api == CalicoApi::None {
            // What Calico has there is not asked for.
            server.forbid(&[("list", V1.0), ("list", V1.1)]);
            fill(&server, V1);
        }
        server.set(NODES, host_local_node("node-a", "172.17.0.5", "10.244.0.0/24"));
        server.set(NODES, host_local_node("node-b", "172.17.0.6", "10.244.1.0/24"));
        server.set(NODES, bare_node("node-c", "172.17.9.7"));
        let mut source = Source::start(&server, api);
        let both =
            [("10.244.0.0/24", "172.17.0.5 unknown"), ("10.244.1.0/24", "172.17.0.6 unknown")];
        source.until_claims(&both).await;
        assert_eq!(source.seen.problems, [].into());
        // Without an annotation, as Calico does with host-local: the network's first address.
        let record = source.seen.own.as_ref().unwrap().record.unwrap();
        assert_eq!(record.tunnel_address, Some("10.244.0.1".parse().unwrap()));

        let mut broken = host_local_node("node-b", "172.17.0.6", "10.244.1.9/24");
        server.set(NODES, broken.clone());
        source.until("it is told", |seen| seen.problems.contains_key("Node/node-b")).await;
        assert!(source.seen.has(&both), "{:#?}", source.seen);
        broken["spec"] =
            json!({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.244.1.0/24"]});
        server.set(NODES, broken);
        source.until("it makes sense", |seen| seen.problems.is_empty()).await;

        server.set(NODES, host_local_node("node-c", "172.17.9.7", "10.244.2.0/24"));
        let three = [both[0], both[1], ("10.244.2.0/24", "172.17.9.7 unknown")];
        source.until_claims(&three).await;
        server.delete(NODES, "node-b");
        source.until_claims(&[three[0], three[2]]).await;
    }
}

#[tokio::test]
async fn pod_cidrs_that_do_not_count_are_worth_a_hint_where_there_are_no_blocks() {
    let server = KubeApi::start().unwrap();
    server.serve_calico(V1.0, V1.1);
    server.set(NODES, host_local_node("node-a", "172.17.0.5", "10.244.0.0/24"));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&[]).await;
    let hint = &source.seen.problems["IPAMBlocks"];
    assert!(hint.contains("sources.kubernetes.api"), "{hint}");
    server.set(V1.0, block(V1.0, "10.65.0.0/26", "node-a", &[]));
    source.until("there is a block", |seen| seen.problems.is_empty()).await;
}
