//! `tunless detach`: everything of ours goes, and nothing else.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use dataplane_common::Program;
use serde::Serialize;

use crate::{
    bpf::{Hook as _, Maps, Pins, filters, links, programs::unpin},
    daemon::Lock,
    exit::Exit,
    kernel::{Kernel, PROTOCOL, TUNNEL, is_tunnel_of},
    netfilter,
    output::{self, Format},
    sources::status::SourcesStatus,
    tables::{KernelRoutes, Sysctls},
};

#[derive(Serialize)]
struct Detached {
    /// What there was, for people.
    removed: Vec<String>,
}

/// The marks first, so that nothing is leased any more; routes next, so that nothing is
/// sent into a device without a program; then device, programs and maps.
pub async fn detach(pins: &Pins, format: Format) -> Result<Exit> {
    // No daemon may start while we remove what it would rely on.
    let lock = Lock::take(pins).context(
        "the daemon would put everything back; stop it first (`systemctl stop tunless`)",
    )?;
    let kernel = Kernel::connect()?;
    let host = kernel.look().await?;
    let mut done = Vec::new();

    // Another instance may be at work in this namespace; then the device and the
    // routes are its.
    let device = host.link(TUNNEL);
    if device.is_none_or(|(_, link)| is_tunnel_of(link, pins.root())) {
        if netfilter::remove()? {
            done.push("the nft table `ip tunless`".to_owned());
        }
        let mut routes = 0;
        let maps = if pins.exist() { Maps::open(pins).ok() } else { None };
        let is_node = |node: Ipv4Addr| {
            maps.as_ref().is_some_and(|maps| maps.nodes.get(&node.into(), 0).is_ok())
        };
        for (destination, route) in KernelRoutes::ours(&host, is_node) {
            kernel.delete_route(destination, &route).await?;
            routes += 1;
        }
        let ours = host.routes.iter().filter(|route| route.protocol == PROTOCOL);
        for backstop in ours.filter(|route| route.is_unreachable) {
            kernel.delete_backstop(backstop.destination).await?;
        }
        if routes > 0 {
            done.push(output::count(routes, "route"));
        }
    }
    if kernel.delete_tunnel(&host, pins.root()).await? {
        done.push(format!("the device {TUNNEL}"));
    }
    if pins.exist() {
        let links = links::list(pins)?;
        // What XDP unwraps, TC must deliver: XDP first.
        for (at, _) in links.iter().filter(|(at, _)| at.program == Program::DecapXdp) {
            unpin(pins, *at)?;
        }
        for (at, _) in links.iter().rev().filter(|(_, link)| link.is_filter) {
            if let (Some(direction), Some(link)) = (at.program.tc(), host.links.get(&at.ifindex)) {
                filters::detach(&kernel, *at, direction, &link.name).await?;
            }
        }
        for ifindex in pins.own_qdiscs() {
            filters::remove_qdisc(&kernel, pins, ifindex).await?;
        }
        pins.remove_all()?;
        done.push(format!(
            "{} and the pins in {}",
            output::count(links.len(), "program"),
            pins.root().display()
        ));
    }
    let restored = Sysctls::new(pins).restore()?;
    if restored > 0 {
        done.push(format!("our values of {}", output::count(restored, "sysctl")));
        eprintln!(
            "conntrack judges TCP strictly again: where rules drop what is INVALID, connections \
             that were leased may stall"
        );
    }
    SourcesStatus::remove(pins)?;
    lock.remove()?;
    let text = match done.is_empty() {
        true => "there was nothing of ours".to_owned(),
        false => format!("removed {}", done.join(", ")),
    };
    output::done(format, &Detached { removed: done }, &text)?;
    Ok(Exit::Ok)
}
