//! etcd dies, goes silent, forgets, loses a member: nothing is missed.

use serde_json::json;
use tunless_lab::{
    Etcd,
    calico::{block, block_key},
};

use crate::{
    listener::{Listener, plain},
    objects::cluster,
    proxy::Proxy,
};

const FAR: &str = "10.20.42.0/26 172.16.35.4 ipip";
const NEAR: &str = "10.20.43.0/26 172.16.36.11 ipip";

fn etcd() -> Etcd {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    etcd
}

#[test]
fn what_happened_while_etcd_was_away_is_not_missed() {
    let mut etcd = etcd();
    let proxy = Proxy::to(&etcd.endpoints()[0]);
    let mut listener = Listener::new(plain(vec![proxy.endpoint()]));
    listener.until_claims(&[FAR]);
    for round in 0..2 {
        etcd.kill9(0).unwrap();
        listener.until_down(&[&proxy.endpoint()]);
        assert_eq!(listener.claims(), [FAR], "nothing is taken back");
        proxy.cut();
        etcd.restart(0).unwrap();
        // Several revisions, one of them of no interest.
        etcd.store(&block("10.20.43.0/26", "far", &[(1, "near")])).unwrap();
        etcd.put("/calico/resources/v3/projectcalico.org/workloadendpoints/x", "{}").unwrap();
        etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
        etcd.delete(&block_key("10.20.42.0/26")).unwrap();
        assert!(listener.down.is_some());
        proxy.mend();
        listener.until_claims(&[NEAR]);
        listener.until_up();
        assert_eq!(listener.snapshots, 1, "it went on where it was, in round {round}");
        etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
        etcd.delete(&block_key("10.20.43.0/26")).unwrap();
        listener.until_claims(&[FAR]);
    }
}

#[test]
fn compacted_history_is_listed_again() {
    let etcd = etcd();
    etcd.put(&block_key("10.20.44.0/26"), "{").unwrap();
    let proxy = Proxy::to(&etcd.endpoints()[0]);
    let mut listener = Listener::new(plain(vec![proxy.endpoint()]));
    listener.until_claims(&[FAR]);
    proxy.cut();
    listener.until_down(&[&proxy.endpoint()]);
    etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
    etcd.delete(&block_key("10.20.42.0/26")).unwrap();
    etcd.delete(&block_key("10.20.44.0/26")).unwrap();
    etcd.put(&block_key("10.20.45.0/26"), "{").unwrap();
    etcd.compact().unwrap();
    assert_eq!(listener.claims(), [FAR]);
    proxy.mend();
    listener.until_claims(&[NEAR]);
    listener.until_up();
    assert_eq!(listener.snapshots, 2);
    assert_eq!(listener.problems(), [block_key("10.20.45.0/26")]);
    // And on it goes.
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    listener.until_claims(&[FAR, NEAR]);
    assert_eq!(listener.snapshots, 2);
}

/// A list that is made after something could no longer be understood.
#[test]
fn a_second_list_takes_nothing_away_that_is_only_garbled() {
    let etcd = etcd();
    let proxy = Proxy::to(&etcd.endpoints()[0]);
    let mut listener = Listener::new(plain(vec![proxy.endpoint()]));
    listener.until_claims(&[FAR]);
    proxy.cut();
    listener.until_down(&[&proxy.endpoint()]);
    etcd.put(&block_key("10.20.42.0/26"), "{").unwrap();
    // The last revision of all is never forgotten.
    etcd.put("/elsewhere", "").unwrap();
    etcd.compact().unwrap();
    proxy.mend();
    listener.until("a second list", |it| it.snapshots == 2);
    assert_eq!(listener.claims(), [FAR]);
    assert!(listener.problem(&block_key("10.20.42.0/26")).unwrap().ends_with("stays active"));
}

#[test]
fn a_silent_server_is_noticed() {
    let etcd = etcd();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    listener.until_claims(&[FAR]);
    etcd.freeze(0).unwrap();
    listener.until_down(&[&etcd.endpoints()[0]]);
    assert_eq!(listener.claims(), [FAR]);
    etcd.thaw(0).unwrap();
    listener.until_up();
    etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
    listener.until_claims(&[FAR, NEAR]);
    assert_eq!(listener.snapshots, 1);
}

#[test]
fn one_member_of_three_may_be_lost_but_not_two() {
    let mut etcd = Etcd::new().members(3).start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    listener.until_claims(&[FAR]);
    // Whichever it is connected to, and whichever leads.
    for member in 0..3 {
        etcd.kill9(member).unwrap();
        let near = block("10.20.43.0/26", "near", &[]);
        etcd.store(&near).unwrap();
        listener.until_claims(&[FAR, NEAR]);
        etcd.store(&near.with("/deleted", json!(true))).unwrap();
        listener.until_claims(&[FAR]);
        listener.until_up();
        etcd.restart(member).unwrap();
    }
    let [a, b, c] = etcd.endpoints().try_into().unwrap();
    etcd.kill9(0).unwrap();
    etcd.kill9(1).unwrap();
    listener.until_down(&[&a, &b, &c]);
    assert_eq!(listener.claims(), [FAR]);
    // Each alone would wait for the other.
    etcd.restart(0).unwrap();
    listener.until_up();
    etcd.store(&block("10.20.43.0/26", "near", &[])).unwrap();
    listener.until_claims(&[FAR, NEAR]);
    assert_eq!(listener.snapshots, 1);
}

#[test]
fn etcd_may_come_later_and_an_empty_one_is_an_answer() {
    let mut etcd = Etcd::new().start().unwrap();
    etcd.kill9(0).unwrap();
    let mut listener = Listener::new(plain(etcd.endpoints()));
    listener.until_down(&[&etcd.endpoints()[0], "Connection refused"]);
    assert_eq!(listener.snapshots, 0);
    etcd.restart(0).unwrap();
    listener.until_claims(&[]);
    listener.until_up();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    listener.until_claims(&[FAR]);
}
