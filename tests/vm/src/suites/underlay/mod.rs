//! What pods hear of the network below, beside the kernel's tunl0: path MTUs
//! and that there is no way, in both modes; and what the network below gets of merged packets.

mod nodeport;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tunless_lab::{
    Daemon, Lab,
    traffic::ping::{self, Trouble},
};

use super::{
    Case, Guest, Suite,
    smoke::interop::{config, finish, pings},
};
use crate::{Kernel, tunl0};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "underlay",
    about: "path MTUs and unreachable nodes, as pods hear of them, in both modes",
    parts: &[],
    cases,
};

const CASES: &[Case] = &[
    Case { name: "replace_off", loads_tunless: true, run: replace_off },
    Case { name: "accelerate_off", loads_tunless: true, run: accelerate_off },
    Case { name: "accelerate_verified", loads_tunless: true, run: accelerate_verified },
    Case { name: "accelerate_trusted", loads_tunless: true, run: accelerate_trusted },
];

/// An emulator takes its time.
const SOON: Duration = Duration::from_secs(30);

fn cases(_: Kernel) -> Vec<Case> {
    [CASES, nodeport::CASES].concat()
}

fn replace_off(_: &Guest) -> Result<()> {
    hears("replace", "off")
}

fn accelerate_off(_: &Guest) -> Result<()> {
    hears("accelerate", "off")
}

fn accelerate_verified(_: &Guest) -> Result<()> {
    hears("accelerate", "verified")
}

fn accelerate_trusted(_: &Guest) -> Result<()> {
    hears("accelerate", "trusted")
}

fn hears(mode: &str, fastpath: &str) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let (router, node1) = (&lab.router, &lab.node1);
    tunl0::raise(node1, &lab.node2)?;
    if mode == "accelerate" {
        tunl0::raise(&lab.node2, node1)?;
    }
    let daemon = Daemon::start(&lab.node2, &config(&lab.node2, node1, mode, fastpath))?;
    pings(&lab)?;
    router.set_sysctl("ipv4/icmp_ratelimit", "0")?;

    router.ip(&format!("route add unreachable {}/32", node1.ip))?;
    let report = ping_of(&lab, 84, false)?;
    let says_so = |trouble: &Trouble| matches!(trouble, Trouble::Other { text, .. } if text == "Destination Host Unreachable");
    ensure!(report.troubles.iter().any(says_so), "the pod heard nothing:\n{}", report.text);
    router.ip(&format!("route del unreachable {}/32", node1.ip))?;

    lab.set_path_mtu(node1, 1300)?;
    let end = Instant::now() + SOON;
    loop {
        let report = ping_of(&lab, 1480, true)?;
        match report.mtu() {
            Some(1280) => break,
            told => ensure!(told.is_none(), "the pod was told {told:?}:\n{}", report.text),
        }
        ensure!(Instant::now() < end, "the pod was not told:\n{}", report.text);
        thread::sleep(Duration::from_millis(20));
    }
    let nodes = daemon.cli_json(&["nodes", "list"])?;
    ensure!(nodes["items"][0]["mtu"] == 1300, "the daemon did not learn: {nodes}");
    for (size, df) in [(1280, true), (1480, false)] {
        let report = ping_of(&lab, size, df)?;
        ensure!(report.all_answered(), "{size} bytes, DF {df}:\n{}", report.text);
    }

    finish(&lab, daemon)
}

/// Lets perf send sit one packet of `size` bytes.
fn ping_of(lab: &Lab, size: u32, df: bool) -> Result<ping::Report> {
    let wait = Duration::from_secs(1);
    let options = ping::Options { count: 1, size: size - 28, df, wait, ..Default::default() };
    ping::ping(&lab.perf().netns, lab.sit().ip, &options)
}
