//! Removal: the applier's order backwards. Everything of ours goes, and nothing else.
//!
//! The marks first, so that nothing is leased any more; routes next, so that nothing is sent
//! into a device without a program; then device, programs and maps. It loads no program, so it
//! works where none can be loaded.

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::Program;

use super::memory;
use crate::{
    bpf::{Hook as _, Maps, Pins, filters, links, verifier},
    daemon::{
        Lock,
        decide::{Memory, spread::Spreading},
        failed_start::FailedStart,
        report::{State, names},
    },
    kernel::{
        Host, Kernel, PROTOCOL, TUNNEL, is_tunnel_of,
        receive_queues::{Cpus, is_shown},
    },
    netfilter, output, run_dir,
    shadow::Report,
    tables::{KernelRoutes, forget_sysctls_of_0_1, restore_sysctls, sysctls_of_0_1},
};

/// What was removed, for people.
#[derive(Debug, Default)]
pub struct Removed {
    /// What there was.
    pub what: Vec<String>,
    /// Conntrack is strict again.
    pub has_restored_sysctls: bool,
    /// The nft table was there, so flows were leased.
    pub had_marks: bool,
}

/// Removes everything. `lock`: no daemon may start while we remove what it would rely on.
///
/// # Errors
/// If something cannot be removed. Running it again goes on where it stopped.
pub async fn remove_all(pins: &Pins, lock: Lock) -> Result<Removed> {
    let kernel = Kernel::connect()?;
    let host = kernel.look().await?;
    let mut done = Vec::new();
    let mut had_marks = false;
    let Memory { mut sysctls, spreading, .. } = memory::read(pins).unwrap_or_default();
    sysctls.extend(sysctls_of_0_1(pins));

    // Another instance may be at work in this namespace; then the device and the
    // routes are its.
    let device = host.link(TUNNEL);
    if device.is_none_or(|(_, link)| is_tunnel_of(link, pins.root())) {
        had_marks = netfilter::remove()?;
        if had_marks {
            done.push("the nft table `ip tunless`".to_owned());
        }
        let mut routes = 0;
        let maps = if pins.exist() { Maps::open(pins).ok() } else { None };
        let is_node =
            |node: Ipv4Addr| maps.as_ref().is_some_and(|maps| maps.nodes.get(node.into()).is_ok());
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
    // Before the memory goes with the pins.
    let restored_sysctls = restore_sysctls(&sysctls)?;
    if restored_sysctls > 0 {
        done.push(format!("our values of {}", output::count(restored_sysctls, "sysctl")));
    }
    let restored = restore_queues(&host, &spreading)?;
    if restored > 0 {
        done.push(format!("RPS of {}", output::count(restored, "receive queue")));
    }
    if pins.exist() {
        let links = links::list(pins)?;
        // What XDP unwraps, TC must deliver: XDP first.
        for (at, _) in links.iter().filter(|(at, _)| at.program == Program::DecapXdp) {
            links::end(pins, *at)?;
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
    State::remove(pins)?;
    names::remove(pins)?;
    Report::remove(pins)?;
    FailedStart::forget(pins)?;
    run_dir::remove(&verifier::log_file(pins))?;
    // Of 0.1.
    run_dir::remove(&run_dir::file(pins, "sources"))?;
    forget_sysctls_of_0_1(pins)?;
    lock.remove()?;
    Ok(Removed { what: done, has_restored_sysctls: restored_sysctls > 0, had_marks })
}

/// Takes back the RPS that queues were given. Returns how many there were; what others have set
/// since stays.
///
/// # Errors
/// If a queue cannot be read or written.
fn restore_queues(host: &Host, spreading: &Spreading) -> Result<usize> {
    let mut restored = 0;
    for (queue, ours) in &spreading.queues {
        if is_shown(host, queue.interface())? && queue.read()?.as_ref() == Some(ours) {
            queue.write(&Cpus::default())?;
            restored += 1;
        }
    }
    Ok(restored)
}
