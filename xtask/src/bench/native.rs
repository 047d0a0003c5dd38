//! `cargo xtask bench native`: tunless beside plain routing and VXLAN, on this kernel.
//!
//! Speed on a shared machine drifts, so nothing absolute is said: the paths
//! take turns, round by round, and only their ratio within a round counts.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, TableStyle};
use tunless_lab::{
    Daemon, Lab, Pod,
    traffic::load::{self, BULK, CONNECTIONS, Load, REQUESTS},
};
use tunless_vm::{
    bench::{self, Stage, service},
    suites::counted::Counted,
};

use super::{
    ratio::Ratio,
    results::{self, Row},
};
use crate::{interrupt, workspace};

/// Measure tunless beside plain routing and VXLAN, on this machine's kernel.
///
/// Two nodes behind a router, in network namespaces, once for each path, conntrack on.
/// For each load the paths take turns; printed is how many times as much each carries as
/// plain routing did in the same round: median and range over the rounds. Which way the
/// packets took is looked up in the counters.
#[derive(Args)]
pub struct Arguments {
    /// How many rounds.
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many pods' chains of Felix's rules each node has. With any, `trusted` carries
    /// no TCP: the rules drop what is invalid to conntrack, which sees only its beginning.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    endpoints: u32,
}

const ROUNDS: u32 = 7;
/// The first one is what the others are compared with.
const PATHS: [&str; 5] = ["plain", "vxlan", "off", "verified", "trusted"];
/// Each with its name where a Service is asked, and how many before the clock runs and while it does.
const TCP: [(Load, &str, (u32, u32)); 3] = [
    (BULK, "service-bulk", (16, 1024)),
    (REQUESTS, "service-rr", (200, 10_000)),
    (CONNECTIONS, "service-crr", (50, 1000)),
];
const UDP: &str = "udp64";
/// Datagrams that are measured.
const DATAGRAMS: u32 = 200_000;
/// The last ones may wait for another thread.
const LAST: Duration = Duration::from_millis(20);

impl Default for Arguments {
    fn default() -> Self {
        Self { rounds: ROUNDS, endpoints: 0 }
    }
}

/// What is measured once: speeds, round by round, of each path.
type Speeds = Vec<(&'static str, Vec<f64>)>;

/// Measures all paths; a row for each load of each.
pub fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let Arguments { rounds, endpoints } = *arguments;
    workspace::build_release()?;
    interrupt::watch()?;
    let mut stages = Vec::new();
    for name in PATHS {
        println!("bench: two nodes for the path `{name}`");
        let path = bench::path(name).with_context(|| format!("no path {name}"))?;
        stages.push(Stage::set(path, Lab::new().build()?, endpoints)?);
    }
    let mut loads: Vec<(&'static str, Speeds)> = Vec::new();
    let carried = |stage: &&Stage| stage.path.carries_tcp_beside(endpoints);
    let chosen: Vec<&Stage> = stages.iter().filter(carried).collect();
    for (load, _, counts) in TCP {
        let speed = |stage: &Stage| {
            tcp(stage, &load, SocketAddrV4::new(stage.lab.sit().ip, load::PORT), counts)
        };
        loads.push((load.name, in_turns(load.name, rounds, &chosen, speed)?));
    }
    let translating: Vec<&Stage> =
        chosen.into_iter().filter(|stage| stage.path.carries_services()).collect();
    translating.iter().try_for_each(|stage| service::open(stage))?;
    for (load, name, counts) in TCP {
        let speed = |stage: &Stage| tcp(stage, &load, service::TCP, counts);
        loads.push((name, in_turns(name, rounds, &translating, speed)?));
    }
    let all: Vec<&Stage> = stages.iter().collect();
    loads.push((UDP, in_turns(UDP, rounds, &all, udp)?));
    stages.into_iter().try_for_each(Stage::clear)?;

    let mut rows = Vec::new();
    for (load, speeds) in &loads {
        for (path, of_path) in speeds {
            let ratio = Ratio::of_rounds(of_path, &speeds[0].1).context("no round")?;
            rows.push(results::Native {
                path: (*path).into(),
                load: (*load).into(),
                endpoints,
                rounds,
                ratio_to_plain: ratio,
            });
        }
    }
    println!(
        "\nspeed, plain routing in the same round = 1.00: median (least to most) of {rounds} rounds"
    );
    print!("{}", table(&rows));
    Ok(rows.into_iter().map(Row::Native).collect())
}

fn in_turns(
    load: &str,
    rounds: u32,
    stages: &[&Stage],
    measure: impl Fn(&Stage) -> Result<f64>,
) -> Result<Speeds> {
    let mut speeds: Speeds = stages.iter().map(|stage| (stage.path.name, Vec::new())).collect();
    for round in 1..=rounds {
        println!("bench: {load}, round {round} of {rounds}");
        for (stage, (name, of_path)) in stages.iter().zip(&mut speeds) {
            interrupt::check()?;
            let speed =
                measure(stage).with_context(|| format!("{load} by {name}, round {round}"))?;
            of_path.push(speed);
        }
    }
    Ok(speeds)
}

/// How many a second.
fn tcp(stage: &Stage, load: &Load, address: SocketAddrV4, counts: (u32, u32)) -> Result<f64> {
    let before = counted(stage)?;
    let pods = (stage.lab.perf(), stage.lab.sit());
    let took = load.run_by(address, pods, counts, || {}, || {})?;
    // Of a connection each, most packets have to take the stack.
    if load.name != CONNECTIONS.name {
        check_way(stage, before.as_ref())?;
    }
    Ok(f64::from(counts.1) / took.as_secs_f64())
}

/// Datagrams a second that come, sent one by one.
fn udp(stage: &Stage) -> Result<f64> {
    const PAYLOAD: [u8; 18] = [0; 18];
    let (from, to) = (stage.lab.perf(), stage.lab.sit());
    let bind = |pod: &Pod| pod.netns.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?));
    let (sender, receiver) = (bind(from)?, bind(to)?);
    sender.connect((to.ip, receiver.local_addr()?.port()))?;
    receiver.connect((from.ip, sender.local_addr()?.port()))?;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    sender.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Until conntrack has seen both directions, and leases are granted and used.
    for _ in 0..8 {
        sender.send(&PAYLOAD)?;
        receiver.recv(&mut [0; 64])?;
        receiver.send(&PAYLOAD)?;
        sender.recv(&mut [0; 64])?;
    }
    // Nobody reads them: after the first few the kernel drops them at the socket.
    let (before, came) = (counted(stage)?, datagrams(to)?);
    let started = Instant::now();
    for _ in 0..DATAGRAMS {
        sender.send(&PAYLOAD)?;
    }
    let took = started.elapsed();
    sleep(LAST);
    let came = u32::try_from(datagrams(to)? - came)?;
    ensure!(came > DATAGRAMS / 10, "only {came} of {DATAGRAMS} datagrams came");
    check_way(stage, before.as_ref())?;
    Ok(f64::from(came) / took.as_secs_f64())
}

/// How many have come to a pod so far, whether they found room at a socket or not.
fn datagrams(at: &Pod) -> Result<u64> {
    let text = at.netns.run(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let of = |wanted: &str| {
        let mut both = names.split(' ').zip(values.split(' '));
        let (_, value) = both.find(|(name, _)| *name == wanted).with_context(|| text.clone())?;
        Ok::<u64, anyhow::Error>(value.parse()?)
    };
    Ok(of("InDatagrams")? + of("RcvbufErrors")?)
}

/// What the sending node has counted so far, if it counts.
fn counted(stage: &Stage) -> Result<Option<Counted>> {
    sending(stage).map(Counted::now).transpose()
}

fn sending(stage: &Stage) -> Option<&Daemon> {
    stage.daemons().last()
}

/// Where there is a fast path, most packets have to have taken it, otherwise none.
fn check_way(stage: &Stage, before: Option<&Counted>) -> Result<()> {
    let (Some(before), Some(daemon), Some(has_fastpath)) =
        (before, sending(stage), stage.path.has_fastpath())
    else {
        return Ok(());
    };
    let moved = before.since(daemon)?;
    let (fast, slow) = moved.encapsulated();
    ensure!(has_fastpath == (fast > slow), "packets took another way than they should: {moved:?}");
    Ok(())
}

/// Paths downwards, loads as columns.
fn table(rows: &[results::Native]) -> String {
    let mut loads: Vec<&str> = rows.iter().map(|row| &*row.load).collect();
    loads.dedup();
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["path"].into_iter().chain(loads.iter().copied()));
    for path in PATHS {
        let cell = |load: &&str| {
            let row = rows.iter().find(|row| row.path == path && row.load == **load);
            row.map_or("–".to_owned(), |results::Native { ratio_to_plain, .. }| {
                let Ratio { median, min, max } = ratio_to_plain;
                format!("{median:.2} ({min:.2} to {max:.2})")
            })
        };
        table.add_row([path.to_owned()].into_iter().chain(loads.iter().map(cell)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_carry_a_load_has_no_figure_for_it() {
        let row = |path: &str, load: &str, median| results::Native {
            path: path.into(),
            load: load.into(),
            endpoints: 50,
            rounds: 3,
            ratio_to_plain: Ratio { median, min: 0.5, max: 2.0 },
        };
        let text = table(&[
            row("plain", "tcp_bulk", 1.0),
            row("verified", "tcp_bulk", 1.25),
            row("plain", UDP, 1.0),
            row("verified", UDP, 1.75),
            row("trusted", UDP, 1.5),
        ]);
        let line = |path| text.lines().find(|line| line.starts_with(path)).unwrap().to_owned();
        assert!(line("verified").contains("1.25 (0.50 to 2.00)"), "{text}");
        assert!(line("verified").contains("1.75 (0.50 to 2.00)"), "{text}");
        assert!(line("trusted").contains('–') && line("trusted").contains("1.50 "), "{text}");
        assert_eq!(
            line("path").split_whitespace().collect::<Vec<_>>(),
            ["path", "tcp_bulk", "udp64"]
        );
    }

    #[test]
    fn every_path_is_one_of_the_deterministic_bench() {
        assert!(PATHS.iter().all(|name| bench::path(name).is_some()));
    }
}
