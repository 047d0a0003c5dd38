//! What went through the pods' interfaces, as the kernel counts it.
//!
//! A packet that skips the stack goes into a pod by `bpf_redirect_peer`, past the host's end of the veth pair,
//! and only the pod's end counts it (`net/core/filter.c`, `skb_do_redirect`, from Linux 6.7 on and in the stable
//! kernels since). So the pod's end is asked, in its own network namespace (`IFLA_TARGET_NETNSID`). Where it
//! cannot be asked the host's end has to do, which counts what crossed the stack.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use dataplane_common::{Counter, IfIndex};
use futures::TryStreamExt as _;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Stats64};

use super::{Kernel, explain};

/// Packets and bytes (of frames) since the interface was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PodTraffic {
    /// What the pod has sent.
    pub from_pod: Counter,
    /// What it has received.
    pub into_pod: Counter,
}

/// The pod's end of a veth pair.
#[derive(Clone, Copy)]
struct Peer {
    /// Its index, in its own namespace.
    ifindex: u32,
    /// The number by which our namespace knows that one.
    namespace: i32,
}

impl Kernel {
    /// Returns what went through these interfaces, the hosts' ends of the pods' veth pairs.
    ///
    /// # Errors
    /// If the kernel refuses to list interfaces.
    pub async fn pod_traffic(
        &self,
        interfaces: &BTreeSet<IfIndex>,
    ) -> Result<BTreeMap<IfIndex, PodTraffic>> {
        let mut found = Vec::new();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(message) =
            links.try_next().await.map_err(explain).context("reading interfaces")?
        {
            let ifindex = IfIndex(message.header.index);
            if interfaces.contains(&ifindex) {
                found.push((ifindex, peer(&message), stats(&message)));
            }
        }
        let mut traffic = BTreeMap::new();
        for (ifindex, peer, host_end) in found {
            let pod_end = match peer {
                Some(peer) => self.stats_of(peer).await,
                None => None,
            };
            let seen = match (pod_end, host_end) {
                (Some(Ends { sent, received }), _) => Some((sent, received)),
                // What the host's end receives the pod has sent.
                (None, Some(Ends { sent, received })) => Some((received, sent)),
                (None, None) => None,
            };
            traffic.extend(
                seen.map(|(from_pod, into_pod)| (ifindex, PodTraffic { from_pod, into_pod })),
            );
        }
        Ok(traffic)
    }

    /// `None` where the pod has gone, or its namespace may not be asked.
    async fn stats_of(&self, peer: Peer) -> Option<Ends> {
        let mut request = self.handle.link().get().match_index(peer.ifindex);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(peer.namespace));
        let mut answers = std::pin::pin!(request.execute());
        stats(&answers.try_next().await.ok()??)
    }
}

fn peer(link: &LinkMessage) -> Option<Peer> {
    let mut ends = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(ifindex) => ends.0 = Some(*ifindex),
            LinkAttribute::LinkNetNsId(namespace) => ends.1 = Some(*namespace),
            _ => {}
        }
    }
    Some(Peer { ifindex: ends.0?, namespace: ends.1? })
}

/// What one end of a pair has counted.
struct Ends {
    sent: Counter,
    received: Counter,
}

fn stats(link: &LinkMessage) -> Option<Ends> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(Stats64 { rx_packets, rx_bytes, tx_packets, tx_bytes, .. }) => {
            Some(Ends {
                sent: Counter { packets: *tx_packets, bytes: *tx_bytes },
                received: Counter { packets: *rx_packets, bytes: *rx_bytes },
            })
        }
        _ => None,
    })
}
