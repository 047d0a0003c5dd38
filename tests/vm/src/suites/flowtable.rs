//! A real flowtable, as Calico's (`nftablesFlowTableOffload`): established packets that arrive on one of
//! its devices pass by `forward` and `postrouting`.
//!
//! ```text
//! cali… ─ encap_pod ─ flowtable ──────────────┐
//!                        └ forward ─ marks ─ tunless0/tunl0 ─ encap_host ─ eth0
//! ```

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, conntrack,
    felix::{self, Allow, Endpoint},
    service::Protocol,
    traffic::conversation::Conversation,
};

use super::{
    Case, Guest, Suite,
    accelerate::Streams,
    counted::Counted,
    hosts::{until, wait_problem},
    smoke::interop::{config, datagram, finish, pings, transfer},
};
use crate::{Kernel, tunl0};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "flowtable",
    about: "a flowtable beside tunless, as Calico has it, in both modes",
    parts: &[],
    cases,
};

const CASES: &[Case] = &[
    Case { name: "replace_off", loads_tunless: true, run: |it| run(it, REPLACE, "off") },
    Case { name: "replace_verified", loads_tunless: true, run: |it| run(it, REPLACE, "verified") },
    Case { name: "accelerate_off", loads_tunless: true, run: |it| run(it, BESIDE, "off") },
    Case {
        name: "accelerate_verified",
        loads_tunless: true,
        run: |it| run(it, BESIDE, "verified"),
    },
    Case {
        name: "replace_off_tunnel",
        loads_tunless: true,
        run: |it| run(it, REPLACE.and_tunnel(), "off"),
    },
    Case {
        name: "replace_verified_tunnel",
        loads_tunless: true,
        run: |it| run(it, REPLACE.and_tunnel(), "verified"),
    },
    Case {
        name: "accelerate_off_tunnel",
        loads_tunless: true,
        run: |it| run(it, BESIDE.and_tunnel(), "off"),
    },
    Case {
        name: "accelerate_verified_tunnel",
        loads_tunless: true,
        run: |it| run(it, BESIDE.and_tunnel(), "verified"),
    },
];

/// The mode, and the devices of the flowtable beside the pod's and the NIC.
#[derive(Clone, Copy)]
struct Setup {
    mode: &'static str,
    device: &'static str,
    /// The tunnel device is one of the flowtable's.
    with_tunnel: bool,
}

const REPLACE: Setup = Setup { mode: "replace", device: "tunless0", with_tunnel: false };
const BESIDE: Setup = Setup { mode: "accelerate", device: "tunl0", with_tunnel: false };

impl Setup {
    const fn and_tunnel(self) -> Self {
        Self { with_tunnel: true, ..self }
    }

    /// Returns whether the kernel's flowtable takes flows between the pod and the tunnel device.
    fn takes(self, kernel: Kernel) -> bool {
        match kernel {
            Kernel::V6_1 | Kernel::V6_12 => true,
            // Both devices have to be the flowtable's, and tunl0 leads to no one node.
            Kernel::V7 => self.with_tunnel && self.mode == REPLACE.mode,
        }
    }
}

const SOON: Duration = Duration::from_secs(30);
const PORT: u16 = 5501;

fn cases(_: Kernel) -> Vec<Case> {
    CASES.to_vec()
}

/// Two nodes, of which node2 has a flowtable and tunless, and node1 tunl0.
struct Scene {
    lab: Lab,
    setup: Setup,
    kernel: Kernel,
}

fn run(guest: &Guest, setup: Setup, fastpath: &str) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    let scene = Scene { lab, setup, kernel: guest.kernel };
    let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
    tunl0::raise(node1, node2)?;
    scene.police(&Endpoint::open(scene.lab.perf()))?;
    let text = config(node2, node1, setup.mode, fastpath) + "leases: {seconds: 1}\n";
    let is_beside = setup.mode == BESIDE.mode;
    let mut daemon = if is_beside {
        tunl0::raise(node2, node1)?;
        scene.offload()?;
        scene.lossless("start", || {
            until(|| scene.is_taken(&Streams::PORTS))?;
            Daemon::start(node2, &text)
        })?
    } else {
        let daemon = Daemon::start(node2, &text)?;
        scene.offload()?;
        daemon
    };
    scene.carries(&daemon, fastpath).context("fresh")?;
    scene.lossless("restart", || {
        daemon.kill9()?;
        daemon.restart()
    })?;
    scene.carries(&daemon, fastpath).context("after a restart")?;
    if is_beside {
        scene.lossless("detach", || daemon.terminate_and_detach())?;
        pings(&scene.lab)?;
    } else {
        daemon.terminate_and_detach()?;
        daemon.restart()?;
        scene.offload()?;
        until(|| pings(&scene.lab))?;
    }
    transfer(scene.lab.perf(), scene.lab.sit())?;
    finish(&scene.lab, daemon)
}

impl Scene {
    /// Makes the flowtable.
    fn offload(&self) -> Result<()> {
        let cali = &self.lab.perf().cali;
        let Setup { device, with_tunnel, .. } = self.setup;
        let tunnel = if with_tunnel { format!(", {device}") } else { String::new() };
        let rules = format!(
            "table inet calico\n\
             delete table inet calico\n\
             table inet calico {{\n\
             flowtable fast {{ hook ingress priority 0; devices = {{ {cali}, eth0{tunnel} }}; }}\n\
             counter sent {{ }}\n\
             counter came {{ }}\n\
             chain forward {{ type filter hook forward priority 10; policy accept;\n\
             iifname \"{cali}\" meta l4proto {{ tcp, udp }} counter name sent\n\
             oifname \"{cali}\" meta l4proto {{ tcp, udp }} counter name came\n\
             ct state established flow add @fast\n}}\n}}\n"
        );
        self.lab.node2.netns.exec_with_input("nft", &["-f", "-"], &rules).map(drop)
    }

    /// Returns how many packets of flows have crossed `forward` on node2: `sent` by the pod, or `came`
    /// for it.
    fn crossed(&self, counter: &str) -> Result<u64> {
        let args = ["-j", "list", "counter", "inet", "calico", counter];
        let answer: Value = serde_json::from_str(&self.lab.node2.netns.exec("nft", &args)?)?;
        let items = answer["nftables"].as_array().context("no list")?;
        let counter = items.iter().find_map(|item| item["counter"]["packets"].as_u64());
        counter.with_context(|| format!("no counter: {answer}"))
    }

    /// Checks that the flows to these ports are in the flowtable, or not, where the kernel takes none.
    fn is_taken(&self, ports: &[u16]) -> Result<()> {
        let text = self.lab.node2.netns.exec("conntrack", &["-L", "-f", "ipv4"])?;
        for port in ports {
            let to = format!(" dport={port} ");
            let mut flows = text.lines().filter(|line| line.contains(&to));
            ensure!(
                flows.any(|line| line.contains("[OFFLOAD]")) == self.setup.takes(self.kernel),
                "of flows to port {port} the flowtable should have: {}\n{text}",
                self.setup.takes(self.kernel)
            );
        }
        Ok(())
    }

    /// While both streams flow no packet of them is lost, but for what adding a qdisc costs.
    fn lossless<T>(&self, what: &str, event: impl FnOnce() -> Result<T>) -> Result<T> {
        let streams = Streams::start(&self.lab)?;
        let value = event().with_context(|| what.to_owned())?;
        streams.flow()?;
        let outcome = streams.lost_with_qdiscs(self.kernel).with_context(|| what.to_owned())?;
        println!("{what}: {outcome:?}");
        Ok(value)
    }

    /// Everything passes both ways, nothing is lost when leases begin and end, and what the flowtable has
    /// it carries to the tunnel device.
    fn carries(&self, daemon: &Daemon, fastpath: &str) -> Result<()> {
        until(|| pings(&self.lab))?;
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        for (client, server) in [(perf, sit), (sit, perf)] {
            transfer(client, server)?;
            datagram(client, server)?;
        }
        let is_taken = self.setup.takes(self.kernel);
        if fastpath == "verified" {
            wait_problem(daemon, "flowtable", "the nft flowtable fast (table calico)")?;
            let before = Counted::now(daemon)?;
            self.lossless("leases that are granted and end", || {
                let begin = [Reason::HostLeaseGranted, Reason::GrantGiven];
                let end = is_taken.then_some(Reason::HostUnmarked);
                // With the tunnel device the next packet of either direction ends the lease.
                let used =
                    (!is_taken || !self.setup.with_tunnel).then_some(Reason::PodEncapsulated);
                let all: Vec<_> = begin.into_iter().chain(end).chain(used).collect();
                until(|| before.since(daemon)?.has(&all))?;
                daemon.cli(&["leases", "flush"]).map(drop)
            })?;
        }
        let streams = Streams::start(&self.lab)?;
        until(|| self.is_taken(&Streams::PORTS))?;
        let is_leased = fastpath == "verified" && !is_taken;
        // Until the first lease begins, or the one of before the flowtable ends.
        until(|| {
            let counted = self.counted(daemon, &streams)?;
            ensure!((counted.encapsulated().0 > 0) == is_leased, "leased packets: {counted:?}");
            Ok(())
        })?;
        let (sent, came) = (self.crossed("sent")?, self.crossed("came")?);
        let counted = self.counted(daemon, &streams)?;
        let (sent, came) = (self.crossed("sent")? - sent, self.crossed("came")? - came);
        streams.lost()?;
        println!("`forward` saw {sent} of what was sent, {came} of what came: {counted:?}");
        counted.nothing_dropped()?;
        counted.nothing_for_tunl0()?;
        let (fast, stack) = counted.encapsulated();
        ensure!((fast > 0) == is_leased, "leased packets: {counted:?}");
        if is_taken {
            ensure!(stack > 0 && sent == 0, "`forward` saw {sent} packets of the pod: {counted:?}");
            // The NIC's part of the flowtable comes behind TC, which decapsulates.
            let is_rest_taken = self.setup.with_tunnel;
            ensure!((came == 0) == is_rest_taken, "`forward` saw {came} for the pod: {counted:?}");
        } else if !is_leased {
            ensure!(sent > 0 && came > 0, "`forward` saw {sent} and {came} packets: {counted:?}");
        }
        self.cut()
    }

    /// Returns what is counted while some packets of both streams pass.
    fn counted(&self, daemon: &Daemon, streams: &Streams) -> Result<Counted> {
        let before = Counted::now(daemon)?;
        streams.flow()?;
        before.since(daemon)
    }

    fn police(&self, endpoint: &Endpoint) -> Result<()> {
        felix::enforce(&self.lab.node2.netns, std::slice::from_ref(endpoint))
    }

    /// What the flowtable has goes on whatever rules of `forward` say, and ends when its connection is
    /// forgotten: it is a new one then, and policies forbid it.
    fn cut(&self) -> Result<()> {
        let (perf, sit) = (self.lab.perf(), self.lab.sit());
        let node2 = &self.lab.node2.netns;
        let to = SocketAddrV4::new(sit.ip, PORT);
        let talk = Conversation::start(Protocol::Udp, &perf.netns, to, &sit.netns, PORT)?;
        ensure!(talk.wait_for(50, SOON), "the conversation does not get going");
        until(|| self.is_taken(&[PORT]))?;
        if self.setup.takes(self.kernel) {
            let rule = |verb| {
                let rule = format!("--wait {verb} FORWARD -p udp --dport {PORT} -j DROP");
                node2.exec("iptables", &rule.split(' ').collect::<Vec<_>>()).map(drop)
            };
            rule("-I")?;
            ensure!(talk.wait_for(50, SOON), "it crosses `forward`");
            rule("-D")?;
        }
        let others = Allow { protocol: Some(Protocol::Tcp), port: None, peer: None };
        // In both directions: an answer that is under way would begin a connection of its own.
        self.police(&Endpoint { ingress: vec![others], ..Endpoint::sending(perf, vec![others]) })?;
        ensure!(talk.wait_for(50, SOON), "a policy is about new connections, and this is none");
        conntrack::delete(node2, &format!("-p udp --orig-port-dst {PORT}"))?;
        until(|| {
            ensure!(!talk.wait_for(1, Duration::from_millis(500)), "it goes on");
            Ok(())
        })?;
        self.police(&Endpoint::open(perf))?;
        ensure!(talk.wait_for(50, SOON), "it does not go on once it may");
        Ok(())
    }
}
