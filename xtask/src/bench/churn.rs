//! `cargo xtask bench churn`: how many packets take the fast path while pods and routes come and go.
//!
//! A share, not a speed: it hardly depends on the machine, if that keeps up with the load.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, TableStyle};
use tunless_lab::{Daemon, Lab, Netns, Node};
use tunless_vm::suites::counted::{Counted, Leased};

use super::results::{Churn, Row};
use crate::{interrupt, workspace};

/// Measure the share of packets that take the fast path while pods and routes come and go.
///
/// Two nodes in network namespaces, flows of UDP between two pods, each packet answered. Measured on
/// both nodes and in both directions: when all is quiet, while a local pod goes and comes every
/// second, and while an address of another block moves to another node every second.
#[derive(Args)]
pub struct Arguments {
    /// Flows at the same time.
    #[arg(long, default_value_t = FLOWS, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    flows: u32,
    /// Packets a second of each flow, answers not counted.
    #[arg(long, default_value_t = RATE, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// How long each is watched, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = WATCHED, value_parser = clap::value_parser!(u32).range(1..=600))]
    watched: u32,
}

const FLOWS: u32 = 800;
const RATE: u32 = 10;
const WATCHED: u32 = 20;
/// Two leases, so that flows renew theirs one after the other.
const SETTLE: Duration = Duration::from_secs(10);
/// Each socket of the client sends to each of the server's.
const SERVERS: u32 = 40;
const FIRST_PORT: u16 = 7000;
const SIZE: usize = 64;
const IDLE: Duration = Duration::from_micros(500);

impl Default for Arguments {
    fn default() -> Self {
        Self { flows: FLOWS, rate: RATE, watched: WATCHED }
    }
}

/// Measures, prints, and returns the rows.
pub fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    workspace::build_release()?;
    interrupt::watch()?;
    let Arguments { flows, rate, watched } = *arguments;
    println!("bench: {flows} flows of {rate} packets a second");
    let lab = Lab::new().build()?;
    let daemons = [(&lab.node1, &lab.node2), (&lab.node2, &lab.node1)]
        .map(|(node, peer)| Daemon::start(node, &config(node, peer)));
    let [daemon1, daemon2] = daemons;
    let (daemon1, daemon2) = (daemon1?, daemon2?);
    let watch = Watch { lab: &lab, daemons: [&daemon1, &daemon2], flows, rate, watched };
    let stop = AtomicBool::new(false);
    let shares = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&lab.sit().netns, &stop));
        let client = scope.spawn(|| ask(&lab.perf().netns, lab.sit().ip, flows, rate, &stop));
        let shares = watch.all(&stop);
        stop.store(true, Ordering::Relaxed);
        for thread in [server, client] {
            thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
        }
        shares
    })?;
    daemon1.finish()?;
    daemon2.finish()?;
    #[expect(clippy::cast_precision_loss, reason = "some millions at most")]
    let row = |(change, leased): (&str, Leased)| Churn {
        flows,
        rate,
        change: change.into(),
        share: 100.0 * leased.by_lease as f64 / leased.all() as f64,
        ended: leased.ended,
    };
    let rows: Vec<Churn> = shares.into_iter().map(row).collect();
    println!("\n{}", table(&rows));
    Ok(rows.into_iter().map(Row::Churn).collect())
}

/// Where and for how long shares are measured.
struct Watch<'a> {
    lab: &'a Lab,
    daemons: [&'a Daemon; 2],
    flows: u32,
    rate: u32,
    watched: u32,
}

impl Watch<'_> {
    fn all(&self, stop: &AtomicBool) -> Result<Vec<(&'static str, Leased)>> {
        let node = &self.lab.node2;
        interrupt::sleep(SETTLE)?;
        let quiet = self.share(stop, |_| Ok(()))?;
        let mut pod = node.add_pod("comes", Lab::pod_ip(node, 40))?;
        interrupt::sleep(SETTLE)?;
        let pods = self.share(stop, |_| {
            node.remove_pod(&pod)?;
            pod = node.add_pod("comes", pod.ip)?;
            Ok(())
        })?;
        let moves = self.share(stop, |second| {
            let to = if second % 2 == 0 { self.lab.node1.ip } else { ELSEWHERE };
            let rest = "dev tunless0 onlink proto 12 metric 32";
            node.netns.ip(&format!("route replace {LENT}/32 via {to} {rest}")).map(drop)
        })?;
        Ok(vec![
            ("nothing", quiet),
            ("a local pod goes and comes", pods),
            ("an address of another block moves", moves),
        ])
    }

    /// Makes a change every second, and returns how packets fared.
    fn share(
        &self,
        stop: &AtomicBool,
        mut change: impl FnMut(u32) -> Result<()>,
    ) -> Result<Leased> {
        let before = self.daemons.map(Counted::now);
        let started = Instant::now();
        for second in 0..self.watched {
            ensure!(!stop.load(Ordering::Relaxed), "the load has ended");
            change(second)?;
            let next = Duration::from_secs(u64::from(second) + 1);
            interrupt::sleep(next.saturating_sub(started.elapsed()))?;
        }
        let mut leased = Leased::default();
        for (before, daemon) in before.into_iter().zip(self.daemons) {
            leased = leased.and(&before?.since(daemon)?.leased());
        }
        // Out of one node and into the other, there and back.
        let sent = 4 * u64::from(self.flows) * u64::from(self.rate) * u64::from(self.watched);
        ensure!(
            leased.all() > sent / 10 * 9,
            "this machine cannot keep up with the load: {} packets of {sent}",
            leased.all()
        );
        Ok(leased)
    }
}

/// An address in a block of its own, and a node that does not answer.
const LENT: Ipv4Addr = Ipv4Addr::new(10, 20, 77, 7);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);

fn config(at: &Node, peer: &Node) -> String {
    format!(
        "node: {{name: {}, tunnel_address: {}}}\nmode: replace\nfastpath: verified\n\
         routes: {{static: [{{cidr: {}, node: {}}}]}}\nsources: {{kernel: {{}}}}\n",
        at.name, at.tunnel, peer.block, peer.ip
    )
}

/// Each flow in turn sends a datagram; late ones are made up for.
fn ask(client: &Netns, to: Ipv4Addr, flows: u32, rate: u32, stop: &AtomicBool) -> Result<()> {
    let outcome = (|| {
        let bound = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Into::into);
        let sockets: Vec<UdpSocket> =
            (0..flows.div_ceil(SERVERS)).map(|_| client.run(bound)).collect::<Result<_>>()?;
        let (started, pause) = (Instant::now(), Duration::from_secs(1) / rate / flows);
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let flow = n % flows;
            let port = FIRST_PORT + (flow % SERVERS) as u16;
            // A full queue loses one.
            let _ = sockets[(flow / SERVERS) as usize].send_to(&[1; SIZE], (to, port));
            let early = (pause * n).saturating_sub(started.elapsed());
            if early > IDLE {
                thread::sleep(early);
            }
        }
        Ok(())
    })();
    stop.store(true, Ordering::Relaxed);
    outcome
}

/// Answers whatever comes.
fn serve(server: &Netns, stop: &AtomicBool) -> Result<()> {
    let outcome = (|| {
        let bound = |n| {
            let port = FIRST_PORT + n as u16;
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets: Vec<UdpSocket> =
            (0..SERVERS).map(|n| server.run(|| bound(n))).collect::<Result<_>>()?;
        let mut buffer = [0; 2 * SIZE];
        while !stop.load(Ordering::Relaxed) {
            let mut is_idle = true;
            for socket in &sockets {
                loop {
                    match socket.recv_from(&mut buffer) {
                        Ok((length, from)) => {
                            is_idle = false;
                            let _ = socket.send_to(&buffer[..length], from);
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error).context("the server receives"),
                    }
                }
            }
            if is_idle {
                thread::sleep(IDLE);
            }
        }
        Ok(())
    })();
    stop.store(true, Ordering::Relaxed);
    outcome
}

fn table(rows: &[Churn]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["every second", "flows", "packets/s each", "fast path", "ended leases met"]);
    for Churn { flows, rate, change, share, ended } in rows {
        let [flows, rate] = [flows, rate].map(ToString::to_string);
        table.add_row([change.clone(), flows, rate, format!("{share:.1} %"), ended.to_string()]);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
