//! Users, passwords, rights.

use std::{fs, path::Path, thread, time::Duration};

use dataplane_user::config::EtcdConfig;
use tempfile::TempDir;
use tunless_lab::{
    Etcd,
    calico::{PREFIX, block},
};

use crate::{
    listener::{Listener, plain},
    objects::cluster,
    proxy::Proxy,
};

const FAR: &str = "10.20.42.0/26 172.16.35.4 ipip";
const NEAR: &str = "10.20.43.0/26 172.16.36.11 ipip";

/// etcd that wants passwords, and a directory for the files with them.
fn etcd(options: &[&str]) -> (Etcd, TempDir) {
    let builder = options.iter().fold(Etcd::new(), |builder, it| builder.option(it));
    let mut etcd = builder.start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    etcd.enable_auth("root-secret").unwrap();
    (etcd, tempfile::tempdir().unwrap())
}

fn as_user(endpoints: Vec<String>, dir: &Path, name: &str, password: &str) -> EtcdConfig {
    let file = dir.join(name);
    fs::write(&file, password).unwrap();
    EtcdConfig { username: Some(name.to_owned()), password_file: Some(file), ..plain(endpoints) }
}

#[test]
fn a_wrong_password_is_named_and_a_right_one_taken() {
    let (etcd, dir) = etcd(&[]);
    etcd.add_reader("tunless", "secret", &[PREFIX]).unwrap();
    let endpoint = etcd.endpoints().remove(0);
    let config = as_user(etcd.endpoints(), dir.path(), "tunless", "wrong");
    let mut listener = Listener::new(config.clone());
    listener.until_down(&[&endpoint, "as user tunless: ", "authentication failed"]);
    assert!(!listener.down.clone().unwrap().contains("wrong"), "a password is nobody's business");
    // The same file, as an editor leaves it.
    as_user(etcd.endpoints(), dir.path(), "tunless", "secret\n");
    listener.until_claims(&[FAR]);
    listener.until_up();

    Listener::new(plain(etcd.endpoints())).until_down(&[&endpoint, "sources.etcd.username"]);
    fs::remove_file(config.password_file.clone().unwrap()).unwrap();
    Listener::new(config).until_down(&[&endpoint, "cannot read", "No such file"]);
}

#[test]
fn rights_that_are_missing_are_named() {
    let (etcd, dir) = etcd(&[]);
    let blocks = "/calico/ipam/v2/assignment/";
    let nodes = "/calico/resources/v3/projectcalico.org/nodes/";
    etcd.add_reader("tunless", "secret", &[blocks]).unwrap();
    let config = as_user(etcd.endpoints(), dir.path(), "tunless", "secret");
    let mut listener = Listener::new(config);
    listener.until_down(&[
        &etcd.endpoints()[0],
        &format!("listing {nodes}: "),
        "permission denied",
    ]);
    assert_eq!(listener.snapshots, 0);
    etcd.grant_read("tunless", "/calico/resources/").unwrap();
    // Affinities are only a cross-check.
    listener.until_claims(&[FAR]);
    listener.until_up();
    listener.until_problem("/calico/ipam/v2/host/", "permission denied");
    assert_eq!(listener.problems().len(), 1);
    etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
    listener.until_claims(&[FAR, NEAR]);
}

#[test]
fn a_token_may_expire() {
    let (etcd, dir) = etcd(&["--auth-token-ttl=1"]);
    etcd.add_reader("tunless", "secret", &[PREFIX]).unwrap();
    let proxy = Proxy::to(&etcd.endpoints()[0]);
    let config = as_user(vec![proxy.endpoint()], dir.path(), "tunless", "secret");
    let mut listener = Listener::new(config.clone());
    listener.until_claims(&[FAR]);
    // Longer than any token lives; nothing to wait for can be seen.
    thread::sleep(Duration::from_secs(4));
    etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
    listener.until_claims(&[FAR, NEAR]);
    // It comes back with a new one; with the new password, too.
    proxy.cut();
    listener.until_down(&[&proxy.endpoint()]);
    etcd.set_password("tunless", "another").unwrap();
    etcd.store(&block("10.20.43.0/26", "far", &[])).unwrap();
    proxy.mend();
    listener.until_down(&["authentication failed"]);
    assert_eq!(listener.claims(), [FAR, NEAR]);
    fs::write(config.password_file.unwrap(), "another").unwrap();
    listener.until_claims(&[FAR, "10.20.43.0/26 172.16.35.4 ipip"]);
    listener.until_up();
    assert_eq!(listener.snapshots, 1);
}
