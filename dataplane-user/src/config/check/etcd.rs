//! What cannot be said of etcd.

use super::Problem;
use crate::config::EtcdConfig;

pub fn check(etcd: &EtcdConfig, problems: &mut Vec<Problem>) {
    let mut refuse = |key: &'static str, what: String, remedy: &'static str| {
        let path = ["sources".into(), "etcd".into(), key.into()];
        problems.push(Problem::new(path, what, remedy));
    };
    if etcd.endpoints.is_empty() {
        refuse("endpoints", "none is named".to_owned(), "name the cluster's members");
    }
    for endpoint in &etcd.endpoints {
        if !is_url(endpoint) {
            refuse(
                "endpoints",
                format!("`{endpoint}` is no endpoint"),
                "write one like https://172.16.35.4:2379",
            );
        }
    }
    let has_tls = etcd.ca.is_some() || etcd.certificate.is_some() || etcd.key.is_some();
    if has_tls && etcd.endpoints.iter().any(|endpoint| endpoint.starts_with("http://")) {
        refuse(
            "endpoints",
            "http:// would go unencrypted, though there are certificates".to_owned(),
            "write https://, or leave the certificates out",
        );
    }
    match (&etcd.certificate, &etcd.key) {
        (Some(_), None) => {
            refuse("certificate", "has no key".to_owned(), "name sources.etcd.key, too");
        }
        (None, Some(_)) => {
            refuse("key", "has no certificate".to_owned(), "name sources.etcd.certificate, too");
        }
        _ => {}
    }
    match (&etcd.username, &etcd.password_file) {
        (Some(_), None) => refuse(
            "username",
            "has no password".to_owned(),
            "name the file with it as sources.etcd.password_file",
        ),
        (None, Some(_)) => {
            refuse("password_file", "is nobody's".to_owned(), "name sources.etcd.username, too");
        }
        _ => {}
    }
    if !etcd.prefix.starts_with('/') || etcd.prefix.ends_with('/') {
        refuse(
            "prefix",
            format!("`{}` begins no key of Calico's", etcd.prefix),
            "leave it out, or write it like /calico",
        );
    }
}

/// `http://host:port` or `https://host:port`, nothing behind it.
fn is_url(endpoint: &str) -> bool {
    let authority = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let parts = authority.and_then(|authority| authority.rsplit_once(':'));
    parts.is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', '@', ' '])
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}
