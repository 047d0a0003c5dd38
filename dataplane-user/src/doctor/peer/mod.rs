//! `tunless doctor --peer`: packets to a peer, and what comes back.
//!
//! A peer needs nothing for it: its kernel answers, whether tunless or tunl0 decapsulates there. The
//! programs of both nodes take these packets as any other, and count them.

mod direction;
mod line;
mod offloads;
pub(crate) mod packet;
mod path_mtu;
mod sockets;
mod target;

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use dataplane_common::IfIndex;
use tokio::time::Instant;

use self::{
    direction::{Both, Findings},
    line::{Line, Outcomes, Shot},
    packet::{Ends, Error, Heard, Kind, SMALLEST, What},
    target::Target,
};
use super::{Check, Row, Verdict};
use crate::{
    bpf::Maps,
    clock,
    daemon::{outside::Outside, report::Decided},
    desired::TunnelMode,
};

/// How long an answer may take.
const WAIT: Duration = Duration::from_secs(1);
/// How many requests measure a round trip.
const SAMPLES: usize = 3;
/// How long kernels wait for the rest of a fragmented packet (`net.ipv4.ipfrag_time`, 30 s), and some
/// time for the report.
const REASSEMBLY: Duration = Duration::from_secs(33);
/// How much later than the report about one fragment that about another may come that was sent at the
/// same time.
const TOGETHER: Duration = Duration::from_secs(3);

/// The row about a peer that is not asked, and why.
pub fn untested(peer: &str, why: &str) -> Row {
    Row::new(Check::PeerTunnel, Verdict::Skip, peer, format!("not tested: {why}"))
}

/// Sends packets to a peer. `text`: its address, its name, or the address of a pod there.
pub async fn examine(outside: &Outside, text: &str) -> Vec<Row> {
    let (Some(maps), Some(routes), Some(decided)) =
        (&outside.maps, &outside.routes, outside.decided())
    else {
        return vec![untested(text, "tunless has no routes here; start the daemon")];
    };
    let nodes: BTreeSet<Ipv4Addr> =
        maps.nodes.iter().flatten().map(|(node, _)| Ipv4Addr::from(node)).collect();
    let target = match text.parse() {
        Ok(address) => target::find(address, &nodes, routes),
        Err(_) => {
            let mut found =
                target::resolve(text).into_iter().map(|it| target::find(it, &nodes, routes));
            let unknown = || Err(format!("no address of a node is known by the name {text}"));
            found.find(Result::is_ok).unwrap_or_else(unknown)
        }
    };
    match target {
        Ok(target) => ask(outside, maps, decided, target).await,
        Err(why) => {
            let row = Row::new(
                Check::PeerTunnel,
                Verdict::Fail,
                text,
                format!("{why}: nothing was sent"),
            );
            vec![
                row.remedy(
                    "name a node of `tunless nodes list`, or the address of a pod behind one",
                ),
            ]
        }
    }
}

async fn ask(outside: &Outside, maps: &Maps, decided: &Decided, target: Target) -> Vec<Row> {
    let Target { node: peer, pod } = target;
    let Ok((entry, _)) = maps.nodes.get(peer.into()) else {
        return vec![untested(&peer.to_string(), "the route to it went away meanwhile")];
    };
    if entry.is_protected() {
        return vec![untested(
            &peer.to_string(),
            "IPsec protects it, so the kernel has its packets",
        )];
    }
    let (index, tunnel) = (entry.hop.ifindex, decided.tunnel.address);
    let ends = Ends { node: decided.node, tunnel: tunnel.unwrap_or(decided.node), peer };
    let mut line = match Line::open(ends, pod) {
        Ok(line) => line,
        Err(error) => {
            let what = format!("not tested: no raw socket: {error}");
            let row = Row::new(Check::PeerTunnel, Verdict::Skip, peer.to_string(), what);
            return vec![row.remedy("run the command with CAP_NET_RAW")];
        }
    };
    let plain = line.ask(&[Shot { kind: Kind::Plain, size: SMALLEST }; SAMPLES], WAIT).await;
    let both = match tunnel {
        Some(_) => {
            Some(line.ask(&[Shot { kind: Kind::Both, size: SMALLEST }; SAMPLES], WAIT).await)
        }
        None => None,
    };
    let mut findings = findings(ends, &plain, both.as_ref());
    if findings.both == Both::Unanswered && findings.plain {
        let (is_heard_there, errors) = forward(&mut line).await;
        findings.is_heard_there = is_heard_there;
        findings.errors.extend(errors);
    }
    findings.heard_here = last_heard(maps, peer);
    let mut rows = direction::rows(&findings);
    rows.extend(unsent(peer, &plain));
    if let (Some(both), Both::Answered) = (&both, findings.both) {
        let there = Links::of(outside, decided, index);
        let wait = patience(both);
        let link = u16::try_from(there.mtu).unwrap_or(u16::MAX);
        let found = path_mtu::search(&mut line, link, wait).await;
        let needed = needed(maps, decided, peer, link);
        rows.push(path_mtu::row(peer, &found, link, needed, &there.setting(&found)));
        // Asked anew: the first packets waited until the next hop's MAC was known.
        let again = |kind| [Shot { kind, size: SMALLEST }; SAMPLES];
        let beside = line.ask(&again(Kind::Plain), WAIT).await;
        let inside = line.ask(&again(Kind::Both), WAIT).await;
        rows.push(round_trip(peer, &beside, &inside));
    }
    match (pod, tunnel) {
        (Some(pod), Some(tunnel)) => {
            rows.push(ping_pod(&mut line, peer, pod).await);
            let name = Links::of(outside, decided, index).name;
            rows.push(offloads::row(tunnel, pod, &name, WAIT).await);
        }
        (None, _) => rows.push(Row::new(
            Check::PeerOffloads,
            Verdict::Skip,
            peer.to_string(),
            "not tested: name a pod of this peer in its place, as in `--peer 10.20.42.31`",
        )),
        (Some(pod), None) => rows.push(Row::new(
            Check::PeerPod,
            Verdict::Skip,
            pod.to_string(),
            "not tested: this node has no tunnel address",
        )),
    }
    rows
}

fn findings(ends: Ends, plain: &Outcomes, both: Option<&Outcomes>) -> Findings {
    let errors = plain.errors.iter().chain(both.iter().flat_map(|both| &both.errors));
    Findings {
        node: ends.node,
        peer: ends.peer,
        plain: plain.round_trip().is_some(),
        both: match both {
            None => Both::Untested,
            Some(both) if both.round_trip().is_some() => Both::Answered,
            Some(both) if both.is_wrapped() => Both::Wrapped,
            Some(_) => Both::Unanswered,
        },
        is_heard_there: None,
        heard_here: None,
        errors: errors.cloned().collect(),
    }
}

/// Whether protocol 4 reaches the peer, though nothing comes back by it; and errors meanwhile.
///
/// Where the peer's `rp_filter` is not strict, it answers an encapsulated request of our node address
/// unencapsulated. Elsewhere its kernel waits for the rest of a packet of which we send the first
/// fragment alone, and reports in the end that it did not come. An unencapsulated fragment, sent at
/// the same time, shows whether such reports come here at all.
async fn forward(line: &mut Line) -> (Option<bool>, Vec<Error>) {
    let send = |line: &mut Line, kind| line.send(Shot { kind, size: SMALLEST }).ok();
    let (tunnel, plain) = (send(line, Kind::Fragment), send(line, Kind::PlainFragment));
    let began = Instant::now();
    let outcomes = line.ask(&[Shot { kind: Kind::Forward, size: SMALLEST }], WAIT).await;
    if outcomes.round_trip().is_some() {
        return (Some(true), outcomes.errors);
    }
    let mut reports = Reports { tunnel, plain, ..Reports::default() };
    outcomes.errors.into_iter().for_each(|error| reports.take(error));
    let mut deadline = began + REASSEMBLY;
    while !reports.has_tunnel {
        if reports.has_plain {
            deadline = deadline.min(Instant::now() + TOGETHER);
        }
        match line.hear(deadline).await {
            Some(Heard::Error(error)) => reports.take(error),
            Some(Heard::Reply { .. }) => {}
            None => break,
        }
    }
    (reports.is_heard_there(), reports.others)
}

/// What was reported about fragments whose rest never comes.
#[derive(Default)]
struct Reports {
    /// The identification of the encapsulated one, if it was sent.
    tunnel: Option<u16>,
    /// That of the unencapsulated one.
    plain: Option<u16>,
    has_tunnel: bool,
    has_plain: bool,
    /// Other errors about packets of ours.
    others: Vec<Error>,
}

impl Reports {
    fn take(&mut self, error: Error) {
        let is = |sequence: Option<u16>| sequence == Some(error.identification);
        match error.what {
            What::Reassembly if is(self.tunnel) => self.has_tunnel = true,
            What::Reassembly if is(self.plain) => self.has_plain = true,
            _ => self.others.push(error),
        }
    }

    /// Whether protocol 4 reaches the peer; `None`: no report came at all.
    fn is_heard_there(&self) -> Option<bool> {
        match (self.has_tunnel, self.has_plain) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

/// Seconds since the peer was last heard.
fn last_heard(maps: &Maps, peer: Ipv4Addr) -> Option<u64> {
    let seen = maps.node_counter(peer.into())?.last_seen;
    let ago = clock::monotonic().saturating_sub(Duration::from_nanos(seen));
    (seen != 0).then_some(ago.as_secs())
}

/// Why this host sent nothing at all, if it did not.
fn unsent(peer: Ipv4Addr, plain: &Outcomes) -> Option<Row> {
    let why = plain.unsent.as_ref()?;
    let what = format!("this host's kernel sends nothing to it: {why}");
    let row = Row::new(Check::PeerPlain, Verdict::Fail, peer.to_string(), what);
    Some(row.remedy(format!("`ip route get {peer}` shows why; a rule of OUTPUT may forbid it")))
}

/// How long a large packet may take, by how long a small one took.
fn patience(both: &Outcomes) -> Duration {
    let least = Duration::from_millis(300);
    both.round_trip().map_or(WAIT, |round_trip| (round_trip * 10).clamp(least, WAIT))
}

/// The largest outer packet that is sent to the peer now, bytes.
fn needed(maps: &Maps, decided: &Decided, peer: Ipv4Addr, link: u16) -> u16 {
    let known = maps.nodes.get(peer.into()).map_or(link.into(), |(node, _)| node.mtu.0);
    let of_tunnel = decided.tunnel.mtu.0.saturating_add(20);
    u16::try_from(known.min(of_tunnel)).unwrap_or(u16::MAX)
}

/// The link by which packets go to the peer.
struct Links {
    name: String,
    mtu: u32,
    mode: TunnelMode,
}

impl Links {
    fn of(outside: &Outside, decided: &Decided, index: IfIndex) -> Self {
        let link = outside.host.links.get(&index);
        Self {
            name: link.map_or_else(|| "the NIC".to_owned(), |link| link.name.clone()),
            mtu: link.map_or(1_500, |link| link.mtu.0),
            mode: decided.mode,
        }
    }

    /// Where the MTU is lowered to what passes.
    fn setting(&self, found: &path_mtu::Found) -> String {
        let mtu = found.largest.unwrap_or_default().saturating_sub(20);
        match self.mode {
            TunnelMode::Replace => {
                format!("set `mtu: {mtu}` in the file and the pods' MTU to {mtu}")
            }
            TunnelMode::Accelerate => {
                format!("set Felix's `ipipMTU` and the pods' MTU to {mtu}")
            }
        }
    }
}

fn round_trip(peer: Ipv4Addr, plain: &Outcomes, both: &Outcomes) -> Row {
    let shown = |outcomes: &Outcomes| {
        let milliseconds = outcomes.round_trip().map(|it| it.as_secs_f64() * 1_000.0);
        milliseconds.map_or_else(|| "no answer".to_owned(), |it| format!("{it:.3} ms"))
    };
    let what = format!("{} in the tunnel, {} beside it", shown(both), shown(plain));
    Row::new(Check::PeerRoundTrip, Verdict::Pass, peer.to_string(), what)
}

/// Pings a pod as this host's own packets to it travel: by the tunnel device and its program.
async fn ping_pod(line: &mut Line, peer: Ipv4Addr, pod: Ipv4Addr) -> Row {
    let outcomes = line.ask(&[Shot { kind: Kind::Pod(pod), size: SMALLEST }], WAIT).await;
    let row = |verdict, what| Row::new(Check::PeerPod, verdict, pod.to_string(), what);
    match outcomes.round_trip() {
        Some(_) => {
            row(Verdict::Pass, format!("it answers a ping of our tunnel address, by {peer}"))
        }
        None => {
            let errors = outcomes.errors.first();
            let reported = errors.map_or_else(String::new, |error| {
                format!(" ({} reports {})", error.from, error.what.text())
            });
            row(Verdict::Fail, format!("it answers no ping of our tunnel address by {peer}{reported}")).remedy(format!(
                "if the rows about {peer} are well: the pod is not there, or the route names the wrong \
                 node (`tunless routes get {pod}`), or a policy denies the ping"
            ))
        }
    }
}
