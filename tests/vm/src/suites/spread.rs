//! Packets of one node pair on more than one CPU: `underlay.spread`.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tunless_lab::{
    Daemon, Lab,
    traffic::stream::{self, Stream},
};

use super::{
    Case, Guest, Suite,
    smoke::interop::{config, finish, pings},
};
use crate::{Kernel, tunl0};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "spread",
    about: "one node pair on every CPU (`underlay.spread`), each flow in order",
    parts: &[],
    cases,
};

/// How many CPUs the guest has.
pub const CPUS: usize = 4;

const CASES: &[Case] = &[
    Case { name: "replace_verified", loads_tunless: true, run: replace_verified },
    Case { name: "accelerate_off", loads_tunless: true, run: accelerate_off },
];

/// Flows between the two nodes.
const FLOWS: u16 = 64;
/// Packets of each that have to arrive.
const PACKETS: u64 = 40;
/// An emulator takes its time.
const SOON: Duration = Duration::from_secs(60);

fn cases(_: Kernel) -> Vec<Case> {
    CASES.to_vec()
}

fn replace_verified(_: &Guest) -> Result<()> {
    spreads("replace", "verified")
}

fn accelerate_off(_: &Guest) -> Result<()> {
    spreads("accelerate", "off")
}

fn spreads(mode: &str, fastpath: &str) -> Result<()> {
    stay_on_one_cpu()?;
    let mut lab = Lab::new().fabric_filter(true).build()?;
    lab.node2.netns = lab.node2.netns.with_sysfs();
    tunl0::raise(&lab.node1, &lab.node2)?;
    if mode == "accelerate" {
        tunl0::raise(&lab.node2, &lab.node1)?;
    }
    let alone = config(&lab.node2, &lab.node1, mode, fastpath);
    let spread = format!("{alone}underlay: {{decap: tc, spread: rps}}\n");
    let mut daemon = Daemon::start(&lab.node2, &alone)?;
    pings(&lab)?;

    // A veth delivers on the CPU that sends, as a NIC with one queue does on the one it interrupts.
    let before = shares(&lab, &daemon)?;
    ensure!(before.iter().any(|share| *share > 0.95), "spread without RPS: {before:?}");
    daemon.replace_config(&spread)?;
    daemon.wait_json(&["status"], SOON, |status| status["spread"] == "0000000f")?;
    for after_a_restart in [false, true] {
        if after_a_restart {
            daemon.kill9()?;
            daemon.restart()?;
        }
        let after = shares(&lab, &daemon)?;
        println!("decapsulated by CPU: before {before:.2?}, spread {after:.2?}");
        ensure!(after.iter().all(|share| *share < 0.5), "not spread: {after:?}");
    }
    daemon.replace_config(&alone)?;
    daemon.wait_json(&["status"], SOON, |status| status["spread"].is_null())?;
    let off = shares(&lab, &daemon)?;
    ensure!(off.iter().any(|share| *share > 0.95), "still spread: {off:?}");

    finish(&lab, daemon)
}

/// This thread and those it starts send from one CPU.
fn stay_on_one_cpu() -> Result<()> {
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first).context("cannot stay on one CPU")
}

/// Sends many flows from node1's pod to node2's, and returns each CPU's share of what node2 has
/// decapsulated of them. Nothing may be lost, and no flow out of order.
fn shares(lab: &Lab, daemon: &Daemon) -> Result<Vec<f64>> {
    let counted = || -> Result<Vec<u64>> {
        let status = daemon.cli_json(&["status"])?;
        let counted = status["decapsulated_by_cpu"].as_array().context("no counters")?;
        Ok(counted.iter().map(|packets| packets.as_u64().unwrap_or_default()).collect())
    };
    let (from, to) = (lab.sit(), lab.perf());
    let before = counted()?;
    let options = stream::Options { rate: 10, ..Default::default() };
    let start = |port| {
        let address = std::net::SocketAddrV4::new(to.ip, port);
        Stream::start(&from.netns, address, &to.netns, port, &options)
    };
    let streams: Vec<Stream> = (7000..7000 + FLOWS).map(start).collect::<Result<_>>()?;
    let end = Instant::now() + SOON;
    while !streams.iter().all(|stream| stream.received() >= PACKETS) {
        ensure!(Instant::now() < end, "the flows stand still");
        thread::sleep(Duration::from_millis(50));
    }
    for (flow, stream) in streams.into_iter().enumerate() {
        let report = stream.stop()?;
        let is_whole = report.lost.is_empty() && report.reordered == 0 && report.duplicates == 0;
        ensure!(is_whole, "flow {flow}: {report:?}");
    }
    let packets: Vec<u64> = before.iter().zip(counted()?).map(|(then, now)| now - then).collect();
    let sum: u64 = packets.iter().sum();
    ensure!(sum >= PACKETS * u64::from(FLOWS), "{sum} packets were decapsulated");
    Ok(packets.iter().map(|packets| *packets as f64 / sum as f64).collect())
}
