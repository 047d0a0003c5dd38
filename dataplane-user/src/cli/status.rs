//! `tunless status`: is everything in place?
//!
//! The daemon's report says what it decided and what it found wrong. What is attached, pinned
//! and set is looked at anew, so that the answer is true while the daemon is down.

mod describe;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use dataplane_common::{Direction, IfIndex, Reason, Route};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::{Attachment, Hook as _, Maps, Pins},
    clock,
    config::{Fastpath, Spoof},
    daemon::{
        outside::{self, Outside},
        report::{Level, Problem, Tunnel, is_ready, unix_now},
    },
    desired::TunnelMode,
    exit::Exit,
    kernel::receive_queues::Cpus,
    netfilter::conntrack,
    output::{self, Format},
    schema,
    sources::status::SourcesStatus,
};

/// How much is printed for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Detail {
    /// One line.
    Brief,
    /// What is well is grouped, what is not is listed.
    #[default]
    Usual,
    /// Every program on every interface.
    Wide,
}

/// How `status` is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Wait until the node is ready, at most so long.
    pub wait: Option<Duration>,
    /// A degraded node is an exit code 3, too.
    pub strict: bool,
    /// How much is printed for people.
    pub detail: Detail,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Status {
    /// No problem of the level *down* lasts. The daemon need not be running for that.
    ready: bool,
    /// What is wrong, the gravest first.
    problems: Vec<Problem>,
    /// The daemon.
    daemon: DaemonStatus,
    /// With tunl0 or without; `null` before the daemon decided it.
    mode: Option<TunnelMode>,
    /// tunl0 carries every packet, and tunless only looks (`mode: shadow`).
    shadow: bool,
    /// Why that mode, for people; `null` where `mode` is.
    mode_ground: Option<String>,
    /// The fast path that the loaded programs use; `null` before the daemon decided it.
    fastpath: Option<Fastpath>,
    /// How many packets skip the kernel's stack.
    fastpath_share: FastpathShare,
    /// Flows with a good lease, each direction for itself; `null`: there are no maps.
    leased_flows: Option<usize>,
    /// Conntrack's sysctls that leases need otherwise than the kernel has them; `null`: none here.
    sysctls: BTreeMap<&'static str, Option<u32>>,
    /// Packets that `decap_tc` has decapsulated, by CPU, since the counters were last flushed.
    decapsulated_by_cpu: Vec<u64>,
    /// Over which CPUs received packets are spread (`underlay.spread`); `null`: over none.
    spread: Option<Cpus>,
    /// What the loaded programs do with spoofed packets; `null` before the daemon decided it.
    spoof: Option<Spoof>,
    /// This node's underlay address; `null` before the daemon decided it.
    node: Option<Ipv4Addr>,
    /// Why that address, for people; `null` where `node` is.
    node_ground: Option<String>,
    /// The tunnel device; `null` before the daemon decided it.
    tunnel: Option<Tunnel>,
    /// The programs that are attached, or were.
    attachments: Vec<AttachmentStatus>,
    /// Routes to pods of other nodes; `null`: there are no maps.
    routes: Option<usize>,
    /// Pods of this node; `null`: there are no maps.
    endpoints: Option<usize>,
    /// The other nodes; `null`: there are no maps.
    nodes: Option<usize>,
    /// Where routes come from; missing: no daemon reported it.
    #[serde(flatten)]
    sources: Option<SourcesStatus>,
}

/// Of the packets between pods and the wire, those that skipped the stack since the counters were last
/// flushed: from 0 to 1; `null`: there were none.
#[derive(JsonSchema, Serialize, Default)]
struct FastpathShare {
    /// From pods to the wire.
    encap: Option<f64>,
    /// From the wire to pods.
    decap: Option<f64>,
    /// Those of them that were translated for a Service.
    services: ServiceShare,
}

/// The part for Services of the shares: from 0 to 1; `null`: there were no packets.
#[derive(JsonSchema, Serialize, Default)]
struct ServiceShare {
    /// From pods to the wire.
    encap: Option<f64>,
    /// From the wire to pods.
    decap: Option<f64>,
}

impl FastpathShare {
    fn of(maps: &Maps) -> Result<Self> {
        let share = |direction, is_counted: fn(Reason) -> bool| -> Result<Option<f64>> {
            let (mut all, mut skipped) = (0, 0);
            for reason in Reason::ALL.iter().copied().filter(|it| it.direction() == direction) {
                let packets = maps.counter(reason)?.packets;
                all += if reason.is_carried() { packets } else { 0 };
                skipped += if is_counted(reason) { packets } else { 0 };
            }
            Ok((all > 0).then(|| skipped as f64 / all as f64))
        };
        let is_for_a_service =
            |it| matches!(it, Reason::PodServiceEncapsulated | Reason::DecapServiceToPod);
        Ok(Self {
            encap: share(Direction::Encap, Reason::is_fast)?,
            decap: share(Direction::Decap, Reason::is_fast)?,
            services: ServiceShare {
                encap: share(Direction::Encap, is_for_a_service)?,
                decap: share(Direction::Decap, is_for_a_service)?,
            },
        })
    }
}

/// The daemon.
#[derive(JsonSchema, Serialize)]
struct DaemonStatus {
    /// Whether it runs.
    running: bool,
    /// Its process id, in its own namespace; `null`: it does not run.
    pid: Option<u32>,
    /// The version that reported last; `null`: none did.
    version: Option<String>,
    /// Seconds since it last compared everything; `null`: it never did.
    last_round_seconds: Option<f64>,
}

/// A program on an interface.
#[derive(JsonSchema, Serialize)]
struct AttachmentStatus {
    /// The program.
    #[schemars(extend("enum" = schema::programs()))]
    program: &'static str,
    /// Its hook.
    #[schemars(extend("enum" = schema::hooks()))]
    hook: &'static str,
    /// The interface.
    interface: String,
    /// The interface's index.
    ifindex: IfIndex,
    /// Whether the kernel runs it there.
    live: bool,
}

impl Status {
    /// Whether there are maps of this version to read.
    fn has_maps(&self) -> bool {
        self.routes.is_some()
    }
}

/// Prints the status; with `wait`, only once it is ready or the time is up.
pub async fn status(pins: &Pins, format: Format, options: Options) -> Result<Exit> {
    // A wait beyond the end of time has no deadline to compare with.
    let deadline = options.wait.map(|wait| Instant::now().checked_add(wait));
    loop {
        let status = look(pins).await?;
        if status.ready || is_over(deadline) {
            let is_degraded = status.problems.iter().any(|it| it.level >= Level::Degraded);
            let is_well = status.ready && !(options.strict && is_degraded);
            output::object(format, &status, || describe::text(&status, options.detail))?;
            return Ok(if is_well { Exit::Ok } else { Exit::No });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_over(deadline: Option<Option<Instant>>) -> bool {
    match deadline {
        None => true,
        Some(deadline) => deadline.is_some_and(|deadline| Instant::now() >= deadline),
    }
}

async fn look(pins: &Pins) -> Result<Status> {
    let Outside { running, state, maps, routes, host: _, seen, heard: _, problems } =
        outside::look(pins).await?;
    let decided = state.as_ref().and_then(|state| state.decided.clone());
    let heartbeat = state.as_ref().map(|state| state.heartbeat);
    let remote = |routes: &BTreeMap<Ipv4Net, Route>| {
        routes.values().filter(|route| !route.is_local()).count()
    };
    Ok(Status {
        ready: is_ready(&problems, unix_now()),
        problems,
        daemon: DaemonStatus {
            running: running.is_some(),
            pid: running,
            version: state.as_ref().map(|state| state.version.clone()),
            last_round_seconds: heartbeat.map(|at| clock::monotonic().as_secs_f64() - at),
        },
        mode: decided.as_ref().map(|decided| decided.mode),
        shadow: decided.as_ref().is_some_and(|decided| decided.is_shadow),
        mode_ground: decided.as_ref().map(|decided| decided.mode_ground.clone()),
        fastpath: decided.as_ref().map(|decided| decided.fastpath),
        fastpath_share: maps.as_ref().map(FastpathShare::of).transpose()?.unwrap_or_default(),
        leased_flows: maps
            .as_ref()
            .map(|maps| maps.good_leases(clock::monotonic()).map(|leases| leases.len()))
            .transpose()?,
        sysctls: conntrack::look().into_iter().map(|(name, it)| (name, it.value)).collect(),
        decapsulated_by_cpu: maps
            .as_ref()
            .map(Maps::decapsulated_by_cpu)
            .transpose()?
            .unwrap_or_default(),
        spread: state.as_ref().and_then(|state| state.spread.clone()),
        spoof: decided.as_ref().map(|decided| decided.spoof),
        node: decided.as_ref().map(|decided| decided.node),
        node_ground: decided.as_ref().map(|decided| decided.node_ground.clone()),
        tunnel: decided.as_ref().map(|decided| decided.tunnel.clone()),
        attachments: seen.links.iter().map(|(at, link)| attachment(at, link.is_live)).collect(),
        routes: routes.as_ref().map(remote),
        endpoints: maps.as_ref().map(|maps| maps.endpoints.len()),
        nodes: maps.as_ref().map(|maps| maps.nodes.len()),
        sources: state.map(|state| state.sources),
    })
}

fn attachment(at: &Attachment, live: bool) -> AttachmentStatus {
    AttachmentStatus {
        program: at.program.as_str(),
        hook: at.program.place(),
        interface: super::interface_name(at.ifindex),
        ifindex: at.ifindex,
        live,
    }
}
