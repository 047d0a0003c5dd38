//! What cannot be said of the Kubernetes API.

use super::Problem;
use crate::config::KubernetesConfig;

pub fn check(kubernetes: &KubernetesConfig, problems: &mut Vec<Problem>) {
    let mut refuse = |key: &'static str, what: String, remedy: &'static str| {
        let path = ["sources".into(), "kubernetes".into(), key.into()];
        problems.push(Problem::new(path, what, remedy));
    };
    match (&kubernetes.kubeconfig, &kubernetes.context) {
        (Some(path), _) if !path.is_absolute() => refuse(
            "kubeconfig",
            format!("{} is not an absolute path", path.display()),
            "name a kubeconfig, like /etc/tunless/kubeconfig",
        ),
        (None, Some(context)) => refuse(
            "context",
            format!("there is no kubeconfig for `{context}` to be in"),
            "name the kubeconfig, or leave the context out: a pod has one cluster only",
        ),
        (_, Some(context)) if context.is_empty() => refuse(
            "context",
            "has no name".to_owned(),
            "name one of the kubeconfig's, or leave it out to take its current one",
        ),
        _ => {}
    }
}
