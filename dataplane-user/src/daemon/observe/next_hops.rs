//! Cached next-hop MACs and the kernel's neighbour table.
//!
//! Packets sent with a cached MAC are no use of the neighbour as far as the
//! kernel can see, so an entry goes stale and would stay so, even if the MAC
//! had moved. For next hops that carried traffic the daemon reports "used"
//! (`NTF_USE`), and the kernel asks the neighbour again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::Observer;
use crate::bpf::Maps;

/// Remembers how much went to each node when last asked.
#[derive(Default)]
pub struct NextHops {
    sent: BTreeMap<Ipv4Addr, u64>,
}

impl NextHops {
    /// Has the kernel ask stale next hops that carried traffic since the last time.
    pub async fn refresh(&mut self, observer: &Observer, maps: &Maps) {
        let (host, paths) = (observer.host(), observer.paths());
        let mut stale = BTreeSet::new();
        for (node, path) in paths {
            let sent = maps.node_counter((*node).into()).map_or(0, |count| count.encap.packets);
            let before = self.sent.insert(*node, sent).unwrap_or(0);
            let key = (path.ifindex, path.next_hop);
            if sent != before && host.neighbours.get(&key).is_some_and(|entry| entry.is_stale) {
                stale.insert(key);
            }
        }
        self.sent.retain(|node, _| paths.contains_key(node));
        for (ifindex, next_hop) in stale {
            if let Err(error) = observer.kernel().use_neighbour(ifindex, next_hop).await {
                tracing::debug!("asking {next_hop} again: {error:#}");
            }
        }
    }
}
