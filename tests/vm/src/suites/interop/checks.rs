//! The columns of the matrix. Every check goes both ways, and looks at the
//! counters of the nodes with tunless: packets must have taken the way that
//! the fast path says.

use std::{
    net::SocketAddrV4,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::Reason;
use tunless_lab::{
    Netns,
    service::{Service, kube_proxy, remove_rules},
    traffic::{http, ping, tcp, udp},
};

use super::{
    super::counted::Counted,
    scene::{Scene, Side},
};
use crate::checks::Outcome;

const PORT: u16 = 5201;
/// Of every flow of datagrams, so that one is a flow.
const SOURCE_PORT: u16 = 40_001;
/// Enough for slow start and segmentation, little enough for an emulator.
const MEBIBYTES: u64 = 2;
/// How long a thing may take to come about.
const SOON: Duration = Duration::from_secs(60);
/// Pods' MTU, and what is left of it behind [`NARROW`].
const POD_MTU: u32 = 1480;
const NARROW: u32 = 1400;
/// IPv4 and ICMP headers.
const ECHO_HEADERS: u32 = 28;

/// All of these are the fast path's.
const FAST: &[Reason] = &[Reason::PodEncapsulated, Reason::DecapToPod];

impl Scene {
    /// Pods ping each other; one hop at each node leaves 62 of 64.
    pub fn ping(&self) -> Result<Outcome> {
        // Once for ARP, and for the daemons to learn from it.
        for (from, to) in self.both_ways() {
            ping::ping(&from.pod.netns, to.pod.ip, &ping::Options::default())?;
        }
        self.wait_for_macs()?;
        self.moved()?;
        for (from, to) in self.both_ways() {
            let report = ping::ping(&from.pod.netns, to.pod.ip, &ping::Options::default())?;
            ensure!(report.all_answered(), "not every ping was answered:\n{}", report.text);
            ensure!(report.ttl() == Some(62), "the TTL is not 62:\n{}", report.text);
        }
        self.each_moved(|counted| {
            match self.cell.fastpath {
                // Never leased.
                "verified" => {
                    counted.has(&[
                        Reason::PodNoPorts,
                        Reason::HostEncapsulated,
                        Reason::DecapNoPortsToStack,
                    ])?;
                    counted.lacks(FAST)?;
                }
                "trusted" => counted.has(FAST)?,
                _ => self.by_the_stack(counted)?,
            }
            counted.nothing_for_tunl0()
        })?;
        Ok(Outcome::GOOD)
    }

    /// Bulk, with segmentation offload.
    pub fn tcp(&self) -> Result<Outcome> {
        for (client, server) in self.both_ways() {
            transfer(&client, &server)?;
        }
        let most = (MEBIBYTES << 20) / 2;
        self.each_moved(|counted| {
            match self.cell.fastpath {
                "verified" => {
                    counted.has(&[Reason::HostLeaseGranted, Reason::GrantGiven])?;
                    counted.has_bytes(Reason::PodEncapsulated, most)?;
                    counted.has_bytes(Reason::DecapToPod, most)?;
                }
                "trusted" => {
                    counted.has_bytes(Reason::PodEncapsulated, most)?;
                    counted.has_bytes(Reason::DecapToPod, most)?;
                    // SYN and FIN.
                    counted.has(&[Reason::PodConnectionControl, Reason::HostEncapsulated])?;
                }
                _ => {
                    counted.has_bytes(Reason::HostEncapsulated, most)?;
                    counted.has_bytes(Reason::DecapToStack, most)?;
                    counted.lacks(FAST)?;
                }
            }
            counted.nothing_for_tunl0()
        })?;
        Ok(Outcome::GOOD)
    }

    /// Datagrams there and back, of one flow.
    pub fn udp(&self, size: usize) -> Result<Outcome> {
        for (client, server) in self.both_ways() {
            let address = SocketAddrV4::new(server.pod.ip, PORT);
            let options = udp::Options { size, source_port: SOURCE_PORT, ..Default::default() };
            // The first is new to netfilter, the second is asked about, the third leased.
            for _ in 0..3 {
                let (from, to) = (&client.pod.netns, &server.pod.netns);
                let report = udp::exchange(from, address, to, PORT, &options)?;
                ensure!(*report.seen.ip() == client.pod.ip, "the server saw {}", report.seen);
            }
        }
        let in_fragments = size > 1452;
        self.each_moved(|counted| {
            match (self.cell.fastpath, in_fragments) {
                ("off", _) => self.by_the_stack(counted)?,
                (_, false) => counted.has(FAST)?,
                // Fragments are the stack's.
                (_, true) => {
                    counted.has(&[
                        Reason::PodFragment,
                        Reason::HostEncapsulated,
                        Reason::DecapFragmentToStack,
                    ])?;
                    counted.lacks(FAST)?;
                }
            }
            counted.nothing_for_tunl0()
        })?;
        Ok(Outcome::GOOD)
    }

    /// Each host itself reaches the other's pod, from its tunnel address.
    pub fn host(&self) -> Result<Outcome> {
        for (from, to) in self.both_ways() {
            let counted = from.daemon.map(Counted::now).transpose()?;
            let report = ping::ping(&from.node.netns, to.pod.ip, &ping::Options::default())?;
            ensure!(report.all_answered(), "not every ping was answered:\n{}", report.text);
            ensure!(report.ttl() == Some(63), "the TTL is not 63:\n{}", report.text);
            let _server = http::Server::start(&to.pod.netns, 8080, &to.pod.name)?;
            let address = SocketAddrV4::new(to.pod.ip, 8080);
            let reply = http::get(&from.node.netns, address, SOON)?;
            let seen = reply.client.ip();
            ensure!(*seen == from.node.tunnel, "the pod saw {seen}");
            if let (Some(daemon), Some(counted)) = (from.daemon, counted) {
                let counted = counted.since(daemon)?;
                counted.has(&[Reason::HostEncapsulated])?;
                counted.lacks(&[Reason::HostLeaseGranted])?;
                counted.nothing_for_tunl0()?;
            }
        }
        Ok(Outcome::GOOD)
    }

    /// A pod and a host reach the other node's pod by a cluster IP.
    pub fn service(&self) -> Result<Outcome> {
        for (from, to) in self.both_ways() {
            let outcome = self.service_from(&from, &to);
            remove_rules(&from.node.netns)?;
            if let Some(not) = outcome? {
                return Ok(not);
            }
        }
        Ok(Outcome::GOOD)
    }

    /// What forbids it, if something does.
    fn service_from(&self, from: &Side<'_>, to: &Side<'_>) -> Result<Option<Outcome>> {
        let hello = Service::hello(to.pod.ip);
        kube_proxy(&from.node.netns, std::slice::from_ref(&hello))?;
        if self.cell.fastpath == "trusted" {
            let Some(daemon) = from.daemon else { return Ok(None) };
            let said = daemon.cli(&["config", "validate", "--here"])?;
            ensure!(
                !said.success() && said.stderr.contains("kube-proxy's"),
                "`trusted` is not refused beside kube-proxy's rules: {said:?}"
            );
            return Ok(Some(Outcome::NotApplicable {
                why: "`trusted` skips netfilter, which translates cluster IPs: it is refused \
                      beside kube-proxy's rules, and was"
                    .to_owned(),
            }));
        }
        let counted = from.daemon.map(Counted::now).transpose()?;
        let server = http::Server::start(&to.pod.netns, 8080, &to.pod.name)?;
        let clients = [(&from.pod.netns, from.pod.ip), (&from.node.netns, from.node.tunnel)];
        for (client, address) in clients {
            let reply = http::get(client, hello.address, SOON)?;
            let seen = reply.client.ip();
            ensure!(*seen == address, "the pod behind the service saw {seen}, not {address}");
        }
        drop(server);
        let options = tcp::Options { mebibytes: 1, ..tcp::Options::default() };
        tcp::bulk(&from.pod.netns, hello.address, &to.pod.netns, 8080, &options)?;
        if let (Some(daemon), Some(counted)) = (from.daemon, counted) {
            // Translated here, so never leased here.
            let counted = counted.since(daemon)?;
            counted.lacks(FAST)?;
            counted.lacks(&[Reason::HostLeaseGranted, Reason::GrantGiven])?;
            counted.nothing_for_tunl0()?;
        }
        Ok(None)
    }

    /// Behind a narrower underlay: what must not be fragmented is told how much
    /// fits, and then fits; what may be, arrives.
    pub fn pmtu(&self) -> Result<Outcome> {
        let mut limit = None;
        for (from, to) in self.both_ways() {
            self.lab.set_path_mtu(to.node, NARROW)?;
            let way = format!("from {} to {}", from.node.label, to.node.label);
            let found = self.unfragmentable(&from, &to).with_context(|| way.clone())?;
            limit = limit.or(found);
            told(&from, &to).with_context(|| way.clone())?;
            forget_path(&from.pod.netns)?;
            transfer(&from, &to).with_context(|| way)?;

            self.lab.set_path_mtu(to.node, 1500)?;
            for netns in [&from.node.netns, &to.node.netns, &from.pod.netns, &to.pod.netns] {
                forget_path(netns)?;
            }
        }
        Ok(limit.unwrap_or(Outcome::GOOD))
    }

    /// Full size without DF.
    fn unfragmentable(&self, from: &Side<'_>, to: &Side<'_>) -> Result<Option<Outcome>> {
        let options = echo(POD_MTU, false);
        let arrives = || Ok(ping::ping(&from.pod.netns, to.pod.ip, &options)?.all_answered());
        // tunl0 clears DF outside where it is clear inside, and the router cuts the
        // outer packet. With tunl0 at this end, too, the kernel puts it together.
        let receiver = to.daemon.filter(|_| from.daemon.is_none() && self.is_replace());
        let Some(daemon) = receiver else {
            until("what may be fragmented arrives", arrives)?;
            return Ok(None);
        };
        let counted = Counted::now(daemon)?;
        ensure!(!arrives()?, "it arrived: the limit is none any more");
        counted.since(daemon)?.has(&[Reason::DecapOuterFragment])?;
        Ok(Some(Outcome::Limited {
            why: "a tunl0 node sends what may be fragmented with DF clear outside, a narrower \
                  underlay fragments it, and in `replace` nobody puts it together again: \
                  `decap_outer_fragment`, as counted. What has DF set inside (all TCP) is told the MTU \
                  and arrives"
                .to_owned(),
        }))
    }

    /// The fabric filter, over the whole case.
    pub fn wire(&self) -> Result<Outcome> {
        let plain = self.lab.plain_packets_on_wire()?;
        ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
        Ok(Outcome::GOOD)
    }

    fn by_the_stack(&self, counted: &Counted) -> Result<()> {
        counted.has(&[Reason::HostEncapsulated, Reason::DecapToStack])?;
        counted.lacks(FAST)
    }

    /// What each daemon's programs counted since this was asked last.
    fn moved(&self) -> Result<Vec<Counted>> {
        let mut moved = Vec::new();
        let mut last = self.counted.borrow_mut();
        for (daemon, last) in self.daemons().zip(last.iter_mut()) {
            let now = Counted::now(daemon)?;
            moved.push(now.less(last));
            *last = now;
        }
        Ok(moved)
    }

    fn each_moved(&self, look: impl Fn(&Counted) -> Result<()>) -> Result<()> {
        self.moved()?.iter().try_for_each(look)
    }

    /// From then on every packet takes the way that the fast path says.
    fn wait_for_macs(&self) -> Result<()> {
        for daemon in self.daemons() {
            for (list, key) in [("endpoints", "mac"), ("nodes", "next_hop_mac")] {
                daemon.wait_json(&[list, "list"], SOON, |answer| {
                    answer["items"].as_array().is_some_and(|items| {
                        !items.is_empty() && items.iter().all(|item| item[key].is_string())
                    })
                })?;
            }
        }
        Ok(())
    }
}

fn transfer(client: &Side<'_>, server: &Side<'_>) -> Result<()> {
    let address = SocketAddrV4::new(server.pod.ip, PORT);
    let options = tcp::Options { mebibytes: MEBIBYTES, ..tcp::Options::default() };
    let report = tcp::bulk(&client.pod.netns, address, &server.pod.netns, PORT, &options)?;
    ensure!(*report.peer.ip() == client.pod.ip, "the server saw {}", report.peer);
    Ok(())
}

/// ICMP 3/4 names the MTU inside the tunnel, and that much then passes.
fn told(from: &Side<'_>, to: &Side<'_>) -> Result<()> {
    // What may be fragmented, and was sent before, told the pod nothing.
    forget_path(&from.pod.netns)?;
    let fits = NARROW - 20;
    let mut last = None;
    until("the pod is told an MTU", || {
        last = ping::ping(&from.pod.netns, to.pod.ip, &echo(POD_MTU, true))?.mtu();
        Ok(last.is_some())
    })?;
    ensure!(last == Some(fits), "the pod was told {last:?}, not {fits}");
    let report = ping::ping(&from.pod.netns, to.pod.ip, &echo(fits, true))?;
    ensure!(report.all_answered(), "{fits} bytes do not fit:\n{}", report.text);
    Ok(())
}

/// Two pings of `size` bytes.
fn echo(size: u32, df: bool) -> ping::Options {
    let wait = Duration::from_millis(500);
    ping::Options { count: 2, size: size - ECHO_HEADERS, df, wait, ..ping::Options::default() }
}

/// Path MTUs that a namespace has learnt.
fn forget_path(netns: &Netns) -> Result<()> {
    netns.ip("route flush cache").map(drop)
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + SOON;
    while !holds()? {
        if Instant::now() > end {
            bail!("not within {SOON:?}: {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
