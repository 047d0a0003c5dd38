//! Whether a document is one that Kubernetes has: read into the types of its API, and written again.
//! The types drop what they do not know, so a misspelt or misplaced field makes a difference.

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Service, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    serde::{Serialize, de::DeserializeOwned},
};
use serde_json::Value;

/// What is wrong with a document.
pub fn faults(document: &Value) -> Vec<String> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let check = match (document["apiVersion"].as_str().unwrap_or_default(), kind) {
        ("apps/v1", "DaemonSet") => against::<DaemonSet>,
        ("v1", "ConfigMap") => against::<ConfigMap>,
        ("v1", "Service") => against::<Service>,
        ("v1", "ServiceAccount") => against::<ServiceAccount>,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => against::<ClusterRole>,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => against::<ClusterRoleBinding>,
        ("rbac.authorization.k8s.io/v1", "Role") => against::<Role>,
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => against::<RoleBinding>,
        (version, kind) => return vec![format!("{version} {kind} is not known here")],
    };
    check(document)
}

fn against<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
    let read: T = match serde_json::from_value(document.clone()) {
        Ok(read) => read,
        Err(error) => return vec![error.to_string()],
    };
    let mut faults = Vec::new();
    compare("", document, &serde_json::to_value(read).unwrap(), &mut faults);
    faults
}

/// Lists what is in `ours` and not in `theirs`, by its path.
fn compare(path: &str, ours: &Value, theirs: &Value, faults: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, ours) in ours {
                let path = format!("{path}.{key}");
                match theirs.get(key) {
                    Some(theirs) => compare(&path, ours, theirs, faults),
                    None => faults.push(format!("{path} is not in the API")),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(&format!("{path}[{index}]"), ours, theirs, faults);
            }
        }
        _ if ours == theirs => {}
        _ => faults.push(format!("{path} is {ours}, and the API has {theirs}")),
    }
}
