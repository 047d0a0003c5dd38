//! A cluster of the size we are meant for.

use std::{net::Ipv4Addr, time::Instant};

use dataplane_user::config::{EtcdConfig, sources::Borrowed};
use etcd_client::{Client, Txn, TxnOp};
use tunless_lab::{
    Etcd,
    calico::{Stored, block, block_key, node, pool},
};

use crate::listener::{Listener, plain};

const TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const NODES: usize = 5_000;
const BLOCKS: usize = 10_000;
/// Blocks that lend an address.
const LENDING: usize = 2_000;
/// etcd's `--max-txn-ops`.
const BATCH: usize = 128;

fn cidr(n: usize) -> String {
    let address = 64 * n;
    format!("10.{}.{}.{}/26", address >> 16, address >> 8 & 255, address & 255)
}

fn name(n: usize) -> String {
    format!("node-{:04}.example.net", n % NODES)
}

fn cluster() -> impl Iterator<Item = Stored> {
    let nodes = (0..NODES).map(|n| {
        let address = format!("172.16.{}.{}/20", n / 250, n % 250 + 1);
        node(&name(n), &address, TUNNEL)
    });
    let blocks = (0..BLOCKS).map(|n| {
        let lent = name(n + 1);
        let lent = if n < LENDING { vec![(5, lent.as_str())] } else { vec![] };
        block(&cidr(n), &name(n), &lent)
    });
    [pool("default-ipv4-ippool", "10.0.0.0/8", "Always")].into_iter().chain(nodes).chain(blocks)
}

fn write(etcd: &Etcd, objects: impl Iterator<Item = Stored>) {
    let operations: Vec<TxnOp> =
        objects.map(|it| TxnOp::put(it.key, it.value.to_string(), None)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
        for batch in operations.chunks(BATCH) {
            client.txn(Txn::new().and_then(batch)).await.unwrap();
        }
    });
}

/// A list is read in pages, and thousands of changes at once are no different from one.
#[test]
fn ten_thousand_blocks_of_five_thousand_nodes() {
    let etcd = Etcd::new().start().unwrap();
    write(&etcd, cluster());
    let start = Instant::now();
    let mut listener =
        Listener::new(EtcdConfig { borrowed: Borrowed::Followed, ..plain(etcd.endpoints()) });
    listener.until("all claims", |it| it.snapshots == 1);
    println!("first list: {:?}", start.elapsed());
    assert_eq!(listener.count(), BLOCKS + LENDING);
    assert_eq!(listener.problems(), [""; 0]);

    // A node gets another address: its two blocks, and what it borrowed, no more.
    let start = Instant::now();
    let steps = listener.steps;
    let new = Ipv4Addr::new(172, 16, 99, 99);
    etcd.store(&node(&name(7), &format!("{new}/20"), TUNNEL)).unwrap();
    listener.until("its claims", |it| it.steps > steps);
    println!("one node: {:?}", start.elapsed());
    let of_new = listener.claims().iter().filter(|it| it.contains(" 172.16.99.99 ")).count();
    assert_eq!((of_new, listener.steps), (3, steps + 1));

    // Every block moves to the next node.
    let start = Instant::now();
    write(&etcd, (0..BLOCKS).map(|n| block(&cidr(n), &name(n + 1), &[])));
    let (last, first_node) = (cidr(BLOCKS - 1), Some(Ipv4Addr::new(172, 16, 0, 1)));
    listener.until("the last block", |it| it.node_of(&last) == first_node);
    println!("every block: {:?}, {} steps", start.elapsed(), listener.steps - steps - 1);
    assert_eq!(listener.count(), BLOCKS, "nothing is lent any more");
    etcd.delete(&block_key(&cidr(0))).unwrap();
    listener.until("one less", |it| it.count() == BLOCKS - 1);
    assert_eq!(listener.snapshots, 1);
}
