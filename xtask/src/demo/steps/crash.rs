//! The daemon dies; packets do not care.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Step, line};
use crate::{
    demo::{page::Page, stage::Stage},
    interrupt,
};

pub const STEP: Step = Step {
    title: "The daemon is killed in full traffic",
    why: "Programs and tables belong to the kernel, which keeps them as long as they are pinned \
          in /sys/fs/bpf. The daemon only keeps them up to date. So a crash, an upgrade or a kill \
          -9 must not lose a single packet: here 100 pings a second run through all of it.",
    show,
};

const COUNT: u32 = 400;
const BEFORE: Duration = Duration::from_millis(600);

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let ping = format!("ping -q -i 0.01 -c {COUNT} {}", stage.lab.sit().ip);
    page.typed(&stage.perf.name, &format!("{ping} &"));
    let mut running = stage.perf.start(&format!("exec {ping}"))?;
    interrupt::sleep(BEFORE)?;

    let pid = stage.node2.daemon()?.pid().context("tunless does not run on node2")?;
    line(page, &stage.node2.place, &format!("kill -9 {pid}"))?;
    // It is dead already; this takes note of it.
    stage.node2.daemon_mut()?.kill9()?;
    let text = line(page, &stage.node2.place, "tunless status | grep daemon:")?;
    ensure!(text.contains("not running"), "the daemon lives on");
    interrupt::sleep(BEFORE)?;
    page.typed(&stage.node2.place.name, "tunless run &");
    stage.node2.start()?;
    ensure!(running.is_running()?, "tunless took so long to start that the pings were over");

    let said = running.finish()?;
    page.remark("what ping printed in the end:");
    page.printed(&said.text);
    ensure!(
        said.success && said.text.contains(&format!("{COUNT} received, 0% packet loss")),
        "pings were lost"
    );
    Ok(format!("{COUNT} of {COUNT} pings were answered, while tunless was killed and came back."))
}
