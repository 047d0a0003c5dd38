//! What Prometheus and Grafana get.

use serde_json::{Value, json};

use crate::{documents, file, rendered, the};

fn all() -> Vec<Value> {
    rendered(&json!({
        "config": {"http": {"listen": "0.0.0.0:9469"}},
        "serviceMonitor": {"enabled": true, "labels": {"release": "x"}},
        "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true},
    }))
}

#[test]
fn nothing_of_it_is_there_unless_it_is_asked_for() {
    for one in rendered(&json!({})) {
        let kind = one["kind"].as_str().unwrap();
        assert!(!["Service", "ServiceMonitor", "PrometheusRule"].contains(&kind), "{kind}");
        assert_ne!(one["metadata"]["name"], "tunless-dashboard");
    }
}

#[test]
fn the_alerts_and_the_dashboard_are_those_that_are_shipped() {
    let all = all();
    let rules = &documents(&file("packaging/tunless.rules.yaml"))[0];
    assert_eq!(the(&all, "PrometheusRule")["spec"], *rules);
    let dashboard = all.iter().find(|one| one["metadata"]["name"] == "tunless-dashboard").unwrap();
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = dashboard["data"]["tunless.json"].as_str().unwrap();
    let shipped = file("packaging/grafana-dashboard.json");
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(parse(text), parse(&shipped));
}

#[test]
fn the_monitor_finds_the_pods_and_their_port() {
    let all = all();
    let (monitor, service, set) =
        (the(&all, "ServiceMonitor"), the(&all, "Service"), the(&all, "DaemonSet"));
    assert_eq!(monitor["metadata"]["labels"]["release"], "x");
    let pod = &set["spec"]["template"];
    for (selector, labels) in [
        (&monitor["spec"]["selector"]["matchLabels"], &service["metadata"]["labels"]),
        (&service["spec"]["selector"], &pod["metadata"]["labels"]),
    ] {
        for (label, value) in selector.as_object().unwrap() {
            assert_eq!(labels[label], *value, "{label}");
        }
    }
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    let port = &pod["spec"]["containers"][0]["ports"][0];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);
    // The alert `TunlessDaemonAway` goes by the name of the job.
    let relabelings = monitor["spec"]["endpoints"][0]["relabelings"].as_array().unwrap();
    assert!(relabelings.contains(&json!({"targetLabel": "job", "replacement": "tunless"})));
}
