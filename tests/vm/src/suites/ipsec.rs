//! IPsec between the nodes, with real ESP: what tunl0 encrypts never travels in the clear, nor is
//! it taken in so.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tunless_lab::{
    Daemon, Lab, Node,
    sent::{ESP, IPIP},
    traffic::ping,
};

use super::{
    Case, Guest, Suite,
    smoke::interop::{config, pings, transfer},
};
use crate::{Kernel, tunl0};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "ipsec",
    about: "ESP between the nodes: left to tunl0 in `accelerate`, nothing sent in `replace`",
    parts: &[],
    cases,
};

const CASES: &[Case] = &[
    Case { name: "tunl0 alone", loads_tunless: false, run: tunl0_alone },
    Case { name: "accelerate_off", loads_tunless: true, run: accelerate_off },
    Case { name: "accelerate_verified", loads_tunless: true, run: accelerate_verified },
    Case { name: "replace_verified", loads_tunless: true, run: replace_verified },
];

/// An emulator takes its time.
const SOON: Duration = Duration::from_secs(30);
/// AES-GCM: 16 bytes of key, 4 of salt (RFC 4106 §8.1), 16 of check value.
const ALGORITHM: &str = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128";

fn cases(_: Kernel) -> Vec<Case> {
    CASES.to_vec()
}

/// Requires ESP between two nodes, as strongSwan does for host-to-host transport.
fn encrypt(lab: &Lab) -> Result<()> {
    for (node, peer) in [(&lab.node1, &lab.node2), (&lab.node2, &lab.node1)] {
        for (from, to, spi) in [(&lab.node1, &lab.node2, 0x1001), (&lab.node2, &lab.node1, 0x1002)]
        {
            let (from, to) = (from.ip, to.ip);
            node.netns.ip(&format!(
                "xfrm state add src {from} dst {to} proto esp spi {spi:#x} reqid 1 mode transport \
                 {ALGORITHM}"
            ))?;
        }
        for (from, to, direction) in [(node, peer, "out"), (peer, node, "in")] {
            let (from, to) = (from.ip, to.ip);
            node.netns.ip(&format!(
                "xfrm policy add src {from} dst {to} dir {direction} tmpl src {from} dst {to} proto \
                 esp reqid 1 mode transport"
            ))?;
        }
    }
    Ok(())
}

fn decrypt(node: &Node) -> Result<()> {
    node.netns.ip("xfrm policy flush").map(drop)
}

/// Pods talk, and between nodes there is ESP alone.
fn talk_encrypted(lab: &Lab) -> Result<()> {
    let count = || -> Result<[u64; 4]> {
        let sent = |label, protocol| lab.sent(label, protocol);
        Ok([sent("node1", IPIP)?, sent("node2", IPIP)?, sent("node1", ESP)?, sent("node2", ESP)?])
    };
    let before = count()?;
    pings(lab)?;
    transfer(lab.perf(), lab.sit())?;
    let after = count()?;
    ensure!(after[..2] == before[..2], "in the clear: {before:?}, then {after:?}");
    ensure!(after[2] > before[2] && after[3] > before[3], "no ESP: {before:?}, then {after:?}");
    Ok(())
}

/// What the others are compared with.
fn tunl0_alone(_: &Guest) -> Result<()> {
    let lab = lab()?;
    encrypt(&lab)?;
    talk_encrypted(&lab)
}

fn lab() -> Result<Lab> {
    let lab = Lab::new().fabric_filter(true).build()?;
    lab.count_sent(&[IPIP, ESP])?;
    tunl0::raise(&lab.node1, &lab.node2)?;
    tunl0::raise(&lab.node2, &lab.node1)?;
    Ok(lab)
}

fn accelerate_off(_: &Guest) -> Result<()> {
    accelerate("off")
}

fn accelerate_verified(_: &Guest) -> Result<()> {
    accelerate("verified")
}

fn accelerate(fastpath: &str) -> Result<()> {
    let lab = lab()?;
    let start =
        |node: &Node, peer| Daemon::start(node, &config(node, peer, "accelerate", fastpath));
    let mut daemon1 = start(&lab.node1, &lab.node2)?;
    let mut daemon2 = start(&lab.node2, &lab.node1)?;
    pings(&lab)?;
    encrypt(&lab)?;
    for daemon in [&daemon1, &daemon2] {
        wait_listed(daemon, "left to tunl0")?;
    }
    talk_encrypted(&lab)?;
    for daemon in [&mut daemon1, &mut daemon2] {
        daemon.kill9()?;
        daemon.restart()?;
    }
    talk_encrypted(&lab)?;
    for node in [&lab.node1, &lab.node2] {
        decrypt(node)?;
    }
    talk_plainly(&lab)?;
    ensure!(lab.plain_packets_on_wire()? == 0, "packets of pods without a tunnel");
    daemon1.finish()?;
    daemon2.finish()
}

/// node2 is without tunl0: it neither sends nor takes in what should be encrypted.
fn replace_verified(_: &Guest) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    lab.count_sent(&[IPIP, ESP])?;
    tunl0::raise(&lab.node1, &lab.node2)?;
    let mut daemon =
        Daemon::start(&lab.node2, &config(&lab.node2, &lab.node1, "replace", "verified"))?;
    pings(&lab)?;
    encrypt(&lab)?;
    wait_listed(&daemon, "nothing is sent to it")?;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill9()?;
            daemon.restart()?;
        }
        let before = lab.sent("node2", IPIP)?;
        for (from, to) in [(lab.perf(), lab.sit()), (lab.sit(), lab.perf())] {
            let report = ping::ping(&from.netns, to.ip, &ping::Options::default())?;
            ensure!(!report.all_answered(), "answered, by what way?\n{}", report.text);
        }
        ensure!(lab.sent("node2", IPIP)? == before, "node2 sent in the clear");
        let status = daemon.cli(&["status"])?;
        ensure!(status.stdout.contains("IPsec"), "status does not say why:\n{}", status.stdout);
    }
    for node in [&lab.node1, &lab.node2] {
        decrypt(node)?;
    }
    talk_plainly(&lab)?;
    ensure!(lab.plain_packets_on_wire()? == 0, "packets of pods without a tunnel");
    daemon.finish()
}

/// The daemon sees that the policies are gone.
fn talk_plainly(lab: &Lab) -> Result<()> {
    let end = Instant::now() + SOON;
    loop {
        match pings(lab) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn wait_listed(daemon: &Daemon, what: &str) -> Result<()> {
    let end = Instant::now() + SOON;
    loop {
        let status = daemon.cli(&["status", "-o", "wide"])?.stdout;
        if status.contains(what) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "`{what}` is not in status:\n{status}");
        thread::sleep(Duration::from_millis(50));
    }
}
