//! By TLS, or not at all.

use std::net::IpAddr;

use dataplane_user::config::EtcdConfig;
use tunless_lab::{Etcd, calico::block, etcd::own_loopback};

use crate::{
    listener::{Listener, plain},
    objects::cluster,
    pki::Pki,
};

const FAR: &str = "10.20.42.0/26 172.16.35.4 ipip";

fn here() -> Option<IpAddr> {
    Some(own_loopback().into())
}

#[test]
fn with_certificates_of_both_sides() {
    let pki = Pki::new("etcd-ca");
    let server = pki.sign("server", here(), false);
    let etcd = Etcd::new().tls(pki.server(&server, true)).start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    let client = pki.sign("client", None, false);
    let config = EtcdConfig {
        ca: Some(pki.ca_file.clone()),
        certificate: Some(client.certificate.clone()),
        key: Some(client.key.clone()),
        ..plain(etcd.endpoints())
    };
    let mut listener = Listener::new(config.clone());
    listener.until_claims(&[FAR]);

    // Without ours; with one of somebody else's; with one that has expired.
    let none = EtcdConfig { certificate: None, key: None, ..config.clone() };
    Listener::new(none).until_down(&[&etcd.endpoints()[0], "certificate"]);
    let stranger = Pki::new("other-ca").sign("client", None, false);
    // The directory of that authority is gone by now.
    let gone = EtcdConfig { certificate: Some(stranger.certificate), ..config.clone() };
    Listener::new(gone).until_down(&["cannot read", "client.pem", "No such file"]);
    let expired = pki.sign("expired", None, true);
    let expired =
        EtcdConfig { certificate: Some(expired.certificate), key: Some(expired.key), ..config };
    Listener::new(expired).until_down(&[&etcd.endpoints()[0], "certificate"]);
}

#[test]
fn a_server_that_cannot_prove_who_it_is_is_refused() {
    let pki = Pki::new("etcd-ca");
    let server = pki.sign("server", here(), false);
    let etcd = Etcd::new().tls(pki.server(&server, false)).start().unwrap();
    let other = Pki::new("other-ca");
    let endpoint = etcd.endpoints().remove(0);
    let config = |ca: &Pki| EtcdConfig { ca: Some(ca.ca_file.clone()), ..plain(etcd.endpoints()) };
    Listener::new(config(&pki)).until_up();
    Listener::new(config(&other)).until_down(&[&endpoint, "UnknownIssuer"]);
    // The system's authorities do not know it, either.
    Listener::new(plain(etcd.endpoints())).until_down(&[&endpoint, "certificate"]);
    // Plainly to a port that speaks TLS.
    let plainly = endpoint.replace("https:", "http:");
    Listener::new(plain(vec![plainly.clone()])).until_down(&[&plainly]);
    // A name that is not in the certificate.
    let by_name = endpoint.replace(&own_loopback().to_string(), "localhost");
    let elsewhere = EtcdConfig { endpoints: vec![by_name.clone()], ..config(&pki) };
    Listener::new(elsewhere).until_down(&[&by_name]);
}

#[test]
fn an_expired_certificate_is_named_and_a_new_one_taken() {
    let pki = Pki::new("etcd-ca");
    let server = pki.sign("server", here(), true);
    let mut etcd = Etcd::new().tls(pki.server(&server, false)).start().unwrap();
    let config = EtcdConfig { ca: Some(pki.ca_file.clone()), ..plain(etcd.endpoints()) };
    let mut listener = Listener::new(config);
    listener.until_down(&[&etcd.endpoints()[0], "certificate expired"]);
    assert_eq!(listener.snapshots, 0);
    // The same files.
    pki.sign("server", here(), false);
    etcd.kill9(0).unwrap();
    etcd.restart(0).unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    listener.until_claims(&[FAR]);
    listener.until_up();
}
