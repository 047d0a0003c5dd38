//! Who we are, and whom we believe.

use std::{fs, net::Ipv4Addr};

use dataplane_user::{config::sources::CalicoApi, sources::servers::ServerAddresses};
use tunless_lab::kube_api::{ENDPOINT_SLICES, KubeApi, Tls, objects::endpoint_slice};

use super::source::{ALL, Source, V1, cluster, fill};

#[tokio::test]
async fn a_token_is_sent_and_a_new_one_read_from_the_file() {
    let server = cluster(V1);
    server.want_token("secret");
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;

    server.want_token("renewed");
    for path in [tunless_lab::kube_api::NODES, V1.0, V1.1] {
        server.trouble(path, tunless_lab::kube_api::Trouble::Close);
    }
    source.until_down(&[&server.url(), "401", "renew"]).await;
    assert!(source.seen.has(&ALL), "{:#?}", source.seen);
    assert!(!source.seen.downs.iter().any(|why| why.contains("secret")), "it stays a secret");
    fs::write(source.kubeconfig(), server.kubeconfig("renewed")).unwrap();
    source.until_up().await;
    assert_eq!((source.seen.snapshots, source.seen.changes), (1, 0), "the same session's state");
}

/// The addresses that connections are made to, before any route: of the server, and of a proxy.
#[tokio::test]
async fn the_servers_addresses_are_reported() {
    let server = cluster(V1);
    let (address, name) = (server.url(), server.url().replace("127.0.0.1", "localhost"));
    let found = |source: &Source, host: &str| {
        let found = source.seen.servers.get(host).cloned().flatten();
        found.is_some_and(|found| found.contains(&Ipv4Addr::LOCALHOST))
    };
    for (url, host) in [(&address, "127.0.0.1"), (&name, "localhost")] {
        let kubeconfig = server.kubeconfig("secret").replace(&address, url);
        let mut source = Source::start_with(&kubeconfig, |_| ());
        source.until_synced().await;
        assert!(source.seen.servers.len() == 1 && found(&source, host), "{:?}", source.seen);
    }
    // The kubeconfig is read again when a session ends, here for another token.
    server.want_token("secret");
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_synced().await;
    let renewed = server.kubeconfig("renewed").replace(&address, &name);
    fs::write(source.kubeconfig(), renewed).unwrap();
    server.want_token("renewed");
    for path in [tunless_lab::kube_api::NODES, V1.0, V1.1] {
        server.trouble(path, tunless_lab::kube_api::Trouble::Close);
    }
    source.until("another host", |seen| seen.servers.contains_key("localhost")).await;
    assert!(source.seen.servers.len() == 1 && found(&source, "localhost"), "{:?}", source.seen);
}

/// What serves behind the API's address, before any route; and what is missing without the right to it.
#[tokio::test]
async fn the_api_servers_own_addresses_are_reported() {
    const SERVERS: [&str; 2] = ["192.0.2.7", "192.0.2.8"];
    let found = |addresses: &[&str]| -> Option<ServerAddresses> {
        let known = |it: &&str| ((*it).to_owned(), Some([it.parse().unwrap()].into()));
        Some(addresses.iter().map(known).collect())
    };
    let server = cluster(V1);
    // An API that has no such list is one without a problem.
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    assert_eq!((&source.seen.backends, source.seen.problems.len()), (&None, 0));

    server.serve(ENDPOINT_SLICES, "EndpointSlice");
    server.set(ENDPOINT_SLICES, endpoint_slice("default", "kubernetes", &SERVERS));
    server.set(ENDPOINT_SLICES, endpoint_slice("default", "other", &["192.0.2.9"]));
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    assert_eq!((&source.seen.backends, source.seen.problems.len()), (&found(&SERVERS), 0));

    server.forbid(&[("list", ENDPOINT_SLICES)]);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    let problems: Vec<_> = source.seen.problems.iter().collect();
    let [(origin, why)] = &problems[..] else { panic!("{problems:?}") };
    assert!(*origin == "EndpointSlices" && why.contains("packaging/rbac.yaml"), "{problems:?}");
    assert_eq!(source.seen.backends, None);
}

#[tokio::test]
async fn https_with_the_authority_of_the_kubeconfig() {
    let server = KubeApi::start_tls(Tls::valid().unwrap()).unwrap();
    server.want_token("secret");
    fill(&server, V1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_claims(&ALL).await;
    assert!(server.url().starts_with("https://"));
}

#[tokio::test]
async fn an_expired_certificate_is_named() {
    let server = KubeApi::start_tls(Tls::expired().unwrap()).unwrap();
    fill(&server, V1);
    let mut source = Source::start(&server, CalicoApi::Auto);
    source.until_down(&[&server.url(), "the server's certificate has expired"]).await;
    source.listen().await;
    assert_eq!(source.seen.downs.len(), 1, "said once: {:?}", source.seen.downs);
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_believed() {
    let server = KubeApi::start_tls(Tls::valid().unwrap()).unwrap();
    let other = KubeApi::start_tls(Tls::valid().unwrap()).unwrap();
    fill(&server, V1);
    let kubeconfig = other.kubeconfig("secret").replace(&other.url(), &server.url());
    let mut source = Source::start_with(&kubeconfig, |_| ());
    source.until_down(&[&server.url(), "authority"]).await;
    source.listen().await;
    assert_eq!(source.seen.snapshots, 0);
}

#[tokio::test]
async fn the_context_is_chosen() {
    let (wrong, right) = (KubeApi::start().unwrap(), cluster(V1));
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: wrong\n\
         clusters:\n- {{name: wrong, cluster: {{server: \"{}\"}}}}\n\
         - {{name: right, cluster: {{server: \"{}\"}}}}\n\
         contexts:\n- {{name: wrong, context: {{cluster: wrong, user: me}}}}\n\
         - {{name: right, context: {{cluster: right, user: me}}}}\n\
         users: [{{name: me, user: {{}}}}]\n",
        wrong.url(),
        right.url()
    );
    let set = |name: &'static str| {
        Source::start_with(&kubeconfig, |config| config.context = Some(name.to_owned()))
    };
    set("right").until_claims(&ALL).await;
    let mut source = set("nobody's");
    source.until_down(&["kubeconfig", "nobody's"]).await;
    assert_eq!(wrong.requests(), [""; 0]);
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_or_garbage_is_named_and_read_again() {
    let server = cluster(V1);
    let mut source = Source::start_with("clusters: [3]\n", |_| ());
    source.until_down(&["/kubeconfig: ", "failed to parse"]).await;
    fs::remove_file(source.kubeconfig()).unwrap();
    source.until_down(&["/kubeconfig: ", "No such file"]).await;
    fs::write(source.kubeconfig(), server.kubeconfig("secret")).unwrap();
    source.until_claims(&ALL).await;
    source.until_up().await;
}

#[tokio::test]
async fn outside_of_a_pod_a_kubeconfig_is_asked_for() {
    let mut source = Source::start_with("", |config| config.kubeconfig = None);
    source.until_down(&["Kubernetes as a pod: ", "sources.kubernetes.kubeconfig"]).await;
}
