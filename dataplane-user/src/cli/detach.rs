//! `tunless detach`: everything of ours goes, and nothing else.

use anyhow::{Context as _, Result};

use crate::{
    bpf::Pins,
    daemon::Lock,
    exit::Exit,
    kernel::{Kernel, PROTOCOL, TUNNEL},
    output,
};

/// Routes first, so that nothing is sent into a device without a program; then
/// device, programs and maps.
pub async fn detach(pins: &Pins) -> Result<Exit> {
    // No daemon may start while we remove what it would rely on.
    let lock = Lock::take(pins).context(
        "the daemon would put everything back; stop it first (`systemctl stop tunless`)",
    )?;
    let kernel = Kernel::connect()?;
    let host = kernel.look().await?;
    let tunnel = host.link(TUNNEL).map(|(ifindex, _)| ifindex);
    let mut done = Vec::new();

    let ours = |route: &&crate::kernel::KernelRoute| {
        route.protocol == PROTOCOL && route.ifindex.is_some() && route.ifindex == tunnel
    };
    let mut routes = 0;
    for route in host.routes.iter().filter(ours) {
        kernel.delete_route(route.destination, route.ifindex.unwrap_or(0)).await?;
        routes += 1;
    }
    if routes > 0 {
        done.push(output::count(routes, "route"));
    }
    if kernel.delete_tunnel(&host, pins.root()).await? {
        done.push(format!("the device {TUNNEL}"));
    }
    if pins.exist() {
        let links = pins.remove_all()?;
        done.push(format!(
            "{} and the pins in {}",
            output::count(links, "program"),
            pins.root().display()
        ));
    }
    lock.remove()?;
    match done.is_empty() {
        true => eprintln!("there was nothing of ours"),
        false => eprintln!("removed {}", done.join(", ")),
    }
    Ok(Exit::Ok)
}
