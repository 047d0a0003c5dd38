//! `ping` from pod to pod.

use anyhow::{Result, ensure};

use super::{Step, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "A pod pings a pod on the other node",
    why: "This is the main job. A ping starts with a TTL of 64 and each node that forwards the \
          pod's packet takes one off. The router forwards only the packet around it, so 62 is \
          what a healthy IP-in-IP network shows, with the kernel's tunl0 as with tunless.",
    show,
};

const COUNT: usize = 3;

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let to = stage.lab.sit().ip;
    let text = line(page, &stage.perf, &format!("ping -c {COUNT} -i 0.3 {to}"))?;
    ensure!(
        text.matches("ttl=62 ").count() == COUNT && text.matches("ttl=").count() == COUNT,
        "not {COUNT} answers with ttl=62"
    );
    Ok(format!("All {COUNT} pings were answered, each with ttl=62: two nodes have forwarded them."))
}
