//! `mode: shadow` beside a real tunl0: it changes nothing, and finds what differs.

use std::{collections::BTreeMap, net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, Node,
    packet::{Ipv4, icmp_echo},
    service::Protocol,
    traffic::conversation::Conversation,
};

use super::interop::{config, pings, transfer};
use crate::{
    suites::{Case, Guest, shadow_report},
    tunl0,
};

/// tunless on node2 beside tunl0, tunl0 alone on node1.
pub const CASE: Case = Case { name: "shadow_beside_tunl0", loads_tunless: true, run };

const SOON: Duration = Duration::from_secs(120);
const PORT: u16 = 7000;
/// Fewer packets are too few to judge by.
const ENOUGH: u64 = 1_000;

fn run(_: &Guest) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise_on_both(&lab)?;
    // So that conntrack looks at packets, as on every node of Calico.
    let rules = "table ip felix {\nchain forward {\ntype filter hook forward priority 0;\n\
                 ct state established counter\n}\n}\n";
    node2.netns.exec_with_input("nft", &["-f", "-"], rules)?;
    let before = Host::of(node2)?;
    let yaml = config(node2, node1, "shadow", "verified");
    let mut daemon = Daemon::start(node2, &yaml)?;
    let status = daemon.cli_json(&["status"])?;
    ensure!(status["shadow"] == true && status["ready"] == true, "{status}");
    ensure!(daemon.cli(&["try", "--for", "5s"])?.status == Some(1), "only looks");

    let (perf, sit) = (lab.perf(), lab.sit());
    let to = SocketAddrV4::new(sit.ip, PORT);
    let talk = Conversation::start(Protocol::Tcp, &perf.netns, to, &sit.netns, PORT)?;
    pings(&lab)?;
    for (client, server) in [(perf, sit), (sit, perf)] {
        transfer(client, server)?;
    }
    ensure!(talk.wait_for(ENOUGH, SOON), "the connection stands still");
    let judged = |report: &Value| {
        report["compared"].as_u64() > Some(ENOUGH) && report["fast_share"].is_f64()
    };
    let report = shadow_report::wait(&daemon, judged)?;
    for zero in ["different", "dropped"] {
        ensure!(report[zero] == 0, "{report:#}");
    }
    ensure!(report["fast_share"].as_f64() > Some(0.5), "{report:#}");
    ensure!(report["may_switch_on"] == true, "{report:#}");
    let text = daemon.cli(&["shadow", "report"])?;
    ensure!(text.success() && text.stdout.contains("nothing would change"), "{text:?}");
    before.is_still(node2)?;

    // By a kill the counters go on; what the next daemon counts comes to what was there.
    daemon.kill9()?;
    daemon.restart()?;
    let all = report["compared"].as_u64().unwrap_or_default();
    let more = |report: &Value| report["compared"].as_u64() > Some(all);
    let report = shadow_report::wait(&daemon, more)?;
    ensure!(report["different"] == 0, "{report:#}");
    before.is_still(node2)?;
    drop(talk);

    planted(&lab, &daemon)?;
    switched_on(&lab, daemon, &yaml, &before)
}

/// A forged source, a peer that writes another TTL, and a tunl0 of ours that does.
fn planted(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let (node1, node2, perf) = (&lab.node1, &lab.node2, lab.perf());
    ensure!(daemon.cli(&["shadow", "reset"])?.success(), "begun anew");
    let found = |name: &'static str| {
        move |report: &Value| report["findings"][name]["packets"].as_u64() > Some(0)
    };
    // The pod's own address, in node1's name.
    let forged = Ipv4::icmp(perf.ip, perf.ip).packet(&icmp_echo(8, 1, 1, b"forged"));
    node2.inject(&lab.router, &Ipv4::ipip(node1.ip, node2.ip).packet(&forged))?;
    let report = shadow_report::wait(daemon, found("in_dropped"))?;
    ensure!(report["dropped"] == 1, "{report:#}");
    ensure!(report["would"]["decap_own_source"]["packets"] == 1, "{report:#}");
    ensure!(report["last"]["in_dropped"]["from"] == perf.ip.to_string(), "{report:#}");

    for (node, name) in [(node1, "in_ttl"), (node2, "out_ttl")] {
        node.netns.ip("tunnel change tunl0 mode ipip ttl 32 pmtudisc")?;
        pings(lab).with_context(|| format!("with TTL 32 on {}", node.label))?;
        node.netns.ip("tunnel change tunl0 mode ipip ttl 0 nopmtudisc")?;
        let report = shadow_report::wait(daemon, found(name))?;
        ensure!(report["last"][name]["outer"]["ttl"].as_u64() <= Some(32), "{report:#}");
        ensure!(report["may_switch_on"] == false, "{report:#}");
    }
    let text = daemon.cli(&["shadow", "report"])?;
    ensure!(text.status == Some(3), "{text:?}");
    ensure!(text.stdout.contains("TTL 32, tunless writes 63"), "{}", text.stdout);
    Ok(())
}

/// By another file tunless takes over, and does not go back to only looking while it carries packets. A stop
/// of the shadow leaves nothing attached.
fn switched_on(lab: &Lab, mut daemon: Daemon, yaml: &str, before: &Host) -> Result<()> {
    let (node1, node2) = (&lab.node1, &lab.node2);
    daemon.terminate()?;
    ensure!(attached(node2)?.is_empty(), "{:?}", attached(node2)?);
    before.is_still(node2)?;
    daemon.restart()?;
    daemon.rewrite_config(&config(node2, node1, "accelerate", "verified"))?;
    daemon.reload()?;
    let programs = attached(node2)?;
    ensure!(programs.iter().all(|name| !name.starts_with("shadow")), "{programs:?}");
    ensure!(programs.iter().any(|name| name.starts_with("decap_tc")), "{programs:?}");
    pings(lab)?;
    daemon.rewrite_config(yaml)?;
    let refused = |status: &Value| {
        let problems = status["problems"].as_array().into_iter().flatten();
        problems.filter_map(|it| it["what"].as_str()).any(|what| what.contains("`shadow` looks on"))
    };
    daemon.wait_json(&["status"], SOON, refused)?;
    pings(lab)?;
    super::interop::finish(lab, daemon)
}

/// The pins of programs. Before 6.6 there are others that tell of a qdisc, which stays until `detach`:
/// to remove it stops the link for a moment.
fn attached(node: &Node) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(node.bpffs.join("links")) else { return Ok(Vec::new()) };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    let names: Result<Vec<String>> = entries.map(name).collect();
    Ok(names?.into_iter().filter(|name| !name.starts_with("clsact_")).collect())
}

/// What tunless changes of a host when it serves.
struct Host(BTreeMap<&'static str, String>);

impl Host {
    fn of(node: &Node) -> Result<Self> {
        let ip = |arguments| node.netns.ip(arguments);
        let mut seen = BTreeMap::from([
            ("links", ip("-j -d link show")?),
            ("addresses", ip("-j address show")?),
            ("routes", ip("route show table all")?),
            ("rules", ip("rule show")?),
            ("neighbours", ip("neighbour show nud permanent")?),
            ("nft", node.netns.exec("nft", &["-s", "list", "ruleset"])?),
        ]);
        let sysctls =
            "grep -rs '' /proc/sys/net/ipv4 /proc/sys/net/netfilter | grep -v count | sort";
        seen.insert("sysctls", node.netns.exec("sh", &["-c", sysctls])?);
        Ok(Self(seen))
    }

    fn is_still(&self, node: &Node) -> Result<()> {
        let now = Self::of(node)?;
        for (what, before) in &self.0 {
            let after = &now.0[what];
            // A clsact qdisc is no queue of the link.
            ensure!(before == after, "{what} changed:\n{before}\nnow:\n{after}");
        }
        Ok(())
    }
}
