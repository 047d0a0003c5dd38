//! `cargo xtask bench scale`: the daemon of a node in a large cluster.
//!
//! Absolute figures of this machine: for what grows with the cluster, not for speed.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tunless_lab::{
    Daemon, Lab, Node, bpf,
    scale::{BLOCKS, BORROWED, NODES, Usage, lent, node, route},
};

use super::results::{Row, Scale};
use crate::{interrupt, workspace};

/// Measure the daemon of one node among 5,000, with 10,000 blocks and 250 pods.
///
/// Its CPU time and memory while nothing happens and while 100 routes a second change,
/// how long it takes to attach to 250 pods, and the memory of the maps.
#[derive(Args)]
pub struct Arguments {
    /// How long it is watched each time, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = WATCHED, value_parser = clap::value_parser!(u32).range(1..=600))]
    watched: u32,
}

const WATCHED: u32 = 20;
/// Changes a second.
const RATE: u32 = 100;
const PODS: u32 = 250;
/// Far beyond what a slow machine takes.
const LONG: Duration = Duration::from_secs(120);
/// For what follows the last change of all.
const SETTLE: Duration = Duration::from_secs(3);

impl Default for Arguments {
    fn default() -> Self {
        Self { watched: WATCHED }
    }
}

/// Measures, prints, and returns the rows.
pub fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    workspace::build_release()?;
    interrupt::watch()?;
    let mut figures = Figures(Vec::new());
    println!("bench: {NODES} nodes, {BLOCKS} blocks, {BORROWED} borrowed addresses");
    of_cluster(Duration::from_secs(arguments.watched.into()), &mut figures)?;
    println!("bench: {PODS} pods");
    of_pods(&mut figures)?;
    println!("\nthe daemon of one node among {NODES}");
    for Scale { what, value, unit } in &figures.0 {
        println!("{what:<52} {value:>10.1} {unit}");
    }
    Ok(figures.0.into_iter().map(Row::Scale).collect())
}

struct Figures(Vec<Scale>);

impl Figures {
    fn note(&mut self, what: impl Into<String>, value: f64, unit: &str) {
        self.0.push(Scale { what: what.into(), value, unit: unit.into() });
    }
}

fn of_cluster(watched: Duration, figures: &mut Figures) -> Result<()> {
    let lab = Lab::new().default_pods(false).build()?;
    let at = &lab.node2;
    let mut daemon = Daemon::start(at, &config(at, "off"))?;
    let before = usage(&daemon)?;
    let started = Instant::now();
    let routes = (0..BLOCKS).map(|n| route("add", n, node(n)));
    at.netns.ip_batch(&routes.chain((0..BORROWED).map(lent)).collect::<String>())?;
    wait_for_routes(&daemon)?;
    figures.note("all routes come: time", seconds(started.elapsed()), "s");
    figures.note("all routes come: CPU", seconds(usage(&daemon)?.cpu - before.cpu), "s");
    interrupt::sleep(SETTLE)?;

    let idle = watch(&daemon, || interrupt::sleep(watched))?;
    figures.note("idle: CPU", idle.percent, "% of a core");
    figures.note("idle: memory", mebibytes(idle.memory), "MiB");
    let busy = watch(&daemon, || change(at, watched))?;
    figures.note(format!("{RATE} changes a second: CPU"), busy.percent, "% of a core");
    figures.note(format!("{RATE} changes a second: memory"), mebibytes(busy.memory), "MiB");
    wait_for_routes(&daemon)?;

    let mut all = 0;
    for (name, bytes) in maps(at)? {
        all += bytes;
        figures.note(format!("map {name}: memory"), mebibytes(bytes), "MiB");
    }
    figures.note("all maps: memory", mebibytes(all), "MiB");

    daemon.terminate()?;
    let started = Instant::now();
    daemon.restart()?;
    figures.note("a restart, until ready: time", seconds(started.elapsed()), "s");
    figures.note("a restart, until ready: CPU", seconds(usage(&daemon)?.cpu), "s");
    daemon.finish()?;
    clean(&lab)
}

fn of_pods(figures: &mut Figures) -> Result<()> {
    let lab = Lab::new().default_pods(false).build()?;
    let at = &lab.node2;
    let verified = config(at, "verified");
    let started = Instant::now();
    Daemon::start(at, &verified)?.finish()?;
    figures.note("start and detach without a pod: time", seconds(started.elapsed()), "s");

    let pods: Vec<(String, Ipv4Addr)> = (0..PODS).map(|n| (format!("p{n}"), pod(n))).collect();
    at.add_pods(&pods)?;
    let started = Instant::now();
    let daemon = Daemon::start(at, &verified)?;
    figures.note(
        format!("start, {PODS} pods attached, until ready: time"),
        seconds(started.elapsed()),
        "s",
    );
    figures.note(
        format!("start, {PODS} pods attached, until ready: CPU"),
        seconds(usage(&daemon)?.cpu),
        "s",
    );
    let status = daemon.cli_json(&["status"])?;
    ensure!(status["endpoints"] == PODS && status["ready"] == true, "not all attached: {status}");
    interrupt::sleep(SETTLE)?;
    figures.note(format!("{PODS} pods: memory"), mebibytes(usage(&daemon)?.memory), "MiB");
    let started = Instant::now();
    daemon.finish()?;
    figures.note(
        format!("stop and detach from {PODS} pods: time"),
        seconds(started.elapsed()),
        "s",
    );
    clean(&lab)
}

/// What a daemon took for a while.
struct Watched {
    percent: f64,
    memory: u64,
}

fn watch(daemon: &Daemon, meanwhile: impl FnOnce() -> Result<()>) -> Result<Watched> {
    let (before, started) = (usage(daemon)?, Instant::now());
    meanwhile()?;
    let Usage { cpu, memory } = usage(daemon)?;
    let percent = 100.0 * seconds(cpu - before.cpu) / seconds(started.elapsed());
    Ok(Watched { percent, memory })
}

/// One block after another goes to the next node, evenly in time. Late ones are made up for.
fn change(at: &Node, meanwhile: Duration) -> Result<()> {
    let (started, pause) = (Instant::now(), Duration::from_secs(1) / RATE);
    for n in (0..).take_while(|n| pause * *n < meanwhile) {
        at.netns.ip_batch(&route("replace", n % BLOCKS, node(n + 1)))?;
        interrupt::sleep((pause * (n + 1)).saturating_sub(started.elapsed()))?;
    }
    let late = started.elapsed().saturating_sub(meanwhile);
    ensure!(
        late < meanwhile / 10,
        "this machine cannot make {RATE} changes a second: {late:?} late"
    );
    Ok(())
}

fn wait_for_routes(daemon: &Daemon) -> Result<()> {
    let all = (BLOCKS + BORROWED) as usize;
    let has_all = |answer: &serde_json::Value| {
        answer["items"].as_array().is_some_and(|items| items.len() == all)
    };
    daemon.wait_json(&["routes", "list"], LONG, has_all).map(drop)
}

/// Name and bytes of each pinned map.
fn maps(at: &Node) -> Result<Vec<(String, u64)>> {
    let mut maps = Vec::new();
    for version in fs::read_dir(&at.bpffs)? {
        let version = version?.path();
        if !version.is_dir() {
            continue;
        }
        for pin in fs::read_dir(version)? {
            let pin = pin?;
            let name = pin.file_name().to_string_lossy().into_owned();
            // Maps are called in capitals; the other pins are programs and links.
            if pin.file_type()?.is_dir() || name.chars().any(char::is_lowercase) {
                continue;
            }
            let bytes =
                bpf::memory_of_map(&pin.path()).with_context(|| format!("the map {name}"))?;
            maps.push((name, bytes));
        }
    }
    maps.sort();
    ensure!(!maps.is_empty(), "no map below {}", at.bpffs.display());
    Ok(maps)
}

fn config(at: &Node, fastpath: &str) -> String {
    format!(
        "node: {{name: {}, tunnel_address: {}}}\nmode: replace\nfastpath: {fastpath}\n\
         sources: {{kernel: {{}}}}\n",
        at.name, at.tunnel
    )
}

fn pod(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 65, 0, 1)) + n)
}

fn usage(daemon: &Daemon) -> Result<Usage> {
    Usage::of(daemon.pid().context("the daemon has ended")?)
}

fn clean(lab: &Lab) -> Result<()> {
    let problems = lab.problems();
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a few gigabytes at most")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
