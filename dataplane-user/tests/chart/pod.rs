//! The pod of a node.

use std::path::Path;

use dataplane_user::{config::ConfigFile, container};
use serde_json::{Value, json};

use crate::{container as of_daemon, rendered, the};

fn spec(values: &Value) -> Value {
    the(&rendered(values), "DaemonSet")["spec"]["template"]["spec"].clone()
}

fn with_listen(listen: &str) -> Value {
    json!({"config": {"http": {"listen": listen}}})
}

#[test]
fn the_daemon_accepts_the_file_that_the_chart_makes() {
    for values in [
        json!({}),
        with_listen("off"),
        json!({"config": {
            "fastpath": "off", "mode": "shadow", "leases": {"size": 2_000_000, "exclude": ["10.0.0.1/32"]},
            "sources": {"kubernetes": null, "kernel": {}},
        }}),
    ] {
        let all = rendered(&values);
        let text = the(&all, "ConfigMap")["data"]["config.yaml"].as_str().unwrap();
        let file = ConfigFile::from_text(Path::new("config.yaml"), text.to_owned());
        let file = file.unwrap_or_else(|error| panic!("{text}: {error}"));
        // One file for all nodes.
        assert_eq!(file.config.node, dataplane_user::config::NodeConfig::default());
    }
}

#[test]
fn a_file_of_another_text_rolls_out_and_the_same_does_not() {
    let checksum = |values: Value| {
        let all = rendered(&values);
        let annotations = &the(&all, "DaemonSet")["spec"]["template"]["metadata"]["annotations"];
        annotations["checksum/config"].as_str().unwrap().to_owned()
    };
    let one = checksum(json!({}));
    assert_eq!(one.len(), 64);
    assert_eq!(one, checksum(json!({"resources": {"limits": {"memory": "1Gi"}}})));
    assert_ne!(one, checksum(json!({"config": {"log_spoofs": true}})));
    // A pod reads the text it was started with: a ConfigMap changes on all nodes at once.
    let all = rendered(&json!({}));
    let mounts = of_daemon(&all)["volumeMounts"].as_array().unwrap();
    let config = mounts.iter().find(|it| it["name"] == "config").unwrap();
    assert_eq!(config["subPath"], "config.yaml");
    assert_eq!(config["mountPath"], dataplane_user::config::DEFAULT_PATH);
}

#[test]
fn every_mount_that_the_daemon_asks_for_is_of_the_host() {
    let spec = spec(&json!({}));
    let (mounts, volumes) = (&spec["containers"][0]["volumeMounts"], &spec["volumes"]);
    for (place, _) in container::MOUNTS {
        let mount = mounts.as_array().unwrap().iter().find(|it| it["mountPath"] == place);
        let mount = mount.unwrap_or_else(|| panic!("{place} is not mounted"));
        let volume = volumes.as_array().unwrap().iter().find(|it| it["name"] == mount["name"]);
        let host = volume.unwrap()["hostPath"]["path"].as_str().unwrap();
        assert!(place.ends_with(host), "{place} is {host} of the host");
        assert_ne!(mount["readOnly"], true, "{place}");
    }
}

#[test]
fn every_node_has_one_and_is_not_waited_for() {
    let spec = spec(&json!({}));
    assert_eq!(spec["hostNetwork"], true);
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(spec["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    // Neither the cluster's DNS nor a Service: their pods may need this one.
    assert_eq!(spec["dnsPolicy"], "Default");
    let env = &spec["containers"][0]["env"][0];
    assert_eq!(
        (&env["name"], &env["valueFrom"]["fieldRef"]["fieldPath"]),
        (&"NODE_NAME".into(), &"spec.nodeName".into())
    );
}

#[test]
fn probes_ask_where_the_daemon_listens() {
    for (listen, host, port) in [
        ("127.0.0.1:9469", "127.0.0.1", 9469),
        ("0.0.0.0:9470", "127.0.0.1", 9470),
        ("10.1.2.3:80", "10.1.2.3", 80),
        ("[::]:9469", "::1", 9469),
        ("[2001:db8::1]:9469", "2001:db8::1", 9469),
    ] {
        let all = rendered(&with_listen(listen));
        let container = of_daemon(&all);
        for (probe, path) in [
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ] {
            let ask = &container[probe]["httpGet"];
            assert_eq!(
                *ask,
                json!({"host": host, "port": port, "path": path}),
                "{listen}: {probe}"
            );
        }
        assert_eq!(container["ports"][0]["containerPort"], port);
    }
    let all = rendered(&with_listen("off"));
    for key in ["startupProbe", "livenessProbe", "readinessProbe", "ports"] {
        assert!(of_daemon(&all).get(key).is_none(), "{key}: nothing listens");
    }
}

/// The daemon takes 30 s of silence for being stuck; a probe must not be quicker, and a start that
/// loads programs for hundreds of pods must not be cut short.
#[test]
fn probes_are_patient() {
    let all = rendered(&json!({}));
    let patience = |probe: &str| {
        let probe = &of_daemon(&all)[probe];
        probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap()
    };
    assert!(patience("startupProbe") >= 300);
    assert!(patience("livenessProbe") >= 60);
}

#[test]
fn to_detach_is_to_run_once_and_then_to_wait() {
    let spec = spec(&json!({"detach": true}));
    let [init, idle] = [&spec["initContainers"][0], &spec["containers"][0]];
    assert_eq!(init["command"], json!(["/usr/bin/tunless", "detach"]));
    assert_eq!(idle["command"], json!(["/bin/sleep", "infinity"]));
    for key in ["securityContext", "volumeMounts", "image", "env"] {
        assert_eq!(init[key], idle[key], "{key}");
    }
    assert!(idle.get("readinessProbe").is_none(), "no daemon answers");
}
