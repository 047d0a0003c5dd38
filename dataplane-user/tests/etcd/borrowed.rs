//! Blocks that are not followed: affinities make the routes.

use std::time::Duration;

use dataplane_user::config::{EtcdConfig, sources::Borrowed};
use tunless_lab::{
    Etcd,
    calico::{affinity, block, block_key, node},
};

use crate::{
    listener::{Listener, plain},
    objects::{TUNNEL, cluster},
};

const FAR: &str = "10.20.42.0/26 172.16.35.4 ipip";
const MOVED: &str = "10.20.42.0/26 172.16.36.11 ipip";
const NEAR: &str = "10.20.43.0/26 172.16.36.11 ipip";
const LENT: &str = "10.20.42.3/32 172.16.36.11 ipip";
/// After this all that is polled was read again.
const A_POLL: Duration = Duration::from_secs(76 * 60);

/// A block of `far`, which lends an address to `near`.
fn filled() -> Etcd {
    let etcd = Etcd::new().start().unwrap();
    cluster(&etcd, "Always");
    etcd.store(&block("10.20.42.0/26", "far", &[(3, "near")])).unwrap();
    etcd.store(&affinity("10.20.42.0/26", "far")).unwrap();
    etcd
}

fn start(etcd: &Etcd, borrowed: Borrowed) -> Listener {
    Listener::new(EtcdConfig { borrowed, ..plain(etcd.endpoints()) })
}

#[test]
fn affinities_make_the_routes_where_blocks_are_not_followed() {
    for borrowed in [Borrowed::Polled, Borrowed::Off] {
        let etcd = filled();
        let lent = if borrowed == Borrowed::Polled { &[LENT][..] } else { &[] };
        let with_lent = |more: &[&'static str]| [more, lent].concat();
        let mut listener = start(&etcd, borrowed);
        let is_polled = borrowed == Borrowed::Polled;
        let shown = if is_polled { "polled" } else { "off" };
        listener.until_claims(&with_lent(&[FAR]));
        let reads = listener.reads().unwrap().to_string();
        assert_eq!(reads, format!("nodes followed, borrowed addresses {shown}"));

        // A block's own word does not count, and an affinity's does at once.
        etcd.store(&block("10.20.42.0/26", "near", &[])).unwrap();
        etcd.store(&affinity("10.20.43.0/26", "near")).unwrap();
        let mut both = with_lent(&[FAR]);
        both.push(NEAR);
        listener.until_claims(&both);
        let stored = affinity("10.20.42.0/26", "far");
        etcd.delete(&stored.key).unwrap();
        etcd.store(&affinity("10.20.42.0/26", "near")).unwrap();
        let mut both = with_lent(&[MOVED]);
        both.push(NEAR);
        listener.until_claims(&both);

        // By the next list it is known that nothing is lent any more.
        listener.pass(A_POLL);
        listener.until_claims(&[MOVED, NEAR]);
        etcd.store(&block("10.20.43.0/26", "near", &[(5, "far")])).unwrap();
        listener.pass(A_POLL);
        if is_polled {
            listener.until_claims(&[MOVED, NEAR, "10.20.43.5/32 172.16.35.4 ipip"]);
        }
        etcd.delete(&block_key("10.20.43.0/26")).unwrap();
        listener.pass(A_POLL);
        listener.until_claims(&[MOVED, NEAR]);
        assert_eq!((listener.problems(), listener.snapshots), (vec![], 1));
        // The daemon starts again.
        drop(listener);
        start(&etcd, borrowed).until_claims(&[MOVED, NEAR]);
    }
}

/// All claims are made at any time.
#[test]
fn a_cluster_that_grows_and_shrinks_changes_over_without_a_gap() {
    let etcd = filled();
    let mut listener = start(&etcd, Borrowed::Auto);
    let until = |listener: &mut Listener, shown: &str| {
        listener.until(shown, |it| {
            assert!(it.snapshots == 0 || it.claims() == [FAR, LENT], "{:?}", it.claims());
            it.snapshots > 0 && it.reads().is_some_and(|reads| reads.to_string() == shown)
        });
    };
    let (followed, polled) =
        ("nodes and borrowed addresses followed", "nodes followed, borrowed addresses polled");
    until(&mut listener, followed);
    let more = |number: usize| {
        let address = format!("172.18.{}.{}/16", number / 250, number % 250 + 1);
        node(&format!("more-{number}"), &address, TUNNEL)
    };
    for number in 0..300 {
        etcd.store(&more(number)).unwrap();
    }
    until(&mut listener, polled);
    // Affinities count now.
    etcd.store(&block("10.20.42.0/26", "near", &[(3, "near")])).unwrap();
    etcd.store(&affinity("10.20.43.0/26", "near")).unwrap();
    listener.until_claims(&[FAR, LENT, NEAR]);
    etcd.delete(&affinity("10.20.43.0/26", "near").key).unwrap();
    listener.until_claims(&[FAR, LENT]);
    etcd.store(&block("10.20.42.0/26", "far", &[(3, "near")])).unwrap();
    drop(listener);

    let mut listener = start(&etcd, Borrowed::Auto);
    until(&mut listener, polled);
    for number in 0..100 {
        etcd.delete(&more(number).key).unwrap();
    }
    // Not all daemons list everything at the same moment.
    listener.pass(Duration::from_secs(61));
    until(&mut listener, followed);
    etcd.store(&block("10.20.42.0/26", "far", &[])).unwrap();
    listener.until_claims(&[FAR]);
    assert_eq!(listener.down, None);
}
