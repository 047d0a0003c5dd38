//! Every document, with many values.

use serde_json::{Value, json};

use crate::{container, documents, file, kubernetes::faults, rendered};

/// Kinds of the Prometheus Operator, whose types are not Kubernetes' own.
const OF_OPERATORS: [&str; 2] = ["PrometheusRule", "ServiceMonitor"];

/// Values that together reach every branch of the templates.
fn all_values() -> Vec<Value> {
    vec![
        json!({}),
        json!({"detach": true}),
        json!({"updateStrategy": {"type": "OnDelete"}}),
        json!({"rbac": {"create": false}, "serviceAccount": {"create": false}}),
        json!({"config": {"sources": {"kubernetes": null, "kernel": {}}, "http": {"listen": "off"}}}),
        json!({
            "image": {"repository": "registry.example/tunless", "digest": format!("sha256:{}", "0".repeat(64))},
            "imagePullSecrets": ["registry"],
            "fullnameOverride": "ipip",
            "config": {"http": {"listen": "0.0.0.0:9470"}, "leases": {"size": 2_000_000}},
            "serviceAccount": {"annotations": {"a": "b"}},
            "affinity": {"nodeAffinity": {}},
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "10%"}},
            "securityContext": {
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "tunless"},
                "seccompProfile": {"type": "Unconfined"},
            },
            "extraVolumes": [{"name": "etcd", "secret": {"secretName": "tunless-etcd"}}],
            "extraVolumeMounts": [{"name": "etcd", "mountPath": "/etc/tunless/etcd", "readOnly": true}],
            "extraEnv": [{"name": "TUNLESS_LOG", "value": "debug"}],
            "podAnnotations": {"x": "y"},
            "podLabels": {"team": "net"},
            "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": true, "annotations": {"folder": "net"}},
        }),
    ]
}

#[test]
fn every_document_is_one_that_kubernetes_has() {
    for values in all_values() {
        let all = rendered(&values);
        assert!(all.len() >= 2, "{values}");
        for one in all {
            let kind = one["kind"].as_str().unwrap().to_owned();
            if !OF_OPERATORS.contains(&kind.as_str()) {
                assert_eq!(faults(&one), Vec::<String>::new(), "{values}: {kind}");
            }
        }
    }
}

#[test]
fn a_field_that_kubernetes_does_not_have_is_found() {
    let all = rendered(&json!({}));
    let mut set = all.into_iter().find(|one| one["kind"] == "DaemonSet").unwrap();
    set["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
    let found = faults(&set);
    assert_eq!(found, [".spec.template.spec.hostNetwrok is not in the API"]);
    set["spec"]["template"]["spec"]["hostNetwork"] = "yes".into();
    assert!(faults(&set)[0].contains("boolean"), "{:?}", faults(&set));
}

/// One node's worth of names cannot be taken twice in a cluster.
#[test]
fn names_and_namespaces_go_together() {
    for values in all_values() {
        let all = rendered(&values);
        let name = if values["fullnameOverride"].is_string() { "ipip" } else { "tunless" };
        for one in &all {
            let found = one["metadata"]["name"].as_str().unwrap();
            assert!(
                [name.to_owned(), format!("{name}-dashboard")].contains(&found.to_owned()),
                "{found}"
            );
            let namespace = match one["kind"].as_str().unwrap() {
                "ClusterRole" | "ClusterRoleBinding" => Value::Null,
                "Role" | "RoleBinding" => "default".into(),
                _ => "kube-system".into(),
            };
            assert_eq!(one["metadata"]["namespace"], namespace, "{one}");
        }
    }
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = &documents(&file("packaging/chart/tunless/Chart.yaml"))[0];
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    let image = format!("localhost/tunless:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container(&rendered(&json!({})))["image"], image);
}

#[test]
fn a_digest_goes_before_a_tag() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let image = json!({"repository": "r.example/t", "tag": "edge", "digest": digest});
    let image = &rendered(&json!({"image": image}));
    assert_eq!(container(image)["image"], format!("r.example/t@{digest}"));
}

/// The memory of the maps is whole numbers, which Go's YAML must not write as 2e+06.
#[test]
fn numbers_stay_numbers() {
    let all = rendered(&json!({"config": {"leases": {"size": 2_000_000}}}));
    let text = crate::the(&all, "ConfigMap")["data"]["config.yaml"].as_str().unwrap();
    assert!(text.contains("size: 2000000\n"), "{text}");
}
