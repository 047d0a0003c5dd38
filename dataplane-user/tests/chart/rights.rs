//! What the chart lets the pods do in the API, and on the node.

use serde_json::{Value, json};

use crate::{container, documents, file, rendered, the};

/// `access.rs` holds packaging/rbac.yaml to what the source `kubernetes` asks.
#[test]
fn the_rights_are_those_of_the_rules_that_are_shipped() {
    let (chart, shipped) = (rendered(&json!({})), documents(&file("packaging/rbac.yaml")));
    for kind in ["ClusterRole", "Role"] {
        assert_eq!(the(&chart, kind)["rules"], the(&shipped, kind)["rules"], "{kind}");
        let binding = format!("{kind}Binding");
        for part in ["roleRef", "subjects"] {
            assert_eq!(the(&chart, &binding)[part], the(&shipped, &binding)[part], "{binding}");
        }
    }
}

#[test]
fn a_pod_that_asks_no_api_has_no_account_for_it() {
    let has_token = |all: &[Value]| {
        the(all, "DaemonSet")["spec"]["template"]["spec"]["automountServiceAccountToken"].clone()
    };
    let roles = |all: &[Value]| all.iter().filter(|one| one["kind"] == "ClusterRole").count();
    let asks = rendered(&json!({}));
    assert_eq!((has_token(&asks), roles(&asks)), (true.into(), 1));
    for sources in [
        json!({"kubernetes": null, "kernel": {}}),
        json!({"kubernetes": {"kubeconfig": "/etc/tunless/kubeconfig"}}),
    ] {
        let all = rendered(&json!({"config": {"sources": sources}}));
        assert_eq!((has_token(&all), roles(&all)), (false.into(), 0), "{sources}");
    }
    let by_hand = rendered(&json!({"rbac": {"create": false}}));
    assert_eq!((has_token(&by_hand), roles(&by_hand)), (true.into(), 0));
}

/// The unit's are those that the daemon needs, which `packaging::` of the namespace tests shows.
#[test]
fn the_capabilities_are_those_of_the_unit() {
    let unit = file("packaging/tunless.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let of_unit: Vec<&str> =
        line.unwrap().split(' ').map(|it| it.strip_prefix("CAP_").unwrap()).collect();
    let all = rendered(&json!({}));
    let context = &container(&all)["securityContext"];
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"], "add": of_unit}));
    for (key, value) in [
        ("privileged", false),
        ("allowPrivilegeEscalation", false),
        ("readOnlyRootFilesystem", true),
    ] {
        assert_eq!(context[key], value, "{key}");
    }
    let spec = &the(&all, "DaemonSet")["spec"]["template"]["spec"];
    for key in ["hostPID", "hostIPC"] {
        assert!(spec.get(key).is_none(), "{key}");
    }
}
