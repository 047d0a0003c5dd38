//! A program of another agent on a pod's interface withholds no leases, with the rights of the unit:
//! tunless on node2, tunl0 on node1.

use std::{fs, os::fd::OwnedFd, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Pod,
    bpf::{self, Hook, watcher},
};

use super::interop::{config, finish, pings};
use crate::{
    suites::{Case, Guest},
    tunl0,
};

/// As a TCX link where the kernel has them, and as a clsact filter.
pub const CASE: Case = Case { name: "watcher_beside_leases", loads_tunless: true, run };

const SOON: Duration = Duration::from_secs(120);
const PIN: &str = "/sys/fs/bpf/tunless-lab-watcher";

fn run(guest: &Guest) -> Result<()> {
    for as_filter in [false, true] {
        if as_filter || guest.kernel.has_tcx() {
            beside(as_filter).with_context(|| format!("a filter: {as_filter}"))?;
        }
    }
    Ok(())
}

fn beside(as_filter: bool) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).confined(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    let attach = if as_filter { "clsact" } else { "tcx" };
    let yaml = config(node2, node1, "replace", "verified") + &format!("attach: {attach}\n");
    // Looks twice a second for what others attached.
    let mut daemon = Daemon::start_with(node2, &yaml, &[("WATCHDOG_USEC", "1000000")])?;
    let watching = Watching::begin(lab.perf(), as_filter.then_some("7"), &watcher::load()?)?;
    daemon.terminate()?;
    daemon.restart()?;
    daemon.wait_json(&["status"], SOON, is_verified).context("it only watches")?;
    pings(&lab)?;
    let dropping = bpf::load_named_classifier("lab_drop", &dropper())?;
    let dropping = Watching::begin(lab.perf(), as_filter.then_some("8"), &dropping)?;
    let refused = |status: &Value| {
        status["fastpath"] == "off" && status["problems"].to_string().contains("`lab_drop`")
    };
    daemon.wait_json(&["status"], SOON, refused).context("it may drop")?;
    drop(dropping);
    daemon.wait_json(&["status"], SOON, is_verified).context("only what watches is left")?;
    pings(&lab)?;
    drop(watching);
    finish(&lab, daemon)
}

fn is_verified(status: &Value) -> bool {
    status["fastpath"] == "verified"
}

/// Drops packets of one byte, of which there are none.
fn dropper() -> Vec<u64> {
    use bpf::opcode::{EXIT, IF_EQUAL, LOAD_WORD, MOVE};
    let mut program = vec![
        bpf::instruction(LOAD_WORD, 2, 1, 0, 0),
        bpf::instruction(MOVE, 0, 0, 0, watcher::ON),
        bpf::instruction(IF_EQUAL, 2, 0, 1, 1),
        bpf::instruction(EXIT, 0, 0, 0, 0),
    ];
    program.extend(watcher::answer(watcher::DROP));
    program
}

/// A program on the ingress side of a pod's interface, until this is dropped.
enum Watching<'a> {
    Link { _open: OwnedFd },
    Filter { pod: &'a Pod, preference: &'static str },
}

impl<'a> Watching<'a> {
    /// As a filter with this preference, or else as a link.
    fn begin(pod: &'a Pod, filter: Option<&'static str>, program: &OwnedFd) -> Result<Self> {
        let Some(preference) = filter else {
            let attach =
                || Ok(bpf::attach_tcx(program, if_nametoindex(&*pod.cali)?, Hook::Ingress)?);
            return Ok(Self::Link { _open: pod.node.run(attach)? });
        };
        bpf::pin(program, Path::new(PIN))?;
        let place = ["filter", "add", "dev", &pod.cali, "ingress", "pref", preference];
        let added =
            pod.node.exec("tc", &[&place[..], &["bpf", "da", "object-pinned", PIN]].concat());
        fs::remove_file(PIN)?;
        added.context("adding the filter")?;
        Ok(Self::Filter { pod, preference })
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let Self::Filter { pod, preference } = self else { return };
        let place = ["filter", "del", "dev", &pod.cali, "ingress", "pref", preference];
        if let Err(error) = pod.node.exec("tc", &place) {
            eprintln!("{error:#}");
        }
    }
}
