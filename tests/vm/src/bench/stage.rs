//! Two nodes with their rules, and one path between their pods.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tunless_lab::{
    Daemon, Lab, Node, Pod,
    felix::{Endpoint, enforce},
};

use super::path::Path;

/// For what begins at the first packets besides them, as a daemon's round after the kernel
/// has found a neighbour.
pub const SETTLE: Duration = Duration::from_secs(2);

/// The nodes, with a path open. Daemons go before the lab they are in.
#[derive(Debug)]
pub struct Stage {
    daemons: Vec<Daemon>,
    /// The path.
    pub path: &'static Path,
    /// How many pods' chains the rules of each node have.
    pub endpoints: u32,
    /// Its ground.
    pub lab: Lab,
}

impl Stage {
    /// Both nodes get the rules of this many pods; the chains of those that are not
    /// there cost as much as if they were.
    pub fn set(path: &'static Path, lab: Lab, endpoints: u32) -> Result<Self> {
        for (node, pod) in [(&lab.node1, lab.sit()), (&lab.node2, lab.perf())] {
            rules(node, pod, endpoints)?;
        }
        Ok(Self { daemons: path.open(&lab)?, path, endpoints, lab })
    }

    /// What runs on the nodes, the receiving one's first; none on a path that is not ours.
    #[must_use]
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// What the nodes have counted, to tell where packets went.
    pub fn counters(&self) -> String {
        let of_daemon = |daemon: &Daemon| {
            let counters = daemon.cli(&["counters", "list"]);
            counters.map_or_else(|error| error.to_string(), |output| output.stdout)
        };
        self.daemons.iter().map(of_daemon).collect()
    }

    /// The daemons, to be paused.
    pub(super) fn processes(&self) -> Processes {
        let pids = self.daemons.iter().filter_map(Daemon::pid);
        Processes(pids.map(|pid| Pid::from_raw(pid.cast_signed())).collect())
    }

    /// Packets go on without them.
    pub fn stop_daemons(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::terminate)
    }

    /// Takes all down; nothing of it may have been amiss.
    pub fn clear(self) -> Result<()> {
        self.daemons.into_iter().try_for_each(Daemon::finish)?;
        let problems = self.lab.problems();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}

/// Daemons. What they take now and then is another bench's, and would be in one figure and
/// not in the next: so nothing of theirs falls into what is measured.
pub(super) struct Processes(Vec<Pid>);

impl Processes {
    /// They do nothing from here on.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// They go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        for process in &self.0 {
            // One that has ended is told of when the stage is cleared.
            let _ = kill(*process, signal);
        }
    }
}

/// As kube-proxy does on a node; of a machine as small as a guest the kernel remembers
/// 8192 flows.
pub(super) fn make_room_for_flows() -> Result<()> {
    for (file, value) in [
        ("/sys/module/nf_conntrack/parameters/hashsize", "32768"),
        ("/proc/sys/net/netfilter/nf_conntrack_max", "131072"),
    ] {
        fs::write(file, value).with_context(|| format!("cannot write {value} to {file}"))?;
    }
    Ok(())
}

fn rules(node: &Node, pod: &Pod, endpoints: u32) -> Result<()> {
    if endpoints == 0 {
        // Conntrack is there as soon as somebody asks for a state.
        let rule = "--wait -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT";
        return node.netns.exec("iptables", &rule.split(' ').collect::<Vec<_>>()).map(drop);
    }
    let absent = (1..endpoints).map(|number| Endpoint {
        // Names as hashes are: evenly spread.
        cali: format!("cali{:011x}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20),
        ..Endpoint::open(pod)
    });
    let all: Vec<Endpoint> = absent.chain([Endpoint::open(pod)]).collect();
    enforce(&node.netns, &all)
}
