//! `cargo xtask bench native`: tunless beside plain kernel routing.
//!
//! Speed on a shared machine drifts, so nothing absolute is said: the paths
//! take turns, round by round, and only their ratio within a round counts.

use std::{
    net::Ipv4Addr,
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;
use tunless_lab::{Daemon, Lab, Netns, Node};

use super::{
    ratio::Ratio,
    results::{self, Row},
};
use crate::workspace;

/// Measure TCP through tunless against plain kernel routing.
///
/// Two nodes behind a router, in network namespaces: once with plain routes to
/// the pods, once with `fastpath: off`, once with `trusted`. The three take
/// turns; printed is the ratio to plain routing, median and range over the
/// rounds.
#[derive(Args)]
pub struct Arguments {
    /// How many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes, seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

/// A way from pod to pod.
struct Path {
    name: &'static str,
    server: Child,
    daemons: Vec<Daemon>,
    lab: Lab,
}

const PATHS: [(&str, Option<&str>); 3] =
    [("plain", None), ("off", Some("off")), ("trusted", Some("trusted"))];

impl Default for Arguments {
    fn default() -> Self {
        Self { rounds: 5, seconds: 3 }
    }
}

/// Measures all paths; a row for each.
pub fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    workspace::build_release()?;
    let mut paths = Vec::new();
    for (name, fastpath) in PATHS {
        println!("bench: two nodes for the path `{name}`");
        paths.push(Path::new(name, fastpath)?);
    }
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); paths.len()];
    for round in 1..=arguments.rounds {
        for (path, rates) in paths.iter().zip(&mut rates) {
            let rate = path.measure(arguments.seconds)?;
            println!("bench: round {round}: {:<8} {rate:.2} Gbit/s", path.name);
            rates.push(rate);
        }
    }

    let mut rows = Vec::new();
    println!("\nTCP from pod to pod, ratio to plain kernel routing in the same round");
    println!("{:<10}{:>8}{:>8}{:>8}", "path", "median", "min", "max");
    for (path, of_path) in paths.iter().zip(&rates) {
        let ratio = Ratio::of_rounds(of_path, &rates[0]).context("no round")?;
        let Ratio { median, min, max } = ratio;
        println!("{:<10}{median:>8.2}{min:>8.2}{max:>8.2}", path.name);
        rows.push(Row::Native(results::Native {
            path: path.name.into(),
            load: "tcp_bulk".into(),
            rounds: arguments.rounds,
            ratio_to_plain: ratio,
        }));
    }
    Ok(rows)
}

impl Path {
    fn new(name: &'static str, fastpath: Option<&str>) -> Result<Self> {
        let lab = Lab::new().build()?;
        let mut daemons = Vec::new();
        match fastpath {
            Some(fastpath) => {
                for (node, peer) in [(&lab.node1, &lab.node2), (&lab.node2, &lab.node1)] {
                    daemons.push(Daemon::start(node, &config(node, peer, fastpath))?);
                }
            }
            None => {
                for node in lab.nodes() {
                    lab.router.ip(&format!("route add {} via {}", node.block, node.ip))?;
                }
            }
        }
        let server = lab
            .sit()
            .netns
            .command("iperf3")
            .arg("-s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting iperf3")?;
        let path = Self { name, server, daemons, lab };
        path.wait_for_server()?;
        Ok(path)
    }

    fn wait_for_server(&self) -> Result<()> {
        for _ in 0..50 {
            if iperf(&self.lab.perf().netns, self.lab.sit().ip, 1).is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(100));
        }
        anyhow::bail!("{}: no TCP connection from pod to pod", self.name)
    }

    /// Gbit/s, as received.
    fn measure(&self, seconds: u32) -> Result<f64> {
        iperf(&self.lab.perf().netns, self.lab.sit().ip, seconds).with_context(|| self.name)
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // Daemons end before the lab they run in.
        self.daemons.clear();
    }
}

fn iperf(client: &Netns, server: Ipv4Addr, seconds: u32) -> Result<f64> {
    let (server, seconds) = (server.to_string(), seconds.to_string());
    let output = client.command("iperf3").args(["-J", "-c", &server, "-t", &seconds]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    ensure!(output.status.success(), "iperf3: {}", report["error"]);
    Ok(rate.context("iperf3 reported no rate")? / 1e9)
}

fn config(node: &Node, peer: &Node, fastpath: &str) -> String {
    format!(
        "node: {{tunnel_address: {}}}\nfastpath: {fastpath}\nroutes:\n  static:\n    - {{cidr: {}, node: {}}}\n",
        node.tunnel, peer.block, peer.ip
    )
}
