//! A fault of the underlay, found by one command on one node.

use anyhow::{Result, ensure};

use super::{Step, expect, line, try_line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "The path becomes narrow, and its router keeps silent",
    why: "A link of 1,400 bytes on the way, behind a firewall that drops ICMP, is what MTU trouble mostly is: \
          pings pass, downloads hang, and nothing is logged anywhere. `tunless doctor` looks at \
          everything on its node; with --peer it also sends packets of all sizes through the tunnel.",
    show,
};

/// What is typed on the router so that its link `port` is narrow, and nothing is heard of it.
pub fn narrow_path(port: &str) -> [String; 2] {
    let silence = "table ip silence { chain out { type filter hook output priority 0; \
                   icmp type destination-unreachable drop; }; }";
    [format!("ip link set {port} mtu 1400"), format!("echo '{silence}' | nft -f -")]
}

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    let (peer, port) = (stage.lab.node1.ip, stage.lab.node1.router_port.clone());
    for typed in narrow_path(&port) {
        line(page, &stage.router, &typed)?;
    }

    let doctor = format!("tunless doctor --peer {peer}");
    let said = try_line(page, &stage.node2.place, &doctor)?;
    ensure!(!said.success, "nothing was found");
    expect(&said.text, &["FAIL", "peer-mtu", "above 1400 bytes vanish"])?;
    expect(&said.text, &["PASS", "peer-tunnel", "both ways"])?;

    page.remark("repaired:");
    line(page, &stage.router, "nft delete table ip silence")?;
    line(page, &stage.router, &format!("ip link set {port} mtu 1500"))?;
    let said = try_line(page, &stage.node2.place, &format!("{doctor} | grep peer-"))?;
    expect(&said.text, &["PASS", "peer-mtu", "1500 bytes pass"])?;
    Ok("doctor named the largest packet that passes, and what to do.".to_owned())
}
