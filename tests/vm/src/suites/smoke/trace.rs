//! `tunless trace` shows a packet at each program and where the kernel drops it: tunless on node2, tunl0 on
//! node1. Here, and not in namespaces of the machine that tests run on, because a kernel may be built so
//! that it lets no program be watched.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tunless_lab::{Daemon, Lab, Node, daemon::Tunless, traffic::ping};

use super::interop::{config, finish, pings};
use crate::{
    suites::{Case, Guest},
    tunl0,
};

/// Also without a daemon, and with a daemon that replaces the programs meanwhile.
pub const CASE: Case = Case { name: "trace_to_tunl0", loads_tunless: true, run };

/// A request on its way out, and its answer on its way in: hook, verdict, reason.
const PING: [[&str; 3]; 4] = [
    ["encap_pod", "passed", "pod_no_ports"],
    ["encap_host", "forwarded", "host_encapsulated"],
    ["decap_tc", "forwarded", "decap_no_ports_to_stack"],
    ["grant_decap", "passed", "grant_no_flow"],
];
const SOON: Duration = Duration::from_secs(120);
/// `struct pcap_file_header` and `struct pcap_sf_pkthdr` of libpcap, bytes.
const PCAP_HEADERS: [u64; 2] = [24, 16];

fn run(_: &Guest) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let (node1, node2) = (&lab.node1, &lab.node2);
    tunl0::raise(node1, node2)?;
    let mut daemon = Daemon::start(node2, &config(node2, node1, "replace", "verified"))?;
    pings(&lab)?;
    a_ping(&lab).context("with a daemon")?;
    daemon.terminate()?;
    a_ping(&lab).context("without a daemon")?;
    dropped_by_the_kernel(&lab)?;

    let trace = Trace::start(node2, &["--protocol", "icmp", "--reason", PING[0][2], "-c", "1"])?;
    daemon.restart()?;
    // The new programs are watched a second later.
    let (lines, _) = trace.finish_while(|| pings(&lab))?;
    ensure!(hooks(&lines) == [PING[0]], "after a restart: {lines:?}");

    daemon.rewrite_config(
        &(config(node2, node1, "replace", "verified") + "underlay: {decap: xdp}\n"),
    )?;
    let has_xdp = |status: &Value| status["attachments"].to_string().contains("decap_xdp");
    daemon.wait_json(&["status"], SOON, has_xdp)?;
    by_xdp(&lab)?;
    finish(&lab, daemon)
}

/// Before there is an `sk_buff` a packet has a number of its own.
fn by_xdp(lab: &Lab) -> Result<()> {
    let trace = Trace::start(&lab.node2, &["--protocol", "icmp", "-c", "5"])?;
    let (lines, _) = trace.finish_while(|| one_ping(lab))?;
    let (before, by_xdp, behind) = (&lines[..2], &lines[2], &lines[3..]);
    ensure!(by_xdp["hook"] == "decap_xdp" && by_xdp["verdict"] == "passed", "{lines:?}");
    ensure!(hooks(before) == PING[..2] && behind[0]["hook"] == "decap_tc", "{lines:?}");
    ensure!(behind[1]["hook"] == "grant_decap", "{lines:?}");
    let numbers: Vec<_> = lines.iter().filter_map(|line| line["packet"].as_u64()).collect();
    ensure!(numbers == [1, 1, 2, 3, 3], "{numbers:?}: {lines:?}");
    Ok(())
}

/// Each program's line for a ping there and back, two of them with each packet's number; and the packets.
fn a_ping(lab: &Lab) -> Result<()> {
    let file = PathBuf::from("/tmp/trace.pcap");
    let arguments = ["--pod", &lab.perf().ip.to_string(), "--protocol", "icmp", "-c", "4", "-w"];
    let path = file.to_str().context("the path")?;
    let trace = Trace::start(&lab.node2, &[&arguments[..], &[path]].concat())?;
    let (lines, rest) = trace.finish_while(|| one_ping(lab))?;
    ensure!(hooks(&lines) == PING, "{lines:?}");
    let numbers: Vec<_> = lines.iter().filter_map(|line| line["packet"].as_u64()).collect();
    ensure!(numbers == [1, 1, 2, 2], "{numbers:?}: {lines:?}");
    let addresses = |line: &Value| [&line["source"], &line["destination"]].map(Value::to_string);
    let [perf, sit] = [lab.perf().ip, lab.sit().ip].map(|address| format!("\"{address}\""));
    ensure!(addresses(&lines[0]) == [perf.clone(), sit.clone()], "{lines:?}");
    ensure!(addresses(&lines[3]) == [sit, perf], "{lines:?}");
    ensure!(rest.contains("4 lines of 2 packets; 0 lost"), "{rest}");
    let frames: u64 = lines.iter().filter_map(|line| line["bytes"].as_u64()).sum();
    let length = fs::metadata(&file)?.len();
    let [head, each] = PCAP_HEADERS;
    ensure!(
        length > head + 4 * each && length <= head + 4 * each + frames + 14,
        "the file has {length} bytes for frames of {frames}"
    );
    ensure!(magic(&file)? == 0xa1b2_3c4d, "not a pcap file with nanoseconds");
    fs::remove_file(&file)?;
    Ok(())
}

/// A packet that a rule drops has its reason and function, and the number that it has at our program.
fn dropped_by_the_kernel(lab: &Lab) -> Result<()> {
    let rule = ["FORWARD", "-p", "icmp", "-j", "DROP"];
    let change = |how| lab.node2.netns.exec("iptables", &[&[how][..], &rule].concat());
    change("-I")?;
    let trace = Trace::start(&lab.node2, &["--protocol", "icmp", "-c", "2"])?;
    let (lines, _) = trace.finish_while(|| one_ping(lab))?;
    change("-D")?;
    ensure!(
        hooks(&lines) == [PING[0], ["kernel", "dropped", "NETFILTER_DROP"]],
        "a rule dropped it: {lines:?}"
    );
    ensure!(lines[0]["packet"] == lines[1]["packet"], "{lines:?}");
    // In nf_hook_slow, or where the rule is compared: that differs from kernel to kernel.
    ensure!(lines[1]["meaning"].to_string().contains("in nf"), "{lines:?}");
    ensure!(lines[1]["meaning"].to_string().contains("+0x"), "{lines:?}");
    let trace = Trace::start(&lab.node2, &["--drops", "--for=1s"])?;
    let (mut lines, _) = trace.finish_while(|| one_ping(lab))?;
    // What a raw socket got, as that of `ping`, the kernel frees as if it had been for no socket.
    lines.retain(|line| line["reason"] != "NO_SOCKET");
    ensure!(lines.is_empty(), "nothing drops them: {lines:?}");
    Ok(())
}

/// Whether it is answered or not.
fn one_ping(lab: &Lab) -> Result<()> {
    let wait = Duration::from_millis(500);
    let options = ping::Options { count: 1, wait, ..ping::Options::default() };
    ping::ping(&lab.perf().netns, lab.sit().ip, &options).map(drop)
}

fn hooks(lines: &[Value]) -> Vec<[&str; 3]> {
    lines
        .iter()
        .map(|line| ["hook", "verdict", "reason"].map(|key| line[key].as_str().unwrap_or_default()))
        .collect()
}

fn magic(file: &Path) -> Result<u32> {
    let mut bytes = [0; 4];
    File::open(file)?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

/// A trace that watches.
struct Trace {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Trace {
    /// Starts it on a node and waits until it watches.
    fn start(node: &Node, arguments: &[&str]) -> Result<Self> {
        let arguments = [&["trace", "-o", "json"], arguments].concat();
        let mut command = Tunless::new(node, None).command(&arguments)?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut errors = BufReader::new(child.stderr.take().context("no pipe")?);
        let mut said = String::new();
        while !said.contains("Ctrl-C") {
            ensure!(errors.read_line(&mut said)? != 0, "it ended: {said}");
        }
        Ok(Self { child, errors })
    }

    /// Sends something until the trace has enough. Its lines, and what it reports at the end.
    fn finish_while(mut self, send: impl Fn() -> Result<()>) -> Result<(Vec<Value>, String)> {
        let mut printed = String::new();
        let end = Instant::now() + SOON;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "it does not end");
            send()?;
        }
        self.child.stdout.take().context("no pipe")?.read_to_string(&mut printed)?;
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest)?;
        ensure!(self.child.wait()?.success(), "{rest}");
        let lines = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((lines, rest))
    }
}
