//! 64-byte UDP from pod to pod by [`Pktgen`], as fast as one processor can do it all.

use std::{ops::Range, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::{Pod, addr::CALI_MAC};
use tunless_profiler::mark;

use super::{
    pktgen::Pktgen,
    programs::{self, as_float},
    service,
    sink::Sink,
    stage::{SETTLE, Stage},
};
use crate::figures::{Figure, Figures};

/// How many flows take turns.
pub const FLOWS: [u16; 3] = [1, 100, 10_000];
/// Packets of a measurement, at least.
pub const PACKETS: u64 = 20_000;
/// Packets of each flow, at least: with many flows the measurement lasts for about a
/// lease, so that asking for a new one counts as often as it happens.
const PACKETS_OF_FLOW: u64 = 20;

const FIRST_PORT: u16 = 1024;
/// discard
const PORT: Range<u16> = 9..10;
/// Where the flow to the Service comes from. Not a port of the flows to the pod: conntrack would find its
/// translation taken, and choose another port for it.
const SERVICE_CLIENT: Range<u16> = 30_000..30_001;
/// How often each flow's packet goes either way before anything is measured: until
/// conntrack has seen both directions, and a lease may be asked for, granted and used.
const ROUNDS: u32 = 4;

/// All numbers of flows.
pub fn measure(stage: &Stage, figures: &Figures) -> Result<()> {
    let sinks = Sinks::open(stage)?;
    for flows in FLOWS {
        sinks.measure(stage, figures, flows, None)?;
    }
    if stage.path.carries_services() {
        sinks.measure_service(stage, figures)?;
    }
    sinks.close()
}

/// Until daemons and leases are as they will be for one flow.
pub fn warm_up(stage: &Stage) -> Result<()> {
    let sinks = Sinks::open(stage)?;
    flow(stage, FLOWS[0]).map(drop)?;
    sinks.close()
}

/// One flow, where the nodes' maps have this many routes.
pub fn measure_with_routes(stage: &Stage, figures: &Figures, routes: u32) -> Result<()> {
    let sinks = Sinks::open(stage)?;
    sinks.measure(stage, figures, FLOWS[0], Some(routes))?;
    sinks.close()
}

/// One flow, between two marks for the profiler; how many packets.
pub fn profile(stage: &Stage) -> Result<u64> {
    let sinks = Sinks::open(stage)?;
    let (packets, send) = flow(stage, 1)?;
    let daemons = stage.processes();
    daemons.pause();
    let sent = sinks.all_came(stage, packets, || {
        mark::start();
        let sent = send();
        mark::stop();
        sent
    });
    daemons.resume();
    sent?;
    sinks.close()?;
    Ok(packets)
}

/// Lets packets of each flow pass both ways; how many to measure with, and what sends
/// them all and says how long that took.
fn flow(stage: &Stage, flows: u16) -> Result<(u64, impl Fn() -> Result<f64>)> {
    let (from, to) = (stage.lab.perf(), stage.lab.sit());
    let ports = FIRST_PORT..FIRST_PORT + flows;
    let there = udp(from, to, ports.clone(), PORT, u64::from(flows));
    let back = udp(to, from, PORT, ports.clone(), u64::from(flows));
    for _ in 0..ROUNDS {
        there.send(&from.netns, "eth0")?;
        back.send(&to.netns, "eth0")?;
    }
    sleep(SETTLE);
    let packets = PACKETS.max(u64::from(flows) * PACKETS_OF_FLOW);
    let all = Pktgen { packets, ..there };
    Ok((packets, move || all.send(&from.netns, "eth0")))
}

/// As [`flow`], of one flow to a Service, which node2 translates as kube-proxy's rules say.
fn service_flow(stage: &Stage) -> Result<impl Fn() -> Result<f64>> {
    let (from, to) = (stage.lab.perf(), stage.lab.sit());
    service::open(stage)?;
    let asked = service::UDP.port()..service::UDP.port() + 1;
    let there = Pktgen { to: *service::UDP.ip(), ..udp(from, to, SERVICE_CLIENT, asked, 1) };
    let back = udp(to, from, PORT, SERVICE_CLIENT, 1);
    // Conntrack calls UDP assured after two seconds of traffic both ways.
    for _ in 0..3 {
        for _ in 0..ROUNDS {
            there.send(&from.netns, "eth0")?;
            back.send(&to.netns, "eth0")?;
        }
        sleep(SETTLE);
    }
    let all = Pktgen { packets: PACKETS, ..there };
    Ok(move || all.send(&from.netns, "eth0"))
}

/// Where both pods' packets end.
struct Sinks {
    there: Sink,
    back: Sink,
}

impl Sinks {
    fn open(stage: &Stage) -> Result<Self> {
        let (from, to) = (stage.lab.perf(), stage.lab.sit());
        let (there, back) = (Sink::open(&to.netns, "eth0")?, Sink::open(&from.netns, "eth0")?);
        Ok(Self { there, back })
    }

    fn measure(
        &self,
        stage: &Stage,
        figures: &Figures,
        flows: u16,
        routes: Option<u32>,
    ) -> Result<()> {
        let (packets, send) = flow(stage, flows)?;
        let daemons = stage.processes();
        daemons.pause();
        let measured = self.all_came(stage, packets, &send);
        let mut programs = Ok(Vec::new());
        if flows == 1 {
            programs = programs::measure(packets, || send().map(drop));
        }
        daemons.resume();
        let (nanoseconds, programs) = (measured?, programs?);
        figures.note(Figure {
            load: "udp64".into(),
            endpoints: stage.endpoints,
            flows: flows.into(),
            routes,
            nanoseconds: nanoseconds / as_float(packets),
            programs,
        });
        Ok(())
    }

    fn measure_service(&self, stage: &Stage, figures: &Figures) -> Result<()> {
        let send = service_flow(stage)?;
        let daemons = stage.processes();
        daemons.pause();
        let measured = self.all_came(stage, PACKETS, &send);
        let programs = programs::measure(PACKETS, || send().map(drop));
        daemons.resume();
        figures.note(Figure {
            load: "service64".into(),
            endpoints: stage.endpoints,
            flows: 1,
            routes: None,
            nanoseconds: measured? / as_float(PACKETS),
            programs: programs?,
        });
        Ok(())
    }

    /// What `send` says, if all came.
    fn all_came(
        &self,
        stage: &Stage,
        packets: u64,
        send: impl FnOnce() -> Result<f64>,
    ) -> Result<f64> {
        let (nanoseconds, came) = received(&self.there, send)?;
        ensure!(
            came == packets,
            "{came} of {packets} packets came, so that it is not clear what one cost; the nodes' \
             counters: {}",
            stage.counters()
        );
        Ok(nanoseconds)
    }

    fn close(self) -> Result<()> {
        self.there.close()?;
        self.back.close()
    }
}

/// What `send` says, and how many packets came.
pub fn received(sink: &Sink, send: impl FnOnce() -> Result<f64>) -> Result<(f64, u64)> {
    let before = sink.packets()?;
    let nanoseconds = send().context("64-byte UDP")?;
    // The last ones may wait for another thread.
    sleep(Duration::from_millis(100));
    Ok((nanoseconds, sink.packets()? - before))
}

/// From pod to pod.
pub fn udp(
    from: &Pod,
    to: &Pod,
    source_ports: Range<u16>,
    destination_ports: Range<u16>,
    packets: u64,
) -> Pktgen {
    Pktgen { from: from.ip, to: to.ip, to_mac: CALI_MAC, source_ports, destination_ports, packets }
}
