//! Values that cannot be meant: Helm refuses them, and names them.

use serde_json::{Value, json};

use crate::refusal;

/// A value at the end of a path like `config.leases.size`.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |below, key| json!({key: below}))
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_name() {
    for (path, value) in [
        ("image.repository", json!(7)),
        ("image.digest", json!("sha256:short")),
        ("image.pullPolicy", json!("Sometimes")),
        ("imagePullSecrets", json!("registry")),
        ("fullnameOverride", json!("A_b")),
        ("detach", json!("yes")),
        ("rbac.create", json!("true")),
        ("serviceAccount.name", json!(1)),
        ("resources.limits.memory", json!(["512Mi"])),
        ("tolerations", json!({"operator": "Exists"})),
        ("nodeSelector", json!({"a": 1})),
        ("updateStrategy.type", json!("Recreate")),
        ("updateStrategy.rollingUpdate.maxUnavailable", json!("many")),
        ("terminationGracePeriodSeconds", json!("10s")),
        ("securityContext.appArmorProfile.type", json!("none")),
        ("probes.liveness.periodSeconds", json!(0)),
        ("extraVolumes", json!([{"hostPath": {}}])),
        ("podLabels", json!({"a": true})),
        ("serviceMonitor.enabled", json!("on")),
        ("serviceMonitor.interval", json!(30)),
        ("dashboard.labels", json!(["x"])),
        // Of the file of the daemon: by its own types.
        ("config.mode", json!("fast")),
        ("config.leases.size", json!("many")),
        ("config.leases.seconds", json!(60)),
        ("config.leases.services", json!("no")),
        ("config.http.listen", json!(9469)),
        ("config.sources.kubernetes.borrowed", json!("sometimes")),
        ("config.underlay.interfaces", json!("eth0")),
        // YAML without quotes takes `off` for false.
        ("config.fastpath", json!(false)),
    ] {
        let why = refusal(&at(path, value.clone()));
        let named = format!("at '/{}", path.replace('.', "/"));
        assert!(why.contains(&named), "{path}: {value}: {why}");
    }
}

#[test]
fn a_key_that_there_is_not_is_refused_by_name() {
    for (path, parent) in [
        ("imagee", ""),
        ("image.name", "/image"),
        ("probes.liveness.period", "/probes/liveness"),
        ("config.fast_path", "/config"),
        ("config.leases.secs", "/config/leases"),
        ("config.sources.kubernetes.token", "/config/sources/kubernetes"),
    ] {
        let why = refusal(&at(path, json!(1)));
        let key = path.rsplit('.').next().unwrap();
        assert!(why.contains(&format!("at '{parent}'")) && why.contains(key), "{path}: {why}");
    }
}

#[test]
fn what_cannot_work_in_a_container_is_refused_with_what_to_do() {
    for (values, words) in [
        (
            json!({"serviceMonitor": {"enabled": true}}),
            ["config.http.listen is 127.0.0.1:9469", "set it to 0.0.0.0:9469"],
        ),
        (
            json!({"serviceMonitor": {"enabled": true}, "config": {"http": {"listen": "off"}}}),
            ["config.http.listen is off", "set it to 0.0.0.0:9469"],
        ),
        (
            json!({"config": {"underlay": {"spread": "rps"}}}),
            ["config.underlay.spread is rps", "set it to \"off\""],
        ),
        (
            json!({"config": {"bpffs": "/run/bpf/tunless"}}),
            ["config.bpffs is /run/bpf/tunless", "/sys/fs/bpf"],
        ),
    ] {
        let why = refusal(&values);
        for word in words {
            assert!(why.contains(word), "{values}: {why}");
        }
    }
}
