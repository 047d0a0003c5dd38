//! The lab, the configuration, and tunless started on both nodes.

use anyhow::{Result, ensure};

use super::{Step, line};
use crate::demo::{page::Page, stage::Stage};

pub const STEP: Step = Step {
    title: "Two nodes, a pod on each, and tunless started",
    why: "Here a node, a pod and the router are network namespaces of this machine, wired as in a \
          Calico cluster: the nodes are in different subnets, and the router between them knows \
          the nodes but no pod. It even drops whatever bears a pod's address on the outside.",
    show,
};

const PICTURE: &str = "\
pod demo-hello-perf                                                pod demo-hello-sit
10.20.105.215                                                      10.20.42.31
      │ cali…                                                            │ cali…
  node2.perf ─ eth0 ─────────────── router ─────────────────── eth0 ─ node1.sit
      172.16.36.10   172.16.36.1            172.16.35.1   172.16.35.4
";

fn show(page: &mut Page, stage: &mut Stage) -> Result<String> {
    page.picture(PICTURE);
    for host in stage.hosts_mut() {
        host.start()?;
    }
    page.remark(
        "`node2#` stands for a root shell on node2. As both nodes share this machine's disk, each \
         has a configuration file of its own, and `tunless` is short for `tunless --config FILE`.",
    );
    for host in stage.hosts() {
        // It runs already; the order in which a person would do it is this.
        let config = host.daemon()?.config_path();
        line(page, &host.place, &format!("cat {}", config.display()))?;
        line(page, &host.place, "tunless config validate")?;
        page.typed(&host.place.name, "tunless run &");
    }
    for host in stage.hosts() {
        let status = host.daemon()?.cli_json(&["status", "--wait"])?;
        ensure!(status["ready"] == true, "tunless on {} is not ready", host.node.label);
    }
    Ok("Both nodes run tunless. A file of a few lines was enough: interfaces, MTU, next hops and \
        local pods it has found by itself."
        .to_owned())
}
