//! A node whose underlay has a shape, and what every shape that works has in common.

use std::{
    collections::BTreeSet,
    net::SocketAddrV4,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Node, Pod,
    capture::Capture,
    daemon::expect_failure,
    frame::{Direction, Frame, protocol},
    packet::{IPV4, Ipv4, ethernet},
    service::Protocol,
    traffic::{conversation::Conversation, ping},
};

use crate::{
    suites::{
        counted::Counted,
        smoke::interop::{config, datagram, finish, pings, transfer},
    },
    tunl0,
};

/// An emulator takes its time.
pub const SOON: Duration = Duration::from_secs(30);
/// Pings in each direction ([`pings`]).
const PINGS: u64 = 3;
const PORT: u16 = 5301;
/// `sysexits.h`: the configuration is refused.
const EX_CONFIG: i32 = 78;

/// How node2 is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// `replace` or `accelerate`.
    pub mode: &'static str,
    /// `off` or `verified`.
    pub fastpath: &'static str,
    /// `auto`, `tc` or `xdp`.
    pub decap: &'static str,
}

/// The stack path, without tunl0.
pub const REPLACE: Setup = Setup { mode: "replace", fastpath: "off", decap: "auto" };
/// The fast path, beside tunl0.
pub const ACCELERATE: Setup = Setup { mode: "accelerate", fastpath: "verified", decap: "auto" };

impl Setup {
    /// Returns the configuration of `node`, with one route.
    pub fn config(self, node: &Node, peer: &Node) -> String {
        let config = config(node, peer, self.mode, self.fastpath);
        format!("{config}underlay: {{decap: {}}}\n", self.decap)
    }

    /// Returns the same with `decap: xdp`.
    pub const fn by_xdp(self) -> Self {
        Self { decap: "xdp", ..self }
    }

    fn is_leased(self) -> bool {
        self.fastpath == "verified"
    }

    /// Returns what [`pings`] count at node2: three requests out and three in, and their answers.
    fn expected(self, xdp: Xdp) -> Vec<(Reason, u64)> {
        // Only TCP and UDP are ever leased; every hook counts why not.
        let reasons: &[Reason] = if self.is_leased() {
            &[
                Reason::PodNoPorts,
                Reason::HostEncapsulated,
                Reason::DecapNoPortsToStack,
                Reason::GrantNoFlow,
            ]
        } else {
            &[Reason::HostEncapsulated, Reason::DecapToStack]
        };
        let by_xdp = matches!(xdp, Xdp::On).then_some(&Reason::XdpUnwrapped);
        reasons.iter().chain(by_xdp).map(|reason| (*reason, 2 * PINGS)).collect()
    }
}

/// Two nodes: node1 has tunl0, node2 tunless, over an underlay of some shape.
pub struct Scene {
    pub lab: Lab,
    pub daemon: Daemon,
    pub underlay: Underlay,
    setup: Setup,
}

/// What node2's underlay is like.
#[derive(Clone, Copy, Debug)]
pub struct Underlay {
    /// The link with the address, which packets leave by.
    pub link: &'static str,
    /// Other links by which they may arrive.
    pub beside: &'static [&'static str],
    /// The VLAN of its packets on the wire.
    pub vlan: Option<u16>,
    /// What becomes of XDP on `link`.
    pub xdp: Xdp,
}

/// What becomes of XDP on the underlay's link.
#[derive(Clone, Copy, Debug)]
pub enum Xdp {
    /// It is not asked for.
    Off,
    /// It decapsulates.
    On,
    /// The link cannot have it: the problem `xdp-unsupported`, with these words.
    Unsupported(&'static str),
    /// It was taken off: the problem `xdp-handover`, with these words.
    Left(&'static str),
}

impl Xdp {
    /// Returns the one problem that `status` lists: its code and some of its words.
    fn problem(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Off | Self::On => None,
            Self::Unsupported(words) => Some(("xdp-unsupported", words)),
            Self::Left(words) => Some(("xdp-handover", words)),
        }
    }
}

impl Scene {
    /// Builds a lab, gives node2's underlay its shape, and starts the daemon.
    pub fn new(
        setup: Setup,
        underlay: Underlay,
        shape: impl Fn(&Lab) -> Result<()>,
    ) -> Result<Self> {
        Self::of(Lab::new(), setup, underlay, shape)
    }

    /// [`Self::new`], in a lab of this kind.
    pub fn of(
        lab: LabBuilder,
        setup: Setup,
        underlay: Underlay,
        shape: impl Fn(&Lab) -> Result<()>,
    ) -> Result<Self> {
        let lab = lab.fabric_filter(true).build()?;
        shape(&lab).context("the shape")?;
        let (node1, node2) = (&lab.node1, &lab.node2);
        tunl0::raise(node1, node2)?;
        if setup.mode == "accelerate" {
            tunl0::raise(node2, node1)?;
        }
        let daemon = Daemon::start(node2, &setup.config(node2, node1))?;
        Ok(Self { lab, daemon, underlay, setup })
    }

    /// Runs a check fresh and after a restart of the daemon, and ends everything.
    pub fn case(mut self, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        check(&self).context("fresh")?;
        self.daemon.kill9()?;
        self.daemon.restart()?;
        check(&self).context("after a restart")?;
        finish(&self.lab, self.daemon)
    }

    /// Checks that everything passes both ways as IPIP, in whole outer packets that are what tunl0
    /// would have sent, that every packet is counted, and that programs are on the underlay's link.
    pub fn carries(&self) -> Result<()> {
        self.talk().context("warming up")?;
        let before = Counted::now(&self.daemon)?;
        let wire = Capture::wire(&self.lab.router, &self.lab.node2)?;
        pings(&self.lab)?;
        let frames = wire.stop()?;
        before.since(&self.daemon)?.is_exactly(&self.setup.expected(self.underlay.xdp))?;
        self.ensure_outer(&frames)?;
        let before = Counted::now(&self.daemon)?;
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        for (client, server) in [(perf, sit), (sit, perf)] {
            let from = &client.name;
            transfer(client, server).with_context(|| format!("TCP from {from}"))?;
            datagram(client, server).with_context(|| format!("UDP from {from}"))?;
        }
        let counted = before.since(&self.daemon)?;
        counted.nothing_dropped()?;
        counted.nothing_for_tunl0()?;
        if self.setup.is_leased() {
            counted.has(&[
                Reason::HostLeaseGranted,
                Reason::PodEncapsulated,
                Reason::DecapToPod,
            ])?;
        }
        self.ensure_attached()
    }

    /// Waits until pods talk.
    pub fn talk(&self) -> Result<()> {
        until(|| pings(&self.lab))
    }

    /// Starts a conversation from node2's pod, and waits until it goes on.
    pub fn converse(&self) -> Result<Conversation> {
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        let to = SocketAddrV4::new(sit.ip, PORT);
        let talk = Conversation::start(Protocol::Tcp, &perf.netns, to, &sit.netns, PORT)?;
        ensure!(talk.wait_for(20, SOON), "the conversation does not get going");
        Ok(talk)
    }

    /// Compares each echo request of node2's pod with what tunl0 would have sent, byte by byte.
    fn ensure_outer(&self, frames: &[Frame]) -> Result<()> {
        let Lab { node1, node2, .. } = &self.lab;
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        let ipv4: Vec<&Frame> = frames.iter().filter(|frame| frame.outer().is_some()).collect();
        for frame in &ipv4 {
            let there = frame.is_ipip((node2.ip, node1.ip), (perf.ip, sit.ip));
            let back = frame.is_ipip((node1.ip, node2.ip), (sit.ip, perf.ip));
            ensure!(there || back, "another packet was on the wire: {frame}");
            ensure!(frame.vlan == self.underlay.vlan, "in VLAN {:?}: {frame}", frame.vlan);
        }
        let requests = ipv4.iter().filter(|frame| is_request(frame, perf, sit));
        let mut count = 0;
        for request in requests {
            ensure!(request.direction == Direction::In, "node2 did not send it: {request}");
            let header = Ipv4 { ttl: 63, ..Ipv4::ipip(node2.ip, node1.ip) };
            let outer = header.packet(&request.bytes[34..]);
            let expected = ethernet(node2.gateway_mac, node2.mac, IPV4, &outer);
            ensure!(request.bytes == expected, "{request}: {:02x?}", request.bytes);
            count += 1;
        }
        ensure!(count == PINGS, "{count} requests on the wire, not {PINGS}: {ipv4:#?}");
        Ok(())
    }

    /// Checks that `decap_tc` is on the links where packets may arrive, and on no other; that
    /// `decap_xdp` is where it should be; and that `status` lists why not, and nothing else.
    fn ensure_attached(&self) -> Result<()> {
        let Underlay { link, beside, xdp, .. } = self.underlay;
        let status = self.daemon.cli_json(&["status"])?;
        let listed: Vec<&Value> = problems(&status).collect();
        let is_it = |(problem, (code, words)): (&&Value, (&str, &str))| {
            problem["code"] == code && problem["what"].as_str().is_some_and(|it| it.contains(words))
        };
        ensure!(
            listed.len() == usize::from(xdp.problem().is_some())
                && listed.iter().zip(xdp.problem()).all(is_it),
            "not {:?} alone: {listed:?}",
            xdp.problem()
        );
        let attachments = status["attachments"].as_array().context("no attachments")?;
        let of = |program| {
            let of = attachments.iter().filter(move |at| at["program"] == program);
            of.filter_map(|at| at["interface"].as_str()).collect::<BTreeSet<_>>()
        };
        let links = of("decap_tc");
        ensure!(
            links == [link].iter().chain(beside).copied().collect(),
            "decap_tc is on {links:?}"
        );
        let links = of("decap_xdp");
        let expected = matches!(xdp, Xdp::On).then_some(link).into_iter().collect();
        ensure!(links == expected, "decap_xdp is on {links:?}");
        Ok(())
    }
}

fn is_request(frame: &Frame, from: &Pod, to: &Pod) -> bool {
    frame.inner().is_some_and(|(ip, icmp)| {
        (ip.source, ip.destination, ip.protocol) == (from.ip, to.ip, protocol::ICMP) && icmp[0] == 8
    })
}

/// Tries until there is no error.
pub fn until<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + SOON;
    loop {
        match attempt() {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
            done => return done,
        }
    }
}

/// Returns the problems of a `status`.
pub fn problems(status: &Value) -> impl Iterator<Item = &Value> {
    status["problems"].as_array().into_iter().flatten()
}

/// Waits until `status` lists a problem of this code, with these words.
pub fn wait_problem(daemon: &Daemon, code: &str, words: &str) -> Result<()> {
    until(|| {
        // It exits with 3 while the node is down.
        let text = daemon.cli(&["status", "-o", "json"])?.stdout;
        let status: Value = serde_json::from_str(&text)?;
        let is_it = |problem: &Value| {
            problem["code"] == code && problem["what"].as_str().is_some_and(|it| it.contains(words))
        };
        ensure!(problems(&status).any(is_it), "no {code} with `{words}` in {status}");
        Ok(())
    })
}

/// Checks that a file which names one of these links as the underlay is refused with these words: at
/// first, and where a daemon ran before, which goes on with the file that it had. `good`: a file that is
/// not refused. `still`: how pods talk with that one.
pub fn ensure_refused(
    lab: &Lab,
    node: &Node,
    good: &str,
    links: &[(&str, &str)],
    still: impl Fn() -> Result<()>,
) -> Result<()> {
    let naming = |link| good.replace("underlay: {", &format!("underlay: {{interfaces: [{link}], "));
    for (link, why) in links {
        let (code, stderr) = expect_failure(node, &naming(link))?;
        ensure!(code == EX_CONFIG && stderr.contains(why), "{link}: exit {code}, {stderr}");
    }
    let mut daemon = Daemon::start(node, good)?;
    still().context("with the good file")?;
    for (link, why) in links {
        daemon.rewrite_config(&naming(link))?;
        for is_restarted in [false, true] {
            if is_restarted {
                daemon.kill9()?;
                daemon.restart()?;
            }
            wait_problem(&daemon, "config-refused", why)?;
            still().with_context(|| format!("{link}, restarted: {is_restarted}"))?;
        }
    }
    daemon.rewrite_config(good)?;
    let is_taken = |status: &Value| problems(status).all(|it| it["code"] != "config-refused");
    until(|| {
        let text = daemon.cli(&["status", "-o", "json"])?.stdout;
        ensure!(is_taken(&serde_json::from_str(&text)?), "the good file is refused: {text}");
        Ok(())
    })?;
    still().context("with the good file again")?;
    finish(lab, daemon)
}

/// Checks that pods do not hear each other.
pub fn ensure_silent(lab: &Lab) -> Result<()> {
    for (from, to) in [(lab.perf(), lab.sit()), (lab.sit(), lab.perf())] {
        let wait = Duration::from_millis(500);
        let report = ping::ping(&from.netns, to.ip, &ping::Options { wait, ..Default::default() })?;
        ensure!(report.received == 0, "answered, by what way?\n{}", report.text);
    }
    Ok(())
}
