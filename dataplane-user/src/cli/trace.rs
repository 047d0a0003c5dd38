//! `tunless trace`

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use dataplane_common::{IfIndex, Reason, trace::Event};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{duration, interface_name};
use crate::{
    bpf::{Maps, Pins, kernel_types::KernelTypes, tracing::Tracing},
    clock,
    exit::Exit,
    output::{self, Format},
    protocol,
    trace::{
        capture::Capture,
        event::{self, Line, Place},
        filter::{self, Wanted},
        names::Names,
    },
};

/// For `--help`.
pub const EXAMPLES: &str = "Examples:
  tunless trace --drops
  tunless trace --pod 10.20.42.31 --protocol tcp --port 80 -c 20
  tunless trace --node 172.16.35.4 --for 10s -o json
  tunless trace --reason decap_forged_source -w spoofed.pcap
  tunless trace -w - | tcpdump -n -r -";

/// How often programs that a new daemon attached are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How many packets have their numbers kept.
const MAX_NUMBERED: usize = 16_384;

/// What may be asked for.
#[derive(Args, Debug)]
pub struct Options {
    /// Packets from or to this pod: its address, or a net of pods; may be given several times.
    #[arg(long = "pod", value_name = "IP|CIDR", value_parser = net)]
    pods: Vec<Ipv4Net>,
    /// Packets from or to this node or its pods; may be given several times.
    #[arg(long = "node", value_name = "IP")]
    nodes: Vec<Ipv4Addr>,
    /// Packets of this protocol, by its name or number. Of an encapsulated packet the inner one counts.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol::parse)]
    protocol: Option<u8>,
    /// Packets of TCP or UDP from or to this port.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Packets that left a program for this reason, as `tunless counters list` names it; may be
    /// given several times.
    #[arg(long = "reason", value_name = "REASON", value_parser = reason)]
    reasons: Vec<Reason>,
    /// Only packets that are dropped, by a program of ours or by the kernel.
    #[arg(long)]
    drops: bool,
    /// End after so many lines.
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Take at most so many new packets each second; those left out are counted.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Take one packet of so many.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Write the packets to a file for tcpdump or Wireshark, the first 128 bytes of each; `-` is stdout.
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Traces until enough was seen, or SIGINT or SIGTERM comes.
pub async fn trace(pins: &Pins, maps: &Maps, format: Format, options: Options) -> Result<Exit> {
    let routes = maps.routes.iter().collect::<Result<BTreeMap<_, _>>>()?;
    let wanted = Wanted {
        pods: options.pods,
        nodes: options.nodes,
        protocol: options.protocol,
        port: options.port,
        reasons: options.reasons,
        drops: options.drops,
        rate: options.rate,
        sample: options.sample,
    };
    let filter = filter::build(&wanted, &routes).map_err(|error| anyhow!(error))?;
    let capture = options.file.as_deref().map(Capture::create).transpose()?;
    let is_silent = options.file.is_some_and(|file| file.as_os_str() == "-");
    let types = KernelTypes::read()?;
    let names = Names::read(types.values_of("skb_drop_reason"));
    let mut tracing = Tracing::start(pins, types.of_packets()?, filter)?;
    drop(types);
    let watched = tracing.follow(pins)?;
    if watched == 0 {
        bail!("no program is attached, so there is nothing to trace: `tunless status`");
    }
    eprintln!("watching {}; Ctrl-C ends it", output::count(watched, "program"));
    let mut printer = Printer {
        capture,
        format: (!is_silent).then_some(format),
        names,
        numbers: BTreeMap::new(),
        packets: 0,
        lines: 0,
        limit: options.count.unwrap_or(u64::MAX),
        since_boot: since_boot(),
    };
    follow(pins, &mut tracing, &mut printer, options.time).await?;
    let unreported = tracing.unreported()?;
    eprintln!(
        "{} of {}; {} lost because they came faster than they could be printed, {} left out by --rate {}",
        output::count(usize::try_from(printer.lines)?, "line"),
        output::count(usize::try_from(printer.packets)?, "packet"),
        unreported.lost,
        output::count(usize::try_from(unreported.limited)?, "packet"),
        options.rate,
    );
    Ok(Exit::Ok)
}

async fn follow(
    pins: &Pins,
    tracing: &mut Tracing,
    printer: &mut Printer,
    time: Option<Duration>,
) -> Result<()> {
    let descriptor = tracing.descriptor()?;
    // SAFETY: it owns the descriptor, which is the same until it is dropped.
    let ready = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = time.and_then(|time| Instant::now().checked_add(time));
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => {
                printer.print_all(tracing)?;
                return Ok(());
            }
            _ = look.tick() => {
                tracing.follow(pins)?;
            }
            guard = ready.readable() => guard?.clear_ready(),
        }
        // Also at each look: the kernel may have written between the last read and the wait.
        printer.print_all(tracing)?;
        if printer.is_done() {
            return Ok(());
        }
    }
}

/// What is printed, and what it takes for that.
struct Printer {
    capture: Option<Capture>,
    /// `None`: stdout has the packets.
    format: Option<Format>,
    names: Names,
    /// The programs' numbers of packets → ours.
    numbers: BTreeMap<u64, u64>,
    packets: u64,
    lines: u64,
    limit: u64,
    /// What `CLOCK_REALTIME` is ahead of `CLOCK_MONOTONIC`.
    since_boot: Duration,
}

impl Printer {
    fn is_done(&self) -> bool {
        self.lines >= self.limit || output::is_reader_gone()
    }

    fn print_all(&mut self, tracing: &mut Tracing) -> Result<()> {
        while !self.is_done()
            && let Some(event) = tracing.take_event()
        {
            if let Some(place) = Place::of(&event) {
                self.print(&event, place)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, event: &Event, place: Place) -> Result<()> {
        self.lines += 1;
        let time = self.since_boot.saturating_add(Duration::from_nanos(event.time));
        if let Some(capture) = &mut self.capture {
            capture.write(event, time)?;
        }
        let packet = self.number(event.packet);
        let Some(format) = self.format else { return Ok(()) };
        let interface = event::interface(event, place)
            .filter(|ifindex| *ifindex != IfIndex(0))
            .map(interface_name);
        let time = Timestamp::try_from(SystemTime::UNIX_EPOCH + time).context("the clock")?;
        let line = Line::of(event, place, time, packet, interface, &self.names);
        output::text(&match format {
            Format::Table | Format::Wide => line.describe(),
            Format::Json => serde_json::to_string(&line)?,
            Format::Yaml => format!("---\n{}", serde_yaml::to_string(&line)?),
        })
    }

    /// Packets are numbered from 1 in the order in which they appear.
    fn number(&mut self, packet: u64) -> u64 {
        let known = self.numbers.get(&packet).copied();
        known.unwrap_or_else(|| {
            self.packets += 1;
            self.numbers.insert(packet, self.packets);
            if self.numbers.len() > MAX_NUMBERED {
                self.numbers.pop_first();
            }
            self.packets
        })
    }
}

fn since_boot() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(clock::monotonic())
}

fn net(text: &str) -> Result<Ipv4Net, String> {
    let parsed = text.parse().or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from));
    parsed
        .map_err(|_| format!("`{text}` is neither an IPv4 address nor a net such as 10.20.0.0/26"))
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::from_name(text).ok_or_else(|| {
        format!("`{text}` is not a reason: `tunless counters list --all` shows them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_an_address_or_a_net() {
        assert_eq!(net("10.20.0.1").unwrap().to_string(), "10.20.0.1/32");
        assert_eq!(net("10.20.0.0/26").unwrap().to_string(), "10.20.0.0/26");
        for text in ["", "10.20.0", "10.20.0.0/33", "fd00::1", "web"] {
            assert!(net(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reason_is_one_of_the_table() {
        assert_eq!(reason("decap_to_pod"), Ok(Reason::DecapToPod));
        assert!(reason("decap").is_err());
    }
}
