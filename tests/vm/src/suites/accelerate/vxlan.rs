//! A pod with a tunnel of its own, whose packets have offloads pending: the kernel
//! lets no program wrap such a packet (`bpf_skb_adjust_room` answers EALREADY for
//! `skb->encapsulation`), and tunl0 does.

use anyhow::{Context as _, Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{Node, Pod};

use super::{
    super::counted::Counted,
    scene::{carries_pings, finish, lab, link, start, works},
    streams::Streams,
};
use crate::{
    checks::Outcome,
    suites::{
        Guest,
        smoke::interop::{datagram, transfer},
    },
    tunl0::Owner,
};

const REASON: Reason = Reason::Tunl0AlreadyEncapsulated;

/// How many datagrams are counted one by one.
const DATAGRAMS: u64 = 5;

/// Both pods' VXLAN devices, by the addresses of the pods they stand for.
const PERF: &str = "192.168.77.1";
const SIT: &str = "192.168.77.2";

/// TCP and UDP inside VXLAN inside the pods' addresses inside IP-in-IP.
pub fn pod_runs_vxlan(guest: &Guest) -> Result<()> {
    let lab = lab(Owner::Felix)?;
    let daemon = start(&lab)?;
    let (perf, sit) = (lab.perf(), lab.sit());
    vxlan(perf, sit, PERF)?;
    vxlan(sit, perf, SIT)?;
    let (perf, sit) = (inside(perf, PERF)?, inside(sit, SIT)?);
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    // ARP inside VXLAN has nothing pending, and is ours.
    datagrams(&perf, &sit, 1)?;
    drop(streams);

    guest.checks.check("left to tunl0", || {
        let (before, sent) = (Counted::now(&daemon)?, sent_by_tunl0(&lab.node2)?);
        datagrams(&perf, &sit, DATAGRAMS)?;
        let counted = before.since(&daemon)?;
        counted.nothing_dropped()?;
        let (left, sent) = (counted.packets(REASON), sent_by_tunl0(&lab.node2)? - sent);
        ensure!(
            left == DATAGRAMS && sent == DATAGRAMS,
            "of {DATAGRAMS} datagrams {left} were counted as {REASON}, and tunl0 sent {sent}"
        );

        let (before, sent) = (Counted::now(&daemon)?, sent_by_tunl0(&lab.node2)?);
        transfer(&perf, &sit).context("TCP from node2")?;
        transfer(&sit, &perf).context("TCP to node2")?;
        let counted = before.since(&daemon)?;
        counted.has(&[REASON, Reason::DecapNoLeaseToStack])?;
        counted.nothing_dropped()?;
        let (left, sent) = (counted.packets(REASON), sent_by_tunl0(&lab.node2)? - sent);
        // One of ours may be several of tunl0's, which cuts them.
        ensure!(sent >= left, "{left} were counted as {REASON}, and tunl0 sent {sent}");
        Ok(Outcome::GOOD)
    });
    // Other packets of the same pods go our way, as before.
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    let streams = Streams::start(&lab)?;
    guest.checks.check("works again", || works(&daemon));
    guest.checks.check("loss", || streams.lost());
    finish(&lab, daemon)
}

/// A VXLAN device in `pod`, to `remote`.
fn vxlan(pod: &Pod, remote: &Pod, address: &str) -> Result<()> {
    pod.netns.ip_batch(&format!(
        "link add vx0 mtu 1400 type vxlan id 42 dstport 4789 local {} remote {} dev eth0\n\
         addr add {address}/24 dev vx0\n\
         link set vx0 up\n",
        pod.ip, remote.ip
    ))
}

/// The pod as it is seen through its VXLAN device.
fn inside(pod: &Pod, address: &str) -> Result<Pod> {
    Ok(Pod { ip: address.parse()?, ..pod.clone() })
}

fn datagrams(from: &Pod, to: &Pod, count: u64) -> Result<()> {
    (0..count).try_for_each(|_| datagram(from, to))
}

/// Packets that tunl0 itself has wrapped and sent.
fn sent_by_tunl0(node: &Node) -> Result<u64> {
    let tunl0 = link(node, "tunl0")?.context("there is no tunl0")?;
    tunl0["stats64"]["tx"]["packets"].as_u64().context("`ip -s link` shows no counters")
}
