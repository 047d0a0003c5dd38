//! A driver that runs XDP and has no room for metadata: XDP cannot vouch for a
//! packet, so TC unwraps it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{Daemon, Lab, Node, Pod, traffic::ping};

use super::{Counters, ensure_native, has_xdp};
use crate::{
    Kernel,
    suites::{
        Case, Guest,
        smoke::interop::{config, transfer},
    },
    tunl0,
};

/// With `decap: xdp` it stays so, where the driver runs XDP at all; `auto` takes
/// XDP off again.
pub fn cases(kernel: Kernel) -> Vec<Case> {
    let auto = Case { name: "without_metadata_auto_is_tc", loads_tunless: true, run: auto };
    let forced = Case { name: "without_metadata_tc_unwraps", loads_tunless: true, run: forced };
    if runs_xdp(kernel) { vec![forced, auto] } else { vec![auto] }
}

/// More than the ten seconds between two rounds of the daemon.
const SOON: Duration = Duration::from_secs(60);

/// node3, whose card is the one without metadata, with a pod; node2 has tunl0.
struct Scene {
    lab: Lab,
    pod: Pod,
}

impl Scene {
    fn new() -> Result<Self> {
        let lab = Lab::new().nics(true).third_node(true).fabric_filter(true).build()?;
        let node3 = lab.node3.as_ref().context("no node3")?;
        tunl0::raise(&lab.node2, node3)?;
        let pod = node3.add_pod("odd", Lab::pod_ip(node3, 5))?;
        Ok(Self { lab, pod })
    }

    fn node3(&self) -> Result<&Node> {
        self.lab.node3.as_ref().context("no node3")
    }

    fn start(&self, decap: &str) -> Result<Daemon> {
        let node3 = self.node3()?;
        let config = config(node3, &self.lab.node2, "replace", "verified");
        Daemon::start(node3, &format!("{config}underlay: {{decap: {decap}}}\n"))
    }

    /// Both ways.
    fn talk(&self) -> Result<()> {
        let (pod, perf) = (&self.pod, self.lab.perf());
        for (from, to) in [(pod, perf), (perf, pod)] {
            let report = ping::ping(&from.netns, to.ip, &ping::Options::default())?;
            ensure!(report.all_answered(), "not every ping was answered:\n{}", report.text);
            ensure!(report.ttl() == Some(62), "the answers' TTL is not 62:\n{}", report.text);
            transfer(from, to).with_context(|| format!("TCP from {}", from.name))?;
        }
        Ok(())
    }

    fn finish(self, daemon: Daemon) -> Result<()> {
        let plain = self.lab.plain_packets_on_wire()?;
        ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
        daemon.finish()?;
        let problems = self.lab.problems();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}

/// Whether the driver runs XDP (from Linux 6.6 on).
fn runs_xdp(kernel: Kernel) -> bool {
    match kernel {
        Kernel::V6_1 => false,
        Kernel::V6_12 | Kernel::V7 => true,
    }
}

fn forced(_: &Guest) -> Result<()> {
    let scene = Scene::new()?;
    let daemon = scene.start("xdp")?;
    ensure_native(scene.node3()?, &daemon)?;
    scene.talk()?;
    let counters = Counters::of(&daemon)?;
    ensure!(counters.packets(Reason::XdpUnable)? > 0, "XDP was able: {}", counters.0);
    ensure!(counters.packets(Reason::XdpUnwrapped)? == 0, "XDP was able: {}", counters.0);
    ensure!(
        counters.packets(Reason::DecapToPod)? > 0,
        "no packet was counted as decap_to_pod: {}",
        counters.0
    );
    scene.finish(daemon)
}

fn auto(guest: &Guest) -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.start("auto")?;
    if runs_xdp(guest.kernel) {
        // Nothing has told the daemon yet.
        ensure_native(scene.node3()?, &daemon)?;
    }
    // What shows it is traffic; taking XDP off makes the card anew, which may cost a packet.
    drop(scene.talk());
    let is_tc = |status: &serde_json::Value| status["ready"] == true && !has_xdp(status);
    daemon.wait_json(&["status"], SOON, is_tc)?;
    let before = Counters::of(&daemon)?;
    scene.talk()?;
    // A new daemon knows it, too; and so does one with another file.
    daemon.terminate()?;
    daemon.restart()?;
    ensure!(is_tc(&daemon.cli_json(&["status"])?), "after a restart XDP is tried again");
    daemon.reload()?;
    ensure!(is_tc(&daemon.cli_json(&["status"])?), "after a reload XDP is tried again");
    scene.talk()?;
    let after = Counters::of(&daemon)?;
    let (before, after) = (before.packets(Reason::XdpUnable)?, after.packets(Reason::XdpUnable)?);
    ensure!(before == after, "XDP still ran: {before} packets, then {after}");
    scene.finish(daemon)
}
