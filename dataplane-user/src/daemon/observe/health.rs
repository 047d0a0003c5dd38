//! What of tunless is at work on this host now: asked by the daemon after each reconcile, and
//! by `tunless status`, also while the daemon is down.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use dataplane_common::{IfIndex, Route};
use ipnet::Ipv4Net;

use super::foreign::{Foreign, foreign_routes};
use crate::{
    bpf::{AttachedLink, Attachment, Pins, filters, links},
    clock,
    daemon::attempt,
    kernel::{Host, Kernel},
    netfilter::{self, conntrack},
};

/// What was seen.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Seen {
    /// Whether this version's maps are pinned.
    pub has_maps: bool,
    /// Pinned links, and whether they are attached.
    pub links: BTreeMap<Attachment, AttachedLink>,
    /// Interface names.
    pub names: BTreeMap<IfIndex, String>,
    /// Interfaces whose packets the kernel does not forward (`net.ipv4.conf.<name>.forwarding`).
    pub not_forwarding: BTreeSet<IfIndex>,
    /// Whether the nft table is there; `None`: nft cannot be asked.
    pub marks: Option<bool>,
    /// Sysctls that leases need otherwise than the kernel has them.
    pub sysctls: BTreeMap<&'static str, conntrack::Found>,
    /// When a `tunless try` is over, and what time it is (`CLOCK_MONOTONIC`), if there is one.
    pub attempt: Option<(Duration, Duration)>,
    /// Kernel routes of others that take packets for remote pods past us.
    pub foreign: Vec<Foreign>,
}

/// Looks. `tunnel`: the tunnel device's name; `asks_nft`: whether the nft table matters.
///
/// # Errors
/// If pins or links cannot be read.
pub async fn look(
    kernel: &Kernel,
    pins: &Pins,
    host: &Host,
    tunnel: &str,
    asks_nft: bool,
    routes: &BTreeMap<Ipv4Net, Route>,
) -> Result<Seen> {
    let mut links = links::list(pins)?;
    filters::check(kernel, &mut links).await?;
    let tunnel_index = host.link(tunnel).map(|(ifindex, _)| ifindex);
    Ok(Seen {
        has_maps: pins.have_maps(),
        links: links.into_iter().collect(),
        names: host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect(),
        not_forwarding: host.not_forwarding(),
        marks: asks_nft.then(|| netfilter::list().map(|listing| listing.is_some()).ok()).flatten(),
        sysctls: conntrack::look(),
        attempt: attempt::left(pins, None)?.map(|end| (end, clock::monotonic())),
        foreign: foreign_routes(host, routes, tunnel_index),
    })
}
