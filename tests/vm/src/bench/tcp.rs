//! TCP from pod to pod, by its own address and by a Service's: how long a MiB, a request with its answer,
//! and a connection with one of each takes.

use std::{net::SocketAddrV4, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use tunless_lab::traffic::load::{self, BULK, CONNECTIONS, Load, REQUESTS};
use tunless_profiler::mark;

use super::{
    service,
    stage::{SETTLE, Stage},
};
use crate::figures::{Figure, Figures};

/// How many before the clock runs, and while it does.
type Counts = (u32, u32);

const OF_BULK: Counts = (4, 64);
/// Each with its name where a Service is asked.
const LOADS: [(Load, &str, Counts); 3] = [
    (BULK, "service-bulk", OF_BULK),
    (REQUESTS, "service-rr", (200, 2000)),
    (CONNECTIONS, "service-crr", (50, 500)),
];

/// Ports of connections to the pod's own address, and of those by the Service.
const TO_THE_POD: &str = "32768 45999";
const BY_SERVICE: &str = "46000 60999";

/// How often each is measured. Who runs when on the one processor, and so how much comes at a
/// time, may be another for each connection, and stay so until its end: of two runs of four times
/// as much by one connection one took 2.8 % longer.
const TIMES: usize = 5;

/// All loads.
pub fn measure(stage: &Stage, figures: &Figures) -> Result<()> {
    let pod = SocketAddrV4::new(stage.lab.sit().ip, load::PORT);
    connect_from(stage, TO_THE_POD)?;
    for (load, _, counts) in LOADS {
        figures.note(figure(stage, load.name, (load, pod), counts)?);
    }
    if stage.path.carries_services() {
        service::open(stage)?;
        connect_from(stage, BY_SERVICE)?;
        for (load, name, counts) in LOADS {
            figures.note(figure(stage, name, (load, service::TCP), counts)?);
        }
    }
    Ok(())
}

/// Lets the client connect from these ports alone. Conntrack remembers connections to the pod's own address
/// for two minutes more, and the pod one minute; a connection by the Service from the same port would get
/// another one from conntrack, and with both its ends translated it is another load: such a flow is not
/// leased. One in eight was.
fn connect_from(stage: &Stage, ports: &str) -> Result<()> {
    stage.lab.perf().netns.set_sysctl("ipv4/ip_local_port_range", ports)
}

fn figure(
    stage: &Stage,
    name: &str,
    (load, address): (Load, SocketAddrV4),
    counts: Counts,
) -> Result<Figure> {
    let times = (0..TIMES).map(|_| run(stage, (load, address), counts, || {}, || {}));
    let took = middle(times.collect::<Result<Vec<_>>>().with_context(|| name.to_owned())?);
    Ok(Figure {
        load: name.into(),
        endpoints: stage.endpoints,
        flows: 1,
        routes: None,
        nanoseconds: took.as_secs_f64() * 1e9 / f64::from(counts.1),
        programs: Vec::new(),
    })
}

/// The mean of all but the least and the most. Where connections go one of two ways as often as the
/// other, the median is the one way in this run and the other in the next.
fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let middle = &times[1..times.len() - 1];
    middle.iter().sum::<Duration>().div_f64(middle.len() as f64)
}

/// The load of this name, once, between two marks for the profiler; how many of its units.
pub fn profile(stage: &Stage, name: &str) -> Result<u64> {
    let pod = SocketAddrV4::new(stage.lab.sit().ip, load::PORT);
    let known = LOADS.iter().find(|(load, by_service, _)| [load.name, by_service].contains(&name));
    let (load, by_service, counts) = known.with_context(|| format!("there is no load {name}"))?;
    let address = if *by_service == name {
        service::open(stage)?;
        service::TCP
    } else {
        pod
    };
    run(stage, (*load, address), *counts, mark::start, mark::stop)?;
    Ok(counts.1.into())
}

/// How long all of it took; `start` and `stop` are called right before and after.
fn run(
    stage: &Stage,
    (load, address): (Load, SocketAddrV4),
    counts: Counts,
    start: fn(),
    stop: fn(),
) -> Result<Duration> {
    let daemons = stage.processes();
    let begin = || {
        sleep(SETTLE);
        daemons.pause();
        start();
    };
    let pods = (stage.lab.perf(), stage.lab.sit());
    let took = load.run_by(address, pods, counts, begin, stop);
    daemons.resume();
    took.with_context(|| stage.path.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_and_the_most_do_not_count() {
        let times = [900, 10, 40, 1, 10].map(Duration::from_millis);
        assert_eq!(middle(times.into()), Duration::from_millis(20));
    }
}
