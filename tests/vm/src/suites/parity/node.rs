//! The node under test: the same pod and the same wire, with one tunnel or the other.

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{Daemon, Lab};

use super::probe::{NODE, PEER, POD, POD_MTU, THIRD, THIRD_BLOCK};
use crate::{suites::shadow_report, tunl0};

/// How tunless is beside tunl0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It has the tunnel alone; tunl0 is down.
    Replace,
    /// It takes packets from tunl0.
    Accelerate,
    /// It only looks at tunl0's packets.
    Shadow,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Accelerate => "accelerate",
            Self::Shadow => "shadow",
        }
    }
}

/// Whether the node keeps track of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conntrack {
    /// Its ruleset asks for it, as every Calico node's does: fragments are
    /// put together and cut again.
    On,
    /// Nobody asked.
    Off,
}

/// What does the tunnelling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// tunless, with its `fastpath`; none for tunl0 alone.
    pub tunless: Option<(Mode, &'static str)>,
    /// Whether the node keeps track of connections.
    pub conntrack: Conntrack,
}

impl Setup {
    /// The kernel alone.
    pub const fn kernel(conntrack: Conntrack) -> Self {
        Self { tunless: None, conntrack }
    }

    /// tunless.
    pub const fn tunless(mode: Mode, fastpath: &'static str, conntrack: Conntrack) -> Self {
        Self { tunless: Some((mode, fastpath)), conntrack }
    }

    /// tunless's mode.
    pub fn mode(self) -> Option<Mode> {
        self.tunless.map(|(mode, _)| mode)
    }

    /// Whether packets skip the stack.
    pub fn has_fast_path(self) -> bool {
        self.tunless.is_some_and(|(mode, fastpath)| mode != Mode::Shadow && fastpath != "off")
    }

    /// Whether tunl0 is up.
    pub fn has_tunl0(self) -> bool {
        self.mode() != Some(Mode::Replace)
    }
}

/// A lab whose node2 is set up.
pub struct UnderTest {
    daemon: Option<Daemon>,
    /// After the daemon, which is dropped before it.
    pub lab: Lab,
}

impl UnderTest {
    /// Builds it.
    pub fn start(setup: Setup) -> Result<Self> {
        let mtu = u32::try_from(POD_MTU)?;
        let lab = Lab::new().pod_mtu(mtu).build()?;
        let (node, pod) = (&lab.node2, lab.perf());
        ensure!(node.ip == NODE && lab.node1.ip == PEER && pod.ip == POD, "another lab");
        // What we inject and what comes out ends at the other end: no answers.
        lab.router.set_sysctl("ipv4/ip_forward", "0")?;
        pod.netns.exec_with_input("nft", &["-f", "-"], &table("prerouting", -450, "drop"))?;
        // Every error is to be seen, not so many in a second.
        node.netns.set_sysctl("ipv4/icmp_ratemask", "0")?;
        // Else its errors come from the first interface's address: here tunl0's,
        // which a namespace has from its beginning, on a host that of the NIC.
        node.netns.ip(&format!("route replace {POD} dev {} scope link src {NODE}", pod.cali))?;
        if setup.conntrack == Conntrack::On {
            let rules = table("forward", 0, "ct state established counter");
            node.netns.exec_with_input("nft", &["-f", "-"], &rules)?;
        }
        if setup.has_tunl0() {
            tunl0::raise(node, &lab.node1)?;
            node.netns
                .ip(&format!("route add {THIRD_BLOCK} via {THIRD} dev tunl0 onlink proto 80"))?;
        }
        let daemon = match setup.tunless {
            Some((mode, fastpath)) => Some(Daemon::start(node, &config(&lab, mode, fastpath))?),
            None => None,
        };
        Ok(Self { daemon, lab })
    }

    /// How many packets tunless counted under a reason.
    pub fn counted(&self, reason: Reason) -> Result<u64> {
        let daemon = self.daemon.as_ref().context("tunless does not run")?;
        let counters = daemon.cli_json(&["counters", "list"])?;
        let items = counters["items"].as_array().context("no counters are listed")?;
        let item = items.iter().find(|item| item["reason"] == reason.as_str());
        Ok(item.and_then(|item| item["packets"].as_u64()).unwrap_or(0))
    }

    /// What `mode: shadow` reports once it has seen so many packets.
    pub fn shadow_report(&self, packets: u64) -> Result<Value> {
        let daemon = self.daemon.as_ref().context("tunless does not run")?;
        let are_seen = |report: &Value| report["compared"].as_u64() >= Some(packets);
        shadow_report::wait(daemon, are_seen)
    }

    /// Every counter of tunl0 that is not 0: name and value.
    pub fn tunl0_counters(&self) -> Result<Vec<(String, u64)>> {
        let text = self.lab.node2.netns.ip("-s -j link show dev tunl0")?;
        let json: Value = serde_json::from_str(&text).context("ip printed no JSON")?;
        let mut counters = Vec::new();
        for direction in ["rx", "tx"] {
            let fields = json[0]["stats64"][direction].as_object().context("no counters")?;
            counters.extend(fields.iter().filter_map(|(name, value)| {
                let value = value.as_u64().filter(|value| *value != 0)?;
                Some((format!("{direction} {name}"), value))
            }));
        }
        Ok(counters)
    }

    /// Stops it; an error if tunless left anything behind.
    pub fn finish(self) -> Result<()> {
        if let Some(daemon) = self.daemon {
            daemon.finish()?;
        }
        let problems = self.lab.problems();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}

fn config(lab: &Lab, mode: Mode, fastpath: &str) -> String {
    let (node, peer) = (&lab.node2, &lab.node1);
    format!(
        "node: {{name: {}, tunnel_address: {}}}\n\
         mode: {}\n\
         fastpath: {fastpath}\n\
         routes:\n  static:\n    - {{cidr: {}, node: {}}}\n    - {{cidr: {THIRD_BLOCK}, node: {THIRD}}}\n",
        node.name,
        node.tunnel,
        mode.as_str(),
        peer.block,
        peer.ip
    )
}

fn table(hook: &str, priority: i32, rule: &str) -> String {
    format!(
        "table ip parity {{\n\
           chain only {{\n\
             type filter hook {hook} priority {priority};\n\
             {rule}\n\
           }}\n\
         }}\n"
    )
}
