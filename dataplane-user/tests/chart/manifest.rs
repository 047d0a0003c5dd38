//! The manifest for those who have no Helm: the chart, rendered with its own values.

use serde_json::json;

use crate::{documents, file, files, project, the};

const MANIFEST: &str = "packaging/kubernetes/tunless.yaml";
const HEAD: &str = "\
# tunless on every node of a cluster with Calico: docs/kubernetes.md.
#
#   kubectl apply -f tunless.yaml
#
# Made from packaging/chart/tunless by `BLESS=1 cargo test -p dataplane-user --test chart`: change the
# values there, or patch this file with kustomize.
";
/// In the order in which they are to be made.
const PARTS: [&str; 4] = ["serviceaccount.yaml", "rbac.yaml", "configmap.yaml", "daemonset.yaml"];
/// Labels that Helm alone goes by.
const OF_HELM: [&str; 2] = ["app.kubernetes.io/managed-by:", "helm.sh/chart:"];

fn manifest() -> String {
    let rendered = files(&json!({}));
    let mut text = HEAD.to_owned();
    for part in PARTS {
        text += "---\n";
        let lines = rendered[part].trim().lines();
        let lines =
            lines.filter(|line| !OF_HELM.iter().any(|label| line.trim().starts_with(label)));
        text.extend(lines.flat_map(|line| [line, "\n"]));
    }
    text
}

#[test]
fn the_manifest_is_the_rendered_chart() {
    let fresh = manifest();
    let path = project().join(MANIFEST);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        written, fresh,
        "{MANIFEST} is stale: run `BLESS=1 cargo test -p dataplane-user --test chart`"
    );
}

#[test]
fn it_has_all_that_the_chart_has() {
    let kinds = |all: &[serde_json::Value]| {
        let mut kinds: Vec<String> =
            all.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    };
    let all = documents(&file(MANIFEST));
    assert_eq!(kinds(&all), kinds(&crate::rendered(&json!({}))));
    assert!(!file(MANIFEST).to_lowercase().contains("helm.sh"));
    // Selectors cannot be changed later.
    let set = the(&all, "DaemonSet");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    for (label, value) in set["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(labels[label], *value);
    }
}
