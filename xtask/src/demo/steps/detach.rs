//! `tunless detach` leaves nothing.

use anyhow::{Context as _, Result, ensure};

use super::{Step, line, try_line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "`tunless detach` takes all of it away",
    why: "Stopping the service leaves forwarding in place, on purpose. Whoever wants to be rid of \
          tunless detaches it, and the node must then be what it was before: no program, no \
          device, no route, no address.",
    show,
};

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    for host in stage.hosts_mut() {
        let pid = host.daemon()?.pid().context("tunless does not run")?;
        page.typed(&host.place.name, &format!("kill {pid}"));
        host.daemon_mut()?.terminate()?;
        line(page, &host.place, "tunless detach")?;
        line(page, &host.place, "ip -br link")?;
        let pins = host.node.bpffs.display().to_string();
        try_line(page, &host.place, &format!("ls {pins}"))?;
        ensure!(!host.node.bpffs.exists(), "{pins} is still there");
        let traces = host.traces()?;
        ensure!(traces.is_empty(), "{} differs: {}", host.node.label, traces.join("; "));
    }
    page.remark("And as the cross-check, the ping from above:");
    let said = try_line(page, &stage.perf, &format!("ping -c 1 -W 0.3 {}", stage.lab.sit().ip))?;
    ensure!(!said.success, "pods still reach each other: it was not tunless that carried them");
    Ok("Links, addresses, routes, rules, filters and settings of both nodes are what they were \
        before tunless was started, its pins are gone, and pods no longer reach each other: it \
        was tunless that carried them."
        .to_owned())
}
