//! Disconnects, 410, rights, garbage: what was said stays, and it goes on.

use std::time::Duration;

use dataplane_user::config::sources::CalicoApi;
use tunless_lab::kube_api::{
    KubeApi, NODES, Trouble,
    objects::{block, block_name, node, pool},
};

use super::source::{ALL, SOON, Source, V1, cluster};

const BLOCKS: &str = V1.0;
const POOLS: &str = V1.1;
const B: &str = "10.65.1.0/26";
const MOVED: (&str, &str) = (B, "172.17.9.7 ipip");

fn watched_from(server: &KubeApi, path: &str) -> Vec<u64> {
    let asked = server.requests();
    let watches = asked.iter().filter(|it| it.starts_with(path) && it.contains("watch=true"));
    let version = |it: &String| {
        let (_, query) = it.split_once("resourceVersion=")?;
        query.split('&').next()?.parse().ok()
    };
    watches.map(|it| version(it).unwrap_or_else(|| panic!("no version in {it}"))).collect()
}

fn lists(server: &KubeApi, path: &str) -> usize {
    let asked = server.requests();
    asked.iter().filter(|it| it.starts_with(path) && !it.contains("watch=true")).count()
}

async fn started(server: &KubeApi) -> Source {
    let mut source = Source::start(server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    for path in [NODES, BLOCKS, POOLS] {
        server.wait_watched(path, 1, SOON).unwrap();
    }
    // Each has proved to work.
    source.listen().await;
    source
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let server = cluster(V1);
    let mut source = started(&server).await;
    assert!(server.requests().iter().any(|it| it.contains("allowWatchBookmarks=true")));
    for _ in 0..5 {
        server.tick();
    }
    server.trouble(BLOCKS, Trouble::Bookmark);
    server.trouble(BLOCKS, Trouble::Close);
    source.until_watched_again(&server, 2).await;
    let versions = watched_from(&server, BLOCKS);
    assert_eq!(versions[1], versions[0] + 5, "{versions:?}");
    assert_eq!(lists(&server, BLOCKS), 1);
    assert_eq!(source.seen.downs, [""; 0]);

    server.set(BLOCKS, block(BLOCKS, B, "node-c", &[]));
    source.until_claims(&[ALL[0], MOVED, ALL[2]]).await;
    server.trouble(BLOCKS, Trouble::Close);
    source.until_watched_again(&server, 3).await;
    let versions = watched_from(&server, BLOCKS);
    assert_eq!(versions[2], versions[1] + 1, "from the last event: {versions:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_an_event_is_made_again_without_a_word() {
    let server = cluster(V1);
    let mut source = started(&server).await;
    for (round, host) in ["node-c", "node-b", "node-c"].into_iter().enumerate() {
        for path in [NODES, BLOCKS, POOLS] {
            server.trouble(path, Trouble::Break);
        }
        server.set(BLOCKS, block(BLOCKS, B, host, &[]));
        let claim = if host == "node-c" { MOVED } else { ALL[1] };
        source.until_claims(&[ALL[0], claim, ALL[2]]).await;
        source.until_watched_again(&server, round + 2).await;
        source.listen().await;
    }
    assert_eq!((lists(&server, BLOCKS), source.seen.snapshots), (1, 1));
    assert_eq!(source.seen.downs, [""; 0]);
}

#[tokio::test]
async fn what_was_deleted_unseen_is_found_when_all_is_listed_anew() {
    for as_event in [true, false] {
        let mut server = cluster(V1);
        server.gone_as_event(as_event);
        let mut source = started(&server).await;
        server.down();
        server.delete(BLOCKS, &block_name(B));
        server.set(BLOCKS, block(BLOCKS, "10.65.3.0/26", "node-b", &[]));
        server.delete(NODES, "node-c");
        server.compact();
        server.up().unwrap();
        source.until_claims(&[ALL[0], ("10.65.3.0/26", "172.17.0.6 ipip")]).await;
        assert_eq!(source.seen.snapshots, 1, "changes only");
        assert_eq!(source.seen.changes, 3, "{:#?}", source.seen);
        source.until_up().await;
        assert!(lists(&server, BLOCKS) >= 2);
        server.wait_watched(BLOCKS, 1, SOON).unwrap();
    }
}

#[tokio::test]
async fn a_new_list_of_one_resource_leaves_the_others_alone() {
    let server = cluster(V1);
    let mut source = started(&server).await;
    // The nodes cannot be listed again, the blocks can.
    server.forbid(&[("list", NODES)]);
    server.compact();
    server.trouble(NODES, Trouble::Close);
    server.trouble(BLOCKS, Trouble::Close);
    source.until_down(&["we may not list nodes"]).await;
    server.set(BLOCKS, block(BLOCKS, B, "node-c", &[]));
    source.until_claims(&[ALL[0], MOVED, ALL[2]]).await;
    server.forbid(&[]);
    source.until_up().await;
    assert!(source.seen.has(&[ALL[0], MOVED, ALL[2]]), "{:#?}", source.seen);
    assert_eq!(source.seen.snapshots, 1);
}

#[tokio::test]
async fn while_the_api_is_down_everything_stays() {
    let mut server = cluster(V1);
    let mut source = started(&server).await;
    server.down();
    source.until_down(&[&server.url(), "connection refused"]).await;
    source.listen().await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);
    assert_eq!(source.seen.downs.len(), 1, "said once: {:?}", source.seen.downs);
    server.up().unwrap();
    source.until_up().await;
    assert_eq!((source.seen.snapshots, source.seen.changes), (1, 0));
    assert_eq!(lists(&server, BLOCKS), 1, "nothing was missed");
    server.set(BLOCKS, block(BLOCKS, B, "node-c", &[]));
    source.until_claims(&[ALL[0], MOVED, ALL[2]]).await;
}

#[tokio::test]
async fn an_api_that_comes_later_is_waited_for() {
    let mut server = cluster(V1);
    server.down();
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_down(&[&server.url(), "connection refused"]).await;
    server.up().unwrap();
    source.until_claims(&ALL).await;
    source.until_up().await;
}

#[tokio::test]
async fn nothing_is_said_before_everything_was_listed() {
    for (verb, path, name) in [
        ("list", NODES, "nodes"),
        ("list", BLOCKS, "ipamblocks.crd.projectcalico.org"),
        ("list", POOLS, "ippools.crd.projectcalico.org"),
    ] {
        let server = cluster(V1);
        server.forbid(&[(verb, path)]);
        let mut source = Source::start(&server, CalicoApi::Auto);
        let right = format!("403, we may not {verb} {name} (");
        let remedy = "; packaging/rbac.yaml has the rule (apiGroups";
        source.until_down(&[&server.url(), &right, "is forbidden: User", remedy]).await;
        source.listen().await;
        assert_eq!(source.seen.snapshots, 0, "{:#?}", source.seen);
        server.forbid(&[]);
        source.until_claims(&ALL).await;
        source.until_up().await;
    }
}

#[tokio::test]
async fn who_may_list_but_not_watch_is_told_so_after_the_snapshot() {
    let server = cluster(V1);
    server.forbid(&[("watch", BLOCKS)]);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    source.until_down(&["may not watch ipamblocks.crd.projectcalico.org", "[watch]"]).await;
    source.listen().await;
    assert!(source.seen.down.is_some());
    server.forbid(&[]);
    source.until_up().await;
}

#[tokio::test]
async fn an_endpoint_that_answers_garbage_takes_nothing_away() {
    let html = "<html>\n<body>502 somebody else's page</body>\n</html>";
    for garbage in [html, "{}", "[]", "", "{\"metadata\": {\"resourceVersion\": \"9\"}}"] {
        let server = cluster(V1);
        server.answer(BLOCKS, Some((200, garbage)));
        let mut source = Source::start(&server, CalicoApi::Auto);
        source.until_down(&["no answer of a Kubernetes API", "list ipamblocks"]).await;
        assert_eq!(source.seen.snapshots, 0);
        server.answer(BLOCKS, None);
        source.until_claims(&ALL).await;
        source.until_up().await;

        // The same when it is listed anew.
        server.answer(BLOCKS, Some((200, garbage)));
        server.compact();
        source.until_down(&["no answer of a Kubernetes API"]).await;
        assert!(source.seen.has(&ALL), "{:#?}", source.seen);
        server.answer(BLOCKS, None);
        source.until_up().await;
        assert!(source.seen.has(&ALL), "{:#?}", source.seen);
    }
    let server = cluster(V1);
    server.answer(BLOCKS, Some((502, html)));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_down(&["502", "<html> <body>502 somebody else's page</body> </html>"]).await;
}

#[tokio::test]
async fn garbage_in_a_watch_is_told_when_it_comes_again() {
    let server = cluster(V1);
    let mut source = started(&server).await;
    for garbage in ["garbage", "{\"type\": \"RENAMED\", \"object\": {}}", "{\"type\": 7}", "[]"] {
        server.trouble(BLOCKS, Trouble::Text(garbage.to_owned()));
        source.until_watched_more(&server).await;
        source.listen().await;
        assert_eq!(source.seen.downs, [""; 0], "{garbage}");
    }
    // The answer to a watch is a page of somebody else's, again and again.
    server.answer(BLOCKS, Some((200, "<html>\n<body>a portal</body>")));
    server.trouble(BLOCKS, Trouble::Close);
    source.until_down(&["watch ipamblocks"]).await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);
    server.answer(BLOCKS, None);
    source.until_up().await;
}

#[tokio::test]
async fn a_watch_that_is_closed_at_once_is_not_asked_for_without_a_pause() {
    let server = cluster(V1);
    let mut source = started(&server).await;
    server.answer(BLOCKS, Some((200, "")));
    server.trouble(BLOCKS, Trouble::Close);
    source.until_down(&["closes the connection at once"]).await;
    let before = watched_from(&server, BLOCKS).len();
    source.listen().await;
    let asked = watched_from(&server, BLOCKS).len() - before;
    assert!(asked <= 8, "{asked} times in a moment");
    server.answer(BLOCKS, None);
    source.until_up().await;
}

#[tokio::test]
async fn an_error_in_a_watch_is_survived() {
    let server = cluster(V1);
    let mut source = started(&server).await;
    for code in [500, 410, 403] {
        server.trouble(BLOCKS, Trouble::Error(code));
        source.until_watched_more(&server).await;
        source.listen().await;
    }
    server.set(BLOCKS, block(BLOCKS, B, "node-c", &[]));
    source.until_claims(&[ALL[0], MOVED, ALL[2]]).await;
    assert_eq!(source.seen.snapshots, 1);
}

#[tokio::test]
async fn a_long_list_comes_in_pages_and_changes_in_steps() {
    let server = cluster(V1);
    server.pages_of(7);
    let mut expected: Vec<(String, String)> = Vec::new();
    for third in 10..50 {
        let cidr = format!("10.65.{third}.0/26");
        server.set(BLOCKS, block(BLOCKS, &cidr, "node-c", &[]));
        expected.push((cidr, "172.17.9.7 ipip".to_owned()));
    }
    let mut source = Source::start(&server, CalicoApi::Auto);
    let mut all: Vec<(&str, &str)> = ALL.to_vec();
    all.extend(expected.iter().map(|(cidr, claim)| (cidr.as_str(), claim.as_str())));
    source.until_claims(&all).await;
    assert_eq!(lists(&server, BLOCKS), 7, "{:#?}", server.requests());

    // One node's flap is a change of forty claims, not forty steps of one.
    server.set(NODES, node("node-c", "172.17.9.77/24"));
    let moved = |seen: &super::source::Seen| {
        seen.claims.values().filter(|claim| claim.starts_with("172.17.9.77")).count() == 41
    };
    source.until("all are at the new address", moved).await;
    assert_eq!((source.seen.steps, source.seen.changes), (1, 41));
}

#[tokio::test]
async fn slow_answers_are_waited_for() {
    let server = cluster(V1);
    server.slow(Duration::from_millis(1200));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    server.set(POOLS, pool("default-ipv4-ippool", "10.65.0.0/16", "Never"));
    let direct = ALL.map(|(cidr, claim)| (cidr, claim.replace("ipip", "direct")));
    let direct: Vec<_> = direct.iter().map(|(cidr, claim)| (*cidr, claim.as_str())).collect();
    source.until_claims(&direct).await;
    assert_eq!(source.seen.downs, [""; 0]);
}

impl Source {
    /// Until the blocks were asked to be watched so many times.
    async fn until_watched_again(&mut self, server: &KubeApi, times: usize) {
        let end = std::time::Instant::now() + SOON;
        while watched_from(server, BLOCKS).len() < times {
            assert!(std::time::Instant::now() < end, "{:#?}", server.requests());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until they were asked to be watched once more.
    async fn until_watched_more(&mut self, server: &KubeApi) {
        let before = watched_from(server, BLOCKS).len();
        self.until_watched_again(server, before + 1).await;
    }
}
