//! `tunless status`: is everything in place?

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use dataplane_common::{Direction, Ipv4Be, Reason, Settings, State as DaemonState, Verdict};
use serde::Serialize;

use crate::{
    bpf::{Hook as _, Maps, Pins, filters, links},
    clock,
    config::Fastpath,
    daemon,
    desired::TunnelMode,
    exit::Exit,
    kernel::Kernel,
    netfilter::conntrack,
    output::{self, Format},
    sources::status::{SourcesStatus, State},
};

#[derive(Serialize)]
struct Status {
    /// Everything asked for is in place. The daemon need not be running for that.
    ready: bool,
    /// What is not, for people.
    problems: Vec<String>,
    daemon: DaemonStatus,
    mode: &'static str,
    fastpath: &'static str,
    fastpath_share: FastpathShare,
    /// Flows with a good lease, each direction for itself.
    leased_flows: usize,
    /// Conntrack's sysctls that leases need to be 1; `null`: none here.
    sysctls: BTreeMap<&'static str, Option<u32>>,
    spoof: &'static str,
    node: Option<Ipv4Addr>,
    tunnel: TunnelStatus,
    attachments: Vec<AttachmentStatus>,
    routes: usize,
    endpoints: usize,
    nodes: usize,
    /// Where routes come from.
    #[serde(flatten)]
    sources: SourcesStatus,
}

/// Of the packets between pods and the wire, those that skipped the stack, since
/// the counters were last flushed; `null`: there were none.
#[derive(Serialize, Default)]
struct FastpathShare {
    encap: Option<f64>,
    decap: Option<f64>,
}

impl FastpathShare {
    fn of(maps: &Maps) -> Result<Self> {
        let share = |direction, fast| -> Result<Option<f64>> {
            let mut all = 0;
            for reason in Reason::ALL {
                let counts = reason.verdict() == Verdict::Forwarded || reason.is_left_to_tunl0();
                if reason.direction() == direction && counts {
                    all += maps.counter(*reason)?.packets;
                }
            }
            let fast = maps.counter(fast)?.packets;
            Ok((all > 0).then(|| fast as f64 / all as f64))
        };
        Ok(Self {
            encap: share(Direction::Encap, Reason::PodEncapsulated)?,
            decap: share(Direction::Decap, Reason::DecapToPod)?,
        })
    }
}

#[derive(Serialize)]
struct DaemonStatus {
    running: bool,
    pid: Option<u32>,
    /// Seconds since it last went round.
    last_round_seconds: Option<f64>,
}

#[derive(Serialize)]
struct TunnelStatus {
    interface: Option<String>,
    address: Option<Ipv4Addr>,
    mtu: Option<u32>,
}

#[derive(Serialize)]
struct AttachmentStatus {
    program: &'static str,
    hook: &'static str,
    interface: String,
    ifindex: u32,
    live: bool,
}

/// Prints the status; with `wait`, only once it is ready or the time is up.
pub async fn status(pins: &Pins, format: Format, wait: Option<Duration>) -> Result<Exit> {
    // A wait beyond the end of time has no deadline to compare with.
    let deadline = wait.map(|wait| Instant::now().checked_add(wait));
    loop {
        let status = look(pins).await?;
        if status.ready || is_over(deadline) {
            let ready = status.ready;
            output::object(format, &status, || describe(&status))?;
            return Ok(if ready { Exit::Ok } else { Exit::No });
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
    let running = daemon::is_running(pins);
    let opened = if pins.exist() { Maps::open(pins) } else { Err(anyhow::anyhow!("no pins")) };
    let maps = match opened {
        Ok(maps) => maps,
        Err(error) => return Ok(nothing(pins, running, &error)),
    };
    let state = maps.state()?;
    let mut links = links::list(pins)?;
    filters::check(&Kernel::connect()?, &mut links).await?;
    let attachments: Vec<_> = links
        .into_iter()
        .map(|(at, link)| AttachmentStatus {
            program: at.program.as_str(),
            hook: at.program.place(),
            interface: super::interface_name(at.ifindex),
            ifindex: at.ifindex,
            live: link.is_live,
        })
        .collect();
    let sources = SourcesStatus::read(pins)?.unwrap_or_default();
    let mut problems = problems(&state, &attachments, running);
    problems.extend(source_problems(&sources));
    let routes = maps.all_routes()?.iter().filter(|(_, route)| !route.is_local()).count();
    let ago = clock::monotonic().saturating_sub(Duration::from_nanos(state.heartbeat));
    Ok(Status {
        ready: problems.is_empty(),
        problems,
        daemon: DaemonStatus {
            running,
            pid: running.then_some(state.pid),
            last_round_seconds: (state.heartbeat != 0).then_some(ago.as_secs_f64()),
        },
        mode: TunnelMode::from(&state).as_str(),
        fastpath: Fastpath::from(state.fastpath).as_str(),
        fastpath_share: FastpathShare::of(&maps)?,
        leased_flows: maps.good_leases(clock::monotonic())?.len(),
        sysctls: conntrack::RELAXED.map(|name| (name, conntrack::read(name).ok())).into(),
        spoof: if state.spoof == Settings::SPOOF_STACK { "stack" } else { "drop" },
        node: address(state.node),
        tunnel: TunnelStatus {
            interface: (state.tunnel_ifindex != 0)
                .then(|| super::interface_name(state.tunnel_ifindex)),
            address: address(state.tunnel),
            mtu: (state.tunnel_mtu != 0).then_some(state.tunnel_mtu),
        },
        attachments,
        routes,
        endpoints: maps.endpoints.keys().count(),
        nodes: maps.nodes.keys().count(),
        sources,
    })
}

/// No maps: nothing was ever attached, or another version did.
fn nothing(pins: &Pins, running: bool, error: &anyhow::Error) -> Status {
    Status {
        ready: false,
        problems: vec![format!("nothing to read at {}: {error:#}", pins.root().display())],
        daemon: DaemonStatus { running, pid: None, last_round_seconds: None },
        mode: "replace",
        fastpath: "off",
        fastpath_share: FastpathShare::default(),
        leased_flows: 0,
        sysctls: BTreeMap::new(),
        spoof: "drop",
        node: None,
        tunnel: TunnelStatus { interface: None, address: None, mtu: None },
        attachments: Vec::new(),
        routes: 0,
        endpoints: 0,
        nodes: 0,
        sources: SourcesStatus::default(),
    }
}

/// So long without a round means that the daemon hangs: three resyncs.
const SILENCE: Duration = Duration::from_secs(30);

fn problems(state: &DaemonState, attachments: &[AttachmentStatus], running: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let heartbeat = Duration::from_nanos(state.heartbeat);
    if running && clock::monotonic().saturating_sub(heartbeat) > SILENCE {
        problems.push("the daemon is running, but has not gone round for long".to_owned());
    }
    let device = TunnelMode::from(state).device();
    if super::interface_name(state.tunnel_ifindex) != device {
        problems.push(format!("the tunnel device {device} is gone"));
    }
    if state.synced == 0 {
        problems.push("the daemon could not put everything in place; its log says what".to_owned());
    }
    for at in attachments.iter().filter(|at| !at.live) {
        problems.push(format!("{} is no longer attached to {}", at.program, at.interface));
    }
    if attachments.len() < state.attachments as usize {
        problems.push(format!(
            "{} programs should be attached, {} are",
            state.attachments,
            attachments.len()
        ));
    }
    if state.fastpath_withheld != 0 {
        problems.push(
            "the fast path is withheld, so every packet crosses the stack; the log says why"
                .to_owned(),
        );
    }
    problems
}

/// What is wrong with the sources of routes.
fn source_problems(status: &SourcesStatus) -> Vec<String> {
    let mut problems = Vec::new();
    for source in &status.sources {
        let name = source.source;
        let why = source.reason.as_deref().unwrap_or("no answer yet");
        match source.state {
            State::Synced => {}
            State::Stale => problems.push(format!(
                "{name}: stale since {}: {why}; what it said last stays in force",
                ago(source.stale_since)
            )),
            State::Waiting => problems.push(format!(
                "{name}: has not told its routes yet: {why}; nothing is deleted until it has"
            )),
        }
        problems.extend(source.problems.iter().map(|problem| format!("{name}: {problem}")));
        if source.more_problems > 0 {
            problems.push(format!("{name}: {} more of that kind", source.more_problems));
        }
    }
    problems.extend(status.alarms.iter().cloned());
    if status.more_alarms > 0 {
        problems.push(format!("{} more of that kind", output::count(status.more_alarms, "claim")));
    }
    problems
}

/// `12m ago`, for Unix seconds.
fn ago(since: Option<u64>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    since
        .map_or_else(|| "?".to_owned(), |at| format!("{} ago", output::age(now.saturating_sub(at))))
}

fn address(address: Ipv4Be) -> Option<Ipv4Addr> {
    (address != Ipv4Be::UNSPECIFIED).then(|| address.into())
}

fn describe(status: &Status) -> String {
    let mut text = format!("ready:      {}\n", if status.ready { "yes" } else { "NO" });
    for problem in &status.problems {
        let _ = writeln!(text, "            {problem}");
    }
    let daemon = match (&status.daemon.running, status.daemon.last_round_seconds) {
        (true, Some(ago)) => {
            format!("running (pid {}), last round {ago:.1}s ago", status.daemon.pid.unwrap_or(0))
        }
        (true, None) => "running, first round not done yet".to_owned(),
        (false, _) => "not running; forwarding does not need it, changes do".to_owned(),
    };
    let shown = |value: &Option<Ipv4Addr>| {
        value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let _ = writeln!(text, "daemon:     {daemon}");
    let _ = writeln!(
        text,
        "mode:       {}, fast path {}, spoofs {}",
        status.mode, status.fastpath, status.spoof
    );
    let _ = writeln!(text, "node:       {}", shown(&status.node));
    if let Some(interface) = &status.tunnel.interface {
        let mtu = status.tunnel.mtu.unwrap_or(0);
        let _ =
            writeln!(text, "tunnel:     {interface} {} mtu {mtu}", shown(&status.tunnel.address));
    }
    if status.fastpath != Fastpath::Off.as_str() {
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", share * 100.0))
        };
        let FastpathShare { encap, decap } = &status.fastpath_share;
        let _ = writeln!(
            text,
            "fast path:  {} of packets encap, {} decap; {} leased",
            percent(*encap),
            percent(*decap),
            output::count(status.leased_flows, "flow")
        );
    }
    if status.fastpath == Fastpath::Verified.as_str() {
        for (position, (name, value)) in status.sysctls.iter().enumerate() {
            let head = if position == 0 { "sysctls:" } else { "" };
            let value = value.map_or_else(|| "missing".to_owned(), |value| value.to_string());
            let _ = writeln!(text, "{head:<12}{name} = {value}");
        }
    }
    let _ = writeln!(
        text,
        "tables:     {}, {}, {}",
        output::count(status.routes, "route"),
        output::count(status.nodes, "node"),
        output::count(status.endpoints, "endpoint")
    );
    for (position, source) in status.sources.sources.iter().enumerate() {
        let head = if position == 0 { "sources:" } else { "" };
        let since = match source.state {
            State::Stale => format!(" since {}", ago(source.stale_since)),
            State::Synced | State::Waiting => String::new(),
        };
        let claims = output::count(source.claims, "claim");
        let state = source.state.as_str();
        let _ = writeln!(text, "{head:<12}{:<11} {state}{since}, {claims}", source.source.as_str());
    }
    for (position, at) in status.attachments.iter().enumerate() {
        let head = if position == 0 { "programs:" } else { "" };
        let gone = if at.live { "" } else { "  NOT ATTACHED" };
        let _ = writeln!(text, "{head:<12}{:<11} {} {}{gone}", at.program, at.interface, at.hook);
    }
    text
}
