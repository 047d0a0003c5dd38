//! Which group is read.

use dataplane_user::{config::sources::CalicoApi, sources::kubernetes::access};
use tunless_lab::kube_api::{KubeApi, V1_BLOCKS, V3_BLOCKS, V3_POOLS, objects::block};

use super::source::{ALL, Source, V1, V3, cluster, fill};

const ELSEWHERE: &str = "10.65.1.0/26";

#[tokio::test]
async fn the_newer_group_counts_once_it_has_blocks() {
    let server = cluster(V1);
    server.serve_calico(V3.0, V3.1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    drop(source);

    fill(&server, V3);
    server.set(V3_BLOCKS, block(V3_BLOCKS, ELSEWHERE, "node-c", &[]));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&[ALL[0], (ELSEWHERE, "172.17.9.7 ipip"), ALL[2]]).await;
    let mut source = Source::start(&server, CalicoApi::V1);
    source.until_claims(&ALL).await;
}

#[tokio::test]
async fn calicos_api_server_has_no_blocks_and_may_be_out_of_service() {
    let server = cluster(V1);
    // What it serves of the newer group are pools and the like.
    server.serve(V3_POOLS, "IPPool");
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;

    server.answer("/apis/projectcalico.org/v3", Some((503, "service unavailable\n")));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    let mut source = Source::start(&server, CalicoApi::V3);
    source.until_down(&[&server.url(), "503", "service unavailable"]).await;
}

#[tokio::test]
async fn a_group_that_was_asked_for_and_is_missing_is_waited_for() {
    let server = cluster(V1);
    let mut source = Source::start(&server, CalicoApi::V3);
    let parts = [&server.url(), "ipamblocks", "projectcalico.org/v3", "sources.kubernetes.api"];
    source.until_down(&parts).await;
    assert_eq!(source.seen.snapshots, 0);
    fill(&server, V3);
    source.until_claims(&ALL).await;
}

#[tokio::test]
async fn a_group_that_is_taken_away_is_replaced_by_the_other_and_nothing_lost_meanwhile() {
    let server = cluster(V1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    server.forbid(&[("list", V3_BLOCKS)]);
    fill(&server, V3);
    server.set(V3_BLOCKS, block(V3_BLOCKS, ELSEWHERE, "node-c", &[]));
    server.remove(V1.0);
    server.remove(V1.1);
    source.until_down(&["ipamblocks"]).await;
    source.until_down(&["list ipamblocks.projectcalico.org"]).await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);
    server.forbid(&[]);
    source.until_claims(&[ALL[0], (ELSEWHERE, "172.17.9.7 ipip"), ALL[2]]).await;
    assert_eq!(source.seen.snapshots, 2);
    source.until_up().await;
}

#[tokio::test]
async fn nothing_but_what_is_needed_is_asked_for() {
    let server = cluster(V1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    source.listen().await;
    let allowed = access::ALL.map(|one| one.path());
    for asked in server.requests() {
        let path = asked.split('?').next().unwrap_or_default();
        let is_discovery =
            path == "/apis/projectcalico.org/v3" || path == "/apis/crd.projectcalico.org/v1";
        let is_allowed = path == access::ENDPOINT_SLICES || allowed.iter().any(|one| one == path);
        assert!(is_discovery || is_allowed, "{asked}");
    }
    let listed = server.requests().iter().filter(|it| it.starts_with(V1_BLOCKS)).count();
    assert_eq!(listed, 2, "listed once, watched once: {:#?}", server.requests());
}

#[tokio::test]
async fn who_may_not_discover_hears_of_the_role_for_it() {
    let server = KubeApi::start().unwrap();
    let status = r#"{"kind": "Status", "code": 403, "message": "no", "reason": "Forbidden"}"#;
    server.answer("/apis/projectcalico.org/v3", Some((403, status)));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_down(&[&server.url(), "403", "system:discovery"]).await;
}
