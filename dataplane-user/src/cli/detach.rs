//! `tunless detach`: everything of ours goes, and nothing else.

use std::net::Ipv4Addr;

use anyhow::Result;
use serde::Serialize;

use crate::{
    bpf::{Hook, Maps, Pins, filters, links, programs::unpin, verifier},
    daemon::{Held, Lock},
    exit::Exit,
    kernel::{Kernel, PROTOCOL, TUNNEL, is_tunnel_of},
    netfilter::{self, conntrack},
    output::{self, Format},
    run_dir,
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
    let lock = Lock::take(pins).map_err(|error| match error.is::<Held>() {
        true => error.context(
            "the daemon would put everything back; stop it first (`systemctl stop tunless`)",
        ),
        false => error,
    })?;
    let kernel = Kernel::connect()?;
    let host = kernel.look().await?;
    let mut done = Vec::new();

    // Another instance may be at work in this namespace; then the device and the
    // routes are its.
    let device = host.link(TUNNEL);
    let mut leased = false;
    if device.is_none_or(|(_, link)| is_tunnel_of(link, pins.root())) {
        if netfilter::remove()? {
            leased = true;
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
        for (at, _) in links.iter().filter(|(at, _)| at.hook == Hook::DecapXdp) {
            unpin(pins, *at)?;
        }
        for (at, _) in links.iter().rev().filter(|(_, link)| link.is_filter) {
            if let (Some(direction), Some(link)) = (at.hook.tc(), host.links.get(&at.ifindex)) {
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
    // Our table is the sign that flows were leased, and so that these were set.
    if leased
        && restored == 0
        && let Some(note) = conntrack::left_relaxed()
    {
        eprintln!("{note}");
    }
    if restored > 0 {
        done.push(format!("our values of {}", output::count(restored, "sysctl")));
        eprintln!(
            "conntrack judges TCP strictly again: where rules drop what is INVALID, connections \
             that were leased may stall"
        );
    }
    SourcesStatus::remove(pins)?;
    run_dir::remove(&verifier::log_file(pins))?;
    lock.remove()?;
    let text = match done.is_empty() {
        true => "there was nothing of ours".to_owned(),
        false => format!("removed {}", done.join(", ")),
    };
    output::done(format, &Detached { removed: done }, &text)?;
    Ok(Exit::Ok)
}
